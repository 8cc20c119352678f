"""An experiment on partly drawn labels: half of the slices, and two datasets of different classes together.

    python experiments/partial_labels.py DIR

Trains on phantoms with two labelled frames each, at equal steps per dataset, and scores the last weights on new phantoms:

all               every slice drawn, three times as many steps
half              every second slice drawn (labelled_slices), the others in the other labelled frame; likewise
half_by_subject   every second slice drawn, the same in both frames, the others in the other half of the subjects; likewise
right, left       half of the subjects with the right ventricle alone; the other half with myocardium and left ventricle alone
together          both of these in one dataset of three classes (annotated_labels), for as many steps as both together

An arm that is there is kept, and DIR/summary.json is written after each.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from commands import script

from unet4d.config import Config, DataConfig, ModelConfig, TrainConfig
from unet4d.evaluation.evaluate import evaluate
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import LAST
from unet4d.phantom import write_phantom
from unet4d.system.files import read_json, write_json
from unet4d.training.train import train

SUBJECTS, HELD_OUT, FRAMES, SHAPE, STEPS, EPOCHS = 8, 4, 5, (40, 36, 6), 200, 4
RIGHT, LEFT = [1], [2, 3]


@dataclass(frozen=True)
class Arm:
    """A training: classes by label value, every `step`-th case from `first` on, what was drawn, and `times` STEPS."""

    classes: Sequence[int] = (1, 2, 3)
    half: Literal["", "frame", "subject"] = ""
    first: int = 0
    step: int = 1
    is_together: bool = False
    times: int = 1


ARMS = {
    "all": Arm(times=3),
    "half": Arm(half="frame", times=3),
    "half_by_subject": Arm(half="subject", times=3),
    "right": Arm(RIGHT, step=2),
    "left": Arm(LEFT, first=1, step=2),
    "together": Arm(is_together=True, times=2),
}


def main(out: Path) -> None:
    """Train and score every arm under `out`."""
    for folder, subjects, labelled, seed in (("train", SUBJECTS, "two", 31), ("new", HELD_OUT, "all", 32)):
        if not (out / folder / "dataset.json").exists():
            write_phantom(out / folder, subjects, FRAMES, labelled, 0.0, seed, SHAPE)
    summary: dict[str, Any] = {}
    for name, arm in ARMS.items():
        scores = out / name / "scores.json"
        if not scores.exists():
            write_json(scores, _run(out, out / name, arm))
        summary[name] = read_json(scores)
        write_json(out / "summary.json", {"arms": summary, "ratios": _ratios(summary)})
        print(f"{name:<10}", summary[name], flush=True)
    print(_ratios(summary))


def _run(out: Path, here: Path, arm: Arm) -> dict[str, Any]:
    """Train and score one arm; return the Dice of each class, and the CPU seconds of the training."""
    data, truth = _derive(out / "train", here / "train", arm), _derive(out / "new", here / "new", Arm(arm.classes))
    config = Config(
        data=DataConfig(val_subjects=[], patch_size=(32, 32, 6), frames=3, num_workers=0),
        model=ModelConfig(channels=[8, 16, 24]),
        train=TrainConfig(
            epochs=EPOCHS,
            steps_per_epoch=arm.times * STEPS // EPOCHS,
            batch_size=2,
            learning_rate=3e-3,
            warmup_steps=20,
        ),
    )
    shutil.rmtree(here / "run", ignore_errors=True)
    began = time.process_time()
    train(data, here / "run", config, device="cpu", skip_verify=True)
    seconds = time.process_time() - began
    predict(here / "run" / LAST, [truth], here / "predicted", device="cpu")
    found = evaluate(truth, here / "predicted", here / "scores")
    dice = {name: round(entry["dice"]["mean"], 4) for name, entry in found["classes"].items()}
    return {"dice": dice, "frames": found["labelled_frames"], "cpu_seconds": round(seconds)}


def _derive(source: Path, target: Path, arm: Arm) -> Path:
    """Write a dataset with the classes, the cases and the drawn parts of an arm."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".unet4d-cache", "truth"))
    about = read_json(target / "dataset.json")
    about["labels"] = {name: value for name, value in about["labels"].items() if value in (0, *arm.classes)}
    part = "training" if about["training"] else "test"
    about[part] = about[part][arm.first :: arm.step]
    for number, case in enumerate(about[part]):
        drawn = (RIGHT, LEFT)[number % 2] if arm.is_together else arm.classes
        file = target / case["label"]
        stored = nib.load(file)
        voxels = np.asanyarray(stored.dataobj)
        nib.save(type(stored)(np.where(np.isin(voxels, drawn), voxels, 0), stored.affine, stored.header), file)
        if arm.is_together:
            case["annotated_labels"] = list(drawn)
        if arm.half:
            first, second = (list(range((number + i * (arm.half == "frame")) % 2, voxels.shape[2], 2)) for i in (0, 1))
            case["labelled_slices"] = dict(zip(map(str, case["labelled_frames"]), (first, second), strict=True))
    write_json(target / "dataset.json", about)
    return target


def _ratios(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the Dice with half of the slices over that with all, and of each class together over that of its own network."""
    found: dict[str, Any] = {}
    means = {name: float(np.mean(list(scores["dice"].values()))) for name, scores in summary.items()}
    for name in ("half", "half_by_subject"):
        if {"all", name} <= summary.keys():
            found[name] = round(means[name] / means["all"], 4)
    if {"right", "left", "together"} <= summary.keys():
        own = summary["right"]["dice"] | summary["left"]["dice"]
        found["together"] = {name: round(summary["together"]["dice"][name] / dice, 4) for name, dice in own.items()}
    return found


if __name__ == "__main__":
    script(main)
