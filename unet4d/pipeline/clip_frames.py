"""Which frames of a study a clip holds: places, strides and augmentation of time, as arithmetic on frame numbers.

A clip has an anchor, a labelled frame of the study, that stands at a position in the clip; from there steps lead to both its ends.

    anchor [5] at position 1 of 4, stride 2
        cyclic, 8 frames      3  [5]  7   1      the last frame leads into the first
        open,   9 frames      4  [5]  6   7      9 would lie outside: the stride is lowered to what fits
        open,  12 frames      3  [5]  7   9
          reversed            7  [5]  3   1      every step is negative
          a frame dropped     3  [5]  9  11      one step is doubled
          a frame repeated    3  [5]  5   7      one step is 0
    anchor [1] at position 2 of 5, stride 1
        open,   2 frames      0-  0  [1]  1- 1-  held at its ends: - is padding, a copy that is never a labelled frame
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from unet4d.config import DataConfig


@dataclass(frozen=True)
class TimeStrength:
    """How far augmentation of time goes.

    Attributes:
        slowest: smallest factor on the study's speed.
        fastest: largest factor on the study's speed.
        vary: probability that a clip's speed is changed.
        drop: probability that a clip misses a frame.
        repeat: probability that a clip shows a frame once more.
        both_ways: whether half of the clips run backwards.
    """

    slowest: float
    fastest: float
    vary: float
    drop: float
    repeat: float
    both_ways: bool


STRENGTHS = {
    "off": TimeStrength(1.0, 1.0, 0.0, 0.0, 0.0, False),
    "mild": TimeStrength(0.8, 1.25, 0.5, 0.1, 0.1, False),
    "strong": TimeStrength(0.67, 1.5, 0.8, 0.25, 0.25, True),
}
"""Reversal comes with strong only: no heart beats backwards and no contrast washes in as it washes out. Still each frame keeps its
true neighbours, and a network that has seen both directions leans on them rather than on where in the cycle a clip began."""


@dataclass(frozen=True)
class TemporalWarp:
    """How a clip runs through its study.

    Attributes:
        stride: study frames between neighbours of the clip.
        speeds: factors on the stride at the clip's first and last step, and geometrically between them.
        reverse: whether the clip runs backwards.
        drop: the step that is doubled; None for none.
        repeat: the step that is 0, also where it was to be doubled; None for none.
    """

    stride: int = 1
    speeds: tuple[float, float] = (1.0, 1.0)
    reverse: bool = False
    drop: int | None = None
    repeat: int | None = None

    @classmethod
    def drawn(cls, rng: np.random.Generator, config: DataConfig, frames: int, reverse: bool) -> TemporalWarp:
        """The timing of a clip of `frames`, drawn as `config` says."""
        by = STRENGTHS[config.time_augmentation]
        stride = int(rng.integers(1, config.max_frame_stride + 1))
        varied, dropped, repeated = rng.random(3) < (by.vary, by.drop, by.repeat)
        first, last = (
            np.exp(rng.uniform(math.log(by.slowest), math.log(by.fastest), 2)).tolist() if varied else (1.0, 1.0)
        )
        drop, repeat = rng.integers(frames - 1, size=2).tolist() if frames > 1 else (None, None)
        return cls(stride, (first, last), reverse, drop if dropped else None, repeat if repeated else None)

    def offsets(self, frames: int, position: int) -> np.ndarray:
        """(frames,) ints: how far each frame of a clip lies from the one at `position`, in study frames.

        Changes of speed are rounded to the nearest frame, never interpolated, so that every label stays that of its image.
        """
        way = np.concatenate([[0.0], np.cumsum(self.stride * np.geomspace(*self.speeds, frames - 1))])
        steps = np.diff(np.rint(way - way[position]).astype(int))
        if self.drop is not None:
            steps[self.drop] *= 2
        if self.repeat is not None:
            steps[self.repeat] = 0
        reached = np.concatenate([[0], np.cumsum(steps)])
        return (reached - reached[position]) * (-1 if self.reverse else 1)

    def calmer(self) -> Iterator[TemporalWarp]:
        """This timing, with ever lower strides, and at last a steady one: stride 1 and nothing else, in the same direction."""
        yield from (replace(self, stride=stride) for stride in range(self.stride, 0, -1))
        yield TemporalWarp(reverse=self.reverse)


class ClipFrames(NamedTuple):
    """The study's frames that a clip holds.

    Attributes:
        frames: (T,) ints, each a frame of the study.
        padding: (T,) bool, where the study has no frame any more and the one at its end is shown. A frame repeated inside the
            study is no padding: it is that very frame, with its label.
    """

    frames: np.ndarray
    padding: np.ndarray


STEADY = TemporalWarp()


def clip_frames(
    anchor: int, position: int, frames: int, study_frames: int, cyclic: bool, timing: TemporalWarp = STEADY
) -> ClipFrames:
    """The frames of a clip with the study's frame `anchor` at `position`.

    A cyclic study goes round, as often as the clip needs: another position is the same loop shifted, and T positions of a loop of T
    frames are all its rotations. In an open one a timing that leads outside is calmed until it does not; where even the steady one
    does, as in a study shorter than the clip, the study's ends are held.
    """
    if cyclic:
        return ClipFrames((anchor + timing.offsets(frames, position)) % study_frames, np.zeros(frames, bool))
    for calmer in timing.calmer():
        wanted = anchor + calmer.offsets(frames, position)
        held = np.clip(wanted, 0, study_frames - 1)
        if (held == wanted).all():
            break
    return ClipFrames(held, held != wanted)


class ClipPosition(NamedTuple):
    """Where in a clip its anchor stands, and whether the clip runs backwards."""

    position: int
    reverse: bool


def places(anchor: int, frames: int, study_frames: int, cyclic: bool, both_ways: bool) -> list[ClipPosition]:
    """The places of the study's frame `anchor` in clips of `frames`.

    In a cyclic study every position; in an open one those where a steady clip lies inside the study, or the study inside the clip.

        open, 6 frames, clips of 4:    anchor 0 at 0, 1 at 0 and 1, 2 at 0 to 2, 3 at 1 to 3, 4 at 2 and 3, 5 at 3
    """
    found = []
    for reverse in (False, True) if both_ways else (False,):
        for position in range(frames):
            before, after = (frames - 1 - position, position) if reverse else (position, frames - 1 - position)
            spare = anchor - before, study_frames - 1 - anchor - after
            if cyclic or min(spare) >= 0 or max(spare) <= 0:
                found.append(ClipPosition(position, reverse))
    return found


def stratified(visit: int, count: int, seed: Sequence[int]) -> tuple[int, int]:
    """Lap and item of a visit: each lap takes all of `count` items once, in an order of its own that hangs on `seed`."""
    lap, turn = divmod(visit, count)
    return lap, int(np.random.default_rng([*seed, lap]).permutation(count)[turn])


def most_labelled(frames: int, study_frames: int, labelled_frames: int, cyclic: bool, config: DataConfig) -> int:
    """No clip has more labelled frames than this, wherever the study's `labelled_frames` lie; without augmentation of time one may.

    A loop shows a frame once in each round, a stride that divides it round after round the same few; slow clips show a frame
    twice. Padding is never labelled.
    """
    if config.time_augmentation == "off":
        strides = range(1, config.max_frame_stride + 1) if cyclic else range(1)
        return max(_labelled_in_steady(frames, study_frames, labelled_frames, stride) for stride in strides)
    by = STRENGTHS[config.time_augmentation]
    # One step more for a dropped frame, and two frames at most for rounding.
    length = frames * config.max_frame_stride * by.fastest + 2
    rounds = int(length // study_frames) + 1 if cyclic else 1
    # What one frame, and two neighbours made one by a repeat, can fill of a slow clip.
    one, two = (int(wide / by.slowest) + 1 for wide in (1, 2))
    return min(frames, rounds * labelled_frames * one + two - one)


def _labelled_in_steady(frames: int, study_frames: int, labelled_frames: int, stride: int) -> int:
    """The same of a steady clip of a loop; stride 0 stands for an open study, which shows no frame twice."""
    different = study_frames // math.gcd(study_frames, stride) if stride else frames
    rounds, more = divmod(frames, different)
    labelled = min(labelled_frames, different)
    return rounds * labelled + min(more, labelled)
