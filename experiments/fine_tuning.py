"""An experiment on fine-tuning: how many steps does a start from another task's network save, on phantoms?

    python experiments/fine_tuning.py DIR [--seeds 0 1 2] [--tasks renamed merged] [--arms scratch tuned_quarter ...]

Per seed, a network is trained on phantoms with three classes. The next tasks have new phantoms:

renamed     myocardium and left ventricle under other names; the right ventricle is background
merged      myocardium and left ventricle together as one class; the right ventricle is background

From scratch each is trained for all steps and for a quarter of them; from the network for a quarter, in several ways. Each last
checkpoint is scored on phantoms that none has seen. Finished arms are kept, and DIR/summary.json is written after each.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unet4d.config import Config
from unet4d.evaluation.evaluate import evaluate
from unet4d.images.image4d import read_image, read_label, write_image
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import LAST
from unet4d.phantom import write_phantom
from unet4d.system.files import read_json, write_json
from unet4d.training.train import train

SHAPE, FRAMES = (64, 56, 6), 6
TASKS = {"renamed": {"muscle": [2], "cavity": [3]}, "merged": {"left heart": [2, 3]}}
"""Values of the phantom's labels by the names of a task's classes."""
STEPS_PER_EPOCH, ALL, QUARTER, BEFORE = 25, 8, 2, 12
"""Epochs of the next task, 200 steps and 50, and of the network to begin with, 300 steps."""
CONFIG = Path(__file__).with_name("fine_tuning.yaml")
PLAIN = {"init_outputs": "name", "init_lr_factor": 1.0}
ARMS: dict[str, tuple[int, Mapping[str, Any] | None]] = {
    "scratch": (ALL, None),
    "scratch_quarter": (QUARTER, None),
    "tuned_quarter": (QUARTER, PLAIN),
    "tuned_quarter_held": (QUARTER, {**PLAIN, "init_hold_steps": 10, "init_lr_factor": 0.3}),
    "tuned_quarter_overlap": (QUARTER, {"init_lr_factor": 1.0}),
    "tuned_quarter_overlap_0.3": (QUARTER, {"init_lr_factor": 0.3}),  # the default
    "tuned_quarter_overlap_0.1": (QUARTER, {"init_lr_factor": 0.1}),
    "tuned_quarter_overlap_frozen": (QUARTER, {"init_lr_factor": 1.0, "freeze": "encoder"}),
    "tuned": (ALL, PLAIN),
    "tuned_overlap_0.3": (ALL, {"init_lr_factor": 0.3}),
}
"""Epochs, and settings of a start from the network."""


def main(out: Path, seeds: Sequence[int], tasks: Sequence[str], arms: Sequence[str]) -> None:
    """Make the phantoms, train and score the arms of each task with each seed."""
    _make(out / "before", 8, 41)
    for task in tasks:
        _make(out / task / "next", 4, 42, TASKS[task])
        _make(out / task / "new", 6, 43, TASKS[task])
    for seed in seeds:
        before = _train(out / "before", out / "run_before" / f"seed_{seed}", BEFORE, seed)
        for task in tasks:
            for arm in arms:
                (epochs, settings), here = ARMS[arm], out / task / arm / f"seed_{seed}"
                if not (here / "scores.json").exists():
                    began = time.process_time()
                    start = {} if settings is None else {"init_from": str(before), **settings}
                    model = _train(out / task / "next", here / "run", epochs, seed, start)
                    spent = round(time.process_time() - began)
                    write_json(here / "scores.json", _score(model, out / task / "new", here) | {"cpu_seconds": spent})
                print(task, arm, seed, read_json(here / "scores.json"), flush=True)
                write_json(out / "summary.json", {name: _summarize(out / name) for name in tasks})


def _make(dataset: Path, subjects: int, seed: int, classes: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write a phantom dataset, with its own classes or with others; one that is there is kept."""
    if (dataset / "dataset.json").exists():
        return
    shutil.rmtree(dataset, ignore_errors=True)
    made = dataset if classes is None else dataset.with_name(f"{dataset.name}_whole")
    write_phantom(made, subjects, FRAMES, seed=seed, shape=SHAPE)
    if classes is None:
        return
    about = read_json(made / "dataset.json")
    for case in about["training"]:
        label, found = read_label(made / case["label"]), 0
        for value, wanted in enumerate(classes.values(), 1):
            found = np.where(np.isin(label, wanted), value, found)
        write_image(made / case["label"], found.astype(np.uint8), like=read_image(made / case["image"]))
    labels = {"background": 0} | {name: value for value, name in enumerate(classes, 1)}
    write_json(made / "dataset.json", {k: v for k, v in about.items() if k != "roles"} | {"labels": labels})
    made.rename(dataset)


def _train(dataset: Path, run: Path, epochs: int, seed: int, start: Mapping[str, Any] | None = None) -> Path:
    """Train a run unless it is finished; return its last checkpoint."""
    if not (run / "summary.json").exists() or read_json(run / "summary.json")["state"] != "finished":
        shutil.rmtree(run, ignore_errors=True)
        config = Config.from_dict(yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {"seed": seed})
        loop = {"epochs": epochs, "validate_every": epochs, "steps_per_epoch": STEPS_PER_EPOCH}
        config = replace(config, train=replace(config.train, **loop, **(start or {})))
        train(dataset, run, config, "cpu", skip_verify=True)
    return run / LAST


def _score(model: Path, new: Path, here: Path) -> dict[str, Any]:
    """Segment the new phantoms; return the mean foreground Dice and that of each class."""
    predict(model, [new], here / "predicted", device="cpu")
    found = evaluate(new, here / "predicted", here / "scores")
    classes = {name: round(entry["dice"]["mean"], 4) for name, entry in found["classes"].items()}
    return {"dice": round(found["mean_foreground_dice"], 4), "classes": classes}


def _summarize(task: Path) -> list[dict[str, Any]]:
    """Return per arm its steps and the Dice of each seed, their mean and deviation."""
    rows = []
    for arm, (epochs, _) in ARMS.items():
        dice = [read_json(file)["dice"] for file in sorted((task / arm).glob("seed_*/scores.json"))]
        if dice:
            spread = round(float(np.std(dice, ddof=1)), 4) if len(dice) > 1 else None
            row = {"arm": arm, "steps": epochs * STEPS_PER_EPOCH, "dice": round(float(np.mean(dice)), 4)}
            rows.append({**row, "of each seed": dice, "deviation": spread})
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="steps that a start from another task's network saves")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    main(given.out, given.seeds, given.tasks, given.arms)
