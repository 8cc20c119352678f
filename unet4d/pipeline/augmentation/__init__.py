"""Clips varied as MRI varies: the parameters are drawn first, then deterministic functions apply them.

strengths.py      how far and how often: the tables behind mild and strong
space.py          turn, zoom, shift, mirror       intensity.py     contrast, shading, noise, resolution
corruption.py     single frames that went wrong   augmentation.py  all of it, for one clip
"""

from unet4d.pipeline.augmentation.compose import Augmentation, AugmentationParams
from unet4d.pipeline.augmentation.spatial import crop_size

__all__ = ["Augmentation", "AugmentationParams", "crop_size"]
