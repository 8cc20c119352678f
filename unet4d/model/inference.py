"""The sliding window: in space only, every window sees all frames, so that no recurrence starts cold along time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from unet4d.config import InferenceConfig
from unet4d.model.clstm_unet import CLSTMUNet
from unet4d.model.device import autocast


@torch.inference_mode()
def sliding_window(
    network: CLSTMUNet,
    image: Tensor,
    roi_size: Sequence[int],
    config: InferenceConfig,
    *,
    cyclic: bool,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Logits (T, K, X, Y, Z), float32 on the CPU, of a whole image (C, T, X, Y, Z).

    Windows overlap and are blended with Gaussian weights (Isensee et al. 2021); stitching is in float32 whatever the precision.
    An image smaller than a window is padded with zeros and cropped again.

    Args:
        network: on `device`, in evaluation mode.
        image: normalised, on the working grid.
        roi_size: voxels (X, Y, Z) of a window, multiples of the network's total stride.
        config: overlap and windows at once.
        cyclic: the last frame leads into the first.
        device: where windows are computed.
        precision: "bf16", "fp16" or "fp32".
    """
    channels, frames = image.shape[:2]

    def window(folded: Tensor) -> Tensor:
        clip = folded.unflatten(1, (frames, channels))
        with autocast(device, precision):
            logits = network(clip, cyclic=cyclic)
        return logits.flatten(1, 2).float()

    folded = image.movedim(1, 0).flatten(0, 1)[None].float()
    stitched = sliding_window_inference(
        folded,
        tuple(roi_size),
        config.sw_batch_size,
        window,
        overlap=config.overlap,
        mode="gaussian",
        sw_device=device,
        device=torch.device("cpu"),
    )
    return stitched[0].unflatten(0, (frames, network.out_channels))
