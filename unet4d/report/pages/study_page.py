"""The page of one study: viewer, volume curve, measures, flags, pictures, and how the segmentation was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unet4d.evaluation.plausibility import describe_checks
from unet4d.report.pages import html, provenance, score_tables
from unet4d.report.pages.study import Segmented
from unet4d.report.pages.viewer_panel import for_scripts, stage
from unet4d.report.pictures.layout import display_window
from unet4d.report.viewer.embedding import embed_study
from unet4d.report.viewer.scripts import NIIVUE_VERSION, niivue_script, page_scripts
from unet4d.system.text import count

PAGE_BYTES = 14_500_000
"""How large a page may be, so that it can be mailed."""
SMALLEST_STAGE = 1_000_000
"""What image and label may take even where the pictures have taken the rest."""
LIMITS = (
    "Research software. Not a medical device; not for diagnosis, treatment or any other clinical decision. Contours and "
    "volumes come from an automatic segmentation and must be checked by somebody qualified before they are relied on."
)


@dataclass(frozen=True)
class Pictures:
    """Picture files of a study; None where it has a single frame."""

    contours: Path
    loop: Path | None
    volumes: Path | None


def study_page(study: Segmented, pictures: Pictures, index: str, collection: str) -> str:
    """The whole page.

    Args:
        study: what is shown.
        pictures: of it.
        index: address of the page of all studies.
        collection: that it belongs to.
    """
    lead = [
        html.element("nav", [html.link(index, f"← {collection}")]),
        html.text(study.name, "h1"),
        html.text(facts(study) + _score(study), kind="soft"),
        html.text(LIMITS, kind="limits"),
        _flags(study),
        html.explained(("frame", "cyclic", "voxel", "mean foreground Dice", "flag")),
    ]
    rest = [
        *_scores(study),
        html.section(list(_pictures(study, pictures)), kind="pictures"),
        html.section([html.text("How it was made", "h2"), *provenance.of_study(study.about)]),
        html.text(f"Viewer: NiiVue {NIIVUE_VERSION} (BSD-2-Clause; its licence is in this file).", kind="soft footer"),
    ]
    scripts = [niivue_script(), page_scripts()]
    taken = sum(map(len, (*lead, *rest, *scripts)))
    image = study.image.array[0]
    shown_there = embed_study(
        image, study.label, study.image.affine, display_window(image), max(PAGE_BYTES - taken, SMALLEST_STAGE)
    )
    told = html.data("study", for_scripts(study, shown_there))
    blocks = [told, html.block("image-data", shown_there.image), html.block("label-data", shown_there.label)]
    title = f"{study.name}: 4D segmentation"
    return html.page(title, [*lead, stage(study, shown_there), *rest, *blocks], scripts)


def facts(study: Segmented) -> str:
    """Frames, time, size and channels in a line."""
    image = study.image
    size, spacing = " x ".join(map(str, image.grid)), " x ".join(f"{mm:.3g}" for mm in image.spacing)
    time = f"{image.frame_duration_s:.3g} s a frame" if image.frame_duration_s else "time between frames unknown"
    order = {True: " · cyclic", False: " · open", None: ""}[study.cyclic]
    channels = f" · the first of {image.channels} channels is shown" if image.channels > 1 else ""
    return f"{count(image.frames, 'frame')}, {time}{order} · {size} voxels of {spacing} mm{channels}"


def _score(study: Segmented) -> str:
    dice = score_tables.dice_of(study.scores)
    return f" · mean foreground Dice {dice:.3f}" if dice is not None else ""


def _flags(study: Segmented) -> str:
    looked = f"Looked for: {describe_checks(study.cyclic)}" if study.image.frames > 1 else "Looked for: every class."
    if not study.flags:
        words = (
            html.text("No flag.", "strong") + " " + html.text(f"{looked} That does not make it right.", "span", "soft")
        )
        return html.element("div", [words], kind="flags none")
    count = len(study.flags)
    head = html.text(f"{count} flag{'s' if count > 1 else ''}: look at this segmentation", "strong")
    sentences = html.listed([flag.sentence for flag in study.flags])
    return html.element("div", [head, sentences, html.text(looked, "span", "soft")], kind="flags some")


def _pictures(study: Segmented, pictures: Pictures) -> Iterator[str]:
    yield html.text("Pictures", "h2")
    dashed = " Dashed: the reference, on the frames that have one." if study.reference is not None else ""
    if pictures.volumes is not None:
        yield html.figure(pictures.volumes, "Volume of each class over all frames.", kind="curve-picture")
    yield html.figure(
        pictures.contours,
        f"Slices down, time across; {study.right_hand}.{dashed}",
    )
    if pictures.loop is not None:
        yield html.figure(
            pictures.loop, "All frames: the study, and below it with the contours of the segmentation.", "loop"
        )


def _scores(study: Segmented) -> list[str]:
    if not study.scores:
        return []
    return [html.section([html.text("Against the reference", "h2"), *score_tables.of_case(study.scores)])]
