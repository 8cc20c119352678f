"""The predictor of windows: a network's logits of a batch of windows, with fewer windows or frames at once after memory ran out."""

from __future__ import annotations

import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unet4d.config import InferenceConfig
from unet4d.models.chunked import ChunkedRecurrence
from unet4d.models.clstm_unet import CLSTMUNet, NetworkState
from unet4d.models.device import autocast, set_tf32
from unet4d.system.memory_errors import drop_failed_work, is_out_of_main_memory, is_out_of_memory, memory_error_reason
from unet4d.system.text import count

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass
class _Limits:
    """Memory limits found for a network, kept with it, so that later studies need not try more.

    Attributes:
        frames: the most frames computed at once, counted over all windows.
        stitched_bytes: logits of this size or more are stitched in main memory.
    """

    frames: float = math.inf
    stitched_bytes: float = math.inf


_limits: weakref.WeakKeyDictionary[CLSTMUNet, _Limits] = weakref.WeakKeyDictionary()


@dataclass
class WindowPredictor:
    """A network that predicts windows. Where memory runs out it falls back to a leaner way, which changes nothing but time.

    Attributes:
        network: on `device`, in evaluation mode.
        device: where windows are computed.
        roi_size: voxels (X, Y, Z) of a window, multiples of the network's total stride.
        config: overlap, priming, and windows and frames computed at once to begin with; logits are averaged over all mirrorings
            of a window along `mirror_axes`, as in nnU-Net.
        precision: "bf16", "fp16", "tf32" or "fp32".
        cyclic: the last frame leads into the first.
        cyclic_shifts: logits of a cyclic study are averaged over this many first frames.
        signs: for each of the C channels, its factor where X, Y or Z is mirrored, (1, 1, -1) for a velocity along Z; empty: all 1.
        tick: called with the number of windows that were stitched.
        windows_at_once: windows computed at once now.
        frames_at_once: frames computed at once now; None: all.
        stitch_on: where logits are stitched, as memory_plan.py decides; None: on `device`.
        stitched_bytes: of the largest logits that were stitched on the GPU.
    """

    network: CLSTMUNet
    device: torch.device
    roi_size: Sequence[int]
    config: InferenceConfig
    precision: str
    cyclic: bool
    cyclic_shifts: int = 1
    signs: Sequence[Sequence[int]] = ()
    tick: Callable[[int], object] = field(default=lambda windows: None)
    windows_at_once: int = field(init=False)
    frames_at_once: int | None = field(init=False)
    stitch_on: torch.device | None = field(init=False, default=None)
    stitched_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begin with what is configured; a network that is not chunkable computes all frames at once."""
        self.windows_at_once, self.frames_at_once = self.config.sw_batch_size, self.config.chunk_frames
        if self.frames_at_once and not self.network.is_chunkable:
            self.frames_at_once = None

    @property
    def limits(self) -> _Limits:
        """Return the memory limits that were found for the network."""
        return _limits.setdefault(self.network, _Limits())

    def shifts(self, frames: int) -> list[int]:
        """Return the frames that a study of this many frames begins with, in turn."""
        shifts = min(self.cyclic_shifts, frames) if self.cyclic else 1
        return [round(frames * n / shifts) for n in range(shifts)]

    def averages(self, frames: int) -> bool:
        """Return whether logits are the mean of several passes."""
        return bool(self.config.mirror_axes) or len(self.shifts(frames)) > 1

    def limit_frames(self, frames: int, most: float = math.inf) -> None:
        """Compute no more than `most` frames at once of studies of this many frames: first fewer windows, then fewer frames."""
        most = min(most, self.limits.frames)
        at_once = min(self.frames_at_once or frames, frames)
        while self.windows_at_once > 1 and self.windows_at_once * at_once > most:
            self.windows_at_once //= 2
        while at_once > 1 and self.windows_at_once * at_once > most and self.network.is_chunkable:
            at_once = self.frames_at_once = -(-at_once // 2)

    @torch.inference_mode()
    def logits(self, clips: Tensor) -> Tensor | None:
        """Return logits (B, T, K, X, Y, Z) float32, on the device, of windows (B, T, C, X, Y, Z).

        They are None where memory ran out: then no more than `windows_at_once` windows may be given.
        Raise torch.OutOfMemoryError where the fewest frames of one window are too much.
        """
        set_tf32(self.device, self.precision)
        try:
            with autocast(self.device, self.precision):
                return mirrored_mean(self._shifted_mean, clips.to(self.device), self.config.mirror_axes, self.signs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # the traceback's frames hold the failed computation's tensors
        self.fall_back(clips.shape[1], failure)
        drop_failed_work()
        return None

    def fall_back(self, frames: int, failure: Exception | None = None) -> None:
        """Take the next leaner way for windows of this many frames, and report it.

        Raises:
            torch.OutOfMemoryError: there is none, and the GPU's memory ran out; `failure` itself where main memory did.
        """
        at_once = min(self.frames_at_once or frames, frames)
        if self.windows_at_once > 1:
            self.windows_at_once //= 2
            self.limits.frames = self.windows_at_once * at_once
            way = f"{count(self.windows_at_once, 'window')} at once"
        elif at_once > 1 and self.network.is_chunkable:
            self.limits.frames = self.frames_at_once = -(-at_once // 2)
            way = f"{count(self.frames_at_once, 'frame')} at once"
        elif self.device.type != "cpu" and self.stitch_on != CPU:
            self.stitch_in_main_memory()
            way = "logits stitched in main memory"
        else:
            if failure is not None and is_out_of_main_memory(failure):
                raise failure
            reason = f" ({memory_error_reason(failure)})" if failure else ""
            least = "one frame" if at_once == 1 else f"{at_once} frames"  # of a network that is not chunkable, all
            raise torch.OutOfMemoryError(f"{least} of one window is too much for the GPU{reason}") from failure
        logger.warning(f"out of memory: continuing with {way}, which takes longer and changes no result")

    def stitch_in_main_memory(self) -> None:
        """Stitch logits in main memory from now on, because the GPU has no memory for them."""
        self.stitch_on = CPU
        self.limits.stitched_bytes = min(self.limits.stitched_bytes, self.stitched_bytes)

    def stitching_device(self, needed_bytes: int) -> torch.device:
        """Return where logits of this size are stitched."""
        if self.device.type != "cuda":  # an Apple GPU shares main memory
            return self.stitch_on or CPU
        if self.stitch_on == CPU or needed_bytes >= self.limits.stitched_bytes:
            return CPU
        self.stitched_bytes = max(self.stitched_bytes, needed_bytes)
        return self.device

    def _shifted_mean(self, clips: Tensor) -> Tensor:
        shifts = self.shifts(clips.shape[1])
        total: Tensor | None = None
        for shift in shifts:
            shifted = clips.roll(-shift, 1) if shift else clips
            logits = in_chunks(
                self.network, shifted, self.frames_at_once or clips.shape[1], self.cyclic, self.config.priming_frames
            ).float()
            logits = logits.roll(shift, 1) if shift else logits
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(shifts)) if len(shifts) > 1 else total


def mirrored_mean(
    compute: Callable[[Tensor], Tensor], clip: Tensor, axes: Iterable[int], signs: Sequence[Sequence[int]] = ()
) -> Tensor:
    """Return the mean of `compute` over a clip (B, T, C, X, Y, Z) and its mirrorings along any of the `axes`, mirrored back.

    With `axes` (0, 1): as it is, along X, along Y, along both. The result, (B, T, K, X, Y, Z), is float32. See
    `WindowPredictor` for `signs`.
    """
    along = sorted(set(axes))
    mirrorings = [chosen for n in range(1, len(along) + 1) for chosen in itertools.combinations(along, n)]
    total = compute(clip)
    for chosen in mirrorings:
        spatial = [3 + axis for axis in chosen]
        mirrored = clip.flip(spatial)
        for channel, sign in enumerate(signs):
            if math.prod(sign[axis] for axis in chosen) < 0:
                mirrored[:, :, channel].neg_()
        total += compute(mirrored).flip(spatial)
    return total.div_(1 + len(mirrorings))


def in_chunks(network: CLSTMUNet, clip: Tensor, length: int, cyclic: bool, priming_frames: int | None = None) -> Tensor:
    """Return logits (B, T, K, X, Y, Z) of a clip (B, T, C, X, Y, Z), `length` frames at a time, equal to those of all at once.

    Between chunks the states are handed over. A bidirectional network first sweeps back over all chunks. A cyclic study is run
    through once before that, or as many frames of it as prime it, to warm up.
    """
    if length >= clip.shape[1]:
        return network(clip, cyclic=cyclic, priming_frames=priming_frames)
    recurrence = ChunkedRecurrence(network)
    start: NetworkState = recurrence.prime(clip, (length,), priming_frames) if cyclic else [None] * network.num_cells

    def logits_of_chunk(chunk: slice, state: NetworkState) -> tuple[Tensor, NetworkState]:
        [logits], after = network.level_logits(clip[:, chunk], state)
        return logits.unflatten(0, (len(clip), -1)), after

    return torch.cat(recurrence.run_chunks(clip, start, (length,), logits_of_chunk)[0], 1)
