"""What each channel of a study holds, as "channel_kinds" of dataset.json says: what space does to it, and what time does.

signal        what a scanner measures in arbitrary units: cine, magnitude, a contrast series. What is not declared is this.
map           one 3D image that holds for all frames, in units of its own: a T1 map beside a contrast series.
velocity X    4D flow: velocity along the file's axis X, positive towards growing index; "velocity -X" towards falling index.
"""

from __future__ import annotations

from collections.abc import Sequence

SIGNAL, MAP = "signal", "map"
VELOCITIES = tuple(f"velocity {sign}{axis}" for axis in "XYZ" for sign in ("", "-"))
KINDS = (SIGNAL, MAP, *VELOCITIES)


def velocity_axis(kind: str) -> tuple[int, int] | None:
    """The axis (0 to 2) a velocity lies along and its sign (1 or -1); None for another kind."""
    if kind not in VELOCITIES:
        return None
    name = kind.removeprefix("velocity ")
    return "XYZ".index(name[-1]), -1 if name.startswith("-") else 1


def channels_of(kinds: Sequence[str], *wanted: str) -> list[int]:
    """The channels of these kinds, such as `channels_of(kinds, *VELOCITIES)`."""
    return [channel for channel, kind in enumerate(kinds) if kind in wanted]
