"""Order of a slice's frames, frame duration and time axis, from the times in the headers.

The first of these orders the frames that every plane has, and that differs among the planes of each slice:

dimension     DimensionIndexValues of the dimensions that count time (multi-frame)
trigger       TriggerTime, NominalCardiacTriggerDelayTime: ms after the R wave. Not where the frames were acquired over more than
              twice the longest of them: then each frame is of another heartbeat (perfusion), and orders by acquisition
temporal      TemporalPositionIdentifier, TemporalPositionIndex
acquisition   AcquisitionDate and AcquisitionTime, FrameAcquisitionDateTime; only where no two frames of a slice share one
content       ContentDate and ContentTime; likewise
series        SeriesDate and SeriesTime, then SeriesNumber, where each time point is a series of its own; likewise
instance      InstanceNumber, and the frame's number in its file

Slices are gated to different heartbeats, so their times differ a little: frames belong together by their rank within the slice.

Frame duration, the first that is known: increments of the trigger times (mean of a slice, median over slices); NominalInterval
(RR) / CardiacNumberOfImages if that is the number of frames; increments of TemporalPositionTimeOffset (median);
increments of AcquisitionTime (median), where every frame has one and they ascend; TemporalResolution; FrameTime; in ungated
echo-planar 2D series RepetitionTime, or GE's duration of the series through the number of its volumes where that is another. Else
never RepetitionTime, which may be the time of a segment, nor ContentTime, which is when the image was computed. Where
NominalInterval is missing, HeartRate gives it.

Frames that differ by their b-value or inversion time are no frames in time.

The time axis is cyclic where frames are gated (trigger times ascend) and cover the beat: gated retrospectively, or NominalInterval
is known and they cover 85 % of it. Else it is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from unet4d.images.dicom.geometry import most_frequent
from unet4d.images.dicom.instance import Plane
from unet4d.images.time_axis import TimeAxis

Slices = Sequence[Sequence[Plane]]

_KEYS = {
    "dimension": "DimensionIndexValues (time)", "trigger": "trigger time", "temporal": "temporal position",
    "acquisition": "acquisition time", "content": "content time", "series": "series", "instance": "instance number",
}  # fmt: skip
_ONLY_IF_UNIQUE = ("acquisition", "content", "series")
_COVERED = 0.85  # of the beat
_SAME = 1.0  # greatest difference of inversion times (ms) and b-values (s/mm2) at one place


def time_key(slices: Slices) -> str | None:
    """Return which time orders the frames; None where none does. A single frame needs no order: "instance"."""
    if all(len(planes) == 1 for planes in slices):
        return "instance"
    return next((key for key in _KEYS if _orders(key, slices)), None)


def sort_in_time(slices: Slices, key: str) -> list[list[Plane]]:
    """Return the planes of each slice in the order of time."""
    return [sorted(planes, key=lambda plane: plane.times[key]) for planes in slices]


def describe_duplicates(slices: Slices, key: str) -> list[str]:
    """Describe each pair of planes at one place and one time, with their files; `slices` are in order of time."""
    return [
        f"duplicate: slice {z} has the {_KEYS[key]} {_text(a.times[key])} twice, in {_source(a)} and {_source(b)}"
        for z, planes in enumerate(slices)
        for a, b in pairwise(planes)
        if a.times[key] == b.times[key]
    ]


def describe_gaps(slices: Slices, key: str) -> list[str]:
    """Describe each slice with fewer or more frames than most; `slices` are in order of time."""
    frames = most_frequent([len(planes) for planes in slices])
    full = next(planes for planes in slices if len(planes) == frames)
    found = []
    for z, planes in enumerate(slices):
        if len(planes) != frames:
            what = "gap" if len(planes) < frames else "too many frames"
            absent = _absent(full, planes, key)
            found.append(
                f"{what}: slice {z} has {len(planes)} frames, most have {frames}"
                + (f"; missing is frame {', '.join(map(str, absent))}" if len(absent) == frames - len(planes) else "")
                + f" ({_source(planes[0])})"
            )
    return found


def describe_other_variation(slices: Slices) -> list[str]:
    """Describe other properties than time that vary at one place, as in no 4D study; empty if none does."""
    b_values = [[plane.b_value or 0.0 for plane in planes] for planes in slices]  # missing in images without diffusion
    inversions = [[plane.inversion_ms for plane in planes if plane.inversion_ms is not None] for planes in slices]
    return [
        f"{name} varies at one place ({', '.join(f'{value:g}' for value in sorted(set(varied[0])))} {unit}): its images are no "
        "frames in time"
        for name, unit, values in (
            ("the b-value (DiffusionBValue)", "s/mm2", b_values),
            ("the inversion time (InversionTime)", "ms", inversions),
        )
        if (varied := [place for place in values if place and max(place) - min(place) > _SAME])
    ]


def frame_duration_s(slices: Slices) -> float | None:
    """Return the seconds from frame to frame, of complete slices in order of time; None if unknown."""
    frames = len(slices[0])
    planes = [plane for planes in slices for plane in planes]
    if frames == 1:
        return None
    trigger_ms = _increments(_times(slices, "trigger"))
    if trigger_ms is not None and not _one_per_beat(slices):
        return _positive(float(np.median(trigger_ms.mean(axis=1))) / 1e3)
    beats = [plane.beat_ms for plane in planes if plane.beat_ms and plane.frames_per_beat == frames]
    if beats:
        return _positive(float(np.median(beats)) / frames / 1e3)
    for times in ([[plane.offset_s for plane in planes] for planes in slices], _times(slices, "acquisition")):
        steps_s = _increments(times)
        if steps_s is not None:
            return _positive(float(np.median(steps_s)))
    steps_ms = [plane.step_ms for plane in planes if plane.step_ms]
    return _positive(float(np.median(steps_ms)) / 1e3) if steps_ms else None


def gated_time_axis(slices: Slices, duration_s: float | None) -> TimeAxis | None:
    """Return "cyclic" for a whole gated beat; None if unknown. `slices` are complete and in order of time."""
    gated = _increments(_times(slices, "trigger")) is not None
    if duration_s is None or not gated or _one_per_beat(slices):
        return None
    planes = [plane for planes in slices for plane in planes]
    beats_s = [plane.beat_ms / 1e3 for plane in planes if plane.beat_ms]
    covered = bool(beats_s) and duration_s * len(slices[0]) >= _COVERED * float(np.median(beats_s))
    return "cyclic" if covered or all(plane.retrospective for plane in planes) else None


def _times(slices: Slices, key: str) -> list[list[Any]]:
    return [[plane.times[key] for plane in planes] for planes in slices]


def _orders(key: str, slices: Slices) -> bool:
    values = _times(slices, key)
    if any(None in times for times in values):
        return False
    if key != "instance" and any(len(times) > 1 and len(set(times)) == 1 for times in values):
        return False
    if key == "trigger" and _one_per_beat(slices):
        return False
    return key not in _ONLY_IF_UNIQUE or all(len(set(times)) == len(times) for times in values)


def _one_per_beat(slices: Slices) -> bool:
    """Return whether the frames of a slice were acquired one after another over more than the beat of the trigger times."""
    for at, trigger in zip(_times(slices, "acquisition"), _times(slices, "trigger"), strict=True):
        if None in at or None in trigger or len(set(at)) < len(at):
            return False
        if max(at) - min(at) <= 2 * max(trigger) / 1e3:
            return False
    return True


def _increments(times: Sequence[Sequence[float | None]]) -> np.ndarray | None:
    """Return (Z, T - 1) increments; None unless every frame has a time, and they ascend in every slice."""
    if any(None in row for row in times):
        return None
    steps = np.diff(np.array(times, dtype=np.float64), axis=1)
    return steps if steps.size and (steps > 0).all() else None


def _absent(full: Sequence[Plane], planes: Sequence[Plane], key: str) -> list[int]:
    """Return the frames of a full slice without a counterpart in another, to half a step."""
    if key == "instance" or len(full) < 2:
        return []
    times = np.array([plane.times[key] for plane in full], dtype=np.float64).reshape(len(full), -1)
    present = np.array([plane.times[key] for plane in planes], dtype=np.float64).reshape(len(planes), -1)
    half = 0.5 * np.abs(np.diff(times, axis=0)).max(axis=1).min()
    apart = np.abs(times[:, None] - present[None]).max(axis=2).min(axis=1)  # of each frame to its counterpart
    return [int(t) for t in np.flatnonzero(apart > half)]


def _positive(seconds: float) -> float | None:
    return round(seconds, 6) if seconds > 0 else None


def _source(plane: Plane) -> str:
    return f"{plane.file}" + (f" frame {plane.index}" if plane.index else "")


def _text(value: Any) -> str:
    return ", ".join(f"{number:.10g}" for number in np.atleast_1d(value))
