"""Options of `unet4d propagate` and checks that import no torch, which takes seconds: paths, numbers, the package Greedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.registration import Greedy, MakeRegistration, import_greedy
from unet4d.errors import InputError
from unet4d.system.files import PathLike, check_writable

RECORDS = ".unet4d-propagation"
"""The folder of records, in that of the dataset."""


@dataclass(frozen=True)
class PropagationOptions:
    """Options of a propagation.

    Attributes:
        min_confidence: least confidence, the mean over classes, of a frame that gets a label.
        weight: of a propagated frame with confidence 1, where a drawn one has 1.
    """

    min_confidence: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"got --{name} {value}, expected a number from 0 to 1; correct it")


DEFAULTS = PropagationOptions()


def check_propagate(
    dataset: PathLike,
    out_dir: PathLike,
    options: PropagationOptions = DEFAULTS,
    jobs: int = 1,
    make_registration: MakeRegistration = Greedy,
) -> None:
    """Check the arguments of `propagate`; those of the options are checked where they are made.

    Raises:
        InputError: no dataset; `out_dir` holds something else or is the dataset; a number out of range; Greedy is missing.
        Unet4DError: `out_dir` may not be written to.
    """
    root, out = read_dataset(dataset).root, Path(out_dir)
    if out.resolve() == root.resolve():
        raise InputError(f"got --out {out}, the dataset itself, expected another folder; give a new one")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORDS).is_dir():
        raise InputError(
            f"{out} is not empty, expected a new folder or one of an earlier unet4d propagate; give another path"
        )
    check_writable(out)
    if jobs < 1:
        raise InputError(f"got --jobs {jobs}, expected 1 or more; correct it")
    if make_registration is Greedy:
        import_greedy()
