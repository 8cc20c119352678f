"""The sliding window: in space only, every window sees all frames, so that no recurrence starts cold along time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from unet4d.config import InferenceConfig
from unet4d.model.clstm_unet import CLSTMUNet, NetworkState
from unet4d.model.device import autocast, set_tf32
from unet4d.model.pieces import Sweeps


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
    signs: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Logits (T, K, X, Y, Z), float32 on the CPU, of a whole image (C, T, X, Y, Z).

    Windows overlap and are blended with Gaussian weights (Isensee et al. 2021); stitching is in float32 whatever the precision.
    An image smaller than a window is padded with zeros and cropped again.

    Along `config.mirror_axes` each window is mirrored, too, and the mean taken of the logits of all its mirrorings, as in nnU-Net.

    Args:
        network: on `device`, in evaluation mode.
        image: normalised, on the working grid.
        roi_size: voxels (X, Y, Z) of a window, multiples of the network's total stride.
        config: overlap, windows and frames at once, axes to mirror along.
        cyclic: the last frame leads into the first.
        device: where windows are computed.
        precision: "bf16", "fp16", "tf32" or "fp32".
        signs: for each of the C channels, what it is multiplied by where X, Y or Z is mirrored, (1, 1, -1) for a velocity along Z;
            empty: 1 for all.
    """
    set_tf32(device, precision)
    channels, frames = image.shape[:2]
    length = config.chunk_frames or frames

    def window(folded: Tensor) -> Tensor:
        clip = folded.unflatten(1, (frames, channels))
        return mirrored_mean(of_clip, clip, config.mirror_axes, signs).flatten(1, 2)

    def of_clip(clip: Tensor) -> Tensor:
        nonlocal length
        while True:
            try:
                with autocast(device, precision):
                    return in_chunks(network, clip, length, cyclic).float()
            except torch.OutOfMemoryError:
                if length == 1:
                    raise
            length = -(-length // 2)
            torch.cuda.empty_cache()

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


def mirrored_mean(
    compute: Callable[[Tensor], Tensor], clip: Tensor, axes: Iterable[int], signs: Sequence[Sequence[int]] = ()
) -> Tensor:
    """The mean of what `compute` makes of a clip (B, T, C, X, Y, Z) and of its mirrorings along any of the `axes`, mirrored back.

    With `axes` (0, 1): as it is, along X, along Y, along both. The answer, (B, T, K, X, Y, Z), is float32. See `sliding_window` for
    `signs`.
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
    sweeps = Sweeps(network)
    start: NetworkState = sweeps.round(clip, (length,)) if cyclic else [None] * network.cells

    def of_chunk(here: slice, state: NetworkState) -> tuple[Tensor, NetworkState]:
        logits, after = network.logits(clip[:, here], state)
        return logits.unflatten(0, (len(clip), -1)), after

    return torch.cat(sweeps.through(clip, start, (length,), of_chunk)[0], 1)
