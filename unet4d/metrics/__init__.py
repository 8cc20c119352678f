"""How good a 4D label map is, and what it says of the organ: numbers from arrays, no files.

overlap.py   voxels counted, Dice; the convention for empty masks   surface.py       distances between surfaces, in mm
volumes.py   volume per frame                                       curves.py        what a volume curve says
temporal.py  what stays from frame to frame, what flickers          roles.py         what a class is, by its name
agreement.py Bland-Altman, bootstrap over subjects                  paired.py        two methods on the same subjects
                                                                    description.py   mean, median, deviation, n

Label arrays are integer `(T, X, Y, Z)`; results per frame and class are `(T, K)` for K label `values`. Each frame is measured
alone, so no distance ever runs through time and no frame is taken for a background class. A quantity that is undefined is NaN in
an array, None alone, and blank, or null, on disk. `docs/metrics.md` defines every one.
"""

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.description import describe, shown
from unet4d.metrics.overlap import EMPTY_CONVENTION, Counts, count_voxels, dice
from unet4d.metrics.paired import SignedRank, holm, signed_rank
from unet4d.metrics.statistics import INTERVALS, bland_altman, interval95
from unet4d.metrics.surface import TOLERANCE_MM, SurfaceScores, hausdorff95_mm, surface_scores
from unet4d.metrics.temporal import flicker, frame_pairs, frame_to_frame_dice, single_frame_components
from unet4d.metrics.volume_curves import CurveMeasures, closure, curve_measures, roughness
from unet4d.metrics.volumes import extreme_frames, volumes_ml, voxel_volume_ml

__all__ = [
    "EMPTY_CONVENTION",
    "INTERVALS",
    "MYOCARDIAL_DENSITY_G_PER_ML",
    "TOLERANCE_MM",
    "Counts",
    "CurveMeasures",
    "SignedRank",
    "SurfaceScores",
    "bland_altman",
    "cavity_within",
    "closure",
    "count_voxels",
    "curve_measures",
    "describe",
    "dice",
    "extreme_frames",
    "flicker",
    "frame_pairs",
    "frame_to_frame_dice",
    "hausdorff95_mm",
    "holm",
    "interval95",
    "is_cavity",
    "is_myocardium",
    "roughness",
    "shown",
    "signed_rank",
    "single_frame_components",
    "surface_scores",
    "volumes_ml",
    "voxel_volume_ml",
]
