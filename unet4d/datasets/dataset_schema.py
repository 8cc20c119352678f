"""Structure of dataset.json, checked by its JSON Schema, which is a file of the package; the messages are made of it, too.

What a schema cannot say is checked by dataset_json.py: paths inside the folder, values of named classes, order of frames, ...
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from unet4d.errors import InputError
from unet4d.system.documents import load_schema
from unet4d.system.text import short_repr, suggest_names

SCHEMA = "dataset"


def check_structure(entry: Any, where: str) -> None:
    """Raise InputError, one line that begins with `where`, unless the content of a dataset.json is as its schema describes it."""
    if is_valid(load_schema(SCHEMA), entry):
        return
    raise InputError(_find_fault(entry, load_schema(SCHEMA), where) or f"{where}: not as its schema describes it")


def is_valid(schema: Mapping[str, Any], value: Any) -> bool:
    """Return whether a value is as a part of the schema describes it."""
    import fastjsonschema

    try:
        _compiled(json.dumps(schema, sort_keys=True))(value)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


@functools.cache
def _compiled(schema: str) -> Callable[[Any], Any]:
    import fastjsonschema

    definitions = load_schema(SCHEMA)["definitions"]
    found: Callable[[Any], Any] = fastjsonschema.compile({**json.loads(schema), "definitions": definitions})
    return found


def _find_fault(entry: Any, schema: Mapping[str, Any], where: str) -> str:
    """Return the first fault of an object in one line; empty where nothing is wrong."""
    known = schema["properties"]
    if not isinstance(entry, dict):
        expected = schema["description"] if schema is not load_schema(SCHEMA) else "an object { ... }"
        return f"{where} is of type {type(entry).__name__}, expected {expected}; correct it"
    for key in entry:
        if key not in known:
            near, names = suggest_names(key, known), ", ".join(known)
            return f"{where}: unknown key {short_repr(key)}{near}, expected {names}; correct it"
    if len(found := [key for key in ("channel_names", "modality") if key in entry]) != 1 and "oneOf" in schema:
        return f'{where}: got {found or "no channels"}; give "channel_names": {{"0": "cine MRI"}}'
    for key in schema["required"]:
        if entry.get(key) is None:
            return f'{where}: "{key}" is missing, expected {known[key]["description"]}; add it'
    for key, value in entry.items():
        if key in ("training", "test") and isinstance(value, list):
            faults = (_find_case_fault(item, key, number, where) for number, item in enumerate(value))
            if fault := next(filter(None, faults), ""):
                return fault
        elif not is_valid(known[key], value):
            return f'{where}: "{key}" {_describe_value(value, known[key])}, expected {known[key]["description"]}; correct it'
    return ""


def _describe_value(value: Any, schema: Mapping[str, Any]) -> str:
    """Return which value is wrong: that of a key, where keys are free and all values are of one kind, else the whole."""
    kind = schema.get("additionalProperties")
    if isinstance(value, dict) and isinstance(kind, dict):
        name, wrong = next((name, inner) for name, inner in value.items() if not is_valid(kind, inner))
        return f"has {short_repr(wrong)}{suggest_names(str(wrong), kind['enum'])} for {short_repr(name)}"
    return f"is {short_repr(value)}"


def _find_case_fault(item: Any, part: str, number: int, where: str) -> str:
    """Return the first fault of entry `number` of "training" or "test"; empty where nothing is wrong."""
    if part == "test" and isinstance(item, str):
        return ""
    case = load_schema(SCHEMA)["definitions"]["case"]
    required = ["image", "label"] if part == "training" else ["image"]
    return _find_fault(item, {**case, "required": required}, case_place(item, part, number, where))


def case_place(item: Any, part: str, number: int, where: str) -> str:
    """Return which entry of which part this is, with the case's name where it has one; messages begin with it."""
    named = isinstance(item, dict) and isinstance(item.get("case"), str)
    return f'{where}: "{part}" entry {number}' + (f" (case {short_repr(item['case'])})" if named else "")
