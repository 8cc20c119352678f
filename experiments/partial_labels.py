"""An experiment on partly drawn labels: half of the slices, and two datasets of different classes together.

    python experiments/partial_labels.py DIR [--seeds 0 1 2] [--subjects 8 24] [--arms all half ...]

Trains on phantoms with two labelled frames each, at equal steps per dataset, and scores the last weights on new phantoms:

all               every slice drawn, three times as many steps
half              every second slice drawn (labelled_slices), the others in the other labelled frame; likewise
half_by_subject   every second slice drawn, the same in both frames, the others in the other half of the subjects; likewise
fewer             half of the subjects, every slice drawn: as much is drawn as in both above; likewise
right, left       half of the subjects with the right ventricle alone; the other half with myocardium and left ventricle alone
together          both of these in one dataset of three classes (annotated_labels), for as many steps as both together

An arm that is there is kept, and DIR/summary.json is written after each. Where half of the slices were drawn, the training subjects
are segmented, too: Dice on the drawn slices of their labelled frames, and on the slices that were drawn in neither frame.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from unet4d.config import Config, DataConfig, ModelConfig, TrainConfig
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.evaluation.evaluate import evaluate
from unet4d.images.image4d import read_label
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import LAST
from unet4d.phantom import write_phantom
from unet4d.system.files import read_json, write_json
from unet4d.training.train import train

HELD_OUT, FRAMES, SHAPE, STEPS, EPOCHS = 8, 5, (40, 36, 6), 200, 4
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
    "fewer": Arm(step=2, times=3),
    "right": Arm(RIGHT, step=2),
    "left": Arm(LEFT, first=1, step=2),
    "together": Arm(is_together=True, times=2),
}
Results = dict[str, dict[str, Any]]
"""By seed, then arm."""


def main(out: Path, seeds: Sequence[int], numbers: Sequence[int], arms: Sequence[str]) -> None:
    """Train and score every arm with every number of subjects and every seed under `out`."""
    for folder, subjects, labelled, seed in (
        *((f"train_{number}", number, "two", 31) for number in numbers),
        ("new", HELD_OUT, "all", 32),
    ):
        if not (out / folder / "dataset.json").exists():
            write_phantom(out / folder, subjects, FRAMES, labelled, 0.0, seed, SHAPE)
    for number in numbers:
        for seed in seeds:
            for name in arms:
                here = out / f"{number}_subjects" / f"seed_{seed}" / name
                if not (here / "scores.json").exists():
                    write_json(here / "scores.json", _run(out, out / f"train_{number}", here, ARMS[name], seed))
                write_json(out / "summary.json", {key: summarize(found) for key, found in _collect(out).items()})
                print(number, "subjects, seed", seed, name, read_json(here / "scores.json"), flush=True)


def _collect(out: Path) -> dict[str, Results]:
    """Return the scores of all arms that are finished, by number of subjects, seed and arm."""
    results: dict[str, Results] = {}
    for file in sorted(out.glob("*_subjects/seed_*/*/scores.json")):
        number, seed, arm = file.relative_to(out).parts[:3]
        results.setdefault(number, {}).setdefault(seed, {})[arm] = read_json(file)
    return results


def _run(out: Path, source: Path, here: Path, arm: Arm, seed: int) -> dict[str, Any]:
    """Train and score one arm; return the Dice of each class, and the CPU seconds of the training."""
    data, truth = _derive(source, here / "train", arm), _derive(out / "new", here / "new", Arm(arm.classes))
    config = Config(
        seed=seed,
        data=DataConfig(val_subjects=[], patch_size=(32, 32, 6), frames=3, num_workers=0, augmentation="mild"),
        model=ModelConfig(channels=[8, 16, 24], lstm_channels=[]),
        train=TrainConfig(
            epochs=EPOCHS,
            steps_per_epoch=arm.times * STEPS // EPOCHS,
            batch_size=2,
            learning_rate=3e-3,
            warmup_steps=20,
            framewise_fraction=0.0,
        ),
    )
    shutil.rmtree(here / "run", ignore_errors=True)
    began = time.process_time()
    train(data, here / "run", config, device="cpu", skip_verify=True)
    seconds = time.process_time() - began
    predict(here / "run" / LAST, [truth], here / "predicted", device="cpu")
    found = evaluate(truth, here / "predicted", here / "scores")
    dice = {name: round(entry["dice"]["mean"], 4) for name, entry in found["classes"].items()}
    result = {"dice": dice, "frames": found["labelled_frames"], "cpu_seconds": round(seconds)}
    if arm.half:
        result["training subjects"] = _of_slices(source, data, here)
    return result


def _of_slices(source: Path, data: Path, here: Path) -> dict[str, float]:
    """Return the Dice, mean over classes, on labelled frames of training subjects: on drawn slices, and on those of no frame."""
    predict(here / "run" / LAST, [data], here / "predicted_train", device="cpu")
    truth, given = read_dataset(source), read_dataset(data)
    sums = {"drawn": np.zeros((2, 3)), "drawn in no frame": np.zeros((2, 3))}
    for case in truth.training:
        label, labelled = read_labelled(case, truth, case.image())
        found, frames = read_label(here / "predicted_train" / f"{case.name}.nii.gz"), np.flatnonzero(labelled)
        drawn = {int(t): set(given.case(case.name).partial.drawn_slices(int(t)) or ()) for t in frames}
        for t, own in drawn.items():
            parts = {"drawn": own, "drawn in no frame": set(range(label.shape[-1])) - set.union(*drawn.values())}
            for part, slices in parts.items():
                true, guess = (volume[t][..., sorted(slices)] for volume in (label, found))
                for k in (1, 2, 3):
                    sums[part][:, k - 1] += (
                        2 * np.sum((true == k) & (guess == k)),
                        np.sum(true == k) + np.sum(guess == k),
                    )
    return {part: round(float((hit / both).mean()), 4) for part, (hit, both) in sums.items() if both.all()}


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


def summarize(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return per arm the Dice of each seed, their mean and deviation, and the ratios to the arms that it is compared with."""
    dice = {seed: {arm: scores["dice"] for arm, scores in of_seed.items()} for seed, of_seed in results.items()}
    means = {seed: {arm: _mean(list(of.values())) for arm, of in arms.items()} for seed, arms in dice.items()}
    found: dict[str, Any] = {"results": results}
    for arm in ARMS:
        values = [of[arm] for of in means.values() if arm in of]
        if values:
            spread = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
            found[arm] = {"dice": values, "mean": _mean(values), "deviation of seeds": spread}
    for arm in ("half", "half_by_subject", "fewer"):
        if arm in found and "all" in found:
            ratios = [round(of[arm] / of["all"], 4) for of in means.values() if {"all", arm} <= of.keys()]
            found[arm] |= {"over all": ratios, "means, over all": round(found[arm]["mean"] / found["all"]["mean"], 4)}
    for of in dice.values():
        if {"right", "left", "together"} <= of.keys():
            own = of["right"] | of["left"]
            ratios = {name: round(of["together"][name] / value, 4) for name, value in own.items()}
            found["together"].setdefault("over own network", []).append(ratios)
    return found


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="partly drawn labels against whole ones")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--subjects", nargs="+", type=int, default=[8, 24])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    main(given.out, given.seeds, given.subjects, given.arms)
