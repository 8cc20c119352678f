"""The part of a study's page that moves: the viewer with its controls, the volume curve and the measures beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from unet4d.report.pages import html, measure_tables
from unet4d.report.pages.study import Segmented
from unet4d.report.pictures.layout import display_axes
from unet4d.report.pictures.render import class_color
from unet4d.report.viewer.embedding import EmbeddedStudy

VIEWS = {
    "slices": "Slices",
    "mosaic": "All slices",
    "planes": "Three planes",
    "axial": "Axial",
    "coronal": "Coronal",
    "sagittal": "Sagittal",
}
SPEEDS = {0.25: "¼ x", 0.5: "½ x", 1: "1 x", 2: "2 x", 4: "4 x", 8: "8 x"}
_INSTEAD = "the 4D viewer stays away; the pictures below show the same."


def stage(study: Segmented, shown_there: EmbeddedStudy) -> str:
    """The section, as HTML; the page's scripts find its elements by their ids."""
    timing = (
        "at its own speed" if study.image.frame_duration_s else "once in 1.5 s, for nobody says how long a frame is"
    )
    side = study.right_hand[0].upper() + study.right_hand[1:]
    note = (
        f"{side}. Arrow keys: left and right the frame, over the picture up and down the slice; space plays it {timing}. In the "
        f"viewer only: {' '.join(shown_there.said)} Measures and pictures come from the whole study."
    )
    beside = html.element(
        "div", [_curve(study), html.text("Measures", "h2"), *measure_tables.tables(study)], kind="beside"
    )
    viewer = html.element("div", [_viewer(study, len(shown_there.frames))])
    words = html.explained(("frame", "ED", "ES", "axial, coronal, sagittal", "opacity", "reference"))
    split = html.element("div", [viewer, beside], kind="split")
    return html.section([split, html.text(note, "p", "soft screen"), words])


def _viewer(study: Segmented, frames: int) -> str:
    views = VIEWS if min(study.image.grid) > 1 else {"slices": VIEWS["slices"]}
    buttons = "".join(
        f'<button type="button" data-view="{view}"{" class=chosen" if view == "slices" else ""}>{words}</button>'
        for view, words in views.items()
    )
    moments = "".join(
        f'<button type="button" data-frame="{frame}" title="frame {frame}">{name}</button>'
        for frame, name in study.moments
    )
    speeds = "".join(
        f'<option value="{value}"{" selected" if value == 1 else ""}>{words}</option>'
        for value, words in SPEEDS.items()
    )
    still = " hidden" if frames == 1 else ""
    return f"""<div id="stage">
<div class="views" role="group" aria-label="View">{buttons}</div>
<div class="canvas" tabindex="0" aria-label="Viewer"><canvas id="canvas"></canvas></div>
<div class="controls">
<div class="row"{still}><button type="button" id="play" aria-pressed="false">▶ Play</button>{moments}
<label class="small">speed <select id="speed">{speeds}</select></label></div>
<label class="slider"{still}>frame <input type="range" id="frame" min="0" max="{frames - 1}" value="0" step="1">
<output id="frame-value"></output></label>
<label class="slider">slice <input type="range" id="slice" min="0" max="0" value="0" step="1">
<output id="slice-value"></output></label>
<div class="slider"><label for="opacity">opacity</label>
<input type="range" id="opacity" min="0" max="100" value="45" step="1">
<label><input type="checkbox" id="outline"> outline only</label></div>
</div></div>
<p id="no-stage" class="warn" hidden><span id="no-stage-reason"></span>: {_INSTEAD}</p>
<noscript><p class="warn">Scripts are off: {_INSTEAD}</p></noscript>"""


def _curve(study: Segmented) -> str:
    if study.image.frames == 1:
        return ""
    rings = " Rings: the reference." if study.reference is not None else ""
    return f"""<div class="screen"><h2>Volumes</h2><div id="curve"></div><ul id="curve-legend" class="legend"></ul>
<p class="soft">Click to go to a frame.{rings}</p></div>"""


def for_scripts(study: Segmented, shown_there: EmbeddedStudy) -> dict[str, Any]:
    """What the page's scripts know of the study, as JSON has it."""
    reference = study.reference_ml
    classes = [
        {
            "name": name,
            "value": value,
            "colour": class_color(value),
            "volumes_ml": [_rounded(ml) for ml in study.curves_ml[name]],
            "reference_ml": [_rounded(ml) for ml in reference[name]] if reference else None,
        }
        for name, value in study.classes.items()
    ]
    return {
        "case": study.name,
        "frames": study.image.frames,
        "frame_duration_s": study.image.frame_duration_s,
        "shown_frames": list(shown_there.frames),
        "start": list(shown_there.start),
        "steps": list(shown_there.steps),
        "thick_axis": display_axes(study.image.affine)[0][0],
        "centre": _centre_mm(study),
        "classes": classes,
        "moments": [{"frame": frame, "name": name} for frame, name in study.moments],
    }


def _centre_mm(study: Segmented) -> list[float] | None:
    """Where to look first: the middle of what is segmented, in mm; None where nothing is."""
    anywhere = study.label.any(axis=0)
    if not anywhere.any():
        return None
    middle = [float(np.median(places)) for places in np.nonzero(anywhere)]
    return [round(float(mm), 3) for mm in (study.image.affine @ [*middle, 1.0])[:3]]


def _rounded(ml: float) -> float | None:
    """To 0.1 microlitres, for there are hearts of mice; None where there is no value."""
    return round(float(ml), 4) if np.isfinite(ml) else None
