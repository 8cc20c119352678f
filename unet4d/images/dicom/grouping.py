"""Which planes belong to one study.

A series is one study. A series that holds more than one component (magnitude and phase; water and fat) is one of each, and one
of each echo where the echo time varies at one place. Many scanners store every slice of a cine stack as a series of its own:
series are joined into one study if each holds a single slice, and they share

    patient, study and frame of reference,
    orientation, pixel spacing and matrix,
    the component (magnitude, phase, ...) and, of several, the echo,
    SeriesDescription, ProtocolName and SequenceName but for digits and punctuation ("sax_03" and "sax_04" are alike),
    and whether they hold one frame or many,

and lie at two places or more. If all lie at one place, they are repetitions: each is a study. A stack in which one slice was
acquired twice is therefore refused as a duplicate, with both series named: nobody but the user knows which one is good. Series
with several frame numbers are joined too, and refused: a slice that lost a file must not vanish from its stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet4d.images.dicom.file_search import FoundDicom, RejectedFile
from unet4d.images.dicom.geometry import alike, most_at_one_place, same_direction, same_size, same_spacing, slices_of
from unet4d.images.dicom.instance import Plane, Series

_SAME_ECHO_MS = 0.05


@dataclass(frozen=True, eq=False)
class StudyCandidate:
    """What may be one study.

    Attributes:
        series: one or more, by number.
        planes: none, if all its files are damaged.
        faults: files of it that give no plane; also damaged ones in a folder of its whose header does not say where they belong.
    """

    series: tuple[Series, ...]
    planes: tuple[Plane, ...]
    faults: tuple[RejectedFile, ...] = ()

    @property
    def frames(self) -> int:
        """Planes at one place; 0 if there is none."""
        return most_at_one_place(self.planes) if self.planes else 0

    @property
    def component(self) -> str:
        """Of its planes; "" if there is none."""
        return self.planes[0].component if self.planes else ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it is made of, each once."""
        files = [plane.file for plane in self.planes] + [fault.file for fault in self.faults]
        return tuple(dict.fromkeys(files))

    @property
    def title(self) -> str:
        """As messages name it."""
        titles = [series.title for series in self.series]
        what = f", {self.component}" if self.component not in ("", "magnitude") else ""
        return (titles[0] if len(titles) == 1 else f"{titles[0]} to {titles[-1]}, one a slice") + what


def group_into_studies(found: FoundDicom) -> list[StudyCandidate]:
    """The studies there may be, by patient, time of the study, series number, UID and component."""
    groups: dict[tuple[str, str], list[Plane]] = {}
    for plane in found.planes:
        groups.setdefault((plane.series.uid, plane.component), []).append(plane)
    made = [
        _candidate(planes, found) for planes in _joined([echo for group in groups.values() for echo in _echoes(group)])
    ]
    known = {series.uid for candidate in made for series in candidate.series}
    lost: dict[Series, list[RejectedFile]] = {}
    for fault in found.damaged:
        if fault.series and fault.series.uid not in known:
            lost.setdefault(fault.series, []).append(fault)
    made += [StudyCandidate((series,), (), tuple(faults)) for series, faults in lost.items()]
    return sorted(made, key=lambda candidate: (_order(candidate.series[0]), candidate.component))


def _candidate(planes: Sequence[Plane], found: FoundDicom) -> StudyCandidate:
    by_uid = {plane.series.uid: plane.series for plane in planes}
    folders = {plane.file.parent for plane in planes}
    faults = [fault for fault in (*found.damaged, *found.others) if fault.series and fault.series.uid in by_uid]
    faults += [fault for fault in found.damaged if not fault.series and fault.file.parent in folders]
    return StudyCandidate(tuple(sorted(by_uid.values(), key=_order)), tuple(planes), tuple(faults))


def _echoes(planes: list[Plane]) -> list[list[Plane]]:
    """The planes of a series by their echo, which their component then names, if one place has several; else all of them."""
    places = [place for group in alike(planes, same_direction) for place in slices_of(group)]
    if all(len(alike(place, _same_echo)) == 1 for place in places):
        return [planes]
    return [
        [replace(plane, component=f"{plane.component}, echo at {_ms(echo[0])} ms") for plane in echo]
        for echo in alike(planes, _same_echo)
    ]


def _same_echo(one: Plane, other: Plane) -> bool:
    if one.echo_ms is None or other.echo_ms is None:
        return one.echo_ms is other.echo_ms
    return abs(one.echo_ms - other.echo_ms) <= _SAME_ECHO_MS


def _ms(plane: Plane) -> str:
    return "unknown" if plane.echo_ms is None else f"{plane.echo_ms:.4g}"


def _joined(groups: Sequence[list[Plane]]) -> list[list[Plane]]:
    """Series of a single slice joined where they make a stack; the others as they are."""
    single = [group for group in groups if len(alike(group, same_direction)) == 1 and len(slices_of(group)) == 1]
    joined = [group for group in groups if group not in single]
    for stack in alike(single, _same_stack):
        planes = [plane for group in stack for plane in group]
        joined += [planes] if len(slices_of(planes)) > 1 else stack
    return joined


def _same_stack(one: Sequence[Plane], other: Sequence[Plane]) -> bool:
    a, b = one[0], other[0]
    return (
        all(
            getattr(a.series, name) == getattr(b.series, name)
            for name in ("patient", "study", "frame_of_reference", "label")
        )
        and a.component == b.component
        and (len(one) > 1) == (len(other) > 1)
        and same_direction(a, b)
        and same_spacing(a, b)
        and same_size(a, b)
    )


def _order(series: Series) -> tuple[str, str, int, str]:
    return series.patient, series.started, series.number, series.uid
