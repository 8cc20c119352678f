"""dataset.json as a contract: what its JSON Schema refuses the reader refuses, and what it accepts fails for meaning alone."""

from __future__ import annotations

import copy
import json
import random
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.test_dataset import DECATHLON, ENTRY
from tests.mutations import VALUES, mutated
from unet4d.datasets.dataset_json import parse_dataset
from unet4d.datasets.partial_labels import PARTIAL_KEYS
from unet4d.datasets.study import LONGEST_FRAME_S, SHORTEST_FRAME_S
from unet4d.errors import InputError
from unet4d.images.channels import CHANNEL_KINDS
from unet4d.images.time_axis import TIME_AXES
from unet4d.metrics.cardiac_structures import NO_STRUCTURE, STRUCTURES
from unet4d.metrics.vitals import VITAL_LIMITS
from unet4d.system.class_values import LONGEST_NAME
from unet4d.system.documents import load_schema

SCHEMA = load_schema("dataset")
CASE = SCHEMA["definitions"]["case"]["properties"]
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
FULL = {
    **ENTRY,
    "schema": {"name": "dataset", "version": 1},
    "channel_names": {"0": "magnitude", "1": "vx", "2": "T1"},
    "channel_kinds": {"1": "velocity -X", "2": "map"},
    "roles": {"myocardium": "other"},
    "labels": {"background": 0, "left ventricle": 7, "myocardium": 2, "ignore": 9},
    "training": [
        {
            "case": "a1", "subject": "a", "image": ["a0.nii", "a1.nii", "a2.nii"], "label": {"0": "l0.nii", "11": "l1.nii"},
            "labelled_frames": [0, 11], "frame_duration_s": 1, "labelled_slices": {"0": [0, 2]}, "annotated_labels": [2, 7],
            "frame_weights": {"11": 0.5}, "propagated_frames": [11], "height_cm": 180, "weight_kg": 80.5, "heart_rate_bpm": None,
        },
    ],
    "test": [{"image": ["t0.nii", "t1.nii", "t2.nii"], "label": None}],
}  # fmt: skip
REGIONS = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
    "training": [{"image": "a.nii", "label": "b.nii", "labelled_slices": [0, 3]}],
}
MEANING = (
    'a path relative to', 'a path of at most', 'has links', 'links lead', 'image file', 'increasing order',
    'some of [', 'background at 0', 'each name and each value once', 'label values from 1 to 255, without',
    'one label value for each', 'expected one of its values', 'names the class', 'expected one class',
    'expected some of', 'each axis of velocity comes once', 'names by number', 'expected only', 'sum to 0',
    'without "label"', 'leave one out', 'got no case', 'expected the highest value', 'for undrawn voxels',
    'at most 255 classes', '200 characters', '200 bytes', 'kinds by channel number', "is nnU-Net's", 'region',
    'a file name that ends in',
)  # fmt: skip
"""Words of the rules that a schema cannot state: paths inside the folder, numbers of files, order, names and values of classes."""


def refusal(entry, tmp_path):
    """Return why the reader refuses an entry; empty where it does not."""
    try:
        parse_dataset(json.loads(json.dumps(entry)), tmp_path / "dataset.json")
    except InputError as error:
        return str(error)
    return ""


def check_agreement(entry, tmp_path):
    """The reader refuses what the schema refuses, in one line, and else refuses for meaning alone."""
    said = refusal(entry, tmp_path)
    assert "\n" not in said
    if VALIDATOR.is_valid(entry):
        assert not said or any(words in said for words in MEANING), said
    else:
        assert said
        assert "not as its schema" not in said, "a fault without a message of its own"


@pytest.mark.parametrize("entry", [ENTRY, FULL, REGIONS, DECATHLON], ids=["plain", "full", "regions", "Decathlon"])
def test_both_accept_what_is_right(entry, tmp_path):
    VALIDATOR.validate(entry)
    assert refusal(entry, tmp_path) == ""


@pytest.mark.parametrize("entry", [ENTRY, FULL, REGIONS, DECATHLON], ids=["plain", "full", "regions", "Decathlon"])
def test_they_agree_on_any_change(entry, tmp_path):
    rng = random.Random(str(entry))
    seen = set()
    for _ in range(150):
        changed = mutated(entry, rng)
        if is_json(changed):
            check_agreement(changed, tmp_path)
            seen.add(VALIDATOR.is_valid(changed))
    assert seen == {True, False}


ATOMS = st.none() | st.booleans() | st.integers(-2, 300) | st.floats(-2, 300) | st.text(max_size=3)
KEYS = st.sampled_from(["0", "1", "11", "01", "0\n", "a", ""])
ANY = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@given(st.sampled_from(sorted(CASE)), ANY)
@settings(max_examples=60)
def test_they_agree_on_any_value_of_any_key_of_a_case(tmp_path_factory, key, value):
    entry = copy.deepcopy(FULL)
    entry["training"][0][key] = value
    check_agreement(entry, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("key", sorted(SCHEMA["properties"]))
def test_they_agree_on_odd_values_of_every_key(key, tmp_path):
    for value in VALUES:
        if is_json(value):
            check_agreement({**FULL, key: value}, tmp_path)


def is_json(value):
    """Return whether a value can be in a file of JSON that is read at all."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return not re.search(r"\d{17}|\d[eE]\+?\d{3}|\\ud[89a-f]", text)


def test_a_whole_number_may_be_written_with_a_point(tmp_path):
    entry = copy.deepcopy(FULL)
    entry["labels"]["myocardium"] = 2.0
    entry["training"][0] |= {"labelled_frames": [0.0, 11.0], "propagated_frames": [11.0]}
    given_, plain = (parse_dataset(one, tmp_path / "dataset.json") for one in (entry, FULL))
    assert given_ == plain


def test_every_fault_of_a_key_is_told_with_what_the_schema_expects(tmp_path):
    for key, schema in CASE.items():
        entry = copy.deepcopy(FULL)
        entry["training"][0][key] = [{}]
        assert f'"{key}" is [{{}}], expected {schema["description"]}; correct it' in refusal(entry, tmp_path)


def test_another_version_is_refused(tmp_path):
    said = refusal({**FULL, "schema": {"name": "dataset", "version": 2}}, tmp_path)
    assert "'version': 2" in said
    assert "which is what this version of unet4d reads" in said


def test_the_schema_has_the_figures_of_the_code():
    top = SCHEMA["properties"]
    assert next(iter(top["channel_kinds"]["patternProperties"].values()))["enum"] == list(CHANNEL_KINDS)
    assert top["roles"]["additionalProperties"]["enum"] == [*STRUCTURES, NO_STRUCTURE]
    assert top["time"]["enum"] == list(TIME_AXES)
    for name, limits in VITAL_LIMITS.items():
        assert (CASE[name]["minimum"], CASE[name]["maximum"]) == limits
    assert (CASE["frame_duration_s"]["minimum"], CASE["frame_duration_s"]["maximum"]) == (
        SHORTEST_FRAME_S,
        LONGEST_FRAME_S,
    )
    assert CASE["case"]["maxLength"] == CASE["subject"]["maxLength"] == top["name"]["maxLength"] == LONGEST_NAME
    assert set(PARTIAL_KEYS) <= set(CASE)
