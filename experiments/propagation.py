"""Labels propagated between end-diastole and end-systole: accuracy, trust in the confidence, and wrong drawings that are found.

The options of the registration were chosen on every second patient (half 0); all numbers are given for either half and for all.
Run: python -m experiments.propagation acdc14 OUT, or with "phantoms" in place of acdc14: all their frames have labels.
Each study is kept in OUT/studies once it is measured: the same command continues a run that was killed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.real_cine.registration import carry
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.carry import find_box, overlap, propagate_labels
from unet4d.datasets.propagation.cross_frames import (
    Comparison,
    compare_labels,
    contradictions,
    deformation_between,
    neighbors,
)
from unet4d.datasets.propagation.propagate import PROPAGATION, propagate
from unet4d.datasets.propagation.registration import Greedy
from unet4d.phantom import write_phantom
from unet4d.system.csv_file import csv_text, read_table
from unet4d.system.files import read_json, write_json, write_text
from unet4d.system.progress_bar import ProgressBar

SHIFTS_MM = (5, 10, 20)
Pair = tuple[np.ndarray, np.ndarray]
Tables = dict[str, list[dict[str, Any]]]
"""Rows by the name of their table."""


def spoil(first: np.ndarray, second: np.ndarray, values: Sequence[int], spacing: Sequence[float]) -> dict[str, Pair]:
    """Return both labels (X, Y, Z) as they are, and with mistakes of an annotator or of a program, by name."""
    low, high = values[0], values[-1]
    exchanged = second.copy()
    exchanged[second == low], exchanged[second == high] = high, low
    found = {
        "as they are": (first, second),
        "frames exchanged": (second, first),
        "two classes exchanged in one frame": (first, exchanged),
        "one frame mirrored": (first, second[::-1]),
        "one frame off by a slice": (first, np.roll(second, 1, axis=2)),
        "a class missing in one frame": (first, np.where(second == low, 0, second).astype(np.uint8)),
    }
    for shift in SHIFTS_MM:
        moved = np.roll(second, round(shift / spacing[0]), axis=0)
        found[f"one frame off by {shift} mm"] = (first, moved)
    return found


def measure(dataset: Path, kept: Path) -> Tables:
    """Return rows of all studies: Dice, confidence and comparisons of spoiled drawings; those in the folder `kept` are read."""
    content = read_dataset(dataset)
    rows: Tables = {"dice": [], "confidence": [], "drawings": []}
    for number, case in enumerate(ProgressBar(content.training, "registering", unit="study")):
        file = kept / f"{case.name}.json"
        if not file.exists():
            found = _measure_study(case, content)
            write_json(
                file, {name: [{"case": case.name, "half": number % 2, **row} for row in found[name]] for name in rows}
            )
        for name, of_study in read_json(file).items():
            rows[name] += of_study
    return rows


def _measure_study(case: Case, content: Dataset) -> Tables:
    """Return rows of a study with two labelled frames, the earlier one end-diastole."""
    names = {value: name for name, value in content.labels if value}
    dice, confidence = [], []
    image = case.image()
    label, labelled = read_labelled(case, content, image)
    drawn = {int(t): label[t] for t in np.flatnonzero(labelled)}
    (first, second), frames, spacing = sorted(drawn), image.array[0], image.spacing
    registration, pair = Greedy(spacing), neighbors([first, second], len(frames), content.cyclic)[0]
    for source, target in ((first, second), (second, first)):
        begin_s = time.process_time()
        carried = carry(image, drawn[source], source, target, source == pair[0])
        used_s = time.process_time() - begin_s
        unmoved, moved = (overlap(found, drawn[target], list(names)) for found in (drawn[source], carried))
        direction = "ED to ES" if source == first else "ES to ED"
        propagated = propagate_labels(frames, {source: drawn[source]}, content.cyclic, registration, spacing)
        around = next(found for frame, found in propagated if frame == target)
        truth = overlap(around.label, drawn[target], list(names))
        for value, name in names.items():
            scores = {"unmoved": unmoved[value], "carried": moved[value], "cpu_s": used_s}
            dice.append({"direction": direction, "class": name, **scores})
            trust = {"dice": truth[value], "confidence": around.confidence.get(value, 0.0)}
            confidence.append({"source": source, "target": target, "class": name, **trust})
    drawings = _drawings(frames, drawn, pair, spacing, registration, names)
    return {"dice": dice, "confidence": confidence, "drawings": drawings}


def _drawings(
    frames: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    pair: tuple[int, int],
    spacing: Sequence[float],
    registration: Greedy,
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Return the comparison of both drawn frames, as they are and spoiled, per class."""
    box = find_box(list(drawn.values()), spacing, None)
    moving, (first, second) = frames[(slice(None), *box)], pair
    there = deformation_between(moving, first, second, True, registration)
    back = deformation_between(moving, second, first, False, registration)
    rows = []
    for how, labels in spoil(drawn[pair[0]], drawn[pair[1]], list(names), spacing).items():
        carried, unmoved = compare_labels(*(label[box] for label in labels), there, back, registration)
        wrong = contradictions(Comparison(*pair, carried, unmoved))
        for value, name in names.items():
            found = {"carried": carried.get(value), "unmoved": unmoved.get(value), "reported": value in wrong}
            rows.append({"how": how, "class": name, **found})
    return rows


