"""Page of one study: 4D viewer, volume curve, measures, flags, pictures, scores and provenance."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet4d.evaluation.plausibility import describe_checks
from unet4d.metrics.regions import painted_value
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
    """Picture files of a study; None where it has a single frame."""

    contours: Path
    loop: Path | None
    volumes: Path | None


def study_page(study: SegmentedStudy, pictures: StudyPictures, index: str, collection: str) -> str:
    """Return the page; `index` is the address of the index, `collection` the name of the studies together."""
    addresses = StudyPictures(*(picture_address(path) if path else None for path in pictures))  # type: ignore[arg-type]
    scripts = [niivue_script(), page_scripts()]
    budget = PAGE_BYTES - sum(map(len, scripts)) - sum(len(str(address)) for address in addresses)
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
        shown=shown,
        viewer_data=viewer_data(study, shown),
        provenance=provenance,
        provenance_words=[name.rpartition(", ")[2] for name, _ in provenance],
        version=VERSION,
        now=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        niivue_version=NIIVUE_VERSION,
    )


def viewer_data(study: SegmentedStudy, shown: EmbeddedStudy) -> dict[str, Any]:
    """Return the data of the study for the scripts of the page."""
    reference = study.reference_ml
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
                "volumes_ml": _round(study.curves_ml[name]),
                "reference_ml": _round(reference[name]) if reference else None,
            }
            for name, value in study.classes.items()
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


def _round(curve_ml: np.ndarray) -> list[float | None]:
    """Round to 0.1 microlitres, because there are hearts of mice; None where there is no value."""
    return [round(float(ml), 4) if np.isfinite(ml) else None for ml in curve_ml]
