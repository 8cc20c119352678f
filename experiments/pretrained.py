"""A model file to begin with on cine MRI of the heart: a network trained on phantoms alone, small enough to hand out.

    python experiments/pretrained.py FILE [--work DIR] [--budget 30m] [--subjects 60]

Makes phantoms under DIR, trains on them for the budget of CPU time, and exports FILE.unet4d: the last weights in half precision.
`train --train.init_from FILE` begins with them, `predict FILE` takes them. A stopped training goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from commands import unet4d
from real_cine.protocol import BASE, read_suite

from unet4d.errors import InputError
from unet4d.inference.export import export
from unet4d.models.checkpoint import LAST
from unet4d.system.byte_sizes import describe_bytes

ARM = "random_7"
"""The arm of few_patients.yaml to train as, so that its like can begin with all weights of the file."""
SPACING_MM = 1.5
"""In plane, as that of cine MRI is."""
ROOT = Path(__file__).parents[1]
CARD = {
    "name": "cine heart, trained on phantoms",
    "intended_use": "to begin a training on cine MRI of the heart with; not for patients: it has seen no real image",
    "training_data": "synthetic short-axis cine MRI of `unet4d phantom`",
}
MOST_BYTES = 8 * 10**6
"""The largest file to hand out."""


def main(path: Path, work: Path, budget: str, subjects: int) -> None:
    """Make the phantoms, train on them and write the file."""
    hearts, run = work / f"hearts_{subjects}", work / "run"
    if not (hearts / "dataset.json").exists():
        size = ("--subjects", subjects, "--frames", 8, "--ambiguous", 0.2)
        unet4d("phantom", "--out", hearts, *size, "--labelled", "all", "--seed", 31)
    resume = ("--resume",) if (run / LAST).exists() else ()
    [recipe] = [arm.options for arm in read_suite("few_patients").arms if arm.name == ARM]
    chosen = {"data.val_subjects": [], "data.in_plane_spacing_mm": SPACING_MM} | recipe
    options = (word for name, value in chosen.items() for word in (f"--{name}", value))
    time = ("--train.time_budget", budget, "--train.budget_clock", "cpu")
    unet4d("train", "--dataset", hearts, "--out", run, "--config", BASE, *options, *time, *resume)
    print(f"{path}: {describe_bytes(release(run / LAST, path))}")


def release(checkpoint: Path, path: Path) -> int:
    """Export a checkpoint in half precision; return the file's bytes.

    Raises:
        InputError: the file would be too large to hand out; nothing is left of it.
    """
    size = export(checkpoint, path, licence=ROOT / "LICENSE", half=True, **CARD).stat().st_size
    if size > MOST_BYTES:
        path.unlink()
        raise InputError(
            f"{path} has {describe_bytes(size)}, expected {describe_bytes(MOST_BYTES)} at most; set fewer channels in {BASE}"
        )
    return size


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a network trained on phantoms, to begin with")
    parser.add_argument("path", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, default=Path("build/pretrained"), metavar="DIR")
    parser.add_argument("--budget", default="30m", help="CPU time of the training, such as 90s, 30m or 2h")
    parser.add_argument("--subjects", type=int, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    try:
        main(given.path, given.work, given.budget, given.subjects)
    except InputError as error:
        print(f"pretrained: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
