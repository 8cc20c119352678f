"""The sliding window: in space only, every window sees all frames, so that no recurrence starts cold along time.

Logits come in rows along X, so that never more of them exist than are asked for:

    windows that begin before row b      a          b                  rows a to b are whole, and given out;
    [-----------|                        |==========|------]           the rest is carried to the next call
           [-----------|                            |------- ...
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unet4d.config import InferenceConfig
from unet4d.inference.windows import Pixels, WindowOrigin, Windows
from unet4d.models.chunked import ChunkedRecurrence
from unet4d.models.clstm_unet import CLSTMUNet, NetworkState
from unet4d.models.device import autocast, set_tf32
from unet4d.system.gpu_memory import free_bytes
from unet4d.system.memory_errors import (
    drop_failed_work,
    is_out_of_gpu_memory,
    is_out_of_main_memory,
    is_out_of_memory,
    memory_error_reason,
)

STITCHED_SHARE = 0.5
"""Of a GPU's free memory, what stitched logits may take; windows are computed in the rest."""


@dataclass
class Limits:
    """Memory limits that a network was found to have: kept with the network, so that later studies need not try more.

    Attributes:
        frames: the most frames computed at once, those of all windows together.
        stitched_bytes: logits of this size or more are stitched in main memory.
    """

    frames: float = math.inf
    stitched_bytes: float = math.inf


_limits: weakref.WeakKeyDictionary[CLSTMUNet, Limits] = weakref.WeakKeyDictionary()


