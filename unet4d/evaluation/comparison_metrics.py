"""What two methods are compared in: each quantity, where it is written, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from unet4d.evaluation.results import EvaluationResults
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV


class ComparisonQuantity(NamedTuple):
    """One quantity.

    Attributes:
        file: that holds it.
        value: of a row of that file, given how to read a number of it by column; NaN where undefined.
        better: 1: more is better, -1: less is, 0: neither.
        digits: shown behind the point.
        over_classes: whether its mean over classes is compared, too.
    """

    file: str
    value: Callable[[Callable[[str], float]], float]
    better: int
    digits: int
    over_classes: bool = False


def _column(name: str) -> Callable[[Callable[[str], float]], float]:
    return lambda number: number(name)


def _error(reference: str, prediction: str) -> Callable[[Callable[[str], float]], float]:
    return lambda number: abs(number(prediction) - number(reference))


COMPARISON_QUANTITIES: dict[str, ComparisonQuantity] = {
    "dice": ComparisonQuantity(METRICS_CSV, _column("dice"), 1, 3, over_classes=True),
    "nsd": ComparisonQuantity(METRICS_CSV, _column("nsd"), 1, 3, over_classes=True),
    "hd95_mm": ComparisonQuantity(METRICS_CSV, _column("hd95_mm"), -1, 2, over_classes=True),
    "asd_mm": ComparisonQuantity(METRICS_CSV, _column("asd_mm"), -1, 2, over_classes=True),
    "volume_error_ml": ComparisonQuantity(METRICS_CSV, _error("reference_ml", "prediction_ml"), -1, 2),
    "edv_error_ml": ComparisonQuantity(MEASURES_CSV, _error("reference_edv_ml", "matched_edv_ml"), -1, 2),
    "esv_error_ml": ComparisonQuantity(MEASURES_CSV, _error("reference_esv_ml", "matched_esv_ml"), -1, 2),
    "sv_error_ml": ComparisonQuantity(MEASURES_CSV, _error("reference_sv_ml", "matched_sv_ml"), -1, 2),
    "ef_error_percent": ComparisonQuantity(MEASURES_CSV, _error("reference_ef_percent", "matched_ef_percent"), -1, 2),
    "mass_error_g": ComparisonQuantity(MEASURES_CSV, _error("reference_mass_g", "matched_mass_g"), -1, 2),
    "roughness": ComparisonQuantity(TEMPORAL_CSV, _column("roughness"), 0, 4),
    "frame_to_frame_dice": ComparisonQuantity(TEMPORAL_CSV, _column("frame_to_frame_dice"), 0, 3),
    "frame_to_frame_error": ComparisonQuantity(
        TEMPORAL_CSV, lambda number: abs(number("frame_to_frame_excess")), -1, 3
    ),
    "flicker_components": ComparisonQuantity(TEMPORAL_CSV, _column("flicker_components"), -1, 2),
    "flicker_voxels": ComparisonQuantity(TEMPORAL_CSV, _column("flicker_voxels"), -1, 2),
    "closure": ComparisonQuantity(TEMPORAL_CSV, _column("closure"), -1, 3),
}
"""By name, in the order in which they are shown. Errors are absolute, at the reference's frames.

A smoother curve and more of a class that stays are not better by themselves: a network that hardly moves has both.
"""

Key = tuple[str, str, str]
"""Case, frame (empty where a row is a whole case's) and class."""


def values_of(written: EvaluationResults, quantity: ComparisonQuantity) -> Iterator[tuple[Key, str, float]]:
    """Key, subject and value of every row that holds the quantity."""
    for row in written.tables[quantity.file]:
        key = (row["case"], row.get("frame", ""), row["class"])
        yield key, row["subject"], quantity.value(partial(written.number, row))
