"""The main job on a phantom, as a user would do it: make data, train, predict new studies, evaluate, report.

    python experiments/demo.py DIR

Everything goes under DIR, which is made anew; DIR/summary.json says what came of it and where the rest lies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from unet4d.errors import InputError
from unet4d.files import read_json, write_json

CONFIG = Path(__file__).with_name("demo.yaml")
SUMMARY = "summary.json"


def main(out: Path) -> None:
    """Run every command of the demo under `out`, print and record what came of it."""
    began = time.perf_counter()
    _clear(out)
    train_set, held_out, run = out / "train", out / "held_out", out / "run"
    predicted, scores, page = out / "predicted", out / "scores", out / "report"
    phantom = ["phantom", "--frames", "8"]
    commands = [
        # Two labelled frames a study, as real ones have; the held-out subjects come from another seed, all frames labelled.
        [*phantom, "--out", train_set, "--subjects", "12", "--labelled", "two", "--seed", "1"],
        [*phantom, "--out", held_out, "--subjects", "4", "--labelled", "all", "--seed", "2"],
        ["train", "--dataset", train_set, "--out", run, "--config", CONFIG],
        ["predict", run, "-i", held_out, "-o", predicted],
        ["evaluate", "--reference", held_out, "--prediction", predicted, "--out", scores],
        ["report", "--image", held_out, "--prediction", predicted, "--evaluation", scores, "--out", page],
    ]
    seconds = {}
    for command in commands:
        words = [str(word) for word in command]
        print(f"\n$ unet4d {' '.join(words)}", flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "unet4d", *words], check=True)
        seconds[words[0]] = round(seconds.get(words[0], 0.0) + time.perf_counter() - start, 1)
    score = read_json(scores / "summary.json")["mean_foreground_dice"]
    summary = {
        "mean_foreground_dice": score,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_per_command": seconds,
        "run": str(run),
        "predicted": str(predicted),
        "scores": str(scores),
        "report": str(page / "index.html"),
    }
    write_json(out / SUMMARY, summary)
    print(
        f"\nmean foreground Dice on {held_out}: {score:.3f}, in {summary['seconds']:.0f} s\n"
        f"label maps  {predicted}\nscores      {scores}\nreport      {page / 'index.html'}\nsummary     {out / SUMMARY}"
    )


def _clear(out: Path) -> None:
    """Remove an earlier demo; anything else is left alone."""
    if not out.exists():
        return
    if any(out.iterdir()) and not (out / "train").is_dir():
        raise InputError(
            f"{out} holds something that is not a demo; wanted a new folder or an earlier demo's; choose another"
        )
    shutil.rmtree(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/demo.py DIR")
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
