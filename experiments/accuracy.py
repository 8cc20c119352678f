"""An experiment on accuracy: each setting alone against the plain network, on phantoms with spoiled frames.

    python experiments/accuracy.py DIR [VARIANT ...] [--seeds 0 1]

Trains on a few phantoms with two labelled frames each and a fifth of all frames spoiled; scores the last checkpoint on new ones.
Finished variants are kept, and DIR/summary.json is written after each variant and seed, so it can be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from commands import unet4d
from recurrence import by_kind_of_frame

from unet4d.models.checkpoint import LAST, load_model, save_checkpoint
from unet4d.system.files import read_json, write_json

CONFIG = Path(__file__).with_name("accuracy.yaml")
EPOCHS = 10
"""Each of 30 steps."""
MIRROR_AXES = [0, 1]


@dataclass(frozen=True)
class Variant:
    """The changes of a variant against the plain network.

    Attributes:
        options: for the training.
        framewise_first: the frame-wise baseline is trained for half of the steps, and the network from its weights for the rest.
        weights_of: the variant that the weights are taken from; None trains new ones.
        mirrored: prediction is the mean over mirrorings.
    """

    options: tuple[object, ...] = ()
    framewise_first: bool = False
    weights_of: str | None = None
    mirrored: bool = False


VARIANTS = {
    "plain": Variant(),
    "deep_supervision": Variant(("--model.deep_supervision", "true")),
    "ema_0.99": Variant(("--train.ema_decay", 0.99)),
    "ema_0.999": Variant(("--train.ema_decay", 0.999)),
    "framewise_first": Variant(framewise_first=True),
    "mirrored": Variant(weights_of="plain", mirrored=True),
    "flips": Variant(("--data.flip_axes", MIRROR_AXES)),
    "flips_mirrored": Variant(weights_of="flips", mirrored=True),
}


def main(out: Path, names: Sequence[str], seeds: Sequence[int], epochs: int) -> None:
    """Train and score these variants with each of the seeds under `out`."""
    for folder, subjects, labelled, seed in (("train", 8, "two", 21), ("new", 6, "all", 22)):
        if not (out / folder / "dataset.json").exists():
            size = ("--subjects", subjects, "--frames", 8, "--ambiguous", 0.2)
            unet4d("phantom", "--out", out / folder, *size, "--labelled", labelled, "--seed", seed)
    for seed in seeds:
        for name in names:
            if not (_folder(out, name, seed) / "scores.json").exists():
                _score(out, name, seed, epochs)
            write_json(out / "summary.json", summary(out))
    for row in read_json(out / "summary.json"):
        print(json.dumps(row))


def summary(out: Path) -> list[dict[str, Any]]:
    """Return a row per variant: mean Dice by kind of frame and seconds of training, over the finished seeds and of each.

    The gains are over the plain network with the same seeds; None where that is missing.
    """
    rows = []
    for name in VARIANTS:
        files = {path.parent.name: path for path in sorted((out / name).glob("seed_*/scores.json"))}
        own = {seed: read_json(path) for seed, path in files.items()}
        if not own:
            continue
        row: dict[str, Any] = {"variant": name, "seeds": own}
        plain = {seed: out / "plain" / seed / "scores.json" for seed in own}
        for key in next(iter(own.values())):
            row[key] = round(fmean(scores[key] for scores in own.values()), 4)
            if key != "seconds":
                is_there = all(path.exists() for path in plain.values())
                gains = [own[seed][key] - read_json(path)[key] for seed, path in plain.items() if is_there]
                row[f"gain, {key}"] = round(fmean(gains), 4) if gains else None
        rows.append(row)
    return rows


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / name / f"seed_{seed}"


def _score(out: Path, name: str, seed: int, epochs: int) -> None:
    """Train one variant with one seed, segment the new phantoms, and keep the scores."""
    variant, here = VARIANTS[name], _folder(out, name, seed)
    model, seconds = _train_variant(out, variant.weights_of or name, seed, epochs)
    if variant.mirrored:
        model = _mirroring(model, here / "model.pt")
    new, predicted, scores = out / "new", here / "predicted", here / "scores"
    unet4d("predict", model, "-i", new, "-o", predicted)
    unet4d("evaluate", "--reference", new, "--prediction", predicted, "--out", scores)
    kinds = by_kind_of_frame(scores / "metrics.csv", new / "truth" / "subjects.json")
    dice = {kind: values["dice"] for kind, values in kinds.items()}
    every = read_json(scores / "summary.json")["mean_foreground_dice"]
    write_json(here / "scores.json", {"all frames": round(every, 4), **dice, "seconds": round(seconds, 1)})


def _train_variant(out: Path, name: str, seed: int, epochs: int) -> tuple[Path, float]:
    """Return the last checkpoint of a variant, and the seconds of its training steps."""
    variant, here, data = VARIANTS[name], _folder(out, name, seed), out / "train"
    chosen = ("--config", CONFIG, "--seed", seed, *variant.options)
    if not variant.framewise_first:
        return here / "run" / LAST, _train(data, here / "run", epochs, *chosen)
    half = epochs // 2
    seconds = _train(data, here / "framewise", half, *chosen, "--model.lstm_channels", 0)
    seconds += _train(
        data,
        here / "run",
        epochs - half,
        *chosen,
        "--train.init_from",
        here / "framewise" / LAST,
        "--train.init_lr_factor",
        1,
    )
    return here / "run" / LAST, seconds


def _train(data: Path, run: Path, epochs: int, *options: object) -> float:
    """Train a run, or the rest of it; return the seconds of its steps."""
    if not (lines := _log(run)) or lines[-1]["epoch"] < epochs:
        resume = ("--resume",) if (run / LAST).exists() else ()
        loop = ("--train.epochs", epochs, "--train.validate_every", epochs)
        unet4d("train", "--dataset", data, "--out", run, *options, *loop, *resume)
    return sum(line["seconds"] for line in _log(run))


def _log(run: Path) -> list[dict[str, Any]]:
    """Return the log of a run, one line per epoch."""
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def _mirroring(model: Path, path: Path) -> Path:
    """Write the same model with mirroring at prediction; return its path."""
    trained = load_model(model)
    window = replace(trained.config.inference, mirror_axes=MIRROR_AXES)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, replace(trained.config, inference=window), trained.task, trained.network, {})
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="each setting alone against the plain network")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of 30 steps; for a trial, 2")
    given = parser.parse_args()
    if unknown := [name for name in given.variants if name not in VARIANTS]:
        parser.error(f"no variant {unknown[0]!r}; choose among {', '.join(VARIANTS)}")
    return given


if __name__ == "__main__":
    given = _arguments()
    try:
        main(given.out, given.variants or list(VARIANTS), given.seeds, given.epochs)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
