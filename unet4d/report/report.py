"""`unet4d report`: an HTML page for each study, and one for them all. Everything is inside them: they open from disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from unet4d.datasets.convert import NO_OPTIONS, Options
from unet4d.datasets.find_studies import AUTO, source_at
from unet4d.datasets.label_maps import label_maps, named_classes
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import read_label
from unet4d.images.nifti import case_name
from unet4d.images.time_axis import TIME_AXES
from unet4d.report.pages.index_page import Entry, index_page
from unet4d.report.pages.provenance import recorded
from unet4d.report.pages.score_tables import Evaluation, read_evaluation
from unet4d.report.pages.study import Segmented
from unet4d.report.pages.study_page import Pictures, study_page
from unet4d.report.pictures.contour_sheet import draw_contour_sheet, draw_thumbnail, write_animation
from unet4d.report.pictures.curve_plot import draw_volume_curves
from unet4d.report.pictures.render import class_color, save_picture, save_png
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import check_writable, write_text
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count

INDEX, PICTURES = "index.html", "pictures"


@stop_signals()
def report(
    image: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    evaluation: str | os.PathLike[str] | None = None,
    kind: str = AUTO,
    options: Options = NO_OPTIONS,
) -> Path:
    """Write `<case>.html` for every prediction and index.html for them all to `out_dir`, and the pictures also as files.

    One study is held at a time. One that cannot be shown is told on the index, and the others go on.

    Args:
        image: a dataset (folder or dataset.json; its labels are drawn too), a folder of studies, one study, or any layout that
            `unet4d convert` knows.
        prediction: a folder of label maps `<case>.nii.gz`, or one label map; its prediction.json says how they were made.
        out_dir: made where it is missing.
        evaluation: a folder that `evaluate` wrote; its scores go on the pages.
        kind: layout of `image`, as for `predict`; "auto" finds it out.
        options: for an image of that kind; studies are named by them as when they were predicted.

    Returns:
        The index.

    Raises:
        InputError: nothing to show; or, after all others were written, a prediction without its study, on another grid or with
            other frames, or a file that cannot be read.
    """
    out = Path(out_dir)
    check_writable(out)
    maps = _maps(Path(prediction))
    source = source_at(Path(image), kind=kind, options=options)
    known = _studies(source, Path(image), maps)
    named = {name: value for name, value in source.labels.items() if value}
    folders = [Path(prediction), Path(prediction).parent]
    named = named or named_classes(None, folders) or {}
    scores = read_evaluation(Path(evaluation)) if evaluation is not None else None
    if scores and "note" in scores.summary:
        print(f"warning: {scores.summary['note']}", file=sys.stderr)
    entries: list[Entry] = []
    failed: dict[str, str] = {}
    for name, file in ProgressBar(maps.items(), "reporting", unit="study"):
        try:
            if name not in known:
                raise InputError(f"{image} has no study for {name}; wanted one for each prediction, of its name")
            study = _read_study(name, file, known[name], named, recorded(folders, name), scores)
            entries.append(_reported(study, out, source.name))
        except Exception as error:
            failed[name] = str(failure_of_study(error))
    if entries:
        write_text(out / INDEX, index_page(source.name, entries, failed, scores.summary if scores else None))
    raise_failed(failed, len(maps), "shown", out / INDEX)
    return out / INDEX


def _maps(prediction: Path) -> dict[str, Path]:
    if prediction.is_file():
        return {case_name(prediction): prediction}
    return label_maps(prediction)


def _studies(source: Source, image: Path, maps: Mapping[str, Path]) -> dict[str, Study]:
    """Study name to study; one study for one prediction needs no name."""
    known = {study.name: study for study in source.studies}
    if image.is_file() and len(known) == len(maps) == 1:
        return dict(zip(maps, known.values(), strict=True))
    return known


def _read_study(
    name: str,
    file: Path,
    study: Study,
    named: Mapping[str, int],
    about: Mapping[str, Any],
    scores: Evaluation | None,
) -> Segmented:
    image = study.image()
    label = read_label(file, like=image)
    if len(label) != image.frames:
        raise InputError(
            f"{file} has {count(len(label), 'frame')}, its study {image.frames}; wanted as many; predict it again"
        )
    reference, labelled = None, np.zeros(image.frames, bool)
    if study.label:
        reference, frames = study.label(image)
        labelled[slice(None) if frames is None else list(frames)] = True
        reference = np.where(labelled[:, None, None, None], reference, 0)
    found = sorted(
        {int(value) for frame in label for value in np.unique(frame)}
    )  # a frame at a time: sorting takes memory
    others = [value for value in found if value and value not in named.values()]
    classes = {**named, **{f"class {value}": value for value in others}}
    time = study.time or about.get("time")  # in the order of evaluate
    cyclic = time == "cyclic" if time in TIME_AXES else None
    return Segmented(name, image, label, classes, reference, labelled, cyclic, about, scores.of(name) if scores else {})


def _reported(study: Segmented, out: Path, collection: str) -> Entry:
    """Write the pictures and the page of a study; give its line in the index."""
    folder = out / PICTURES
    shown = [frame for frame, _ in study.moments] or [0]
    small = draw_thumbnail(study.image.array[0], study.label, study.image.affine, shown)
    small_file = save_picture(folder / f"{study.name}_thumbnail.webp", small)
    file = "study_index.html" if study.name.lower() == "index" else f"{study.name}.html"
    write_text(out / file, study_page(study, _pictures(study, folder), INDEX, collection))
    return Entry.of(study, quote(os.fsencode(file)), small_file)


def _pictures(study: Segmented, folder: Path) -> Pictures:
    """Draw a study into `folder`."""
    image, names = study.image, {value: name for name, value in study.classes.items()}
    drawn = image.array[0]
    sheet = draw_contour_sheet(
        drawn,
        study.label,
        image.affine,
        reference=study.reference,
        class_names=names,
        frames=_shown_frames(study),
        extremes=[frame for frame, _ in study.moments],
        extreme_names=[name for _, name in study.moments],
    )
    contours = save_png(folder / f"{study.name}_contours.png", sheet)
    if image.frames == 1:
        return Pictures(contours, None, None)
    loop = write_animation(
        folder / f"{study.name}_loop.webp", drawn, study.label, image.affine, class_names=names,
        frame_duration_s=image.frame_duration_s,
    )  # fmt: skip
    curves = draw_volume_curves(
        study.curves_ml,
        colours={name: class_color(value) for name, value in study.classes.items()},
        frame_duration_s=image.frame_duration_s,
        reference_ml=study.reference_ml,
        moments={name: frame for frame, name in study.moments},
    )
    return Pictures(contours, loop, save_png(folder / f"{study.name}_volumes.png", curves))


def _shown_frames(study: Segmented) -> list[int]:
    """Up to six frames: the first, end-diastole and end-systole, labelled ones, others."""
    total = study.image.frames
    even = [int(t) for t in np.linspace(0, total - 1, min(6, total)).round()]
    labelled = [int(t) for t in np.flatnonzero(study.labelled)][:2]
    moments = [frame for frame, _ in study.moments]
    return sorted(list(dict.fromkeys([0, *moments, *labelled, *even]))[:6])
