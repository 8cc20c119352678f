"""JSON documents that the package writes: each begins with the name and the version of its schema, a file in `schemas/`.

    {"schema": {"name": "evaluation", "version": 1}, ...}

A version changes where a reader of the earlier one would misread the document; a new key alone does not change it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.system.files import PathLike, json_text, write_text
from unet4d.system.text import short_repr

SCHEMAS = Path(__file__).parent / "schemas"
"""Folder of the JSON Schemas (draft 7), one `<name>.json` for each document."""


def schema_names() -> list[str]:
    """Return the names of all schemas, sorted."""
    return sorted(path.stem for path in SCHEMAS.glob("*.json"))


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document; not to be changed."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return schema


def document(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document: name and version of its schema, then the values."""
    return {"schema": dict(_schema_id(name)), **value}


def document_text(name: str, value: Mapping[str, Any]) -> str:
    """Return a document as indented JSON; NaN and infinity are refused, because JSON has neither."""
    return json_text(document(name, value))


def write_document(path: PathLike, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write a document, whole or not at all, and return it. Raises Unet4DError: the disk is full."""
    write_text(path, document_text(name, value))
    return document(name, value)


def check_document(value: Mapping[str, Any], name: str, path: PathLike) -> None:
    """Raise InputError where a document names another schema or version than this package reads; one that names none passes."""
    expected = _schema_id(name)
    if value.get("schema", expected) != expected:
        raise InputError(
            f"{path}: got the schema {short_repr(value['schema'])}, expected {expected}; use the version of unet4d that wrote it"
        )


def _schema_id(name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = load_schema(name)["properties"]["schema"]["const"]
    return found
