"""An experiment on fine-tuning: how many steps does a start from another task's network save, on phantoms?

    python experiments/fine_tuning.py DIR [--seeds 0 1]

Trains a network on phantoms with three classes. The next task is new phantoms with two of these classes under other names, so
that every output begins at random. From scratch it is trained for all steps and for a quarter of them; from the network for a
quarter, in three ways. Each last checkpoint is scored on phantoms that none has seen. Finished arms are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from commands import unet4d

from unet4d.images.image4d import read_image, read_label, write_image
from unet4d.models.checkpoint import LAST
from unet4d.phantom import write_phantom
from unet4d.system.files import read_json, write_json

CONFIG = Path(__file__).with_name("fine_tuning.yaml")
SHAPE, FRAMES = (64, 56, 6), 6
CLASSES = {"background": 0, "muscle": 2, "cavity": 3}
"""Myocardium and left ventricle of the phantom; its right ventricle becomes background."""
STEPS_PER_EPOCH, ALL, QUARTER = 25, 8, 2
"""Epochs of the next task: 200 steps and 50."""
BEFORE = 12
"""Epochs of the network to begin with."""
FROM = ("--train.init_from", "BEFORE")
HELD = ("--train.init_hold_steps", 10, "--train.init_lr_factor", 0.3)
ARMS: dict[str, tuple[int, tuple[object, ...]]] = {
    "scratch": (ALL, ()),
    "scratch_quarter": (QUARTER, ()),
    "tuned_quarter": (QUARTER, FROM),
    "tuned_quarter_held": (QUARTER, (*FROM, *HELD)),
    "tuned_quarter_frozen": (QUARTER, (*FROM, "--train.freeze", "encoder")),
}


def main(out: Path, seeds: Sequence[int]) -> None:
    """Make the phantoms, train and score each arm with each seed, and print a row per arm."""
    for name, subjects, seed in (("before", 8, 41), ("next", 4, 42), ("new", 6, 43)):
        if not (out / name / "dataset.json").exists():
            write_phantom(out / name, subjects, FRAMES, seed=seed, shape=SHAPE)
            if name != "before":
                rename_classes(out / name)
    before = train(out / "before", out / "run_before", BEFORE, 0)
    for seed in seeds:
        for arm, (epochs, options) in ARMS.items():
            here = out / arm / f"seed_{seed}"
            if not (here / "scores.json").exists():
                given = [before if option == "BEFORE" else option for option in options]
                score(train(out / "next", here / "run", epochs, seed, *given), out / "new", here)
    rows = [summary(out, arm, seeds) for arm in ARMS]
    write_json(out / "summary.json", rows)
    for row in rows:
        print(row)


def rename_classes(dataset: Path) -> None:
    """Give a phantom dataset two of its classes under other names."""
    about = read_json(dataset / "dataset.json")
    for case in about["training"]:
        image, path = read_image(dataset / case["image"]), dataset / case["label"]
        label = read_label(path)
        write_image(path, np.where(np.isin(label, list(CLASSES.values())), label, 0).astype(np.uint8), like=image)
    about["labels"] = CLASSES
    write_json(dataset / "dataset.json", {name: value for name, value in about.items() if name != "roles"})


def train(dataset: Path, run: Path, epochs: int, seed: int, *options: object) -> Path:
    """Train a run, or the rest of it; return its last checkpoint."""
    if not (run / "summary.json").exists() or read_json(run / "summary.json")["state"] != "finished":
        resume = ("--resume",) if (run / LAST).exists() else ()
        loop = ("--train.epochs", epochs, "--train.validate_every", epochs, "--train.steps_per_epoch", STEPS_PER_EPOCH)
        unet4d(
            "train", "--dataset", dataset, "--out", run, "--config", CONFIG, *loop, "--seed", seed, *options, *resume
        )
    return run / LAST


def score(model: Path, new: Path, here: Path) -> None:
    """Segment the new phantoms and keep the mean Dice of each class."""
    unet4d("predict", model, "-i", new, "-o", here / "predicted")
    unet4d("evaluate", "--reference", new, "--prediction", here / "predicted", "--out", here / "scores")
    found = read_json(here / "scores" / "summary.json")
    write_json(here / "scores.json", {"dice": found["mean_foreground_dice"]})


def summary(out: Path, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the steps of an arm and its mean Dice, over the seeds and of each."""
    dice = [read_json(out / arm / f"seed_{seed}" / "scores.json")["dice"] for seed in seeds]
    return {"arm": arm, "steps": ARMS[arm][0] * STEPS_PER_EPOCH, "dice": round(fmean(dice), 4), "of each seed": dice}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="steps that a start from another task's network saves")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    try:
        main(given.out, given.seeds)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
