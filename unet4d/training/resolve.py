"""The resolution of a configuration: what it leaves open is filled in from the studies, the device and the processes."""

from __future__ import annotations

from unet4d.config import (
    BATCH_SIZE,
    FRAMES,
    Config,
    Precision,
    ResolvedConfig,
    ResolvedDataConfig,
    ResolvedTrainConfig,
    triple,
)
from unet4d.datasets.subject_folds import number_of_folds
from unet4d.errors import InputError
from unet4d.models.topology import resolve_model, rounded_up, total_stride
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.environment import available_cores
from unet4d.system.text import count

LARGEST_PATCH = (128, 128, 32)


def resolve(config: Config, seen: Fingerprint, precision: Precision, ranks: ProcessGroup = ALONE) -> ResolvedConfig:
    """Return the configuration with everything filled in that it leaves to the studies, the device and the processes.

    Args:
        config: what it sets is kept; a patch is rounded up to the strides, a clip has at most the frames of the longest study.
        seen: all studies, held-out ones too, so that every fold works on one grid and shares one cache.
        precision: what the configured precision means on the device; see `resolve_precision`.
        ranks: the processes that share each batch and this machine's cores.

    Raises:
        InputError: clips are too short for what they are trained on; prediction would mirror along an axis that training does not.
    """
    given = config.data
    if untrained := set(config.inference.mirror_axes) - set(given.mirrored_axes):
        raise InputError(
            f"got inference.mirror_axes with {sorted(untrained)}, expected axes that training mirrors, {given.mirrored_axes}; "
            f"add {sorted(untrained)} to data.flip_axes, with data.augmentation on, or take it out of inference.mirror_axes"
        )
    patch = given.patch_size or triple(min(n, most) for n, most in zip(seen.shape, LARGEST_PATCH, strict=True))
    model = resolve_model(config.model, seen.spacing, patch)
    workers = (
        min(8, max(1, available_cores() // ranks.local_size) - 1) if given.num_workers is None else given.num_workers
    )
    frames = min(given.frames or FRAMES, seen.frames)  # more would only repeat them
    if config.train.consistency_weight and frames < 3:
        raise InputError(
            f"got train.consistency_weight {config.train.consistency_weight:g} for clips of {count(frames, 'frame')}, expected 3 "
            "frames or more to compare their areas; leave it out, or set a higher data.frames for longer studies"
        )
    data = {
        "folds": max(2, number_of_folds(seen.subjects, given.folds)),
        "in_plane_spacing_mm": seen.plane_spacing_mm,
        "slice_spacing_mm": seen.slice_spacing_mm,
        "patch_size": rounded_up(patch, total_stride(model.strides)),
        "frames": frames,
        "num_workers": workers,
    }
    train = {"precision": precision, "batch_size": config.train.batch_size or BATCH_SIZE * ranks.size}
    return ResolvedConfig(
        data=ResolvedDataConfig(**{**vars(given), **data}),
        model=model,
        train=ResolvedTrainConfig(**{**vars(config.train), **train}),
        inference=config.inference,
        fold=config.fold,
        seed=config.seed,
        recompute=config.recompute,
    )
