"""Page of one study: 4D viewer, curves, measures, flags, pictures, scores and provenance."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet4d.evaluation.plausibility import describe_checks
from unet4d.metrics.regions import painted_value
from unet4d.report.pages.curves import curve_measure_tables
from unet4d.report.pages.measure_tables import measure_tables
from unet4d.report.pages.study import SegmentedStudy
from unet4d.report.pages.template import flatten, picture_address, render_page
from unet4d.report.pictures.layout import display_axes, display_window
from unet4d.report.pictures.render import class_color
from unet4d.report.viewer.embedding import EmbeddedStudy, embed_study
from unet4d.report.viewer.scripts import NIIVUE_VERSION, niivue_script, page_scripts
from unet4d.system.environment import VERSION
from unet4d.system.text import printable

PAGE_BYTES = 14_500_000
"""Size of a page with its pictures, scripts and study, so that it can be mailed."""
SMALLEST_STUDY_BYTES = 1_000_000
"""Size that image and label may have even where pictures and scripts leave less."""


class StudyPictures(NamedTuple):
    """Picture files of a study, of which a single frame has no loop and no curves; curves by title."""

    contours: Path
    loop: Path | None
    curves: Mapping[str, Path]


def study_page(study: SegmentedStudy, pictures: StudyPictures, index: str, collection: str) -> str:
    """Return the page; `index` is the address of the index, `collection` the name of the studies together."""
    addresses = {
        "contours": picture_address(pictures.contours),
        "loop": picture_address(pictures.loop) if pictures.loop else "",
        "curves": {title: picture_address(path) for title, path in pictures.curves.items()},
    }
    scripts = [niivue_script(), page_scripts()]
    budget = PAGE_BYTES - sum(map(len, scripts)) - len(str(addresses))
    image = study.image.array[0]
    shown = embed_study(
        image, study.label, study.image.affine, display_window(image), max(budget, SMALLEST_STUDY_BYTES)
    )
    provenance = flatten(study.provenance)
    return render_page(
        "study.html",
        scripts,
        title=f"{study.name}: 4D segmentation",
        study=study,
        pictures=addresses,
        index=index,
        collection=collection,
        checks=describe_checks(study.cyclic, study.image.frames),
        measures=measure_tables(study),
        curve_measures=curve_measure_tables(study.name, study.records, study.classes),
        shown=shown,
        viewer_data=viewer_data(study, shown),
        provenance=provenance,
        provenance_words=[name.rpartition(", ")[2] for name, _ in provenance],
        version=VERSION,
        now=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        niivue_version=NIIVUE_VERSION,
    )


def viewer_data(study: SegmentedStudy, shown: EmbeddedStudy) -> dict[str, Any]:
    """Return the data of the study for the scripts of the page; curves are in the order of the classes."""
    missing = np.full(study.image.frames, np.nan)
    return {
        "case": printable(study.name),
        "frames": study.image.frames,
        "frame_duration_s": study.image.frame_duration_s,
        "shown_frames": shown.frames,
        "start": shown.start,
        "steps": shown.steps,
        "thick_axis": display_axes(study.image.affine)[0][0],
        "center": _center_mm(study),
        "classes": [
            {
                "name": printable(name),
                "value": painted_value(value),
                "color": class_color(value),
            }
            for name, value in study.classes.items()
        ],
        "curves": [
            {
                "axis": curve.axis,
                "unit": curve.unit,
                "digits": curve.digits,
                "values": [_round(curve.values.get(name, missing)) for name in study.classes],
                "reference": [_round((curve.reference or {}).get(name, missing)) for name in study.classes],
            }
            for curve in study.curves
        ],
        "moments": [{"frame": frame, "name": name} for frame, name in study.moments],
    }


def _center_mm(study: SegmentedStudy) -> list[float] | None:
    """Return the center of the segmentation in mm, where the viewer begins; None where nothing is segmented."""
    anywhere = study.label.any(axis=0)
    if not anywhere.any():
        return None
    middle = [float(np.median(indices)) for indices in np.nonzero(anywhere)]
    return [round(float(mm), 3) for mm in (study.image.affine @ [*middle, 1.0])[:3]]


def _round(curve: np.ndarray) -> list[float | None]:
    """Round to 4 decimals, or more of a small number, because there are hearts of mice; None where there is no value."""
    return [round(float(x), 4) if abs(x) >= 0.1 else float(f"{x:.4g}") if np.isfinite(x) else None for x in curve]
