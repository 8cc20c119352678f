"""Tests: docs/reference/metrics.md names every column and key, its commands parse, its figures are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import write_study
from unet4d.cli.main import _parse
from unet4d.evaluation.cardiac_function import MEASURES
from unet4d.evaluation.compare import SIGNIFICANCE_LEVEL, Comparison, compare
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES
from unet4d.evaluation.curve_comparison import COMPARED_CURVES
from unet4d.evaluation.evaluate import evaluate
from unet4d.evaluation.tables import OUTPUT_FILES, SUMMARY_JSON
from unet4d.metrics import statistics, surface
from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML
from unet4d.metrics.volume_curves import roughness

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(\w+)`", PAGE))
COMMANDS = [re.sub(r"\s+#.*", "", line) for line in re.findall(r"^    (unet4d .+)$", PAGE, re.M)]
GIVEN = {"LV", "myocardium", "a", "b", "c", "0", "1"}
"""Names of classes, cases and folds are the user's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of three beating ventricles, of two folds, and a comparison."""
    root = tmp_path_factory.mktemp("page")
    for kind, more in (("truth", 0), ("found", 1)):
        for name in "abc":
            label = np.zeros((4, 9, 5, 2), np.uint8)
            for t, size in enumerate((6, 4, 2, 5)):
                label[t, : size + more, 0, 0] = 1
                label[t, :5, 2, 0] = 2
            write_study(root / kind / f"{name}.nii.gz", label, seconds=1.0)
    conditions = {
        "runs": ["run"], "checkpoint": "best", "models": 1, "mirror_axes": [0], "overlap": 0.5, "cyclic_shifts": 1,
        "priming_frames": 8, "temporal_smoothing": 0, "postprocessing": [], "training_seconds": 60.0,
    }  # fmt: skip
    cases = {name: {"fold": i % 2, "time": "cyclic", "conditions": conditions} for i, name in enumerate("abc")}
    about = {"labels": {"background": 0, "LV": 1, "myocardium": 2}, "cases": cases}
    (root / "found/prediction.json").write_text(json.dumps(about))
    evaluate(root / "truth", root / "found", root / "out")
    compare(root / "out", root / "out", root / "out")
    return root / "out"


def keys(entry: Any) -> Iterator[str]:
    """All keys of a JSON value but those of `folds`, which another page describes."""
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield key
            if key != "folds":
                yield from keys(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from keys(value)


def test_every_column_of_every_table_stands_there(folder: Path):
    for name in [
        *OUTPUT_FILES,
        *(table.file for table in COMPARED_CURVES.values()),
        "comparison.csv",
        "comparison.json",
    ]:
        assert name in PAGE
    missing = set()
    for path in folder.glob("*.csv"):
        for column in path.read_text().splitlines()[0].split(","):
            plain = re.sub(r"^(reference|matched|prediction)_", "", column)
            if column not in NAMED and not (
                path.name == "measures_compared.csv" and plain in NAMED and plain != column
            ):
                missing.add(f"{path.name}: {column}")
    assert not missing
    assert {"reference_", "matched_", "prediction_"} <= NAMED
    assert set(MEASURES) <= NAMED


def test_every_key_of_the_summaries_stands_there(folder: Path):
    for path in folder.glob("*.json"):
        assert not set(keys(json.loads(path.read_text()))) - NAMED - GIVEN
    assert "folds" in json.loads((folder / SUMMARY_JSON).read_text())
    assert {field.name for field in fields(Comparison)} <= NAMED


def test_every_compared_metric_stands_there_with_what_is_better():
    words = {1: "more", -1: "less", 0: "neither alone"}
    said = {}
    for names, better in re.findall(r"^\| (`.+?) \| \w+\.csv.* \| ([\w ]+) \|$", PAGE, re.M):
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), better)
    assert said == {name: words[quantity.better] for name, quantity in COMPARISON_QUANTITIES.items()}


def test_nothing_stands_there_that_is_not(folder: Path):
    """A column or key that was renamed would leave its old name on the page."""
    there = {column for path in folder.glob("*.csv") for column in path.read_text().splitlines()[0].split(",")}
    there |= {key for path in folder.glob("*.json") for key in keys(json.loads(path.read_text()))}
    there |= {"heart_rate"} | set(COMPARISON_QUANTITIES) | set(MEASURES) | {"reference_", "matched_", "prediction_"}
    assert not {name for name in NAMED if "_" in name} - there


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line: str):
    words = shlex.split(line)[1:]
    assert _parse(words)[0] == words[0]


def test_its_figures_are_those_of_the_code():
    assert f"{surface.TOLERANCE_MM:.0f} mm by default" in PAGE
    assert f"{MYOCARDIAL_DENSITY_G_PER_ML} g/mL" in PAGE
    assert f"{statistics.RESAMPLES} bootstrap resamples" in PAGE
    assert f"fewer than {statistics.FEWEST_SUBJECTS} subjects" in PAGE
    assert f"fewer than {statistics.FEWEST_DIFFERENCES} differences" in PAGE
    assert f"`p_holm` is below {SIGNIFICANCE_LEVEL}" in PAGE
    wave = 1 + 0.3 * np.cos(2 * np.pi * np.arange(25) / 25)
    assert f"{roughness(wave, cyclic=True):.3f} with a/m = 0.3 and T = 25" in PAGE
    assert _parse(shlex.split(COMMANDS[0])[1:])[1].tolerance_mm == surface.TOLERANCE_MM
