"""How good a 4D label map is, and what it says of the organ: numbers from arrays, no files.

overlap.py     voxels counted, Dice; the convention for empty masks     volumes.py   volume per frame
surface.py     distances between surfaces, in mm                        curves.py    what a volume curve says
roles.py       what a class is, by its name                             description.py   mean, median, deviation, n

Label arrays are integer `(T, X, Y, Z)`; results per frame and class are `(T, K)` for K label `values`. Each frame is measured
alone, so no distance ever runs through time and no frame is taken for a background class. A quantity that is undefined is NaN in
an array, None alone, and blank, or null, on disk. `docs/metrics.md` defines every one.
"""

from unet4d.metrics.curves import CurveMeasures, closure, curve_measures, roughness
from unet4d.metrics.description import describe, shown
from unet4d.metrics.overlap import EMPTY_CONVENTION, Counts, count_voxels, dice
from unet4d.metrics.roles import MYOCARDIAL_DENSITY_G_PER_ML, is_cavity, is_myocardium
from unet4d.metrics.surface import hausdorff95_mm
from unet4d.metrics.volumes import extreme_frames, volumes_ml, voxel_volume_ml

__all__ = [
    "EMPTY_CONVENTION",
    "MYOCARDIAL_DENSITY_G_PER_ML",
    "Counts",
    "CurveMeasures",
    "closure",
    "count_voxels",
    "curve_measures",
    "describe",
    "dice",
    "extreme_frames",
    "hausdorff95_mm",
    "is_cavity",
    "is_myocardium",
    "roughness",
    "shown",
    "volumes_ml",
    "voxel_volume_ml",
]
