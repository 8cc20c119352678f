"""The post-processing steps of label maps, per frame and over time, and the record of the steps that helped a run.

Five operations, each for one class, or for the foreground as a whole (`EVERY_CLASS`):

    largest_component                keeps, in each frame, the component of most voxels
    largest_component_over_time      keeps the component of most voxels in space and time
    fill_holes                       gives the class the background that it encloses, in each frame
    remove_single_frame_components   removes components that no voxel of the class touches in the frames before and after
    majority_over_time               gives a voxel the label that it has both in the frame before and in the frame after;
                                     for all classes together only

Components are 3D and of one frame; voxels that share a corner are connected (26 neighbors). Those over time also join a voxel to
itself in the frames before and after. Slices of MRI are often five times as thick as voxels are wide, and a vessel or ventricle
moves by more than a voxel from slice to slice: the most generous neighborhood removes least. Background, the complement, is
connected by faces alone (6 neighbors), else it would leak through the diagonal of a closed contour (Rosenfeld, "Connectivity in
digital pictures", J. ACM 1970).

What is removed becomes background. What is filled was background; no voxel of another class is ever changed.
`majority_over_time` is a median filter over three frames of each class's mask: what changes its label once, as where a wall moves
over it, stays as it is; what has another label in one frame alone goes (Gallagher and Wise, IEEE Trans. ASSP 1981).
A region is removed with all that lies in it, as in nnU-Net, and filled with the value that it is painted with.
docs/how-to/postprocessing.md has the details; `unet4d postprocess` chooses the steps on held-out subjects.

RUN/postprocessing.json   {"steps": [{"operation", "class"}, ...], "checkpoints": {file in RUN: sha256}, ...}
                          the rest, the effect of the steps, is for people to read
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from unet4d.errors import InputError
from unet4d.metrics.regions import ClassValue, class_mask, painted_value
from unet4d.metrics.temporal_consistency import single_frame_components
from unet4d.models.model_file import is_model_file, is_network_of_file, read_model_file
from unet4d.system.digests import file_sha256
from unet4d.system.documents import write_document
from unet4d.system.files import PathLike, read_json
from unet4d.system.text import short_repr

Operation = Literal[
    "largest_component",
    "largest_component_over_time",
    "fill_holes",
    "remove_single_frame_components",
    "majority_over_time",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
OVER_TIME: tuple[Operation, ...] = (
    "largest_component_over_time",
    "remove_single_frame_components",
    "majority_over_time",
)
"""Those that look at several frames."""
EVERY_CLASS = "*"
"""In place of a class name: all classes but the background, taken as one."""
POSTPROCESSING = "postprocessing.json"
"""In a run's folder, or a folder of folds."""
_CORNERS = np.ones((3, 3, 3), bool)
_CORNERS_AND_FRAMES = np.zeros((3, 3, 3, 3), bool)
_CORNERS_AND_FRAMES[1] = _CORNERS_AND_FRAMES[:, 1, 1, 1] = True
_FACES = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= 1


class OtherCheckpoints(InputError):
    """Recorded steps that were chosen for other checkpoints than those that are used."""


@dataclass(frozen=True)
class Step:
    """One operation for one class; plain values.

    Attributes:
        class_name: a name among the labels, or `EVERY_CLASS`, but not for "fill_holes": a hole would have no class.
    """

    operation: Operation
    class_name: str

    def __post_init__(self) -> None:
        """Raise InputError for an unknown operation, or a class that it cannot have."""
        if self.operation not in OPERATIONS:
            raise InputError(f"got operation {short_repr(self.operation)}, expected one of {', '.join(OPERATIONS)}")
        if not isinstance(self.class_name, str) or (self.operation == "fill_holes" and self.class_name == EVERY_CLASS):
            raise InputError(f"got {self.operation} of {self.class_name!r}, expected one class; name it")
        if self.operation == "majority_over_time" and self.class_name != EVERY_CLASS:
            raise InputError(
                f"got {self.operation} of {self.class_name!r}, expected all classes; write {EVERY_CLASS!r}"
            )

    def as_dict(self) -> dict[str, str]:
        """Return the step for JSON."""
        return {"operation": self.operation, "class": self.class_name}


def describe_steps(steps: Sequence[Step]) -> str:
    """Return steps as text; an empty one without any."""
    return ", ".join(f"{step.operation} of {step.class_name}" for step in steps)


