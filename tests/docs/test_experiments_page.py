"""Tests: the numbers of experiments/README.md are those that its runs recorded in experiments/results."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from unet4d.system.files import read_json

FOLDER = Path(__file__).parents[2] / "experiments"
RESULTS = FOLDER / "results"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}


def record(path: str) -> Any:
    return read_json(RESULTS / path)


def row(name: str) -> str:
    """Return the row of an experiment in the table that begins the page."""
    [found] = re.findall(rf"^\| \[{name}\]\(.*$", PAGE, re.M)
    return found


def cells(*values: float) -> str:
    """Return neighboring cells of a table with these values of Dice, halves rounded up, bold or not."""
    rounded = [Decimal(str(value)).quantize(Decimal("0.001"), ROUND_HALF_UP) for value in values]
    return r" \| ".join(rf"\**{value}\**" for value in rounded)


def test_every_record_has_a_link():
    assert [path.name for path in RESULTS.iterdir() if f"](results/{path.name}/" not in PAGE] == []


def test_the_demo():
    assert f"Dice **{record('demo/scores.json')['mean_foreground_dice']:.3f}**" in row("demo")


def test_acdc14():
    scores = record("acdc14/scores.json")
    assert f"Dice **{scores['mean_foreground_dice']:.3f}**" in row("acdc14")
    for name, of in scores["classes"].items():
        dice, distance = of["dice"], of["hd95_mm"]
        wanted = (
            f"| {name} | {dice['mean']:.3f} ± {dice['std']:.3f} | {distance['mean']:.1f} ({distance['median']:.1f}) |"
        )
        assert wanted in SECTIONS["acdc14"]


def test_recurrence_and_smoothing():
    of = {
        name.split()[0]: [by["dice"] for by in found.values()]
        for name, found in record("recurrence/summary.json").items()
    }
    assert re.search(rf"CLSTM-UNet, .* \| {cells(*of['CLSTM-UNet'])} \|", SECTIONS["recurrence"])
    assert re.search(rf"frame-wise baseline \| {cells(*of['frame-wise'])} \|", SECTIONS["recurrence"])
    smoothed = record("recurrence/smoothing.json")["results"].values()
    for frames in ("0", "0.8", "1.5"):
        values = [by["dice"] for found in smoothed for by in found[f"smoothed by {frames} frames"].values()]
        assert re.search(rf"^\| {re.escape(frames)}\b.* \| {cells(*values)} \|$", SECTIONS["recurrence"], re.M)


@pytest.mark.parametrize("found", record("widths/summary.json")["rows"], ids=lambda found: str(found["lstm_channels"]))
def test_widths(found):
    weights = f"{found['million weights']:.2f}"
    assert re.search(rf"\| {weights} \| {cells(found['spoiled frames'], found['other frames'])} \|", SECTIONS["widths"])


@pytest.mark.parametrize(
    "found", record("time_augmentation/summary.json")["rows"], ids=lambda f: f["time_augmentation"]
)
def test_time_augmentation(found):
    values = [found[name] for name in ("unspoiled studies", "spoiled frames", "frames beside them")]
    line = rf"^\| {found['time_augmentation']}\b.* \| {cells(*values)} \|$"
    assert re.search(line, SECTIONS["time_augmentation"], re.M)


@pytest.mark.parametrize("found", record("accuracy/summary.json"), ids=lambda found: found["variant"])
def test_accuracy(found):
    values = [found[name] for name in ("all frames", "spoiled frames", "other frames")]
    assert re.search(rf"\| {len(found['seeds'])} \| {cells(*values)} \|", SECTIONS["accuracy"])


@pytest.mark.parametrize("found", record("fine_tuning/summary.json")["renamed"], ids=lambda found: found["arm"])
def test_fine_tuning(found):
    line = rf"\| {found['steps']} \| {cells(*found['of each seed'], found['dice'])} \|"
    assert re.search(line, SECTIONS["fine_tuning"])


def test_partial_labels():
    found = record("partial_labels/summary.json")["patches rolled along Z"]["8_subjects"]
    for arm in ("half", "half_by_subject"):
        values = [*found[arm]["dice"], found[arm]["mean"], found[arm]["means, over all"]]
        assert re.search(cells(*values), SECTIONS["partial_labels"])


def test_propagation():
    with open(RESULTS / "propagation" / "dice.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for what in ("unmoved", "carried"):
        classes = dict.fromkeys(one["class"] for one in rows)
        values = [mean(float(one[what]) for one in rows if one["class"] == name) for name in classes]
        assert re.search(rf"\| {what} \| 14 \| {cells(*values, mean(values))} \|", SECTIONS["propagation"])


def test_kill_and_resume():
    signals = record("kill_and_resume/summary.json")["signals"]
    listed = re.findall(r"^\| (SIG\w+), .*?(\d+) \| (\d+) \| (\d+) \|$", SECTIONS["kill_and_resume"], re.M)
    names = ("signal", "step", "checkpoint_step", "steps_lost")
    assert listed == [tuple(str(one[name]) for name in names) for one in signals]
