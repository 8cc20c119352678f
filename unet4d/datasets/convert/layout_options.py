"""`LayoutOptions`: the user's statements about a source where its files lack them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from unet4d.datasets.study import FRAME_DURATION_LIMITS, is_frame_duration
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL, VELOCITIES
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.system.class_values import BACKGROUND, class_fault, is_name
from unet4d.system.text import short_repr


@dataclass(frozen=True)
class LayoutOptions:
    """Statements of the user about a source, where its files lack them.

    Attributes:
        pattern: regular expression with the groups `subject` and `frame`, for file names relative to the source.
        labels: class name to value; maps segments by name, and names the values of plain label maps.
        time: "cyclic" or "open".
        frame_duration_s: seconds from frame to frame, where the files do not have it.
        keep_patient_ids: name cases and subjects by the patient ids in the files, which are left out otherwise.
        channels: channel name to its kind (images/channels.py), in order; no map, because a file with frames is none.
        frame_durations: case to its seconds from frame to frame; of every case, and instead of what the files have.
        segments: name of a segment or ROI to the name of its class; "" leaves it out. Others are classes of their own names.
        subject_per_case: each case is a subject of its own, even where names look like frames of one subject.

    Raises:
        InputError: an impossible value.
    """

    pattern: str | None = None
    labels: Mapping[str, int] | None = None
    time: TimeAxis | None = None
    frame_duration_s: float | None = None
    keep_patient_ids: bool = False
    channels: Mapping[str, str] | None = None
    frame_durations: Mapping[str, float] | None = None
    subject_per_case: bool = False
    segments: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.time is not None:
            check_time_axis(self.time, "time", "give one of them, or none")
        if self.frame_duration_s is not None and not is_frame_duration(self.frame_duration_s):
            got = short_repr(self.frame_duration_s)
            raise InputError(f"frame_duration_s is {got}, expected {FRAME_DURATION_LIMITS}; correct it")
        if self.frame_duration_s is not None and self.frame_durations is not None:
            raise InputError("got frame_duration_s and frame_durations, expected one of them; leave one out")
        if self.pattern is not None and self.subject_per_case:
            raise InputError("got pattern and subject_per_case, expected one of them; leave one out")
        if self.labels and (fault := class_fault({BACKGROUND: 0, **self.labels}.items())):
            got = short_repr(dict(self.labels))
            raise InputError(f"labels is {got}, expected for each class a whole number from 1 to 255: {fault}")
        for name, given in (self.segments or {}).items():
            if not (isinstance(given, str) and (not given or is_name(given))):
                got = short_repr(given)
                raise InputError(
                    f"segments gives {short_repr(name)} the class {got}, expected the name of a class, or ''; correct it"
                )
        kinds = (SIGNAL, *VELOCITIES)
        if self.channels is not None and not (self.channels and set(self.channels.values()) <= set(kinds)):
            raise InputError(
                f"channels is {self.channels!r}, expected names with kinds of {', '.join(kinds)}; correct it"
            )
        if self.pattern is not None:
            _check_pattern(self.pattern)


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is no regular expression ({error}); correct it") from error
    if "subject" not in groups:
        example = r"'(?P<subject>.+)_frame(?P<frame>\d+)'"
        raise InputError(f"pattern {pattern!r} has no group named subject, expected one such as {example}; correct it")


NO_LAYOUT_OPTIONS = LayoutOptions()