@dataclass
class WindowPredictor:
    """How a network answers windows. What runs out of memory goes on in a leaner way, which changes nothing but time.

    Attributes:
        network: on `device`, in evaluation mode.
        device: where windows are computed.
        precision: "bf16", "fp16", "tf32" or "fp32".
        cyclic: the last frame leads into the first.
        windows: computed at once.
        chunk_frames: frames computed at once; None: all.
        mirror_axes: along which each window is mirrored, too, and the mean taken of all its mirrorings' logits, as in nnU-Net.
        signs: for each of the C channels, what it is multiplied by where X, Y or Z is mirrored, (1, 1, -1) for a velocity along Z;
            empty: 1 for all.
        shifts: a cyclic study is answered from each of these first frames, and the mean taken of the logits.
        stitch_on: where logits are stitched; None: on the GPU where they take less than half of what is free there.
        stitched_bytes: of the largest logits that were stitched on the GPU.
        say: where a line for the user goes.
        tick: told how many windows are done.
    """

    network: CLSTMUNet
    device: torch.device
    precision: str
    cyclic: bool
    windows: int = 1
    chunk_frames: int | None = None
    mirror_axes: Sequence[int] = ()
    signs: Sequence[Sequence[int]] = ()
    shifts: Sequence[int] = (0,)
    stitch_on: torch.device | None = None
    stitched_bytes: int = 0
    say: Callable[[str], None] = field(default=lambda line: None)
    tick: Callable[[int], object] = field(default=lambda windows: None)

    @classmethod
    def of(
        cls, network: CLSTMUNet, config: InferenceConfig, *, cyclic: bool, device: torch.device, precision: str
    ) -> WindowPredictor:
        """As a run is configured."""
        axes = tuple(config.mirror_axes)
        return cls(network, device, precision, cyclic, config.sw_batch_size, config.chunk_frames, axes)

    @property
    def limits(self) -> Limits:
        """Return the memory limits that the network was found to have."""
        return _limits.setdefault(self.network, Limits())

    def fit(self, frames: int, most: float) -> None:
        """Compute no more than `most` frames at once of studies of this many frames: first fewer windows, then fewer frames."""
        most = min(most, self.limits.frames)
        at_once = min(self.chunk_frames or frames, frames)
        while self.windows > 1 and self.windows * at_once > most:
            self.windows //= 2
        while at_once > 1 and self.windows * at_once > most:
            at_once = -(-at_once // 2)
            self.chunk_frames = at_once

    @torch.inference_mode()
    def logits(self, clips: Tensor) -> Tensor | None:
        """Logits (B, T, K, X, Y, Z) float32, on the device, of windows (B, T, C, X, Y, Z); or None, and a leaner way from now on.

        Raises:
            torch.OutOfMemoryError: there is no leaner way.
        """
        set_tf32(self.device, self.precision)
        try:
            with autocast(self.device, self.precision):
                return mirrored_mean(self._shifted_mean, clips.to(self.device), self.mirror_axes, self.signs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # the traceback's frames hold the failed computation's tensors
        self.step_down(clips.shape[1], failure)
        drop_failed_work()
        return None

    def step_down(self, frames: int, failure: Exception | None = None) -> None:
        """Take the next leaner way, and say so.

        Args:
            frames: of a window.
            failure: what ran out of memory.

        Raises:
            torch.OutOfMemoryError: there is none, and the GPU's memory ran out; `failure` itself where main memory did.
        """
        stitching = self.stitch_on is None or self.stitch_on.type != "cpu"
        at_once = min(self.chunk_frames or frames, frames)
        if self.windows > 1:
            self.windows //= 2
            self.limits.frames = self.windows * at_once
            now = f"{self.windows} window{'s' * (self.windows > 1)} at once"
        elif at_once > 1:
            self.chunk_frames = -(-at_once // 2)
            self.limits.frames = self.chunk_frames
            now = f"{self.chunk_frames} frame{'s' * (self.chunk_frames > 1)} at once"
        elif stitching and self.device.type != "cpu":
            self.stitch_in_main_memory()
            now = "logits stitched in main memory"
        else:
            if failure is not None and is_out_of_main_memory(failure):
                raise failure
            reason = f" ({memory_error_reason(failure)})" if failure else ""
            raise torch.OutOfMemoryError(f"one frame of one window is too much for the GPU{reason}") from failure
        self.say(f"out of memory: going on with {now}, which takes longer and changes no result")

    def stitch_in_main_memory(self) -> None:
        """Stitch there from now on, because the GPU has no memory for it."""
        self.stitch_on = torch.device("cpu")
        self.limits.stitched_bytes = min(self.limits.stitched_bytes, self.stitched_bytes)

    def stitching_device(self, needed_bytes: int) -> torch.device:
        """Return where logits of this size are stitched."""
        if self.device.type == "cpu":
            return self.stitch_on or self.device
        if self.stitch_on is None:
            fits = needed_bytes < STITCHED_SHARE * free_bytes(self.device)
        else:
            fits = self.stitch_on.type != "cpu"
        if not fits or needed_bytes >= self.limits.stitched_bytes:
            return torch.device("cpu")
        self.stitched_bytes = max(self.stitched_bytes, needed_bytes)
        return self.device

    def _shifted_mean(self, clips: Tensor) -> Tensor:
        total: Tensor | None = None
        for shift in self.shifts:
            answer = self._plain(clips.roll(-shift, 1) if shift else clips)
            answer = answer.roll(shift, 1) if shift else answer
            total = answer if total is None else total.add_(answer)
        assert total is not None
        return total.div_(len(self.shifts)) if len(self.shifts) > 1 else total

    def _plain(self, clips: Tensor) -> Tensor:
        return in_chunks(self.network, clips, self.chunk_frames or clips.shape[1], self.cyclic).float()


class LogitRows:
    """The logits of an image, row by row along X; each window is computed once, by the first call that needs it.

    Windows overlap and are blended with Gaussian weights (Isensee et al. 2021); stitching is in float32 whatever the precision.

    Args:
        answering: how windows are computed.
        image: (C, T, X, Y, Z), normalised, on the working grid.
        roi_size: voxels (X, Y, Z) of a window, multiples of the network's total stride.
        overlap: share of a window its neighbour covers.
        columns: the part (first, end) of Y that is wanted; None: all.
    """

    def __init__(
        self,
        answering: WindowPredictor,
        image: Pixels,
        roi_size: Sequence[int],
        overlap: float,
        columns: tuple[int, int] | None = None,
    ):
        answering.fit(image.shape[1], math.inf)
        self.answering, self.image = answering, image
        self.windows = Windows(image.shape[2:], roi_size, overlap)
        self.columns = columns or (0, image.shape[3])
        self.begin = 0
        self._pending = list(self.windows.starts[0])
        self._carried: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def upto(self, end: int, keep: int | None = None) -> Tensor:
        """Logits (T, K, end - begin, Y, Z) float32 of the rows from `begin` on; the next ones begin at `keep`, or at `end`.

        What is given out may be changed.

        Raises:
            torch.OutOfMemoryError: see `Answering.logits`.
        """
        keep, begin = end if keep is None else keep, self.begin
        now = [x for x in self._pending if x < end]
        self._pending = self._pending[len(now) :]
        carried = begin + (len(self._carried[1]) if self._carried else 0)
        reach = max([end, carried, *(self.windows.inside((x, 0, 0))[0][1] for x in now)])
        total, weight = self._begun(reach - begin)
        for x in now:
            total, weight = self._added(total, weight, self.windows.beginning_at(x, self.columns))
        self._carried = self._copied(total, weight, keep - begin)
        self.begin = keep
        return total[:, :, : end - begin].div_(weight[: end - begin])

    def _begun(self, rows: int) -> tuple[Tensor, Tensor]:
        """Sums of logits (T, K, rows, Y, Z) and of weights (rows, Y, Z), with what was carried in the first rows."""
        frames, classes = self.image.shape[1], self.answering.network.out_channels
        size = (rows, self.columns[1] - self.columns[0], self.image.shape[4])
        if self._carried is not None:
            where = self._carried[0].device
        else:
            where = self.answering.stitching_device(4 * frames * classes * math.prod(size))
        try:
            total = torch.zeros((frames, classes, *size), device=where)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            self.answering.stitch_in_main_memory()
            total = torch.zeros((frames, classes, *size), device=torch.device("cpu"))
        weight = torch.zeros(size, device=total.device)
        if self._carried is not None:
            total[:, :, : self._carried[0].shape[2]] = self._carried[0]
            weight[: len(self._carried[1])] = self._carried[1]
            self._carried = None
        return total, weight

    def _copied(self, total: Tensor, weight: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Copies of sums and weights from a row on, in main memory from now on where the GPU has no room for them."""
        try:
            return total[:, :, first:].clone(), weight[first:].clone()
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            # Whole, for a part would be copied on the GPU before it comes over.
            self.answering.stitch_in_main_memory()
            return total.cpu()[:, :, first:].clone(), weight.cpu()[first:].clone()

    def _added(self, total: Tensor, weight: Tensor, places: Sequence[WindowOrigin]) -> tuple[Tensor, Tensor]:
        """Add windows; gives the sums back, which may lie elsewhere now."""
        at = 0
        while at < len(places):
            batch = places[at : at + self.answering.windows]
            answers = self.answering.logits(torch.stack([self.windows.read(self.image, place) for place in batch]))
            if self.answering.stitch_on is not None and total.device != self.answering.stitch_on:
                total, weight = total.to(self.answering.stitch_on), weight.to(self.answering.stitch_on)
            if answers is None:
                continue
            for place, answer in zip(batch, answers, strict=True):
                self._add(total, weight, place, answer)
            at += len(batch)
            self.answering.tick(len(batch))
        return total, weight

    def _add(self, total: Tensor, weight: Tensor, place: WindowOrigin, answer: Tensor) -> None:
        """Add what a window (T, K, *roi_size) says of the rows and columns that are wanted."""
        (x, x_end), (y, y_end), (z, z_end) = self.windows.inside(place)
        x, y, y_end = max(x, self.begin), max(y, self.columns[0]), min(y_end, self.columns[1])
        if x >= x_end:  # all of it was passed by
            return
        begin = (self.begin, self.columns[0], 0)
        box = [slice(first, end) for first, end in ((x, x_end), (y, y_end), (z, z_end))]
        there = tuple(slice(part.start - b, part.stop - b) for part, b in zip(box, begin, strict=True))
        seen = tuple(slice(part.start - p, part.stop - p) for part, p in zip(box, place, strict=True))
        counts = self.windows.weight[seen].to(total.device)
        total[(slice(None), slice(None), *there)].addcmul_(
            answer[(slice(None), slice(None), *seen)].to(total.device), counts
        )
        weight[there] += counts


def sliding_window(
    network: CLSTMUNet,
    image: Tensor,
    roi_size: Sequence[int],
    config: InferenceConfig,
    *,
    cyclic: bool,
    device: torch.device,
    precision: str,
    signs: Sequence[Sequence[int]] = (),
    reduce: Callable[[Tensor], Tensor] = lambda logits: logits,
    tick: Callable[[int], object] = lambda windows: None,
) -> Tensor:
    """Return logits (T, K, X, Y, Z) float32 of a whole image (C, T, X, Y, Z), in main memory; see `WindowPredictor`
    and `LogitRows`.

    Args:
        reduce: what to make of each block of rows (T, K, x, Y, Z), where it was computed, before it goes to main memory: its
            result has the rows in the third axis from the end.
        tick: told how many windows are done.
    """
    answering = WindowPredictor.of(network, config, cyclic=cyclic, device=device, precision=precision)
    answering.signs, answering.tick = signs, tick
    rows, total = LogitRows(answering, image, roi_size, config.overlap), image.shape[2]
    ends = [*range(roi_size[0], total, roi_size[0]), total]
    return torch.cat([reduce(rows.upto(end)).cpu() for end in ends], -3)


def mirrored_mean(
    compute: Callable[[Tensor], Tensor], clip: Tensor, axes: Iterable[int], signs: Sequence[Sequence[int]] = ()
) -> Tensor:
    """The mean of what `compute` makes of a clip (B, T, C, X, Y, Z) and of its mirrorings along any of the `axes`, mirrored back.

    With `axes` (0, 1): as it is, along X, along Y, along both. The answer, (B, T, K, X, Y, Z), is float32. See
    `WindowPredictor` for `signs`.
    """
    along = sorted(set(axes))
    mirrorings = [chosen for n in range(1, len(along) + 1) for chosen in itertools.combinations(along, n)]
    total = compute(clip)
    for chosen in mirrorings:
        spatial = [3 + axis for axis in chosen]
        seen = clip.flip(spatial)
        for channel, sign in enumerate(signs):
            if math.prod(sign[axis] for axis in chosen) < 0:
                seen[:, :, channel].neg_()
        total += compute(seen).flip(spatial)
    return total.div_(1 + len(mirrorings))


def in_chunks(network: CLSTMUNet, clip: Tensor, length: int, cyclic: bool) -> Tensor:
    """Logits (B, T, K, X, Y, Z) of a clip (B, T, C, X, Y, Z), `length` frames at a time, equal to those of all at once.

    Between chunks the states are handed over. A bidirectional network first sweeps back over all chunks; a cyclic study goes round
    once before that.
    """
    if length >= clip.shape[1]:
        return network(clip, cyclic=cyclic)
    recurrence = ChunkedRecurrence(network)
    start: NetworkState = recurrence.prime(clip, (length,)) if cyclic else [None] * network.num_cells

    def logits_of_chunk(chunk: slice, state: NetworkState) -> tuple[Tensor, NetworkState]:
        [logits], after = network.level_logits(clip[:, chunk], state)
        return logits.unflatten(0, (len(clip), -1)), after

    return torch.cat(recurrence.run_chunks(clip, start, (length,), logits_of_chunk)[0], 1)
