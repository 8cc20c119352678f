"""4D flow in DICOM: a magnitude and three velocity images on one grid become the channels of one study.

A set is three velocity images of one venc with directions along three axes of the grid, and the magnitude on the same grid
and of the same number of frames: of the same series, else of the series with the nearest number. Velocities become cm/s,
positive towards growing voxel index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL, velocity_axis
from unet4d.images.dicom.geometry import group_alike
from unet4d.images.dicom.grouping import StudyCandidate
from unet4d.images.dicom.instance import Plane
from unet4d.images.dicom.velocity import Velocity, has_scale, in_cm_s
from unet4d.images.dicom.volume4d import SliceStack

FLOW_KINDS = {"magnitude": SIGNAL, "velocity X": "velocity X", "velocity Y": "velocity Y", "velocity Z": "velocity Z"}
"""Channels of a set where the user names none, by name."""
_ALONG = 0.7  # smallest cosine of a direction and its axis
_SAME_MM = 0.05

_Item = tuple[int, StudyCandidate, SliceStack]


@dataclass(frozen=True, eq=False)
class FlowSet:
    """A magnitude and its velocities, as places in the list of candidates.

    Attributes:
        magnitude: the place of the magnitude.
        velocities: axis of the grid, 0 to 2, to the place of its velocity and its sign.
    """

    magnitude: int
    velocities: Mapping[int, tuple[int, int]]

    @property
    def members(self) -> tuple[int, ...]:
        """Return the places of all its candidates, the magnitude first."""
        return self.magnitude, *(place for place, _ in self.velocities.values())


def find_flow_sets(
    candidates: Sequence[StudyCandidate], stacks: Sequence[SliceStack | InputError], axes: int = 3
) -> tuple[list[FlowSet], list[str]]:
    """Find the sets among candidates with their stacks.

    Args:
        candidates: of one source.
        stacks: one per candidate.
        axes: number of velocities of a set.

    Returns:
        the sets; for each group of velocities that makes no set, the reason.
    """
    every = enumerate(zip(candidates, stacks, strict=True))
    items = [(n, one, stack) for n, (one, stack) in every if isinstance(stack, SliceStack)]
    moving = [item for item in items if _plane(item).velocity is not None]
    still = [item for item in items if _plane(item).velocity is None and item[1].component.startswith("magnitude")]
    sets: list[FlowSet] = []
    notes: list[str] = []
    for group in group_alike(moving, _same_flow):
        group.sort(key=lambda item: item[1].series[0].number)
        for first in range(0, len(group), axes):
            chosen = group[first : first + axes]
            found = _assign_axes(chosen)
            free = [item for item in still if item[0] not in {one.magnitude for one in sets}]
            magnitudes = [item for item in free if _same_space(item, chosen[0])]
            reason = _fault(chosen, len(found), axes, len(magnitudes))
            if reason:
                title = " and ".join(item[1].title for item in chosen)
                notes.append(f"{title}: {reason}; read as studies of their own")
            else:
                sets.append(FlowSet(_nearest(magnitudes, chosen)[0], found))
    return sets, notes


def _fault(chosen: Sequence[_Item], directions: int, axes: int, magnitudes: int) -> str:
    """Return why velocity images make no set; "" where they do."""
    if directions != axes:
        return f"got velocities along {directions} of the grid's axes, expected {axes}"
    if any(_velocity(item).is_weighted for item in chosen):
        return "got velocities weighted by the magnitude, expected plain ones"
    return "" if magnitudes else "got no magnitude on their grid, expected one"


def channel_stacks(
    flow: FlowSet, stacks: Sequence[SliceStack | InputError], kinds: Sequence[str]
) -> tuple[SliceStack, ...]:
    """Return the stack of each channel, of the kinds in order, velocities in cm/s with the sign of their kind.

    Raises:
        InputError: a velocity is asked for that the set lacks.
    """
    found = []
    for kind in kinds:
        axis = velocity_axis(kind)
        place, sign = flow.velocities.get(axis[0], (-1, 1)) if axis else (flow.magnitude, 1)
        if place < 0:
            known = ", ".join(f"velocity {'XYZ'[one]}" for one in sorted(flow.velocities))
            raise InputError(f"the series have {known}, expected {kind!r}, too; name the channels that they have")
        stack = stacks[place]
        assert isinstance(stack, SliceStack)
        if axis:
            planes = tuple(tuple(in_cm_s(plane, sign * axis[1]) for plane in frame) for frame in stack.planes)
            stack = replace(stack, planes=planes)
        found.append(stack)
    return tuple(found)


def velocity_unit(stacks: Sequence[SliceStack | InputError]) -> str | None:
    """Return "cm/s" where a study has velocities, and all headers have their scale; else None."""
    planes = [stack.planes[0][0] for stack in stacks if isinstance(stack, SliceStack)]
    moving = [plane for plane in planes if plane.velocity is not None]
    return "cm/s" if moving and all(map(has_scale, moving)) else None


def describe_flow(
    flow: FlowSet, candidates: Sequence[StudyCandidate], stacks: Sequence[SliceStack | InputError]
) -> Iterator[str]:
    """Yield what is known of a set, and what could not be known."""
    velocities = {axis: stacks[place] for axis, (place, _) in sorted(flow.velocities.items())}
    planes = {axis: stack.planes[0][0] for axis, stack in velocities.items() if isinstance(stack, SliceStack)}
    texts = [f"velocity {'XYZ'[axis]} ({plane.velocity.text})" for axis, plane in planes.items() if plane.velocity]
    titles = ", ".join(candidates[place].title for place in flow.members)
    yield f"{titles}: one 4D flow study of magnitude, {', '.join(texts)}"
    if not all(plane.velocity and plane.velocity.stated for plane in planes.values()):
        yield "the header does not give the sign of velocities: directions are taken as named (rl: to the left); check it"
    if not all(map(has_scale, planes.values())):
        yield "the header has no scale from stored values to cm/s: velocities stay as they are stored"


def _plane(item: _Item) -> Plane:
    return item[2].planes[0][0]


def _velocity(item: _Item) -> Velocity:
    velocity = _plane(item).velocity
    assert velocity is not None
    return velocity


def _same_space(a: _Item, b: _Item) -> bool:
    """Return whether two candidates are of one patient and study, and share grid and frames."""
    one, other = a[1].series[0], b[1].series[0]
    return (
        (one.patient, one.study, one.frame_of_reference) == (other.patient, other.study, other.frame_of_reference)
        and a[2].shape == b[2].shape
        and bool(np.allclose(a[2].affine, b[2].affine, atol=_SAME_MM))
    )


def _same_flow(a: _Item, b: _Item) -> bool:
    return _same_space(a, b) and _velocity(a).venc_cm_s == _velocity(b).venc_cm_s


def _assign_axes(group: Sequence[_Item]) -> dict[int, tuple[int, int]]:
    """Map axes of the grid to the velocities along them, with their signs."""
    found = {}
    for item in group:
        plane = _plane(item)
        x, y = np.array(plane.axes[:3]), np.array(plane.axes[3:])
        cosines = np.array([x, y, np.cross(x, y)]) @ np.array(_velocity(item).direction)
        axis = int(np.argmax(np.abs(cosines)))
        if abs(cosines[axis]) >= _ALONG:
            found[axis] = (item[0], 1 if cosines[axis] > 0 else -1)
    return found


def _nearest(magnitudes: Sequence[_Item], chosen: Sequence[_Item]) -> _Item:
    """Return the magnitude of the same series as a velocity, else that with the nearest series number."""
    uids = {series.uid for item in chosen for series in item[1].series}
    numbers = [item[1].series[0].number for item in chosen]
    return min(
        magnitudes,
        key=lambda item: (
            item[1].series[0].uid not in uids,
            min(abs(item[1].series[0].number - number) for number in numbers),
            item[0],
        ),
    )
