"""A study segmented while it is acquired: each frame's label as the frame arrives, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unet4d.config import Precision
from unet4d.errors import InputError
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import Image4D
from unet4d.images.nifti import check_affine
from unet4d.images.resample_back import NativeLabel
from unet4d.inference.memory_plan import Tiling, plan_frame
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import scaled_image
from unet4d.inference.segment import check_finite, check_gpu
from unet4d.inference.sliding_window import logit_blocks
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.clstm_unet import NetworkState
from unet4d.models.device import autocast, resolve_precision, set_tf32
from unet4d.pipeline.normalization import IntensityScale


@dataclass
class _StreamingPredictor(WindowPredictor):
    """A predictor of one window after the other, always in the same order, that keeps the state of each."""

    states: list[NetworkState | None] = field(default_factory=list)
    at: int = 0

    @torch.inference_mode()
    def logits(self, clips: Tensor) -> Tensor:
        """Return logits (1, 1, K, X, Y, Z) of the next window's next frame (1, 1, C, X, Y, Z)."""
        set_tf32(self.device, self.precision)
        if self.at == len(self.states):
            self.states.append(None)
        with autocast(self.device, self.precision):
            logits, self.states[self.at] = self.network.step(clips.to(self.device), self.states[self.at])
        self.at += 1
        return logits.float()


class StreamingSegmenter:
    """A segmenter of frames as they arrive, with a network of direction "forward", in which no frame depends on a later one.

    It returns frame by frame what `segment` returns for the whole study as an open one, without smoothing over time, if the scale
    of intensities is that study's. The scale is not known before the study ends: live, that of an earlier study of the same kind
    serves (`scale_of`), else that of the first frame. A loop cannot be run through first, so a cyclic study begins cold.

    It keeps the ConvLSTMs' states of every window: hidden and cell state of each level, whatever the number of frames.

    Args:
        model: from `load_model`; computes on the device its network lies on.
        affine: (4, 4), voxel to mm (RAS), of the frames to come.
        shape: voxels (X, Y, Z) of a frame.
        scale: of intensities; None: that of the first frame.
        overlap: share of a window its neighbor covers; None is what the model was trained with.
        precision: "auto", "bf16", "fp16", "tf32" or "fp32".

    Raises:
        InputError: the network is bidirectional, or carries no states; the affine has no inverse; the overlap is no share.
    """

    def __init__(
        self,
        model: TrainedModel,
        affine: np.ndarray,
        shape: Sequence[int],
        *,
        scale: IntensityScale | None = None,
        overlap: float | None = None,
        precision: Precision = "auto",
    ):
        if model.network.num_directions == 2:
            raise InputError(
                f"{model.path} is bidirectional: its logits of a frame depend on later frames, expected a network that can run "
                "live; train one with --model.direction forward"
            )
        if not model.network.is_chunkable:
            raise InputError(
                f"{model.path} carries no state from frame to frame ({model.config.model.temporal}), expected a network that can "
                "run live; train one with a model.temporal that does, or with ConvLSTMs"
            )
        check_affine(np.asarray(affine), "affine")
        data, self.model, self.scale = model.config.data, model, scale
        spacing_mm = data.in_plane_spacing_mm, data.slice_spacing_mm
        self.grid = WorkingGrid.of(np.asarray(affine), shape, *spacing_mm, data.interpolation)
        options = InferenceOptions(overlap=overlap, sw_batch_size=1, mirror_axes=())
        check_gpu([model], precision)
        device = next(model.network.parameters()).device
        self._predictor = _StreamingPredictor(
            model.network,
            device,
            data.patch_size,
            options.window_config(model.config.inference),
            resolve_precision(precision, device),
            cyclic=False,
        )
        plan_frame(self._predictor, self.grid)

    def reset(self) -> None:
        """Forget the frames so far: the next one is the first of another study. The scale stays."""
        self._predictor.states.clear()

    def step(self, frame: np.ndarray) -> np.ndarray:
        """Return the label values (X, Y, Z) uint8 of the next frame.

        Args:
            frame: (C, X, Y, Z), or of one channel (X, Y, Z); any real dtype.

        Raises:
            InputError: another shape, NaN or infinite values.
            Unet4DError: the network returns infinite numbers or NaN.
        """
        task, data = self.model.task, self.model.config.data
        frame = np.asarray(frame, np.float32)
        frame = frame[None] if frame.ndim == 3 else frame
        expected = (len(task.channel_names), *self.grid.native_shape)
        if frame.shape != expected:
            raise InputError(
                f"got a frame of shape {frame.shape}, expected (C, X, Y, Z) = {expected}; give such a frame"
            )
        if not np.isfinite(frame).all():
            raise InputError("got a frame with NaN or infinite values, expected finite ones; replace them")
        image = self.grid.image(frame[:, None], task.channel_kinds)
        if self.scale is None:
            self.scale = IntensityScale.from_frames(
                lambda: image.swapaxes(0, 1), image.shape, data.normalization, task.channel_kinds
            )
        self.scale.apply(image)
        self._predictor.at = 0
        native = NativeLabel(self.grid, 1, task.output_values, of_regions=bool(task.regions))
        rows, columns = (len(axis.low) for axis in native.axes[:2])
        tiling = Tiling(rows, [(0, columns)])
        for of_rows, of_columns, logits in logit_blocks(
            [self._predictor], torch.from_numpy(image), native.axes, tiling
        ):
            check_finite(logits, "a frame")
            native.fill(logits, of_rows, of_columns)
        return native.label[0]


def scale_of(model: TrainedModel, image: Image4D) -> IntensityScale:
    """Return the scale of a study's intensities, for a `StreamingSegmenter` of others like it."""
    return scaled_image(model, image)[3]
