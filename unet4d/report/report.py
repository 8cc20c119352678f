"""Report of predictions: one self-contained HTML page per study, and an index (`unet4d report`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.find_studies import AUTO_LAYOUT, open_source
from unet4d.datasets.label_maps import find_label_maps, read_class_roles, read_class_values, read_provenance
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.evaluation.curve_comparison import measure_both
from unet4d.evaluation.signal_curves import CurveOptions, recorded_options
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import read_label
from unet4d.images.nifti import case_name
from unet4d.images.time_axis import TIME_AXES
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.regions import ClassValue, label_values
from unet4d.report.pages.index_page import IndexEntry, index_page
from unet4d.report.pages.score_tables import ScoreSection, read_scores
from unet4d.report.pages.study import SegmentedStudy, whole_reference
from unet4d.report.pages.study_page import StudyPictures, study_page
from unet4d.report.pictures.contour_sheet import draw_contour_sheet, draw_thumbnail, write_animation
from unet4d.report.pictures.curve_plot import draw_curves
from unet4d.report.pictures.render import class_color, save_picture
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import PathLike, check_writable, write_text
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count

logger = logging.getLogger(__name__)

INDEX, PICTURES = "index.html", "pictures"


@stop_signals()
def report(
    image: PathLike,
    prediction: PathLike,
    out_dir: PathLike,
    evaluation: PathLike | None = None,
    layout: str = AUTO_LAYOUT,
    options: LayoutOptions = NO_LAYOUT_OPTIONS,
    curves: CurveOptions | None = None,
) -> Path:
    """Write `<case>.html` for every prediction, an index.html and the pictures to `out_dir`.

    One study is in memory at a time. Studies that cannot be shown are listed on the index.

    Args:
        image: a dataset (folder or dataset.json; its labels are drawn too), a folder of studies, one study, or any layout that
            `unet4d convert` knows.
        prediction: a folder of label maps `<case>.nii.gz`, or one label map. Its prediction.json, if any, is shown.
        out_dir: created where it is missing.
        evaluation: a folder that `evaluate` wrote; its scores are shown.
        layout: layout of `image`, as for `predict`; "auto" detects it.
        options: for an image of that layout; studies must get the names that they had in `predict`.
        curves: curves to show beside volumes; None: those that `predict` recorded of each case.

    Returns:
        The index.

    Raises:
        InputError: nothing to show; flow of channels without velocity, or without its unit; or, after all others were written, a
            prediction without its study, on another grid or with other frames, or a file that cannot be read.
    """
    out = Path(out_dir)
    check_writable(out)
    path = Path(prediction)
    maps = {case_name(path): path} if path.is_file() else find_label_maps(path)
    source = open_source(Path(image), layout=layout, options=options)
    studies = {study.name: study for study in source.studies}
    if Path(image).is_file() and len(studies) == len(maps) == 1:  # one study for one prediction needs no name
        studies = dict(zip(maps, studies.values(), strict=True))
    folders = [path, path.parent]
    classes = source.classes or read_class_values(None, folders) or {}
    roles = read_class_roles(list(classes), source.roles, folders)
    scores = read_scores(Path(evaluation)) if evaluation is not None else None
    if curves is not None:
        kinds = list(_channels(source).values())
        curves.check(kinds, {name: study.velocity_unit for name, study in studies.items() if name in maps})
    entries: list[IndexEntry] = []
    failed: dict[str, str] = {}
    for name, file in ProgressBar(maps.items(), "reporting", unit="study"):
        try:
            if name not in studies:
                raise InputError(f"{image} has no study for {name}, expected one of that name for each prediction")
            provenance = read_provenance(folders, name)
            section = scores.cases.get(name) if scores else None
            study = _read_study(name, file, studies[name], source.ignore, classes, roles, provenance, section)
            study = _add_curves(study, studies[name], _channels(source), curves)
            entries.append(_write_study(study, out, source.name))
        except Exception as error:
            failed[name] = str(failure_of_study(error))
    if entries:
        write_text(out / INDEX, index_page(source.name, entries, failed, scores.summary if scores else None))
    raise_failed(failed, len(maps), "shown", out / INDEX)
    return out / INDEX


def _read_study(
    name: str,
    file: Path,
    study: Study,
    ignore: int | None,
    named: Mapping[str, ClassValue],
    roles: Roles,
    provenance: Mapping[str, Any],
    scores: ScoreSection | None,
) -> SegmentedStudy:
    """Read the image, prediction and reference of a study; label values without a name become "class <value>"."""
    image = study.image()
    label = read_label(file, like=image)
    if len(label) != image.frames:
        raise InputError(f"{file} has {count(len(label), 'frame')}, its study {image.frames}; predict it again")
    reference, labelled, ignored = None, np.zeros(image.frames, bool), np.zeros(image.frames, bool)
    if study.label:
        reference, frames = study.label(image)
        labelled[slice(None) if frames is None else list(frames)] = True
        labelled[list(study.partial.propagated)] = False
        ignored = (reference == (-1 if ignore is None else ignore)).any(axis=(1, 2, 3))
        is_shown = labelled[:, None, None, None] & (reference != (-1 if ignore is None else ignore))
        reference = np.where(is_shown, reference, 0)
    values = {int(value) for frame in label for value in np.unique(frame)}  # sorting all frames at once takes memory
    unnamed = sorted(values - {0, *label_values(named.values())})
    classes = {**named, **{f"class {value}": value for value in unnamed}}
    time = study.time or provenance.get("time")  # in the order of `evaluate`
    cyclic = time == "cyclic" if time in TIME_AXES else None
    annotated = study.partial.annotated
    missing = np.array([annotated is not None and value not in annotated for value in classes.values()], bool)
    partial = ignored[:, None] | missing
    return SegmentedStudy(name, image, label, classes, reference, labelled, cyclic, provenance, scores, roles, partial)


def _channels(source: Source) -> dict[str, str]:
    """Return the kind of each channel by name."""
    kinds = source.channel_kinds or (SIGNAL,) * len(source.channel_names)
    return dict(zip(source.channel_names, kinds, strict=True))


def _add_curves(
    shown: SegmentedStudy, study: Study, channels: Mapping[str, str], given: CurveOptions | None
) -> SegmentedStudy:
    """Return the study with its curves: those given, else those that prediction.json records."""
    kinds, recorded = list(channels.values()), shown.provenance.get("curves")
    options = recorded_options(recorded, kinds, study.velocity_unit) if given is None else given
    if not options.kinds or shown.image.channels != len(channels):
        return shown
    in_memory = replace(study, stream=None, image=lambda: shown.image)
    known = None
    if shown.reference is not None:
        known = whole_reference(shown.labelled, shown.is_partial, len(shown.classes))
    records = measure_both(
        in_memory,
        channels,
        shown.label,
        shown.reference,
        known,
        shown.classes,
        options,
        affine=shown.image.affine,
        frame_duration_s=shown.image.frame_duration_s,
        cyclic=bool(shown.cyclic),
    )
    return replace(shown, records=records)


def _write_study(study: SegmentedStudy, out: Path, collection: str) -> IndexEntry:
    """Write the pictures and the page of a study; return its entry in the index."""
    folder = out / PICTURES
    frames = [frame for frame, _ in study.moments] or [0]
    names = {value: name for name, value in study.classes.items()}
    small = draw_thumbnail(study.image.array[0], study.label, study.image.affine, frames, names)
    thumbnail = save_picture(folder / f"{study.name}_thumbnail.webp", small)
    file = "study_index.html" if study.name.lower() == "index" else f"{study.name}.html"
    write_text(out / file, study_page(study, _draw_pictures(study, folder), INDEX, collection))
    return IndexEntry.from_study(study, quote(os.fsencode(file)), thumbnail)


def _draw_pictures(study: SegmentedStudy, folder: Path) -> StudyPictures:
    image, voxels = study.image, study.image.array[0]
    names = {value: name for name, value in study.classes.items()}
    sheet = draw_contour_sheet(
        voxels,
        study.label,
        image.affine,
        reference=study.reference,
        class_names=names,
        frames=_choose_frames(study),
        extremes=[frame for frame, _ in study.moments],
        extreme_names=[name for _, name in study.moments],
    )
    contours = save_picture(folder / f"{study.name}_contours.png", sheet)
    if image.frames == 1:
        return StudyPictures(contours, None, {})
    seconds = image.frame_duration_s
    loop = write_animation(
        folder / f"{study.name}_loop.webp",
        voxels,
        study.label,
        image.affine,
        class_names=names,
        frame_duration_s=seconds,
    )
    curves = {}
    for curve in study.curves:
        picture = draw_curves(
            curve.values,
            axis=curve.axis,
            colors={name: class_color(value) for name, value in study.classes.items()},
            frame_duration_s=seconds,
            reference=curve.reference,
            moments={name: frame for frame, name in study.moments},
        )
        curves[curve.title] = save_picture(folder / f"{study.name}_{curve.key}.png", picture)
    return StudyPictures(contours, loop, curves)


def _choose_frames(study: SegmentedStudy) -> list[int]:
    """Return up to six frames for the contour sheet: the first, end-diastole and end-systole, labelled ones, others."""
    total = study.image.frames
    even = [int(t) for t in np.linspace(0, total - 1, min(6, total)).round()]
    labelled = [int(t) for t in np.flatnonzero(study.labelled)][:2]
    moments = [frame for frame, _ in study.moments]
    return sorted(list(dict.fromkeys([0, *moments, *labelled, *even]))[:6])
