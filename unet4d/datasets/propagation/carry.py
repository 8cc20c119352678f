"""Labels carried from drawn frames to those between them, in both directions of time, with the confidence of each class.

Neighboring frames are registered, because motion between them is small, and their deformations composed. Each frame between two
drawn ones gets both labels, weighted by nearness in time. Where time is cyclic, the last drawn frame leads into the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.datasets.propagation.registration import Deformation, Registration
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.system.signals import check_stop

STRIDE = 2
"""Frames between two that are chained: fewer compositions, in which errors add up; the motion stays small."""
MARGIN_MM = 25.0
"""Distance of the registered box from all that is drawn."""


@dataclass(frozen=True)
class CarriedFrame:
    """The label of a frame that was carried there.

    Attributes:
        label: (X, Y, Z) uint8 label values.
        confidence: foreground value to its confidence, 0 to 1; a class that is nowhere in the frame has none. Between two drawn
            frames: the Dice overlap of the label with what each direction carried, weighted as these are. Beyond the last drawn
            frame of an open series: the overlap of the drawn label with itself, carried here and back.
        sources: the drawn frames that it comes from.
    """

    label: np.ndarray
    confidence: Mapping[int, float]
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """Frames between two drawn ones, in the order of time; `before` or `after` is None at the ends of an open series."""

    before: int | None
    between: tuple[int, ...]
    after: int | None


def find_gaps(drawn: Sequence[int], frames: int, cyclic: bool) -> list[Gap]:
    """Return the gaps between drawn frames, ascending, of a study with this many frames; those without a frame are left out."""
    last_to_first = (*range(drawn[-1] + 1, frames), *range(drawn[0]))
    gaps = [Gap(a, tuple(range(a + 1, b)), b) for a, b in itertools.pairwise(drawn)]
    if cyclic:
        gaps.append(Gap(drawn[-1], last_to_first, drawn[0]))
    else:
        gaps.append(Gap(None, tuple(range(drawn[0])), drawn[0]))
        gaps.append(Gap(drawn[-1], tuple(range(drawn[-1] + 1, frames)), None))
    return [gap for gap in gaps if gap.between]


def propagate_labels(
    image: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    cyclic: bool,
    registration: Registration,
    spacing_mm: Sequence[float],
    ignored: int | None = None,
) -> Iterator[tuple[int, CarriedFrame]]:
    """Yield each frame that is not drawn with its label, gap by gap.

    Args:
        image: (T, X, Y, Z), one channel.
        drawn: frame to its label (X, Y, Z) uint8, one or more.
        cyclic: whether the last frame leads into the first.
        registration: of two frames.
        spacing_mm: along X, Y and Z.
        ignored: the value of voxels that were not drawn, which is carried like a class and has no confidence; None: there is none.
    """
    box = find_box(list(drawn.values()), spacing_mm, ignored)
    values = np.unique(np.concatenate([np.unique(label[box]) for label in drawn.values()]))
    foreground = [int(value) for value in values if value not in (0, ignored)]
    boxed = {t: label[box] for t, label in drawn.items()}
    for gap in find_gaps(sorted(drawn), len(image), cyclic):
        for frame, inside, confidence in _fill(
            gap, image[(slice(None), *box)], boxed, values, foreground, registration
        ):
            sources = tuple(dict.fromkeys(t for t in (gap.before, gap.after) if t is not None))
            label = drawn[sources[0]].copy()  # beyond the box: background, or not drawn
            label[box] = inside
            yield frame, CarriedFrame(label, confidence, sources)


def find_box(
    labels: Sequence[np.ndarray], spacing_mm: Sequence[float], ignored: int | None
) -> tuple[slice, slice, slice]:
    """Return the box around the foreground of labels (X, Y, Z), with a margin; everything where there is none."""
    found = np.any([(label > 0) & (label != ignored) for label in labels], axis=0)
    slices = []
    for axis, size in enumerate(spacing_mm):
        places = np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(MARGIN_MM / size)
        places = places if len(places) else np.arange(found.shape[axis])
        slices.append(slice(max(0, int(places[0]) - margin), min(found.shape[axis], int(places[-1]) + margin + 1)))
    return slices[0], slices[1], slices[2]


def walk(
    image: np.ndarray,
    source: int,
    frames: Sequence[int],
    registration: Registration,
    returning: bool = False,
    stride: int = STRIDE,
) -> Iterator[tuple[int, Deformation]]:
    """Yield each frame with the deformation that brings `source` onto it; if `returning`, with that which brings it onto `source`.

    `frames` follow on `source`, in either direction of time. Each is registered with a frame at most `stride` before, and that
    deformation composed with the one that leads from there.
    """
    anchor, chained = source, None
    for number, frame in enumerate(frames, 1):
        check_stop()
        fixed, moving = (anchor, frame) if returning else (frame, anchor)
        found = registration.register(image[fixed], image[moving])
        if chained is not None:
            found = registration.compose(chained, found) if returning else registration.compose(found, chained)
        if number % stride == 0:
            anchor, chained = frame, found
        yield frame, found


def overlap(label: np.ndarray, other: np.ndarray, values: Sequence[int]) -> dict[int, float]:
    """Return the Dice overlap of two labels (X, Y, Z) by value; values that are in neither are left out."""
    found = dice(count_voxels(label[None], other[None], values))[0]
    return {value: float(score) for value, score in zip(values, found, strict=True) if not np.isnan(score)}


def carry_label(
    label: np.ndarray, values: np.ndarray, deformation: Deformation, registration: Registration
) -> np.ndarray:
    """Return a label (X, Y, Z) carried by a deformation: shares of the values carried linearly, and the largest one taken."""
    return values[np.argmax(_carry(label, values, deformation, registration), axis=0)]


def _carry(label: np.ndarray, values: np.ndarray, deformation: Deformation, registration: Registration) -> np.ndarray:
    shares = (label[None] == values[:, None, None, None]).astype(np.float32)
    return registration.carry(shares, deformation)


def _fill(
    gap: Gap,
    image: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    values: np.ndarray,
    foreground: Sequence[int],
    registration: Registration,
) -> Iterator[tuple[int, np.ndarray, dict[int, float]]]:
    """Yield the frames of a gap with label and confidence; of one direction only its shares, in bytes, are in memory."""
    if gap.before is None or gap.after is None:
        yield from _fill_end(gap, image, drawn, values, foreground, registration)
        return
    forward = {
        frame: np.rint(255 * np.clip(_carry(drawn[gap.before], values, deformation, registration), 0, 1)).astype(
            np.uint8
        )
        for frame, deformation in walk(image, gap.before, gap.between, registration)
    }
    for steps, (frame, deformation) in enumerate(walk(image, gap.after, gap.between[::-1], registration), 1):
        weight = steps / (len(gap.between) + 1)  # of the forward label: 1 at the frame before
        ahead, back = forward.pop(frame), _carry(drawn[gap.after], values, deformation, registration)
        label = values[np.argmax(weight / 255 * ahead + (1 - weight) * back, axis=0)]
        agreed = [overlap(label, values[np.argmax(shares, axis=0)], foreground) for shares in (ahead, back)]
        confidence = {
            value: weight * agreed[0].get(value, 0.0) + (1 - weight) * agreed[1].get(value, 0.0)
            for value in foreground
            if value in agreed[0] or value in agreed[1]
        }
        yield frame, label, confidence


def _fill_end(
    gap: Gap,
    image: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    values: np.ndarray,
    foreground: Sequence[int],
    registration: Registration,
) -> Iterator[tuple[int, np.ndarray, dict[int, float]]]:
    """Yield the frames before the first or after the last drawn frame of an open series, with label and confidence."""
    source, frames = (gap.before, gap.between) if gap.after is None else (gap.after, gap.between[::-1])
    assert source is not None
    there = walk(image, source, frames, registration)
    back = walk(image, source, frames, registration, returning=True)
    for (frame, deformation), (_, returning) in zip(there, back, strict=True):
        label = carry_label(drawn[source], values, deformation, registration)
        returned = carry_label(label, values, returning, registration)
        yield frame, label, overlap(drawn[source], returned, foreground)
