"""Slices x frames, complete and on one grid, or the list of what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom import frame_order, geometry
from unet4d.images.dicom.instance import Plane
from unet4d.images.time_axis import TimeAxis

_MOST = 8  # faults that one message lists


@dataclass(frozen=True, eq=False)
class SliceStack:
    """A 4D study whose voxels are still in its files.

    Attributes:
        planes: of frame t and slice z, [t][z].
        affine: (4, 4), voxel to mm (RAS).
        time: "cyclic", or None where nobody says.
    """

    planes: tuple[tuple[Plane, ...], ...]
    affine: np.ndarray
    frame_duration_s: float | None
    time: TimeAxis | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, X, Y, Z)."""
        return (len(self.planes), *self.planes[0][0].size, len(self.planes[0]))


def stack_planes(planes: Sequence[Plane], title: str) -> SliceStack:
    """Sort planes into slices and frames.

    Args:
        planes: one or more, of one study.
        title: begins the message.

    Raises:
        InputError: orientation, spacing or matrix differ; the b-value or inversion time varies at one place; slices lie
            unevenly; a slice has another number of frames than most; two planes lie at one place and time; nothing orders the
            frames. Lists all that was found.
    """
    faults = geometry.mixed(planes)
    if faults:
        raise stack_error(title, faults)
    slices = geometry.slices_of(planes)
    faults = frame_order.not_in_time(slices)
    if faults:
        raise stack_error(title, faults)
    key = frame_order.time_key(slices)
    if key is None:
        raise stack_error(title, ["nothing tells the frames of a slice apart, not even an InstanceNumber"])
    slices = frame_order.sort_in_time(slices, key)
    faults = [*frame_order.repeated(slices, key), *frame_order.incomplete(slices, key), *geometry.uneven(slices)]
    if faults:
        raise stack_error(title, faults)
    affine = geometry.slices_affine(slices)
    if affine is None:
        raise stack_error(
            title, ["a single slice, and neither SpacingBetweenSlices nor SliceThickness says how thick it is"]
        )
    duration_s = frame_order.frame_duration_s(slices)
    frames = tuple(zip(*slices, strict=True))
    return SliceStack(frames, affine, duration_s, frame_order.gated_time_axis(slices, duration_s))


def stack_error(title: str, faults: Sequence[str]) -> InputError:
    """One line that lists what is wrong."""
    more = f"; and {len(faults) - _MOST} more" if len(faults) > _MOST else ""
    return InputError(f"{title}: {'; '.join(faults[:_MOST])}{more}; export the series again, or leave it out")
