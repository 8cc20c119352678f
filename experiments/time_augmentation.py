"""An experiment on augmentation of time: networks trained on unspoiled phantoms, scored with and without spoiled frames.

python experiments/time_augmentation.py DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands import script, unet4d
from recurrence import by_kind_of_frame

from unet4d.system.files import read_json, write_json

CONFIG = Path(__file__).with_name("demo.yaml")


def main(out: Path) -> None:
    """Run every command under `out`, and write out/summary.json."""
    unet4d("phantom", "--out", out / "train", "--subjects", 12, "--frames", 8, "--labelled", "two", "--seed", 1)
    for name, share in (("clean", 0.0), ("spoiled", 0.25)):
        unet4d("phantom", "--out", out / name, "--subjects", 4, "--frames", 8, "--seed", 2, "--ambiguous", share)
    rows = {strength: _scores(out, strength) for strength in ("off", "mild", "strong")}
    write_json(out / "summary.json", rows)
    print(*rows.items(), sep="\n")


def _scores(out: Path, strength: str) -> dict[str, Any]:
    """Train with this strength, and score."""
    run = out / f"run_{strength}"
    chosen = ("--config", CONFIG, "--data.time_augmentation", strength)
    unet4d("train", "--dataset", out / "train", "--out", run, *chosen)
    for name in ("clean", "spoiled"):
        predicted, scores = out / f"predicted_{strength}_{name}", out / f"scores_{strength}_{name}"
        unet4d("predict", run, "-i", out / name, "-o", predicted)
        unet4d("evaluate", "--reference", out / name, "--prediction", predicted, "--out", scores)
    clean = read_json(out / f"scores_{strength}_clean" / "summary.json")["mean_foreground_dice"]
    spoiled = out / f"scores_{strength}_spoiled" / "metrics.csv"
    return {"unspoiled studies": clean} | by_kind_of_frame(spoiled, out / "spoiled" / "truth" / "subjects.json")


if __name__ == "__main__":
    script(main)
