"""The logits of a whole image by the sliding window, which the package computes block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unet4d.config import InferenceConfig
from unet4d.inference.sliding_window import LogitRows
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.clstm_unet import CLSTMUNet


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
) -> Tensor:
    """Return logits (T, K, X, Y, Z) float32 of a whole image (C, T, X, Y, Z), in main memory."""
    predictor = WindowPredictor(network, device, roi_size, config, precision, cyclic, signs=signs)
    return LogitRows(predictor, image).logits_until(image.shape[2]).cpu()
