"""Quantities in which two methods are compared: where each is written, and which direction is better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unet4d.evaluation.curve_comparison import FLOW_CSV, FLOW_VOLUMES_CSV, UPTAKE_CSV
from unet4d.evaluation.results import EvaluationResults
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV

RowKey = tuple[str, str, str]
"""Case, frame (in a table with one row per case the channel, or empty) and class."""


class ComparisonQuantity(NamedTuple):
    """One quantity.

    Attributes:
        file: table that holds it.
        columns: the column that holds it; or two, of which it is the absolute difference.
        better: 1: more is better, -1: less is better, 0: neither.
        digits: decimals to print.
        over_classes: whether its mean over classes is compared too.
        absolute: whether the sign is dropped.
    """

    file: str
    columns: tuple[str, ...]
    better: int
    digits: int
    over_classes: bool = False
    absolute: bool = False

    def values(self, results: EvaluationResults) -> Iterator[tuple[RowKey, str, float]]:
        """Yield key, subject and value of every row that has the quantity; NaN where it is undefined."""
        for row in results.tables[self.file]:
            key = (row["case"], row.get("frame", row.get("channel", "")), row["class"])
            first, *second = (results.number(self.file, row, column) for column in self.columns)
            value = abs(first - second[0]) if second else abs(first) if self.absolute else first
            yield key, row["subject"], value


COMPARISON_QUANTITIES: dict[str, ComparisonQuantity] = {
    "dice": ComparisonQuantity(METRICS_CSV, ("dice",), 1, 3, over_classes=True),
    "nsd": ComparisonQuantity(METRICS_CSV, ("nsd",), 1, 3, over_classes=True),
    "hd95_mm": ComparisonQuantity(METRICS_CSV, ("hd95_mm",), -1, 2, over_classes=True),
    "asd_mm": ComparisonQuantity(METRICS_CSV, ("asd_mm",), -1, 2, over_classes=True),
    "volume_error_ml": ComparisonQuantity(METRICS_CSV, ("prediction_ml", "reference_ml"), -1, 2),
    **{
        name: ComparisonQuantity(MEASURES_CSV, (f"matched_{measure}", f"reference_{measure}"), -1, 2)
        for name, measure in {
            "edv_error_ml": "edv_ml",
            "esv_error_ml": "esv_ml",
            "sv_error_ml": "sv_ml",
            "ef_error_percent": "ef_percent",
            "mass_error_g": "mass_g",
        }.items()
    },
    "roughness": ComparisonQuantity(TEMPORAL_CSV, ("roughness",), 0, 4),
    "frame_to_frame_dice": ComparisonQuantity(TEMPORAL_CSV, ("frame_to_frame_dice",), 0, 3),
    "frame_to_frame_error": ComparisonQuantity(TEMPORAL_CSV, ("frame_to_frame_excess",), -1, 3, absolute=True),
    "flicker_components": ComparisonQuantity(TEMPORAL_CSV, ("flicker_components",), -1, 2),
    "flicker_voxels": ComparisonQuantity(TEMPORAL_CSV, ("flicker_voxels",), -1, 2),
    "closure": ComparisonQuantity(TEMPORAL_CSV, ("closure",), -1, 3),
    **{
        name: ComparisonQuantity(file, (f"{part}_{column}", f"reference_{column}"), -1, 2)
        for name, file, part, column in (
            ("flow_error_ml_per_s", FLOW_CSV, "prediction", "flow_ml_per_s"),
            ("net_flow_error_ml", FLOW_VOLUMES_CSV, "prediction", "net_ml"),
            ("peak_enhancement_error_percent", UPTAKE_CSV, "matched", "peak_enhancement_percent"),
            ("time_to_peak_error_s", UPTAKE_CSV, "matched", "time_to_peak_s"),
        )
    },
}
"""Quantities by name, in the order of printing. Errors are absolute, at the frames of the reference. Those of curves are compared
where both evaluations have them.

A smoother curve or a higher frame-to-frame Dice is not better in itself: a network that hardly moves has both.
"""
