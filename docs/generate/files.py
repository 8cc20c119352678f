"""The pages of files: every table with its columns, every JSON document with its keys, and dataset.json as a contract."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generate.text import prose
from unet4d.system.csv_file import Table
from unet4d.system.documents import load_schema, schema_names

PACKAGE = Path(__file__).parents[2] / "unet4d"
SCHEMAS = "files/schemas"
"""Folder of the JSON Schemas in the site."""
DEEPEST = 4
COMMANDS = {
    "unet4d.datasets.propagation": "propagate",
    "unet4d.evaluation": "evaluate",
    "unet4d.evaluation.compare": "compare",
    "unet4d.evaluation.curve_tables": "predict",
    "unet4d.inference": "predict",
    "unet4d.phantom": "phantom",
}
"""The command that writes the tables of a module, by the beginning of the module's name; the longest counts."""
FILES = """\
# Files written

Every table and JSON document, with all columns and keys. A file is whole or not there: it is written under another name, and then
renamed. What a training leaves besides is in [train and resume](../how-to/training.md), what a prediction leaves in
[predict](../how-to/prediction.md). [Metrics](metrics.md) defines the numbers.

## Tables

CSV in UTF-8 with a header. Units are in the names of columns: `_ml`, `_mm`, `_s`, `_percent`. An undefined number is blank. An
apostrophe is put before a text that a spreadsheet would take for a formula.
"""
DOCUMENTS = """
## JSON documents

Each begins with the name and the version of its JSON Schema: `{"schema": {"name": "evaluation", "version": 1}, ...}`. The version
changes where a reader of the earlier one would misread the document; a new key alone does not change it. An undefined number is
null. In the keys, `*` stands for any name, and `[]` for the entries of a list.
"""
DATASET = """\
# dataset.json

The contract between your data and unet4d: a folder with this file is a dataset. [Your dataset](../how-to/data.md) shows one and
explains it. This page lists every key, from [the JSON Schema](../{schemas}/dataset.json) that the reader itself checks files with.
An editor that knows the schema completes and checks the file as you write.

What a schema cannot say is checked, too: paths stay inside the folder, classes that other keys name exist, frames are in order.
`unet4d verify` checks all of a dataset in one pass. In the keys, `*` stands for any name, `[]` for the entries of a list.

"""


def pages() -> dict[str, str]:
    """Return both pages as Markdown by path."""
    tables = "".join(_table(table, command) for table, command in written_tables())
    documents = "".join(_document(name) for name in schema_names() if name != "dataset")
    dataset = DATASET.replace("{schemas}", SCHEMAS) + _keys(load_schema("dataset"))
    return {"reference/files.md": FILES + tables + DOCUMENTS + documents, "reference/dataset.md": dataset}


def written_tables() -> list[tuple[Table, str]]:
    """Return the tables that modules of the package describe, each with its command."""
    found: dict[str, tuple[Table, str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "csv_file.py" or not re.search(r"(?<!\w)Table\(", path.read_text(encoding="utf-8")):
            continue
        module = ".".join(("unet4d", *path.relative_to(PACKAGE).with_suffix("").parts))
        command = COMMANDS[max((name for name in COMMANDS if module.startswith(name)), key=len)]
        for value in vars(importlib.import_module(module)).values():
            for table in value.values() if isinstance(value, dict) else [value]:
                if isinstance(table, Table):
                    found.setdefault(f"{command} {table.file}", (table, command))
    return [found[key] for key in sorted(found)]


def _table(table: Table, command: str) -> str:
    rows = "".join(f"| `{name}` | {prose(meaning)} |\n" for name, meaning in table.columns.items())
    head = f"\n### {table.file} of unet4d {command}\n\nOne row per {table.row}.\n\n"
    return f"{head}| column | meaning |\n|---|---|\n{rows}"


def _document(name: str) -> str:
    schema = load_schema(name)
    about = f"{prose(schema['description'])} Its schema: [{name}.json](../{SCHEMAS}/{name}.json)."
    return f"\n### {name} {{ #schema-{name} }}\n\n{about}\n\n{_keys(schema)}"


def _keys(schema: Mapping[str, Any]) -> str:
    found: dict[str, tuple[dict[str, Any], bool]] = {}
    for path, entry, needed in _entries(schema, schema, "", 1):
        before, was_needed = found.get(path, ({}, False))
        found[path] = ({**before, **entry}, was_needed or needed)
    rows = "".join(
        f"| `{path}` | {prose(_kind(entry, schema))}{'' if needed else ', optional'} | {prose(entry.get('description', ''))} |\n"
        for path, (entry, needed) in found.items()
    )
    return f"| key | type | meaning |\n|---|---|---|\n{rows}"


def _entries(
    schema: Mapping[str, Any], whole: Mapping[str, Any], before: str, depth: int
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield every key with its path, its schema, and whether it is required, keys of objects below them."""
    for part in _parts(schema, whole):
        for name, entry in part.get("properties", {}).items():
            entry = _resolved(entry, whole)
            if "const" in entry and name == "schema" and depth == 1:
                entry = {"description": "name and version of the schema", **entry}
            if len(entry) > 1 or before == "" or "type" in entry or "enum" in entry:
                yield before + name, entry, name in part.get("required", ())
            yield from _inside(entry, whole, before + name, depth)


def _inside(entry: Mapping[str, Any], whole: Mapping[str, Any], path: str, depth: int) -> Iterator[Any]:
    if depth == DEEPEST:
        return
    yield from _entries(entry, whole, f"{path}.", depth + 1)
    for key, mark in (("additionalProperties", ".*"), ("items", "[]")):
        below = entry.get(key)
        if isinstance(below, dict):
            yield from _inside(_resolved(below, whole), whole, path + mark, depth)


def _parts(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and the ones that it is all of."""
    yield schema
    for part in schema.get("allOf", ()):
        yield from _parts(_resolved(part, whole), whole)


def _resolved(schema: Mapping[str, Any] | bool, whole: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(schema, bool):  # anything, or nothing
        return {}
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {**_resolved(whole["definitions"][name], whole), **{k: v for k, v in schema.items() if k != "$ref"}}
    return dict(schema)


def _kind(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Return the name of a value's type, for people."""
    if "const" in schema:
        return "fixed"
    if "enum" in schema:
        return "one of " + ", ".join("null" if value is None else str(value) for value in schema["enum"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        kinds.append(_kind(_resolved(part, whole), whole))
    words = {"array": "list", "integer": "whole number", "string": "text", "boolean": "true or false"}
    return " or ".join(dict.fromkeys(words.get(kind, kind) for kind in kinds)) or "any"
