"""An experiment on recurrence, where a frame's own image does not suffice.

    python experiments/recurrence.py DIR

Trains the CLSTM-UNet and its frame-wise baseline on phantoms with a fifth of the frames spoiled by dropout, ghosting or noise, from
the same first weights on the same batches, and scores both on new phantoms: on the spoiled frames, and on the others; each
as it is, and smoothed over time.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

from commands import script, unet4d

from unet4d.system.files import read_json, write_json

CONFIG = Path(__file__).with_name("recurrence.yaml")
NETWORKS = {"CLSTM-UNet": (), "frame-wise baseline": ("--model.lstm_channels", 0)}
SPOILED = 0.2
SMOOTHING_FRAMES = (0, 0.8, 1.5)
"""Widths; `predict` takes 0.8 by default for these cycles of 10 frames."""


def main(out: Path) -> None:
    """Train, predict and score both networks under `out`; print and record the mean Dice by kind of frame."""
    train_set, held_out = out / "train", out / "held_out"
    for folder, subjects, seed in ((train_set, 12, 11), (held_out, 6, 12)):
        if not (folder / "dataset.json").exists():
            size = ("--subjects", subjects, "--frames", 10, "--ambiguous", SPOILED)
            unet4d("phantom", "--out", folder, *size, "--seed", seed)
    results = {}
    for name, options in NETWORKS.items():
        here = out / name.replace(" ", "_")
        if not (here / "run" / "checkpoint_best.pt").exists():
            unet4d("train", "--dataset", train_set, "--out", here / "run", "--config", CONFIG, *options)
        for width in SMOOTHING_FRAMES:
            predicted, scores = here / f"predicted_{width}", here / f"scores_{width}"
            smoothing = ("--temporal_smoothing", width, "--postprocess", "off")
            unet4d("predict", here / "run", "-i", held_out, "-o", predicted, *smoothing)
            unet4d("evaluate", "--reference", held_out, "--prediction", predicted, "--out", scores)
            found = by_kind_of_frame(scores / "metrics.csv", held_out / "truth" / "subjects.json")
            results.setdefault(name, {})[f"smoothed by {width} frames"] = found
    write_json(out / "summary.json", results)
    for name, rows in results.items():
        for smoothing, scores in rows.items():
            dice = "  ".join(f"{kind}: Dice {s['dice']:.3f} (n {s['n']})" for kind, s in scores.items())
            print(f"{name:<20}{smoothing:<24}{dice}")


def by_kind_of_frame(metrics: Path, subjects: Path) -> dict[str, dict[str, float]]:
    """Return the mean Dice over cases, frames and classes where it is defined, of the spoiled frames and of the others."""
    spoiled = {case: set(about["ambiguous_frames"]) for case, about in read_json(subjects).items()}
    scores: dict[str, list[float]] = {"spoiled frames": [], "other frames": []}
    with open(metrics, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["dice"]:
                kind = "spoiled frames" if int(row["frame"]) in spoiled[row["case"]] else "other frames"
                scores[kind].append(float(row["dice"]))
    return {kind: {"dice": round(fmean(values), 4), "n": len(values)} for kind, values in scores.items()}


if __name__ == "__main__":
    script(main)
