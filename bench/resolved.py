"""Complete configurations of what is measured, for a patch and a voxel instead of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unet4d.config import FRAMES, Config, ResolvedConfig, triple
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.training.resolve import resolve


def resolve_for(config: Config, patch: Sequence[int], spacing_mm: Sequence[float]) -> ResolvedConfig:
    """Return a configuration as of one study of this patch's size and voxels (X, Y, Z) in mm; bf16 where it is unset."""
    x, y, z = spacing_mm
    config = replace(config, data=replace(config.data, patch_size=triple(patch)))
    seen = Fingerprint(x, (x, y, z), (triple(patch),), (config.data.frames or FRAMES,), 1)
    return resolve(config, seen, "bf16" if config.train.precision == "auto" else config.train.precision)
