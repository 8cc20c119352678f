"""The choice of a clip's frames: positions, strides and augmentation of time, as arithmetic on frame numbers.

A clip has an anchor, a labelled frame of the study, at a position in the clip; steps lead from there to both ends.

    anchor [5] at position 1 of 4, stride 2
        cyclic, 8 frames      3  [5]  7   1      the last frame leads into the first
        open,   9 frames      4  [5]  6   7      9 would lie outside: the stride is lowered to what fits
        open,  12 frames      3  [5]  7   9
          reversed            7  [5]  3   1      every step is negative
          a frame dropped     3  [5]  9  11      one step is doubled
          a frame repeated    3  [5]  5   7      one step is 0
    anchor [1] at position 2 of 5, stride 1
        open,   2 frames      0-  0  [1]  1- 1-  - is padding: a copy of the frame at the end, never a labelled frame
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from unet4d.config import DataConfig
from unet4d.pipeline.augmentation.presets import TIME_PRESETS


@dataclass(frozen=True)
class TemporalWarp:
    """The timing of a clip: the steps from one of its frames to the next."""

    stride: int = 1  # study frames between neighbors of the clip
    speeds: tuple[float, float] = (1.0, 1.0)  # factors on the first and the last step, geometric between them
    reverse: bool = False  # the clip runs backwards
    drop: int | None = None  # the doubled step
    repeat: int | None = None  # the step that is 0, even if it is the doubled one

    @classmethod
    def sample(cls, rng: np.random.Generator, config: DataConfig, frames: int, reverse: bool) -> TemporalWarp:
        """Return a random timing for a clip of `frames`."""
        preset = TIME_PRESETS[config.time_augmentation]
        stride = int(rng.integers(1, config.max_frame_stride + 1))
        is_varied, is_dropped, is_repeated = rng.random(3) < (preset.vary, preset.drop, preset.repeat)
        first, last = 1.0, 1.0
        if is_varied:
            first, last = np.exp(rng.uniform(math.log(preset.slowest), math.log(preset.fastest), 2)).tolist()
        drop, repeat = rng.integers(frames - 1, size=2).tolist() if frames > 1 else (None, None)
        return cls(stride, (first, last), reverse, drop if is_dropped else None, repeat if is_repeated else None)

    def offsets(self, frames: int, position: int) -> np.ndarray:
        """Return the distance of each frame of a clip from the one at `position`, (frames,) ints, in study frames.

        Changes of speed are rounded to the nearest frame, never interpolated, so that every label stays that of its image.
        """
        path = np.concatenate([[0.0], np.cumsum(self.stride * np.geomspace(*self.speeds, frames - 1))])
        steps = np.diff(np.rint(path - path[position]).astype(int))
        if self.drop is not None:
            steps[self.drop] *= 2
        if self.repeat is not None:
            steps[self.repeat] = 0
        reached = np.concatenate([[0], np.cumsum(steps)])
        return (reached - reached[position]) * (-1 if self.reverse else 1)

    def simpler(self) -> Iterator[TemporalWarp]:
        """Yield this timing, the same with ever lower strides, and at last a steady one of stride 1 in the same direction."""
        yield from (replace(self, stride=stride) for stride in range(self.stride, 0, -1))
        yield TemporalWarp(reverse=self.reverse)


STEADY = TemporalWarp()


class ClipFrames(NamedTuple):
    """The study's frames that a clip holds, (T,) each. A frame repeated inside the study is no padding: it keeps its label."""

    frames: np.ndarray  # frames of the study
    padding: np.ndarray  # True beyond the study's ends, where the frame at the end is shown


def clip_frames(
    anchor: int, position: int, frames: int, study_frames: int, cyclic: bool, timing: TemporalWarp = STEADY
) -> ClipFrames:
    """Return the frames of a clip that has the study's frame `anchor` at `position`.

    A cyclic study is run through as often as the clip needs: another position is the same loop shifted. In an open one, a timing
    that leads outside is made simpler until it does not; if even the steady one does, the frames at the study's ends are repeated.
    """
    if cyclic:
        return ClipFrames((anchor + timing.offsets(frames, position)) % study_frames, np.zeros(frames, bool))
    for simpler in timing.simpler():
        wanted = anchor + simpler.offsets(frames, position)
        inside = np.clip(wanted, 0, study_frames - 1)
        if (inside == wanted).all():
            break
    return ClipFrames(inside, inside != wanted)


def even_runs(clip: ClipFrames, length: int, study_frames: int) -> list[int]:
    """Return the first frame of every run of `length` frames that are evenly spaced in the study; none holds padding.

    frames 3 5 7 8 9 9    runs of 3 start at 0 and 2: a step of 2 is followed by 2, and 1 by 1; a repeated frame has no step
    """
    steps = np.diff(clip.frames) % study_frames  # of a loop, over its end as anywhere else
    found = []
    for first in range(len(clip.frames) - length + 1):
        own = steps[first : first + length - 1]
        if own[0] and (own == own[0]).all() and not clip.padding[first : first + length].any():
            found.append(first)
    return found


class ClipPosition(NamedTuple):
    """The position of the anchor in a clip, and whether the clip runs backwards."""

    position: int
    reverse: bool


def clip_positions(anchor: int, frames: int, study_frames: int, cyclic: bool, both_ways: bool) -> list[ClipPosition]:
    """Return the positions that the study's frame `anchor` can have in clips of `frames`.

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


def stratified_item(draw: int, count: int, seed: Sequence[int]) -> tuple[int, int]:
    """Return round and item of a draw: each round takes all of `count` items once, in a random order of its own."""
    round_, turn = divmod(draw, count)
    return round_, int(np.random.default_rng([*seed, round_]).permutation(count)[turn])


def most_labelled_frames(frames: int, study_frames: int, labelled_frames: int, cyclic: bool, config: DataConfig) -> int:
    """Return an upper bound of a clip's labelled frames, whichever the study's labelled frames are; exact for steady clips.

    A loop shows a frame once per round, and a stride that divides the loop shows the same few frames in every round. Slow clips
    show a frame twice. Padding is never labelled.
    """
    if config.time_augmentation == "off":
        strides = range(1, config.max_frame_stride + 1) if cyclic else range(1)
        return max(_most_labelled_in_steady(frames, study_frames, labelled_frames, stride) for stride in strides)
    preset = TIME_PRESETS[config.time_augmentation]
    # One step more for a dropped frame, and two frames at most for rounding.
    length = frames * config.max_frame_stride * preset.fastest + 2
    rounds = int(length // study_frames) + 1 if cyclic else 1
    # The frames of a slow clip that show one study frame, or two neighbors joined by a repeat.
    one, two = (int(width / preset.slowest) + 1 for width in (1, 2))
    return min(frames, rounds * labelled_frames * one + two - one)


def _most_labelled_in_steady(frames: int, study_frames: int, labelled_frames: int, stride: int) -> int:
    """Return the same for a steady clip of a loop; stride 0 stands for an open study, which shows no frame twice."""
    different = study_frames // math.gcd(study_frames, stride) if stride else frames
    rounds, more = divmod(frames, different)
    labelled = min(labelled_frames, different)
    return rounds * labelled + min(more, labelled)
