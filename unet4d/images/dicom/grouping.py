"""Groups of planes that belong to one study.

A series is one study. A series with several components (magnitude and phase; water and fat) is one study for each, and one for
each echo where the echo time varies at one place. Many scanners store every slice of a cine stack as a series of its own.
Series of a single slice are joined into one study if they lie at two places or more and share

    patient, study and frame of reference,
    orientation, pixel spacing and matrix,
    the component (magnitude, phase, ...) and, of several, the echo,
    SeriesDescription, ProtocolName and SequenceName but for digits and punctuation ("sax_03" equals "sax_04"),
    and whether they hold one frame or many.

If all lie at one place, they are repetitions: each is a study. A stack that was acquired twice, one whole stack after the other by
series number, is two studies. A stack with one slice acquired twice is refused as a duplicate, with both series named: only the
user knows which one is good. Series with several numbers of frames are joined too, and refused:
a slice that lost a file must not vanish from its stack.

Scanners also store every time point of a dynamic series as a series of its own. Three or more series of one frame and several
slices are joined in time where they lie at the same places and share all of the above, flip angle, repetition time, echo
time, inversion time and b-value. Two such series may as well be a repeated scan: they stay apart.

A series with phase images of several velocity directions is one study for each; datasets/convert/dicom_flow.py may join them.

A series with stacks of several orientations is one study for each, if every stack is complete and has more than one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from unet4d.images.dicom.file_search import FoundDicom, RejectedFile
from unet4d.images.dicom.geometry import group_alike, group_into_slices, same_direction, same_grid
from unet4d.images.dicom.instance import Plane, Series

_SAME_ECHO_MS = 0.05
_FEWEST_TIMES = 3  # series that are taken for time points


@dataclass(frozen=True, eq=False)
class StudyCandidate:
    """The planes of one study, before any check.

    Attributes:
        series: one or more, by number.
        planes: none, if all its files are damaged.
        rejected: files of it that give no plane; also damaged files of unknown series in one of its folders.
    """

    series: tuple[Series, ...]
    planes: tuple[Plane, ...]
    rejected: tuple[RejectedFile, ...] = ()

    @property
    def frames(self) -> int:
        """Return the number of planes at one place; 0 without planes."""
        return max((len(place) for place in _places(self.planes)), default=0)

    @property
    def component(self) -> str:
        """Return the component of its planes; "" without planes."""
        return self.planes[0].component if self.planes else ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all its files, each once."""
        files = [plane.file for plane in self.planes] + [rejected.file for rejected in self.rejected]
        return tuple(dict.fromkeys(files))

    @property
    def title(self) -> str:
        """Return the name of the candidate for messages."""
        titles = [series.title for series in self.series]
        what = f", {self.component}" if self.component not in ("", "magnitude") else ""
        first = [plane for plane in self.planes if plane.series.uid == self.planes[0].series.uid]
        each = "time point" if len(titles) > 1 and len(_places(first)) > 1 else "slice"
        return (titles[0] if len(titles) == 1 else f"{titles[0]} to {titles[-1]}, one a {each}") + what


def group_into_studies(found: FoundDicom) -> list[StudyCandidate]:
    """Group planes into candidates for studies, by patient, time of the study, series number, UID and component."""
    groups: dict[tuple[object, str], list[Plane]] = {}
    for plane in found.planes:
        of = plane.series
        key = of.uid or (of.patient, of.study, of.number)  # an export may lose the UIDs of series
        groups.setdefault((key, plane.component), []).append(plane)
    directions = [direction for group in groups.values() for direction in _split_velocities(group)]
    views = [view for direction in directions for view in _split_orientations(direction)]
    echoes = [echo for view in views for echo in _split_echoes(view)]
    candidates = [_candidate(planes, found) for planes in _join_times(_join_slices(echoes))]
    known = {series.uid for candidate in candidates for series in candidate.series}
    lost: dict[Series, list[RejectedFile]] = {}
    for file in found.damaged:
        if file.series and file.series.uid not in known:
            lost.setdefault(file.series, []).append(file)
    candidates += [StudyCandidate((series,), (), tuple(files)) for series, files in lost.items()]
    return sorted(candidates, key=lambda candidate: (candidate.series[0].sort_key, candidate.component))


def _candidate(planes: Sequence[Plane], found: FoundDicom) -> StudyCandidate:
    by_uid = {plane.series.uid: plane.series for plane in planes}
    folders = {plane.file.parent for plane in planes}
    rejected = [file for file in (*found.damaged, *found.others) if file.series and file.series.uid in by_uid]
    rejected += [file for file in found.damaged if not file.series and file.file.parent in folders]
    series = tuple(sorted(by_uid.values(), key=lambda series: series.sort_key))
    return StudyCandidate(series, tuple(planes), tuple(rejected))


