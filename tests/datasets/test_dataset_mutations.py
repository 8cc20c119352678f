"""A dataset.json that is damaged in any way ends in one InputError of one line, never in another exception."""

from __future__ import annotations

import json
import os
import random

import pytest

from tests.datasets.test_dataset import ENTRY, change, lay_out
from tests.masking import needs_posix
from tests.mutations import damaged, mutated, outcome
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.nnunet import find_nnunet as find_nnunet
from unet4d.datasets.dataset import open_dataset, read_dataset
from unet4d.datasets.verify.run_checks import verify_dataset
from unet4d.errors import InputError


@pytest.mark.parametrize("seed", range(8))
def test_a_dataset_with_any_change_is_read_or_refused_in_one_line(seed, tmp_path):
    root, rng, said = lay_out(tmp_path), random.Random(seed), set()
    for i in range(150):
        entry = mutated(ENTRY, rng)
        text = json.dumps(entry)
        (root / "dataset.json").write_bytes(damaged(text, rng) if i % 5 == 0 else text.encode())
        said.add(outcome(read_dataset, root).replace(str(root), "")[:60])
        if i % 30 == 0 and not outcome(open_dataset, root):
            verify_dataset(open_dataset(root), None)
    assert len(said) > 10


@pytest.mark.parametrize("seed", range(2))
def test_nnunets_too(seed, tmp_path):
    entry = {
        "channel_names": {"0": "cine"}, "labels": {"background": 0, "lv": 1}, "numTraining": 1, "file_ending": ".nii.gz",
        "name": "tiny", "dataset": {"p1": {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
    }  # fmt: skip
    rng = random.Random(seed)
    for i in range(150):
        text = json.dumps(mutated(entry, rng))
        (tmp_path / "dataset.json").write_bytes(damaged(text, rng) if i % 5 == 0 else text.encode())
        outcome(lambda path: find_nnunet(path, LayoutOptions()), tmp_path)


LITERAL = {
    "nothing": b"",
    "white space": b" \n",
    "NUL": b"\0" * 100,
    "UTF-16": json.dumps(ENTRY).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(ENTRY).encode(),
    "Latin-1": json.dumps(ENTRY | {"name": "Müller"}, ensure_ascii=False).encode("latin-1"),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "whole deep lists": b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}",
    "a huge number": b'{"name": ' + b"9" * 5000 + b"}",
    "NaN": json.dumps(change(["test", 0, "frame_duration_s"], float("nan"))).encode(),
    "Infinity": json.dumps(change(["test", 0, "frame_duration_s"], float("inf"))).encode(),
    "1e400": json.dumps(ENTRY).replace("0.05", "1e400").encode(),
    "10**400": json.dumps(change(["test", 0, "frame_duration_s"], 10**400)).encode(),
    "1e308": json.dumps(change(["test", 0, "frame_duration_s"], 1e308)).encode(),
    "1e-320": json.dumps(change(["test", 0, "frame_duration_s"], 1e-320)).encode(),
    "a lone surrogate": json.dumps(change(["training", 0, "case"], "\ud800")).encode(),
    "a lone surrogate in a key": json.dumps(ENTRY | {"\udc00": 1}).encode(),
    "a long path": json.dumps(change(["training", 0, "image"], "a" * 5000)).encode(),
    "a path of many folders": json.dumps(change(["training", 0, "image"], "a/" * 2500 + "b.nii")).encode(),
    "a long name": json.dumps(change(["training", 0, "case"], "a" * 5000)).encode(),
    "a long class": json.dumps(ENTRY | {"labels": {"background": 0, "a" * 5000: 1}}).encode(),
    "a key twice": json.dumps(ENTRY)[:-1].encode() + b', "time": "open"}',
    "a class twice": json.dumps(ENTRY).replace('"myocardium"', '"left ventricle"').encode(),
}


@pytest.mark.parametrize("name", LITERAL)
def test_these_bytes_are_refused_in_one_line(name, tmp_path):
    root = lay_out(tmp_path)
    (root / "dataset.json").write_bytes(LITERAL[name])
    message = outcome(read_dataset, root)
    assert "dataset.json" in message, message


LABELS = {
    "one value twice": {"background": 0, "a": 1, "b": 1},
    "names that differ by case": {"background": 0, "Liver": 1, "liver": 2},
    "names that differ by white space": {"background": 0, "left  ventricle": 1, "left ventricle ": 2},
    "background elsewhere": {"background": 1, "heart": 0},
    "Background elsewhere": {"air": 0, "Background ": 1},
    "true": {"background": 0, "heart": True},
    "a fraction": {"background": 0, "heart": 1.5},
    "a text": {"background": 0, "heart": "1"},
    "null": {"background": 0, "heart": None},
    "an empty name": {"background": 0, " ": 1},
    "a control character": {"background": 0, "heart\x1b[31m": 1},
}


@pytest.mark.parametrize("name", LABELS)
def test_classes_that_cannot_be_told_apart_are_refused_wherever_they_come_from(name, tmp_path):
    labels = LABELS[name]
    root = lay_out(tmp_path)
    (root / "dataset.json").write_text(json.dumps(ENTRY | {"labels": labels}))
    assert '"labels"' in outcome(read_dataset, root)
    with pytest.raises(InputError, match="labels is"):
        LayoutOptions(labels=labels)
    nnunet = {"channel_names": {"0": "cine"}, "labels": labels, "numTraining": 0, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(nnunet))
    assert '"labels"' in outcome(lambda path: find_nnunet(path, LayoutOptions()), tmp_path)


@needs_posix("pipes in folders")
def test_a_pipe_in_place_of_the_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "dataset.json")
    assert "dataset.json" in outcome(read_dataset, tmp_path / "dataset.json")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "deep" / "dataset.json").mkdir(parents=True)
    assert "dataset.json" in outcome(read_dataset, tmp_path / "deep" / "dataset.json")
