"""Post-processing of label maps, per frame and over time, and what a run records of the steps that helped it.

Three operations, each for one class, or for the foreground as a whole (`EVERY_CLASS`):

    largest_component                keeps, in each frame, the component of most voxels
    fill_holes                       gives the class the background that it encloses, in each frame
    remove_single_frame_components   removes components that no voxel of the class touches in the frames before and after

Components are 3D and of one frame; voxels that share a corner belong together (26 neighbours). Slices of MRI are often five times
as thick as voxels are wide, and what is one vessel or one ventricle moves by more than a voxel from slice to slice: the most
generous neighbourhood removes least. Background, the complement, hangs together by faces alone (6 neighbours), else it would leak
through the diagonal of a closed contour (Rosenfeld, "Connectivity in digital pictures", J. ACM 1970).

What is removed becomes background: which class should have been there nobody knows. What is filled was background; no voxel of
another class is ever changed. docs/postprocessing.md says more; `unet4d postprocess` chooses the steps on held-out subjects.

RUN/postprocessing.json   {"steps": [{"operation", "class"}, ...], "checkpoints": {file in RUN: sha256}, ...}
                          the rest, what the steps were worth, is for people to read
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from unet4d.errors import InputError
from unet4d.metrics.temporal_consistency import single_frame_components
from unet4d.system.files import read_json, write_json
from unet4d.system.text import short_repr

Operation = Literal["largest_component", "fill_holes", "remove_single_frame_components"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
EVERY_CLASS = "*"
"""In place of a class name: all classes but the background, taken as one."""
POSTPROCESSING = "postprocessing.json"
"""In a run's folder, or a folder of folds."""
_CORNERS = np.ones((3, 3, 3), bool)
_FACES = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= 1
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Step:
    """One operation for one class; plain values.

    Attributes:
        class_name: a name among the labels, or `EVERY_CLASS`, which "fill_holes" does not know: a hole would have no class.
    """

    operation: Operation
    class_name: str

    def __post_init__(self) -> None:
        """Raises InputError for an unknown operation, or a class that it does not know."""
        if self.operation not in OPERATIONS:
            raise InputError(f"got operation {short_repr(self.operation)}, expected one of {', '.join(OPERATIONS)}")
        if not isinstance(self.class_name, str):
            raise InputError(f"{self.operation} of {self.class_name!r} came; wanted the name of a class")
        if self.operation == "fill_holes" and self.class_name == EVERY_CLASS:
            raise InputError(
                f"fill_holes of {EVERY_CLASS!r} came; wanted one class, which the holes are to have; name it"
            )

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"operation": self.operation, "class": self.class_name}

    @classmethod
    def from_dict(cls, values: Any) -> Step:
        """The inverse of `as_dict`. Raises InputError for anything else."""
        if not isinstance(values, dict) or set(values) != {"operation", "class"}:
            raise InputError(f'got step {short_repr(values)}, expected {{"operation": ..., "class": ...}}')
        return cls(values["operation"], values["class"])


def apply(label: np.ndarray, steps: Sequence[Step], labels: Mapping[str, int], cyclic: bool) -> np.ndarray:
    """Post-process a label map; takes a second or two a step for a whole cine study.

    Args:
        label: (T, X, Y, Z) uint8, label values; is not changed.
        steps: one after the other.
        labels: class name to label value, background at 0.
        cyclic: whether the last frame leads into the first; matters to "remove_single_frame_components" alone.

    Returns:
        A new (T, X, Y, Z) uint8.

    Raises:
        InputError: a step for a class that `labels` lacks, or for the background.
    """
    made = np.array(label)
    for step in steps:
        value = _value(step, labels)
        if step.operation == "largest_component":
            for frame in made:
                _keep_largest(frame, value)
        elif step.operation == "fill_holes":
            for frame in made:
                _fill_holes(frame, value)
        else:
            _remove_single_frame(made, value, cyclic)
    return made


def write_steps(run: Path, steps: Sequence[Step], checkpoints: Sequence[Path], about: Mapping[str, Any]) -> Path:
    """Record the steps for a run, or a folder of folds; an older record is replaced.

    Args:
        run: the folder.
        steps: in their order; none: that nothing helped.
        checkpoints: files under `run` whose label maps the steps were chosen on.
        about: what else is told; plain values.

    Returns:
        The file.
    """
    digests = {path.relative_to(run).as_posix(): _sha256(path) for path in checkpoints}
    path = run / POSTPROCESSING
    write_json(path, {"steps": [step.as_dict() for step in steps], "checkpoints": digests, **about})
    return path