def _split_velocities(planes: list[Plane]) -> list[list[Plane]]:
    """Split the phase images of a series by the direction of velocity, which their component then names, if it has several."""
    directions = group_alike(planes, lambda a, b: a.velocity == b.velocity)
    if len(directions) == 1:
        return [planes]
    return [[replace(plane, component=_velocity_name(plane)) for plane in one] for one in directions]


def _velocity_name(plane: Plane) -> str:
    return f"{plane.component}, {plane.velocity.text}" if plane.velocity else plane.component


def _split_orientations(planes: list[Plane]) -> list[list[Plane]]:
    """Split the planes of a series by their orientation, which their component then numbers, if each has a complete stack."""
    views = group_alike(planes, same_direction)
    frames = [{len(place) for place in group_into_slices(view)} for view in views]
    if len(views) == 1 or any(len(view) == 1 or len(counts) > 1 for view, counts in zip(views, frames, strict=True)):
        return [planes]
    views.sort(key=lambda view: (min(plane.times["instance"] or (math.inf, 0) for plane in view), view[0].axes))
    return [
        [replace(plane, component=f"{plane.component}, stack {n} of {len(views)}") for plane in view]
        for n, view in enumerate(views, 1)
    ]


def _split_echoes(planes: list[Plane]) -> list[list[Plane]]:
    """Split the planes of a series by their echo, which their component then names, if one place has several echoes."""
    if all(len(group_alike(place, _same_echo)) == 1 for place in _places(planes)):
        return [planes]
    return [
        [replace(plane, component=f"{plane.component}, echo at {_echo_ms(echo[0])} ms") for plane in echo]
        for echo in group_alike(planes, _same_echo)
    ]


def _places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group planes by direction and place."""
    return [place for group in group_alike(planes, same_direction) for place in group_into_slices(group)]


def _same_echo(a: Plane, b: Plane) -> bool:
    if a.echo_ms is None or b.echo_ms is None:
        return a.echo_ms is b.echo_ms
    return abs(a.echo_ms - b.echo_ms) <= _SAME_ECHO_MS


def _echo_ms(plane: Plane) -> str:
    return "unknown" if plane.echo_ms is None else f"{plane.echo_ms:.4g}"


def _join_slices(groups: Sequence[list[Plane]]) -> list[list[Plane]]:
    """Join series of a single slice where they make a stack; return the others unchanged."""
    single = [group for group in groups if len(_places(group)) == 1]
    joined = [group for group in groups if group not in single]
    for stack in group_alike(single, _same_stack):
        planes = [plane for group in stack for plane in group]
        joined += _split_repeats(stack) if len(group_into_slices(planes)) > 1 else stack
    return joined


def _split_repeats(stack: Sequence[list[Plane]]) -> list[list[Plane]]:
    """Return the planes of a stack of series; of one that was acquired several times in a row, those of each time."""
    group_of = {group[0]: group for group in stack}
    slices = [sorted(place, key=_series_number) for place in group_into_slices(list(group_of))]
    times = list(zip(*slices, strict=False))
    in_a_row = all(
        max(map(_series_number, before)) < min(map(_series_number, after)) for before, after in pairwise(times)
    )
    if len({len(place) for place in slices}) > 1 or not in_a_row:
        times = [tuple(plane for place in slices for plane in place)]
    return [[plane for first in time for plane in group_of[first]] for time in times]


def _series_number(plane: Plane) -> int:
    return plane.series.number


def _join_times(groups: Sequence[list[Plane]]) -> list[list[Plane]]:
    """Join series of one time point each where they make a dynamic study; return the others unchanged."""
    still = [group for group in groups if len(group) > 1 and all(len(place) == 1 for place in _places(group))]
    joined = [group for group in groups if group not in still]
    for series in group_alike(still, _same_volume):
        joined += [[plane for group in series for plane in group]] if len(series) >= _FEWEST_TIMES else series
    return joined


def _same_volume(first: Sequence[Plane], second: Sequence[Plane]) -> bool:
    """Return whether two series are of the same places and settings."""
    a, b = first[0], second[0]
    shared = ("echo_ms", "inversion_ms", "b_value", "settings")
    return (
        len(first) == len(second)
        and ", stack " not in a.component
        and _same_stack(first, second)
        and all(getattr(a, name) == getattr(b, name) for name in shared)
        and len(group_into_slices([*first, *second])) == len(first)
    )


def _same_stack(first: Sequence[Plane], second: Sequence[Plane]) -> bool:
    a, b = first[0], second[0]
    shared = ("patient", "study", "frame_of_reference", "label")
    return (
        all(getattr(a.series, name) == getattr(b.series, name) for name in shared)
        and a.component == b.component
        and a.velocity == b.velocity
        and (len(first) > 1) == (len(second) > 1)
        and same_grid(a, b)
    )
