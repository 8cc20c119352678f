"""The main job on a phantom, as a user would do it: make data, train, predict new studies, evaluate, report.

    python experiments/demo.py DIR

Everything goes under DIR, which is made anew; DIR/summary.json has the results and the paths.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from commands import script, unet4d

from unet4d.errors import InputError
from unet4d.system.files import read_json, write_json

CONFIG = Path(__file__).with_name("demo.yaml")
SUMMARY, MARK = "summary.json", ".made-by-the-demo"


def main(out: Path) -> None:
    """Run every command of the demo under `out`, print and record the results."""
    began = time.perf_counter()
    _clear(out)
    train_set, held_out, run = out / "train", out / "held_out", out / "run"
    predicted, scores, page = out / "predicted", out / "scores", out / "report"
    # Two labelled frames a study, as real ones have; the held-out subjects come from another seed, all their frames labelled.
    two, every = ("--frames", 8, "--labelled", "two", "--seed", 1), ("--frames", 8, "--labelled", "all", "--seed", 2)
    seconds = {
        "phantom": unet4d("phantom", "--out", train_set, "--subjects", 12, *two)
        + unet4d("phantom", "--out", held_out, "--subjects", 4, *every),
        "train": unet4d("train", "--dataset", train_set, "--out", run, "--config", CONFIG),
        "predict": unet4d("predict", run, "-i", held_out, "-o", predicted),
        "evaluate": unet4d("evaluate", "--reference", held_out, "--prediction", predicted, "--out", scores),
        "report": unet4d(
            "report", "--image", held_out, "--prediction", predicted, "--evaluation", scores, "--out", page
        ),
    }
    summary = {
        "mean_foreground_dice": read_json(scores / "summary.json")["mean_foreground_dice"],
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_per_command": {name: round(value, 1) for name, value in seconds.items()},
        "run": str(run),
        "predicted": str(predicted),
        "scores": str(scores),
        "report": str(page / "index.html"),
    }
    write_json(out / SUMMARY, summary)
    print(
        f"\nmean foreground Dice on {held_out}: {summary['mean_foreground_dice']:.3f}, in {summary['seconds']:.0f} s\n"
        f"label maps  {predicted}\nscores      {scores}\nreport      {page / 'index.html'}\nsummary     {out / SUMMARY}"
    )


def _clear(out: Path) -> None:
    """Make the folder, without an earlier demo in it; anything else is left alone."""
    if out.exists():
        if not (out / MARK).is_file():
            raise InputError(f"{out} is there and no earlier demo; wanted a new folder; choose another")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).touch()


if __name__ == "__main__":
    script(main)
