"""Channel kinds of a study, as "channel_kinds" of dataset.json gives them: how a channel follows space and time.

signal        a scanner's measurement in arbitrary units: cine, magnitude, a contrast series. The kind of an undeclared channel.
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
    """Return the axis (0 to 2) that a velocity lies along and its sign (1 or -1); None for another kind."""
    if kind not in VELOCITIES:
        return None
    return "XYZ".index(kind[-1]), -1 if "-" in kind else 1


def channels_of_kind(kinds: Sequence[str], *chosen: str) -> list[int]:
    """Return the channels of the chosen kinds, such as `channels_of_kind(kinds, *VELOCITIES)`."""
    return [channel for channel, kind in enumerate(kinds) if kind in chosen]


def unsigned_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds on the network's axes, where every velocity is positive towards growing index."""
    return tuple(kind.replace("-", "") for kind in kinds)


def reorient_channels(
    kinds: Sequence[str], order: Sequence[int], flips: Sequence[bool], what: Path | str
) -> list[tuple[int, int]]:
    """Return for each channel of a study with reoriented axes the channel it comes from and its sign, 1 or -1.

    A velocity is a vector: its components turn with the axes. Each keeps its place, so that "velocity X" or "velocity -X" holds the
    component along the new axis X, positive towards growing index.

        order (1, 2, 0), flips (no, yes, no)      new X = old Y     new Y = old Z, backwards     new Z = old X
        signal, velocity X, velocity Y, velocity Z  ->  [(0, 1), (2, 1), (3, -1), (1, 1)]

    Args:
        kinds: one per channel.
        order: for each new axis, the old axis it is.
        flips: for each new axis, whether it runs against the old one.
        what: the study, for the message.

    Raises:
        InputError: a component is needed that no channel holds.
    """
    components = {axis[0]: (channel, axis[1]) for channel, axis in enumerate(map(velocity_axis, kinds)) if axis}
    sources = []
    for channel, kind in enumerate(kinds):
        axis = velocity_axis(kind)
        if axis is None:
            sources.append((channel, 1))
            continue
        new, old = axis[0], order[axis[0]]
        if old not in components:
            given = ", ".join(kind for kind in kinds if velocity_axis(kind))
            raise InputError(
                f'{what}: got {given}, expected "velocity {"XYZ"[old]}", too, because the network\'s axis {"XYZ"[new]} is the '
                f"file's axis {'XYZ'[old]}; give all three components, or store the study with its slices last"
            )
        source, sign = components[old]
        sources.append((source, -sign if flips[new] else sign))
    return sources


def mirror_signs(kinds: Sequence[str]) -> list[tuple[int, ...]]:
    """Return for each channel its factor where X, Y or Z is mirrored: -1 for the velocity along that axis, else 1."""
    axes = [velocity_axis(kind) for kind in kinds]
    return [tuple(-1 if axis and axis[0] == n else 1 for n in range(3)) for axis in axes]
