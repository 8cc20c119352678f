"""What each channel of a study holds, as "channel_kinds" of dataset.json says: what space does to it, and what time does.

signal        what a scanner measures in arbitrary units: cine, magnitude, a contrast series. What is not declared is this.
map           one 3D image that holds for all frames, in units of its own: a T1 map beside a contrast series.
velocity X    4D flow: velocity along the file's axis X, positive towards growing index; "velocity -X" towards falling index.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet4d.errors import InputError

SIGNAL, MAP = "signal", "map"
VELOCITIES = tuple(f"velocity {sign}{axis}" for axis in "XYZ" for sign in ("", "-"))
CHANNEL_KINDS = (SIGNAL, MAP, *VELOCITIES)


def velocity_axis(kind: str) -> tuple[int, int] | None:
    """The axis (0 to 2) a velocity lies along and its sign (1 or -1); None for another kind."""
    if kind not in VELOCITIES:
        return None
    name = kind.removeprefix("velocity ")
    return "XYZ".index(name[-1]), -1 if name.startswith("-") else 1


def channels_of_kind(kinds: Sequence[str], *wanted: str) -> list[int]:
    """The channels of these kinds, such as `channels_of(kinds, *VELOCITIES)`."""
    return [channel for channel, kind in enumerate(kinds) if kind in wanted]


def unsigned_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """What the kinds of a study become on the network's axes, where every velocity is positive towards growing index."""
    return tuple(kind.replace("-", "") for kind in kinds)


def reorient_channels(
    kinds: Sequence[str], order: Sequence[int], flips: Sequence[bool], what: Path | str
) -> list[tuple[int, int]]:
    """For each channel of a study whose axes are turned, the channel it comes from and its sign, 1 or -1.

    A velocity is a vector: its components turn with the axes. Each keeps its place, so that "velocity X" or "velocity -X" holds the
    component along the new axis X, positive towards growing index.

        order (1, 2, 0), flips (no, yes, no)      new X = old Y     new Y = old Z, backwards     new Z = old X
        signal, velocity X, velocity Y, velocity Z  ->  [(0, 1), (2, 1), (3, -1), (1, 1)]

    Args:
        kinds: one a channel.
        order: for each new axis, the old axis it is.
        flips: for each new axis, whether it runs against the old one.
        what: the study, for the message.

    Raises:
        InputError: a component is needed that no channel holds.
    """
    held = {axis[0]: (channel, axis[1]) for channel, axis in enumerate(map(velocity_axis, kinds)) if axis}
    sources = []
    for channel, kind in enumerate(kinds):
        axis = velocity_axis(kind)
        if axis is None:
            sources.append((channel, 1))
            continue
        new, old = axis[0], order[axis[0]]
        if old not in held:
            came = ", ".join(one for one in kinds if velocity_axis(one))
            raise InputError(
                f"{what}: the network's axis {'XYZ'[new]} is the file's axis {'XYZ'[old]}, and {came} came; wanted "
                f'"velocity {"XYZ"[old]}", too; give all three components, or store the study with its slices last'
            )
        source, sign = held[old]
        sources.append((source, -sign if flips[new] else sign))
    return sources


def mirror_signs(kinds: Sequence[str]) -> list[tuple[int, ...]]:
    """For each channel, what it is multiplied by where X, Y or Z is mirrored: -1 for the velocity along that axis, else 1."""
    along = [velocity_axis(kind) for kind in kinds]
    return [tuple(-1 if axis and axis[0] == n else 1 for n in range(3)) for axis in along]
