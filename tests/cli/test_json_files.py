"""Every JSON file that a command reads back may be damaged: its reader refuses it in one line, or makes nothing of it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import damaged, mutated, outcome
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.label_maps import (
    PREDICTION_JSON,
    read_class_values,
    read_provenance,
    read_recorded_folds,
    read_recorded_times,
)
from unet4d.datasets.verify.run_checks import FINGERPRINT_FILE, verify_dataset
from unet4d.evaluation.results import read_evaluation
from unet4d.inference.batch.case_records import CaseRecords
from unet4d.inference.postprocessing_steps import POSTPROCESSING, read_steps
from unet4d.phantom import write_phantom
from unet4d.report.pages.template import flatten
from unet4d.system.digests import DigestMemo
from unet4d.training.cross_validation import _check_same_folds
from unet4d.training.monitoring.info import info
from unet4d.training.monitoring.log_lines import LOG, epoch_line, log_lines, log_totals

STUDY = {
    "case": "a",
    "fold": 0,
    "time": "cyclic",
    "settings": {"overlap": 0.5},
    "models": ["m"],
    "checkpoints": [{"path": "m"}],
}
SUMMARY = {
    "state": "finished", "reason": None, "dataset": "/a", "fold": 0, "held_out": ["a"], "epochs": {"done": 2, "of": None},
    "time_budget": {"given": "90s", "clock": "wall", "seconds": 90.0, "spent_seconds": 5.5},
}  # fmt: skip
RECORD = {
    "made": {"image": "a"}, "files": {"a.nii.gz": "ab"}, "entry": {"frames": 2}, "formats": ["nii.gz"]
}  # fmt: skip


def predictions(folder: Path) -> None:
    read_class_values(None, [folder])
    read_recorded_folds(folder)
    read_recorded_times(folder)
    flatten(read_provenance([folder], "a"))


def records(folder: Path) -> None:
    found = CaseRecords(folder)
    found.read_complete("a", RECORD["made"], ["nii.gz"])
    found.read_all()
    found.remove("a")


def log(folder: Path) -> None:
    lines = log_lines(folder)
    log_totals(lines)
    for line in lines:
        epoch_line(line, None)


def status(folder: Path) -> None:
    (folder / "config.yaml").touch()
    info(folder)


def memo(folder: Path) -> object:
    return DigestMemo(folder / "memo.json").find(Path("/a"), [1, 2, 3, 4])


FILES: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "prediction.json": (PREDICTION_JSON, {"labels": {"background": 0, "heart": 1}, "cases": {"a": STUDY}}, predictions),
    "postprocessing.json": (
        POSTPROCESSING,
        {"steps": [{"operation": "fill_holes", "class": "heart"}], "checkpoints": {"best.pt": "ab"}},
        read_steps,
    ),
    "folds.json": (
        "folds.json",
        {"folds": 2, "seed": 0, "held_out": {"fold_0": ["a"], "fold_1": ["b"]}},
        lambda folder: _check_same_folds(folder, [0], {"folds": 2, "seed": 0, "held_out": {"fold_0": ["a"]}}),
    ),
    "summary.json": (
        "summary.json",
        SUMMARY,
        status,
    ),
    "an evaluation": ("summary.json", {"per_case": {"a": {}}, "tolerance_mm": 2.0}, read_evaluation),
    "a case's record": (".unet4d/cases/a.json", RECORD, records),
    "a memo of digests": ("memo.json", {"/a": [["a", 1, 2], "12ab"]}, memo),
    "a log": (LOG, {"epoch": 1, "step": 5, "seconds": 1.5, "mean_foreground_dice": 0.5, "dice": {"heart": 0.5}}, log),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_in_one_line_or_of_no_use(name, tmp_path):
    place, entry, read = FILES[name]
    file, rng = tmp_path / place, random.Random(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    for i in range(200):
        text = json.dumps(mutated(copy.deepcopy(entry), rng))
        file.write_bytes(damaged(text, rng) if i % 5 == 0 else text.encode())
        outcome(read, tmp_path)


def test_a_damaged_fingerprint_is_made_anew(tmp_path):
    write_phantom(tmp_path, 1, 2, seed=0, shape=(32, 32, 4))
    dataset, keep_in, rng = read_dataset(tmp_path), tmp_path / "kept", random.Random(0)
    wanted = verify_dataset(dataset, keep_in).dataset_summary()
    whole = (keep_in / FINGERPRINT_FILE).read_text()
    for i in range(40):
        text = json.dumps(mutated(json.loads(whole), rng))
        (keep_in / FINGERPRINT_FILE).write_bytes(damaged(text, rng) if i % 5 == 0 else text.encode())
        assert set(verify_dataset(dataset, keep_in).dataset_summary()) == set(wanted)
