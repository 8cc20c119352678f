"""The order of a slice's frames, the frame duration and the time axis, by what the headers say of time.

The first of these orders the frames that every plane has, and that differs among the planes of each slice:

dimension     DimensionIndexValues of the dimensions that count time (multi-frame)
trigger       TriggerTime, NominalCardiacTriggerDelayTime: ms after the R wave. Not where the frames were acquired over more than
              twice the longest of them: then each frame is of another heartbeat (perfusion), and orders by acquisition
temporal      TemporalPositionIdentifier, TemporalPositionIndex
acquisition   AcquisitionDate and AcquisitionTime, FrameAcquisitionDateTime; only where no two frames of a slice share one
content       ContentDate and ContentTime; likewise
instance      InstanceNumber, and the frame's number in its file

Slices are gated to different heartbeats, so their times differ a little: frames belong together by their rank within the slice.

Frame duration, the first that is known: increments of the trigger times (mean of a slice, median over slices); NominalInterval
(RR) / CardiacNumberOfImages if that is the number of frames; increments of TemporalPositionTimeOffset (median);
increments of AcquisitionTime (median), where they are there for every frame and ascend; TemporalResolution; FrameTime. Never
RepetitionTime, which may be the time of a segment, nor ContentTime, which is when the image was computed.

Frames that differ by their b-value or inversion time are no frames in time.

The time axis is cyclic where frames are gated (trigger times ascend) and cover the beat: gated retrospectively, or NominalInterval
is known and they cover 85 % of it. Else nobody says.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from unet4d.images.dicom.geometry import usual
from unet4d.images.dicom.instance import Plane
from unet4d.images.time_axis import TimeAxis

Slices = Sequence[Sequence[Plane]]

_KEYS = ("dimension", "trigger", "temporal", "acquisition", "content", "instance")
_ONLY_IF_UNIQUE = ("acquisition", "content")
_NAMES = {
    "dimension": "DimensionIndexValues (time)", "trigger": "trigger time", "temporal": "temporal position",
    "acquisition": "acquisition time", "content": "content time", "instance": "instance number",
}  # fmt: skip
_COVERED = 0.85  # of the beat
_SAME = 1.0  # how far inversion times (ms) and b-values (s/mm2) of one place may lie apart


def time_key(slices: Slices) -> str | None:
    """What orders the frames; None where nothing does. A single frame needs no order: "instance"."""
    if all(len(one) == 1 for one in slices):
        return "instance"
    return next((key for key in _KEYS if _orders(key, slices)), None)


def sort_in_time(slices: Slices, key: str) -> list[list[Plane]]:
    """The planes of each slice in the order of time."""
    if all(len(one) == 1 for one in slices):
        return [list(one) for one in slices]
    return [sorted(one, key=lambda plane: plane.times[key]) for one in slices]


def repeated(slices: Slices, key: str) -> list[str]:
    """Each pair of planes that lie at one place and one time, named by their files; `slices` are in order of time."""
    return [
        f"duplicate: slice {z} has the {_NAMES[key]} {_text(before.times[key])} twice, in {_where(before)} and {_where(after)}"
        for z, one in enumerate(slices)
        for before, after in pairwise(one)
        if before.times[key] == after.times[key]
    ]


def incomplete(slices: Slices, key: str) -> list[str]:
    """Each slice with fewer or more frames than most; `slices` are in order of time."""
    frames = usual([len(one) for one in slices])
    full = next(one for one in slices if len(one) == frames)
    found = []
    for z, one in enumerate(slices):
        if len(one) != frames:
            what = "gap" if len(one) < frames else "too many frames"
            absent = _absent(full, one, key)
            found.append(
                f"{what}: slice {z} has {len(one)} frames, most have {frames}"
                + (f"; missing is frame {', '.join(map(str, absent))}" if len(absent) == frames - len(one) else "")
                + f" ({_where(one[0])})"
            )
    return found


def not_in_time(slices: Slices) -> list[str]:
    """What varies at one place beside time, which no 4D study has; empty if nothing does."""
    b_values = [[plane.b_value or 0.0 for plane in one] for one in slices]  # an image without diffusion need not say so
    inversions = [[plane.inversion_ms for plane in one if plane.inversion_ms is not None] for one in slices]
    return [
        f"{name} varies at one place ({', '.join(f'{value:g}' for value in sorted(set(varied[0])))} {unit}): its images are no "
        "frames in time"
        for name, unit, values in (
            ("the b-value (DiffusionBValue)", "s/mm2", b_values),
            ("the inversion time (InversionTime)", "ms", inversions),
        )
        if (varied := [one for one in values if one and max(one) - min(one) > _SAME])
    ]


def frame_duration_s(slices: Slices) -> float | None:
    """Seconds from frame to frame, of complete slices in order of time; None where nothing says so."""
    frames = len(slices[0])
    planes = [plane for one in slices for plane in one]
    if frames == 1:
        return None
    trigger_ms = _ascending([[plane.times["trigger"] for plane in one] for one in slices])
    if trigger_ms is not None and not _one_a_beat(slices):
        return _positive(float(np.median(trigger_ms.mean(axis=1))) / 1e3)
    beats = [plane.beat_ms for plane in planes if plane.beat_ms and plane.frames_per_beat == frames]
    if beats:
        return _positive(float(np.median(beats)) / frames / 1e3)
    for times in (
        [[p.offset_s for p in one] for one in slices],
        [[p.times["acquisition"] for p in one] for one in slices],
    ):
        steps_s = _ascending(times)
        if steps_s is not None:
            return _positive(float(np.median(steps_s)))
    said = [plane.step_ms for plane in planes if plane.step_ms]
    return _positive(float(np.median(said)) / 1e3) if said else None


def gated_time_axis(slices: Slices, duration_s: float | None) -> TimeAxis | None:
    """ "cyclic" for a whole gated beat; None where nobody says. `slices` are complete and in order of time."""
    gated = _ascending([[plane.times["trigger"] for plane in one] for one in slices]) is not None
    if duration_s is None or not gated or _one_a_beat(slices):
        return None
    planes = [plane for one in slices for plane in one]
    beats_s = [plane.beat_ms / 1e3 for plane in planes if plane.beat_ms]
    covered = bool(beats_s) and duration_s * len(slices[0]) >= _COVERED * float(np.median(beats_s))
    return "cyclic" if covered or all(plane.retrospective for plane in planes) else None


def _orders(key: str, slices: Slices) -> bool:
    values = [[plane.times[key] for plane in one] for one in slices]
    if any(value is None for one in values for value in one):
        return False
    if any(len(one) > 1 and len(set(one)) == 1 for one in values) and key != "instance":
        return False
    if key == "trigger" and _one_a_beat(slices):
        return False
    return key not in _ONLY_IF_UNIQUE or all(len(set(one)) == len(one) for one in values)


def _one_a_beat(slices: Slices) -> bool:
    """Whether the frames of a slice were acquired one after another over more than the beat that trigger times count."""
    for one in slices:
        at = [plane.times["acquisition"] for plane in one]
        trigger = [plane.times["trigger"] for plane in one]
        if None in at or None in trigger or len(set(at)) < len(at):
            return False
        if max(at) - min(at) <= 2 * max(trigger) / 1e3:
            return False
    return True


def _ascending(times: Sequence[Sequence[float | None]]) -> np.ndarray | None:
    """(Z, T - 1) increments; None unless every frame has a time, and they ascend in every slice."""
    if any(value is None for one in times for value in one):
        return None
    steps = np.diff(np.array(times, dtype=np.float64), axis=1)
    return steps if steps.size and (steps > 0).all() else None


def _absent(full: Sequence[Plane], one: Sequence[Plane], key: str) -> list[int]:
    """Which frames of a full slice have no like in another, to half a step."""
    if key == "instance" or len(full) < 2:
        return []
    times = np.array([plane.times[key] for plane in full], dtype=np.float64).reshape(len(full), -1)
    came = np.array([plane.times[key] for plane in one], dtype=np.float64).reshape(len(one), -1)
    half = 0.5 * np.abs(np.diff(times, axis=0)).max(axis=1).min()
    apart = np.abs(times[:, None] - came[None]).max(axis=2).min(axis=1)  # of each frame to its like
    return [int(t) for t in np.flatnonzero(apart > half)]


def _positive(seconds: float) -> float | None:
    return round(seconds, 6) if seconds > 0 else None


def _where(plane: Plane) -> str:
    return f"{plane.file}" + (f" frame {plane.index}" if plane.index else "")


def _text(value: Any) -> str:
    return ", ".join(f"{one:.10g}" for one in np.atleast_1d(value))
