"""Phantom datasets of 4D flow and of contrast uptake, with the truth beside them.

    python data/phantom/make.py --kind flow --out flow --subjects 8 --frames 20
    python data/phantom/make.py --kind dce --out dce --subjects 8 --frames 16

The beating heart is `unet4d phantom`. These two serve tests and examples, and are no part of the installed package.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.phantom.dce import DCE_LABELS, SMALLEST_DCE, make_dce
from data.phantom.flow import FLOW_LABELS, SMALLEST_FLOW, make_flow
from unet4d.config import Size
from unet4d.errors import Unet4DError
from unet4d.images.channels import MAP, SIGNAL
from unet4d.phantom.phantom_dataset import write_subjects
from unet4d.phantom.phantom_study import PhantomType, check_size


def flow(frames: int, shape: Size | None = None) -> PhantomType:
    """Return 4D flow of the great vessels: magnitude and three velocities."""
    check_size(frames, shape, SMALLEST_FLOW)
    return PhantomType(
        "great vessels phantom",
        "Synthetic 4D flow MRI of the great vessels with exact labels; velocities in mm/s",
        ("magnitude", "velocity towards the back", "velocity towards the feet", "velocity towards the right"),
        (SIGNAL, "velocity X", "velocity Y", "velocity Z"),
        FLOW_LABELS,
        "cyclic",
        lambda seed: make_flow(seed, frames, shape),
    )


def dce(frames: int, shape: Size | None = None) -> PhantomType:
    """Return contrast uptake of the kidneys: a dynamic series and a T1 map."""
    check_size(frames, shape, SMALLEST_DCE)
    return PhantomType(
        "kidney contrast phantom",
        "Synthetic contrast-enhanced MRI of the kidneys with a T1 map (ms) and exact labels",
        ("contrast series", "T1 map"),
        (SIGNAL, MAP),
        DCE_LABELS,
        "open",
        lambda seed: make_dce(seed, frames, shape),
    )


PHANTOMS = {"flow": flow, "dce": dce}


def make(
    kind: str,
    out: str | os.PathLike[str],
    subjects: int,
    frames: int,
    labelled: str = "all",
    seed: int = 0,
    shape: Size | None = None,
) -> Path:
    """Write a dataset of "flow" or "dce" and return the path of its dataset.json; otherwise as `write_phantom`."""
    return write_subjects(out, PHANTOMS[kind](frames, shape), subjects, labelled, seed)


def main(words: list[str] | None = None) -> None:
    """Parse the command line and make the dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(PHANTOMS), required=True)
    parser.add_argument("--out", required=True, help="a new or empty folder")
    parser.add_argument("--subjects", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--labelled", choices=["all", "two"], default="all", help="label every frame, or two only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    try:
        print(make(**vars(options)))
    except Unet4DError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