def apply_steps(
    label: np.ndarray, steps: Sequence[Step], classes: Mapping[str, ClassValue], cyclic: bool
) -> np.ndarray:
    """Post-process a label map; takes a second or two per step for a whole cine study.

    Args:
        label: (T, X, Y, Z) uint8, label values; is not changed.
        steps: one after the other.
        classes: class name to label value, or region.
        cyclic: whether the last frame leads into the first; matters to what looks at several frames alone.

    Returns:
        A new (T, X, Y, Z) uint8.

    Raises:
        InputError: a step for a class that `classes` lacks, or for the background.
    """
    result = np.array(label, order="C")
    for step in steps:
        value = _label_value(step, classes)
        if step.operation == "majority_over_time":
            result = _majority_over_time(result, cyclic)
            continue
        if step.operation == "largest_component_over_time":
            _keep_largest_over_time(result, value, cyclic)
            continue
        for t, frame in enumerate(result):
            if step.operation == "remove_single_frame_components":
                # None of these touches another, so the order in which they are removed does not matter.
                if found := single_frame_components(result, t, value, cyclic):
                    box, numbered, is_single = found
                    frame[box][is_single[numbered]] = 0
            elif inside := bounding_box(_mask(frame, value)):
                if step.operation == "largest_component":
                    _keep_largest(frame[inside], value)
                elif value is not None:
                    _fill_holes(frame[inside], value, frame.shape)
    return result


def bounding_box(occupied: np.ndarray) -> tuple[slice, ...] | None:
    """Return the box around what is True in (X, Y, Z); None where nothing is. Work in it alone costs a tenth."""
    from scipy import ndimage

    found: list[tuple[slice, ...] | None] = ndimage.find_objects(occupied.view(np.uint8), max_label=1)
    return found[0]


def write_steps(run: Path, steps: Sequence[Step], checkpoints: Sequence[Path], about: Mapping[str, Any]) -> Path:
    """Record steps for a run, or a folder of folds, in place of an older record; return the file.

    `checkpoints` made the label maps that the steps were chosen on; `about` is the rest of the record, in plain values.
    """
    digests = {path.relative_to(run).as_posix(): file_sha256(path) for path in checkpoints}
    path = run / POSTPROCESSING
    record = {"steps": [step.as_dict() for step in steps], "checkpoints": digests, **about}
    write_document(path, "postprocessing", record)
    return path


def read_steps(run: Path, digests: Mapping[Path, str] | None = None) -> list[Step] | None:
    """Return the steps recorded for a run, or a folder of folds: empty where nothing helped, None where nothing was recorded.

    Args:
        run: the folder.
        digests: SHA-256 of the checkpoints that are used. None: of those that were recorded, as they are now.

    Raises:
        OtherCheckpoints: the steps were chosen for others than these.
        InputError: the record is damaged.
    """
    path = run / POSTPROCESSING
    if not path.exists():
        return None
    try:
        record = read_json(path)
        steps = [Step(values["operation"], values["class"]) for values in record["steps"]]
        recorded = {(run / name).resolve(): digest for name, digest in record["checkpoints"].items()}
    except (InputError, LookupError, TypeError, AttributeError, ValueError) as error:
        advice = f"run unet4d postprocess {run} again, or remove {path}"
        raise InputError(f"{path} is not what unet4d postprocess writes ({error}); {advice}") from error
    if digests is None:
        digests = {checkpoint: file_sha256(checkpoint) for checkpoint in recorded if checkpoint.is_file()}
    if recorded != {checkpoint.resolve(): digest for checkpoint, digest in digests.items()}:
        raise OtherCheckpoints(
            f"{path} was chosen for other checkpoints and is skipped; unet4d postprocess chooses anew"
        )
    return steps


def find_steps(model: PathLike, digests: Mapping[Path, str]) -> tuple[list[Step], Path]:
    """Return the steps recorded for a run, a folder of folds, a checkpoint or a model file, and the file that has them.

    Args:
        model: what is predicted with. One network of several in a model file has none: they were chosen for all together.
        digests: SHA-256 of its checkpoints.

    Raises:
        InputError: as `read_steps`.
    """
    path = Path(model)
    file = path.parent if is_network_of_file(path) else path
    if is_model_file(file):
        content = read_model_file(file)
        is_whole = file == path or len(content.networks) == 1
        return (steps_of_card(content.card, file) if is_whole else []), file
    run = path if path.is_dir() else path.parent
    return read_steps(run, digests) or [], run / POSTPROCESSING


