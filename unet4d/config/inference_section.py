"""The settings of inference: the sliding window, priming and smoothing over time."""

from __future__ import annotations

from dataclasses import dataclass, field

from unet4d.config.sections import MOST
from unet4d.system.checks import check_ranges, check_types, require

MOST_SMOOTHING = 1000
"""Frames."""


@dataclass
class InferenceConfig:
    """The sliding window: in space only, over all frames at once."""

    overlap: float = 0.5
    """Share of a window that its neighbor covers too, 0 to below 1."""
    sw_batch_size: int = 1
    """Windows computed at once."""
    chunk_frames: int | None = None
    """Frames computed at once. The states are handed on, so the result does not depend on it. Unset: as many
    as fit the memory."""
    mirror_axes: list[int] = field(default_factory=list)
    """Axes (0 = X, 1 = Y, 2 = Z) along which a study is mirrored, too, and the results averaged: twice the work for each. Of
    data.flip_axes: no network knows a study mirrored as it never saw one."""
    priming_frames: int | None = 12
    """Frames of a cyclic study over which recurrence runs before the run that counts: its last ones, backward its first ones.
    0: none, as in an open study. null: all, a whole cycle."""
    temporal_smoothing: float | None = None
    """Width, in frames, of the filter that smooths the network's output over time, before the label map is taken from it: a
    Gaussian one of fourth order, which keeps the peaks of a curve. Unset: 0.08 of a cyclic study's frames, 0 of an open one's.
    0: none."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_types(self, "inference")
        require(0 <= self.overlap < 1, "inference.overlap", self.overlap, "a share from 0 to below 1")
        ranges = {"sw_batch_size": (1, MOST), "chunk_frames": (1, MOST), "priming_frames": (0, MOST)}
        check_ranges(self, "inference", ranges | {"temporal_smoothing": (0, MOST_SMOOTHING)})
        axes = self.mirror_axes
        require(set(axes) <= {0, 1, 2}, "inference.mirror_axes", axes, "a list of axes among 0, 1 and 2")
