"""Partly drawn labels of a case: which slices and classes were drawn, how much each frame counts, which frames are propagated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.system.class_values import IGNORE_NAME
from unet4d.system.text import describe_frames, short_repr

PARTIAL_KEYS = ("labelled_slices", "annotated_labels", "frame_weights", "propagated_frames")


@dataclass(frozen=True)
class PartialLabels:
    """The statements of a case in dataset.json about labels that are not whole; the default is a whole label.

    Attributes:
        slices: frame to its drawn slices along the third axis of the files, ascending; frames without an entry are drawn whole.
        every_frame: drawn slices of every labelled frame, in place of `slices`; None: see there.
        annotated: label values of the foreground classes that were drawn, ascending; None: all. The background of the case may be
            any of the others.
        weights: labelled frame to its weight in the loss, 0 to 1; frames without an entry count 1.
        propagated: labelled frames with a label computed from drawn ones, ascending: they train and are never evaluated on.
    """

    slices: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    every_frame: tuple[int, ...] | None = None
    annotated: tuple[int, ...] | None = None
    weights: Mapping[int, float] = field(default_factory=dict, hash=False)
    propagated: tuple[int, ...] = ()

    def drawn_slices(self, frame: int) -> tuple[int, ...] | None:
        """Return the drawn slices of a labelled frame; None: all."""
        return self.slices.get(frame) if self.every_frame is None else self.every_frame

    def weight(self, frame: int) -> float:
        """Return the weight of a labelled frame in the loss."""
        return self.weights.get(frame, 1.0)

    @property
    def has_slices(self) -> bool:
        """Return whether some slices of a labelled frame were not drawn."""
        return bool(self.slices) or self.every_frame is not None

    def plain(self) -> dict[str, Any]:
        """Return the keys of dataset.json that `parse_partial_labels` reads; those that are unset are left out."""
        slices: Any = {str(t): list(drawn) for t, drawn in self.slices.items()}
        found = {
            "labelled_slices": slices if self.every_frame is None else list(self.every_frame),
            "annotated_labels": None if self.annotated is None else list(self.annotated),
            "frame_weights": {str(t): weight for t, weight in self.weights.items()},
            "propagated_frames": list(self.propagated),
        }
        return {key: value for key, value in found.items() if value}

    def find_fault(self, frames: Sequence[int], depth: int | None = None) -> str:
        """Return what does not fit a case with these labelled frames and this many slices; empty where nothing is wrong."""
        named = {"labelled_slices": self.slices, "frame_weights": self.weights, "propagated_frames": self.propagated}
        for key, numbers in named.items():
            if other := sorted(set(numbers) - set(frames)):
                listed = describe_frames(list(frames), "labelled frame")
                return f'"{key}" has frame {other[0]}, expected only {listed}; correct it'
        if not any(self.weight(t) for t in frames):
            return '"frame_weights" of all labelled frames sum to 0, expected one above 0; leave the case out or correct them'
        last = max((z for t in frames for z in self.drawn_slices(t) or ()), default=0)
        if depth is not None and last >= depth:
            return (
                f'"labelled_slices" has slice {last}, expected slices 0 to {depth - 1}, which the study has; correct it'
            )
        return ""

    def hide_undrawn(self, frame: np.ndarray, number: int, ignored: int) -> None:
        """Set the undrawn slices of the label (X, Y, Z) of a frame to the value of ignored voxels, in place."""
        if (drawn := self.drawn_slices(number)) is not None:
            frame[..., np.setdiff1d(np.arange(frame.shape[-1]), drawn)] = ignored


WHOLE = PartialLabels()


def parse_partial_labels(item: Mapping[str, Any], where: str, label_values: Sequence[int]) -> PartialLabels:
    """Return the statements of a case's entry.

    Args:
        item: the entry in dataset.json, as its schema describes it.
        where: begins the messages.
        label_values: of the dataset's classes, background 0 included.

    Raises:
        InputError: numbers are not in increasing order, or an annotated value is no class.
    """
    by_frame, every_frame = _parse_slices(item.get("labelled_slices"), where)
    annotated = _parse_annotated(item.get("annotated_labels"), where, label_values)
    weights = item.get("frame_weights") or {}
    return PartialLabels(
        by_frame,
        every_frame,
        annotated,
        {int(t): float(weights[t]) for t in sorted(weights, key=int)},
        _increasing(item.get("propagated_frames", []), f'{where}: "propagated_frames"'),
    )


def split_ignore(pairs: Sequence[tuple[str, int]], where: str) -> tuple[list[tuple[str, int]], int | None]:
    """Split (class name, value) pairs into those of classes and the value named "ignore"; None: there is none.

    Raises:
        InputError: it is not the highest value, or is written with other letters, which would make it a class.
    """
    if other := [name for name, _ in pairs if name != IGNORE_NAME and name.strip().casefold() == IGNORE_NAME]:
        raise InputError(f"{where} has {short_repr(other[0])}, expected {IGNORE_NAME!r} for undrawn voxels; rename it")
    classes = [(name, value) for name, value in pairs if name != IGNORE_NAME]
    ignore = next((value for name, value in pairs if name == IGNORE_NAME), None)
    highest = max((value for _, value in classes), default=0)
    if ignore is not None and ignore <= highest:
        raise InputError(
            f"{where} has {ignore} for ignore, expected the highest value, above {highest}, which is a class; correct it"
        )
    return classes, ignore


def _parse_slices(entry: Any, where: str) -> tuple[dict[int, tuple[int, ...]], tuple[int, ...] | None]:
    """Return drawn slices by frame, and those of every frame."""
    what = f'{where}: "labelled_slices"'
    if entry is None or isinstance(entry, list):
        return {}, None if entry is None else _increasing(entry, what)
    return {int(t): _increasing(entry[t], what) for t in sorted(entry, key=int)}, None


def _parse_annotated(entry: Any, where: str, label_values: Sequence[int]) -> tuple[int, ...] | None:
    if entry is None:
        return None
    classes, what = [value for value in label_values if value], f'{where}: "annotated_labels"'
    if not set(entry) <= set(classes):
        expected = f"label values of classes that were drawn, some of {short_repr(classes)}"
        raise InputError(f"{what} is {short_repr(entry)}, expected {expected}; correct it")
    return _increasing(entry, what)


def _increasing(numbers: Sequence[int], what: str) -> tuple[int, ...]:
    """Return numbers that are in increasing order."""
    if sorted(numbers) != numbers:
        raise InputError(f"{what} is {short_repr(numbers)}, expected increasing order; correct it")
    return tuple(numbers)