def steps_of_card(card: Mapping[str, Any], file: Path) -> list[Step]:
    """Return the steps of a model card; raise InputError where they are none."""
    try:
        return [Step(values["operation"], values["class"]) for values in card["postprocessing"]]
    except (InputError, LookupError, TypeError) as error:
        raise InputError(
            f"{file} has other post-processing steps than export writes ({error}); export it again"
        ) from error


def check_steps(steps: Sequence[Step], classes: Mapping[str, ClassValue], record: Path) -> None:
    """Raise InputError where a step of a record is for a class that `classes` lacks, or for the background."""
    for step in steps:
        try:
            _label_value(step, classes)
        except InputError as error:
            raise InputError(f"{record}: {error}, or predict with --postprocess off") from error


def _label_value(step: Step, classes: Mapping[str, ClassValue]) -> ClassValue | None:
    """Return the label value of a step's class; None for all classes."""
    if step.class_name == EVERY_CLASS:
        return None
    if not classes.get(step.class_name):
        known = ", ".join(name for name, value in classes.items() if value)
        raise InputError(
            f"got {step.operation} of {step.class_name!r}, expected a class among {known}, or {EVERY_CLASS!r}; correct the step"
        )
    return classes[step.class_name]


def _mask(frame: np.ndarray, value: ClassValue | None) -> np.ndarray:
    return frame != 0 if value is None else class_mask(frame, value)


def _majority_over_time(label: np.ndarray, cyclic: bool) -> np.ndarray:
    """Return label maps (T, X, Y, Z) in which a voxel has the label that its two neighbors in time share, else its own.

    The ends of an open series stay as they are, and so does what has fewer than 3 frames: there is no majority.
    """
    result = label.copy()
    frames = range(len(label)) if cyclic else range(1, len(label) - 1)
    for t in frames if len(label) > 2 else ():
        before, after = label[t - 1], label[(t + 1) % len(label)]
        np.copyto(result[t], before, where=before == after)
    return result


def _keep_largest(part: np.ndarray, value: ClassValue | None) -> None:
    """Keep the component of most voxels in the box (X, Y, Z) around a class, changed in place.

    Of equals it is the first along X, then Y, then Z: in this order scipy numbers them.
    """
    from scipy import ndimage

    numbered, _ = ndimage.label(_mask(part, value), _CORNERS)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0  # background
    part[(numbered != 0) & (numbered != sizes.argmax())] = 0


def _keep_largest_over_time(label: np.ndarray, value: ClassValue | None, cyclic: bool) -> None:
    """Keep the component of most voxels in all frames of (T, X, Y, Z), changed in place.

    So a part that is apart in one frame and joined in the next one stays, where `_keep_largest` would take it out of one frame.
    """
    from scipy import ndimage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    mask = _mask(label, value)
    box = bounding_box(np.asarray(mask.any(axis=0)))
    if box is None:
        return
    mask, part = mask[:, *box], label[:, *box]
    numbered, n = ndimage.label(mask, _CORNERS_AND_FRAMES)
    if cyclic:
        last, first = numbered[-1], numbered[0]
        both = (last != 0) & (first != 0)
        joined = coo_array((np.ones(both.sum()), (last[both], first[both])), shape=(n + 1, n + 1))
        numbered = connected_components(joined, directed=False)[1][numbered]
    sizes = np.bincount(numbered[mask])
    part[mask & (numbered != sizes.argmax())] = 0


def _fill_holes(part: np.ndarray, value: ClassValue, image_shape: Sequence[int]) -> None:
    """Give a class the background that it alone encloses in 3D, in the box (X, Y, Z) around the class, changed in place.

    A hole is a component of background with face neighbors of the class alone. Background that touches the image's border,
    or another class anywhere, is none: so a slice in which the cavity of a ventricle was missed stays open as long as the cavity
    is there in a slice beside it, or the border is. An axis of length 1 is no axis, and has no border.
    """
    from scipy import ndimage

    numbered, n = ndimage.label(part == 0, _FACES)
    is_hole = np.arange(n + 1) > 0
    for axis in range(3):
        if image_shape[axis] > 1:  # beyond the sides of the box lies the image's border, or no voxel of the class
            is_hole[np.take(numbered, [0, -1], axis)] = False
    others = (part != 0) & ~class_mask(part, value)
    is_hole[numbered[ndimage.binary_dilation(others, _FACES)]] = False
    part[is_hole[numbered]] = painted_value(value)