def read_steps(run: Path) -> list[Step] | None:
    """The steps recorded for a run, or a folder of folds: empty where nothing helped, None where nothing was recorded.

    Raises:
        InputError: the record is damaged, or its checkpoints are not those that it was made with.
    """
    path = run / POSTPROCESSING
    if not path.exists():
        return None
    advice = f"run unet4d postprocess {run} again, or remove {path}"
    try:
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("steps"), list):
            raise InputError('it holds no object with a list of "steps"')
        steps = [Step.from_dict(one) for one in record["steps"]]
        digests = record.get("checkpoints")
        if not digests or not isinstance(digests, dict) or not all(isinstance(one, str) for one in digests.values()):
            raise InputError('"checkpoints" does not say which files the steps were chosen for')
    except InputError as error:
        raise InputError(f"{path} is not what unet4d postprocess writes ({error}); {advice}") from error
    for name, digest in digests.items():
        checkpoint = run / name
        if not checkpoint.is_file() or _sha256(checkpoint) != digest:
            what = "has changed since" if checkpoint.is_file() else "is gone"
            raise InputError(f"{path} was chosen for {checkpoint}, which {what}; {advice}")
    return steps


def _value(step: Step, labels: Mapping[str, int]) -> int | None:
    """The label value of a step's class; None for all classes."""
    if step.class_name == EVERY_CLASS:
        return None
    if not labels.get(step.class_name):
        known = ", ".join(name for name, value in labels.items() if value)
        raise InputError(
            f"{step.operation} of {step.class_name!r} came; wanted a class among {known}, or {EVERY_CLASS!r}; correct the step"
        )
    return labels[step.class_name]


def _mask(frame: np.ndarray, value: int | None) -> np.ndarray:
    """Where a frame (X, Y, Z) has the value; where it has any class, for None."""
    return frame != 0 if value is None else frame == value


def _box(mask: np.ndarray) -> Box | None:
    """The bounding box of a mask (X, Y, Z); None where it is empty. Work in it alone costs a tenth of the frame's."""
    from scipy import ndimage

    found: list[Box] = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    return found[0]


def _keep_largest(frame: np.ndarray, value: int | None) -> None:
    """Keep the component of most voxels of a frame (X, Y, Z), changed in place; of equals the first along X, then Y, then Z."""
    from scipy import ndimage

    mask = _mask(frame, value)
    box = _box(mask)
    if box is None:
        return
    components, n = ndimage.label(mask[box], _CORNERS)
    if n < 2:
        return
    flat = components.ravel()
    sizes = np.bincount(flat)[1:]
    names, firsts = np.unique(flat, return_index=True)
    first = dict(zip(names.tolist(), firsts.tolist(), strict=True))
    kept = min((1 + np.flatnonzero(sizes == sizes.max())).tolist(), key=first.__getitem__)
    frame[box][(components != 0) & (components != kept)] = 0


def _fill_holes(frame: np.ndarray, value: int | None) -> None:
    """Give a class the background that it alone encloses in 3D, in a frame (X, Y, Z), changed in place.

    A hole is a component of background all whose face neighbours are of the class. Background that touches the image's border, or
    another class anywhere, is none: so the slice of a ventricle in which the cavity was missed stays open as long as the cavity is
    there in a slice beside it, or the border is. An axis of length 1 is no axis, and has no border.
    """
    from scipy import ndimage

    box = _box(_mask(frame, value))
    if box is None:
        return
    part = frame[box]
    components, n = ndimage.label(part == 0, _FACES)
    if n == 0:
        return
    hole = np.ones(n + 1, bool)
    hole[0] = False
    for axis in range(3):
        if (
            frame.shape[axis] > 1
        ):  # what reaches the box's side has the image's border or no voxel of the class beyond it
            hole[np.take(components, [0, -1], axis)] = False
    others = (part != 0) & (part != value)
    hole[components[ndimage.binary_dilation(others, _FACES)]] = False
    part[hole[components]] = value


def _remove_single_frame(label: np.ndarray, value: int | None, cyclic: bool) -> None:
    """Remove what lives for one frame from a label map (T, X, Y, Z), changed in place; see `single_frame_components`.

    None of these touches another, so the order in which they go does not matter.
    """
    for t, frame in enumerate(label):
        found = single_frame_components(label, t, value, cyclic)
        if found is not None:
            box, numbered, single = found
            frame[box][single[numbered]] = 0


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
