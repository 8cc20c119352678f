"""Checks of a header that can be read and yet be untrue: frame duration, unit of length, qform and sform, grids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nibabel.spatialimages import HeaderDataError

from unet4d.datasets.cases import Case
from unet4d.datasets.issues import Issue
from unet4d.errors import InputError
from unet4d.images.nifti import Header, affine_of, check_same_grid, corners_apart_mm, frame_duration_s_of, spacing_of
from unet4d.images.time_axis import TimeAxis

CYCLE_S = (0.08, 8.0)
"""From the heartbeat of a mouse to a human's breath; a cycle of other length is neither."""
FRAME_STEP_S, CYCLIC_FRAME_STEP_S = (0.01, 600.0), (0.005, CYCLE_S[1])
"""Shorter frame durations are a TR, a few ms, and longer ones have another unit than the header's."""
_FORMS_APART = 0.1  # voxels of the finest axis by which a corner may differ between qform and sform
_TIME_UNITS = {0: "no unit", 8: "s", 16: "ms", 24: "µs"}
_SPACE_UNITS = {1: "metre", 3: "micrometre"}


def check_header(
    case: Case, header: Header, shape: tuple[int, int, int, int], time: TimeAxis | None
) -> Iterator[Issue]:
    """Yield the issues of the first channel's header; `shape` is (T, X, Y, Z), `time` the dataset's."""
    file = case.images[0]
    if shape[0] > 1 and not case.channels_last:
        why = _untrue_duration(case.frame_duration_s, header, shape[0], time)
        if why:
            todo = 'give the true "frame_duration_s" of the case in dataset.json'
            yield Issue.of("frame-duration", file, f"{why}; {todo}", case.name)
    yield from check_space(case, file, header, shape)


def check_space(case: Case, file: Path, header: Header, shape: tuple[int, int, int, int]) -> Iterator[Issue]:
    """Yield the issues of a header's unit of length, and of its two affines."""
    unit = _SPACE_UNITS.get(int(header["xyzt_units"]) & 0x07)
    if unit:
        spacing = " x ".join(f"{s:g}" for s in spacing_of(affine_of(header)))
        text = f"its header is in {unit}, so that a voxel is {spacing} mm; check whether this is true"
        yield Issue.of("units", file, text, case.name)
    if int(header["qform_code"]) > 0 and int(header["sform_code"]) > 0:
        why = _forms_differ(header, shape)
        if why:
            yield Issue.of("forms", file, why, case.name)


def find_grid_issue(
    case: Case, file: Path, header: Header, shape: tuple[int, ...], other_header: Header, other_shape: tuple[int, ...]
) -> Issue | None:
    """Return an issue if a file is on another grid than the study's first image, which has the other header and shape."""
    try:
        check_same_grid(file, header, shape, case.images[0], other_header, other_shape)
    except InputError as error:
        ours, theirs = (np.array(spacing_of(affine_of(one))) for one in (header, other_header))
        if shape[-3:] != other_shape[-3:]:
            kind = "shape"
        elif shape != other_shape:
            kind = "frames"
        else:
            kind = "affine" if np.allclose(ours, theirs, rtol=1e-3) else "spacing"
        return Issue(kind, str(error), str(file), case.name)
    return None


def _forms_differ(header: Header, shape: tuple[int, int, int, int]) -> str:
    """Describe how the qform differs from the sform, which `affine_of` takes; empty where it does not."""
    sform, without = affine_of(header), header.copy()
    without["sform_code"] = 0
    try:
        qform = affine_of(without)
    except (ValueError, HeaderDataError):
        qform = np.full((4, 4), np.nan)
    if not np.isfinite(qform).all():
        return "its qform cannot be computed, and the sform counts; set the qform to it, or export the study again"
    apart_mm = corners_apart_mm(qform, sform, shape)
    if apart_mm > _FORMS_APART * min(spacing_of(sform)):
        return (
            f"its qform and its sform place its corners up to {apart_mm:.3g} mm apart, and the sform counts; find out which is "
            "true and set both to it"
        )
    return ""


def _untrue_duration(given_s: float | None, header: Header, frames: int, time: TimeAxis | None) -> str:
    """Describe why the frame duration is none, or cannot be true; empty where it can be."""
    step = float(str(header["pixdim"][4]))
    code = int(header["xyzt_units"]) & 0x38
    duration_s = given_s or frame_duration_s_of(header)
    if duration_s is None:
        unit = _TIME_UNITS.get(code, "a unit that is not of time")
        return f"its header gives a frame duration of {step:g} with {unit}, expected seconds above 0"
    if given_s is None and duration_s == 1.0:
        return "its header gives a frame duration of 1 s exactly, which many tools write for an unknown one"
    got = f"{'dataset.json' if given_s else 'its header'} gives a frame duration of {duration_s:g} s"
    if time == "cyclic":
        cycle_s, (least, most) = frames * duration_s, CYCLE_S
        if not least <= cycle_s <= most:
            return (
                f"{got}, which makes a cycle of {cycle_s:.3g} s out of {frames} frames, expected a heartbeat's or a breath's, "
                f"{least:g} to {most:g} s"
            )
    least, most = CYCLIC_FRAME_STEP_S if time == "cyclic" else FRAME_STEP_S
    return "" if least <= duration_s <= most else f"{got}, expected {least:g} to {most:g} s"
