"""JSON documents: their schemas are valid, closed and named as their files; a document of another version is refused."""

from __future__ import annotations

import json

import jsonschema
import pytest

from unet4d.errors import InputError
from unet4d.system.documents import check_document, document, load_schema, schema_names, write_document
from unet4d.system.files import read_json, write_json

FOLDS = {"folds": 2, "seed": 0, "held_out": {"fold_0": ["a"], "fold_1": ["b"]}}


@pytest.mark.parametrize("name", schema_names())
def test_a_schema_is_valid_and_says_which_document_it_is_of(name):
    schema = load_schema(name)
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["properties"]["schema"] == {"const": {"name": name, "version": 1}} or name == "dataset"
    assert schema["title"] == name
    assert schema["$id"] == f"urn:unet4d:schema:{name}:1"
    assert schema["description"]
    assert "additionalProperties" in schema or all("additionalProperties" in one for one in schema["oneOf"])


def test_a_document_begins_with_its_schema_and_is_valid(tmp_path):
    made = write_document(tmp_path / "folds.json", "folds", FOLDS)
    assert read_json(tmp_path / "folds.json") == made == document("folds", FOLDS)
    assert next(iter(made)) == "schema"
    jsonschema.validate(made, load_schema("folds"))
    with pytest.raises(jsonschema.ValidationError, match="held_out"):
        jsonschema.validate({name: value for name, value in made.items() if name != "held_out"}, load_schema("folds"))


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", [float("nan")])
    assert not list(tmp_path.iterdir())


def test_another_version_is_refused_and_an_older_one_without_is_read(tmp_path):
    check_document(FOLDS, "folds", tmp_path)
    check_document(document("folds", FOLDS), "folds", tmp_path)
    for other in ({"name": "folds", "version": 2}, {"name": "run", "version": 1}, None, json.dumps("folds")):
        with pytest.raises(InputError, match=r"got the schema .*, expected .*'folds', 'version': 1"):
            check_document({**FOLDS, "schema": other}, "folds", tmp_path)