def measure_phantoms(
    work: Path, subjects: int = 3, frames: int = 10, drawn: Sequence[int] = (0, 4)
) -> list[dict[str, Any]]:
    """Return Dice and confidence of every propagated frame and class of phantoms of the heart, of which two frames are given."""
    truth = read_dataset(write_phantom(work / "all", subjects, frames, shape=(64, 56, 5)))
    shutil.copytree(work / "all", work / "few")
    about = read_json(work / "few" / "dataset.json")
    about["training"] = [{**entry, "labelled_frames": list(drawn)} for entry in about["training"]]
    write_json(work / "few" / "dataset.json", about)
    found = read_dataset(propagate(work / "few", work / "out"))
    table = read_table(work / "out" / PROPAGATION.file, list(PROPAGATION.columns), "propagate again")
    rows = []
    for case in truth.training:
        label, _ = read_labelled(case, truth, case.image())
        carried, _ = read_labelled(found.case(case.name), found, case.image())
        for row in (row for row in table if row["case"] == case.name and row["confidence"]):
            frame, value = int(row["frame"]), dict(truth.labels)[row["class"]]
            dice = overlap(carried[frame], label[frame], [value])[value]
            about_row = {"case": case.name, "frame": frame, "class": row["class"]}
            rows.append({**about_row, "dice": dice, "confidence": float(row["confidence"])})
    return rows


def describe_confidence(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how confidence and Dice go together."""
    pairs = np.array([(row["confidence"], row["dice"]) for row in rows])
    found = {"n": len(pairs), "correlation": round(float(np.corrcoef(pairs.T)[0, 1]), 3)}
    return found | dict(zip(("mean confidence", "mean dice"), pairs.mean(axis=0).round(3).tolist(), strict=True))


def summarize(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means over patients, for half 0 (on which options were chosen), half 1 and all."""
    found: dict[str, Any] = {}
    for part, halves in {"chosen on": (0,), "other": (1,), "all": (0, 1)}.items():
        dice = [row for row in rows["dice"] if row["half"] in halves]
        summary: dict[str, Any] = {"patients": len({row["case"] for row in dice})}
        for direction in dict.fromkeys(row["direction"] for row in dice):
            of = [row for row in dice if row["direction"] == direction]
            for name in dict.fromkeys(row["class"] for row in of):
                summary[f"{direction}, {name}"] = {
                    key: _mean(row[key] for row in of if row["class"] == name) for key in ("unmoved", "carried")
                }
            summary[direction] = {key: _mean(row[key] for row in of) for key in ("unmoved", "carried", "cpu_s")}
        summary["confidence"] = describe_confidence([row for row in rows["confidence"] if row["half"] in halves])
        drawings = [row for row in rows["drawings"] if row["half"] in halves]
        summary["drawings reported"] = {
            how: len({row["case"] for row in drawings if row["how"] == how and row["reported"]})
            for how in dict.fromkeys(row["how"] for row in drawings)
        }
        found[part] = summary
    return found


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 4)


def main() -> None:
    """Measure, and write tables and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if str(given.dataset) == "phantoms":
        with tempfile.TemporaryDirectory() as work:
            rows = {"phantoms": measure_phantoms(Path(work))}
        summary: dict[str, Any] = describe_confidence(rows["phantoms"])
    else:
        rows = measure(given.dataset, given.out / "studies")
        summary = summarize(rows)
    for name, table in rows.items():
        write_text(given.out / f"{name}.csv", csv_text([list(table[0]), *(list(row.values()) for row in table)]))
    write_json(given.out / f"summary_{given.dataset.name}.json", summary)


if __name__ == "__main__":
    main()
