"""`unet4d report`: one HTML page that shows what was segmented. Everything is inside it: it opens from disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import unet4d
from unet4d import metrics
from unet4d.data.convert import NO_OPTIONS, Options
from unet4d.data.image4d import Image4D, read_label
from unet4d.data.nifti import case_name
from unet4d.data.references import label_maps, named_classes
from unet4d.data.studies import AUTO, source_at
from unet4d.data.study import Source, Study
from unet4d.errors import InputError
from unet4d.files import check_writable, read_json, write_text
from unet4d.pictures import animation, class_colour, contour_sheet, page, save_png, volume_curves

PAGE, PICTURES = "index.html", "pictures"
LIMITS = (
    "Research software. Not a medical device; not for diagnosis, treatment or any other clinical decision. Contours and "
    "volumes come from an automatic segmentation and must be checked by somebody qualified before they are relied on."
)


@dataclass(frozen=True)
class Segmented:
    """One segmented study.

    Attributes:
        image: of all channels; the first is drawn.
        label: (T, X, Y, Z) uint8, the prediction.
        classes: foreground class name to label value.
        reference: (T, X, Y, Z) uint8 and zero where nobody drew, with `labelled` (T,) bool; None where there is none.
        dice: mean foreground Dice from an evaluation, where there is one.
    """

    name: str
    image: Image4D
    label: np.ndarray
    classes: Mapping[str, int]
    reference: np.ndarray | None
    labelled: np.ndarray
    dice: float | None


def report(
    image: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    evaluation: str | os.PathLike[str] | None = None,
    kind: str = AUTO,
    options: Options = NO_OPTIONS,
) -> Path:
    """Draw every prediction and write index.html, and the pictures also as files, to `out_dir`.

    Args:
        image: a dataset (folder or dataset.json; its labels are drawn too), a folder of studies, one study, or any layout that
            `unet4d convert` knows.
        prediction: a folder of label maps `<case>.nii.gz`, or one label map.
        out_dir: made where it is missing.
        evaluation: a folder that `evaluate` wrote; its summary goes on the page.
        kind: layout of `image`, as for `predict`; "auto" finds it out.
        options: for an image of that kind; studies are named by them as when they were predicted.

    Returns:
        The page.

    Raises:
        InputError: a prediction without its study, or on another grid; a file that cannot be read.
    """
    out = Path(out_dir)
    check_writable(out)
    maps = _maps(Path(prediction))
    source = source_at(Path(image), kind=kind, options=options)
    studies = _studies(source, Path(image), maps)
    named = {name: value for name, value in source.labels.items() if value}
    named = named or named_classes(None, [Path(prediction), Path(prediction).parent]) or {}
    summary = _summary(Path(evaluation)) if evaluation is not None else None
    sections = []
    for name, file in tqdm(maps.items(), "reporting", unit="study", disable=None):
        study = _segmented(name, file, studies[name], named, summary)
        sections.append(page.section(list(_study_section(study, out / PICTURES)), anchor=f"study-{name}"))
    title = f"4D segmentation: {source.name}"
    lead = [page.text(title, "h1"), page.text(f"{len(maps)} studies · unet4d {unet4d.__version__}", kind="soft")]
    lead += [page.text(LIMITS, kind="limits"), page.links([(f"study-{name}", name) for name in maps])]
    if summary:
        lead.append(page.section(_evaluation_section(summary), kind="lead"))
    write_text(out / PAGE, page.page(title, [*lead, *sections]))
    return out / PAGE


def _maps(prediction: Path) -> dict[str, Path]:
    if prediction.is_file():
        return {case_name(prediction): prediction}
    return label_maps(prediction)


def _studies(source: Source, image: Path, maps: Mapping[str, Path]) -> dict[str, Study]:
    """The study behind each prediction."""
    known = {study.name: study for study in source.studies}
    if image.is_file() and len(known) == len(maps) == 1:
        known = dict(zip(maps, known.values(), strict=True))
    missing = [name for name in maps if name not in known]
    if missing:
        raise InputError(f"{image} has no study for {', '.join(missing)}; wanted one for each prediction, of its name")
    return known


def _summary(folder: Path) -> dict[str, Any]:
    path = folder if folder.is_file() else folder / "summary.json"
    if not path.is_file():
        raise InputError(f"--evaluation: {path} is missing; wanted the --out folder of `unet4d evaluate`; give it")
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"classes", "convention", "averaging", "per_case"} <= set(summary):
        raise InputError(f"{path} is no summary of an evaluation; give the folder that `unet4d evaluate` wrote")
    return summary


def _segmented(
    name: str, file: Path, study: Study, named: Mapping[str, int], summary: Mapping[str, Any] | None
) -> Segmented:
    image = study.image()
    label = read_label(file, like=image)
    if len(label) != image.frames:
        raise InputError(f"{file} has {len(label)} frames, its study {image.frames}; wanted as many; predict it again")
    reference, labelled = None, np.zeros(image.frames, bool)
    if study.label:
        reference, frames = study.label(image)
        labelled[slice(None) if frames is None else list(frames)] = True
        reference = np.where(labelled[:, None, None, None], reference, 0)
    others = [int(value) for value in np.unique(label) if value and value not in named.values()]
    classes = {**named, **{f"class {value}": value for value in others}}
    dice = summary["per_case"].get(name, {}).get("mean_foreground_dice") if summary else None
    return Segmented(name, image, label, classes, reference, labelled, dice)


def _study_section(study: Segmented, folder: Path) -> Iterator[str]:
    """Draw a study into `folder`; give its part of the page piece by piece."""
    image, names = study.image, {value: name for name, value in study.classes.items()}
    voxel_ml = metrics.voxel_volume_ml(image.affine)
    curves = metrics.volumes_ml(study.label, list(study.classes.values()), voxel_ml)  # (T, K)
    yield page.text(study.name, "h2")
    yield page.text(_facts(study), kind="soft")
    drawn = image.array[0]
    if image.frames > 1:
        loop = animation(
            folder / f"{study.name}_loop.webp", drawn, study.label, image.affine, class_names=names,
            frame_duration_s=image.frame_duration_s,
        )  # fmt: skip
        yield page.figure(loop, "All frames: the study, and below it with the contours of the segmentation.")
    sheet = contour_sheet(
        drawn,
        study.label,
        image.affine,
        reference=study.reference,
        class_names=names,
        frames=_shown_frames(study, curves),
        extremes=metrics.extreme_frames(curves),
    )
    dashed = " Dashed: the reference, on the frames that have one." if study.reference is not None else ""
    yield page.figure(
        save_png(folder / f"{study.name}_contours.png", sheet),
        f"Slices down, time across; the patient's left is on the right, as the header has it.{dashed}",
    )
    yield page.text("Volumes", "h3")
    if image.frames > 1:
        yield page.figure(_curve_picture(study, curves, voxel_ml, folder), "Volume of each class over all frames.")
    yield _volume_table(study, curves)
    for k, name in enumerate(study.classes):
        absent = np.flatnonzero(curves[:, k] == 0)
        if len(absent):
            where = (
                "every frame"
                if len(absent) == image.frames
                else f"frame{'s' if len(absent) > 1 else ''} " + ", ".join(map(str, absent))
            )
            yield page.text(f"{name}: nothing found in {where}.", kind="warn")


def _facts(study: Segmented) -> str:
    image = study.image
    size, spacing = " x ".join(map(str, image.grid)), " x ".join(f"{mm:.3g}" for mm in image.spacing)
    time = f"{image.frame_duration_s:.3g} s a frame" if image.frame_duration_s else "time between frames unknown"
    channels = f" · the first of {image.channels} channels is shown" if image.channels > 1 else ""
    dice = f" · mean foreground Dice {study.dice:.3f}" if study.dice is not None else ""
    return f"{image.frames} frames, {time} · {size} voxels of {spacing} mm{channels}{dice}"


def _shown_frames(study: Segmented, curves: np.ndarray) -> list[int]:
    """Up to six frames: the first, those of the largest and the smallest volume, labelled ones, others."""
    total = len(curves)
    even = [int(t) for t in np.linspace(0, total - 1, min(6, total)).round()]
    labelled = [int(t) for t in np.flatnonzero(study.labelled)][:2]
    return sorted(list(dict.fromkeys([0, *metrics.extreme_frames(curves), *labelled, *even]))[:6])


def _curve_picture(study: Segmented, curves: np.ndarray, voxel_ml: float, folder: Path) -> Path:
    reference = None
    if study.reference is not None:
        volumes = metrics.volumes_ml(study.reference, list(study.classes.values()), voxel_ml)
        volumes[~study.labelled] = np.nan
        reference = dict(zip(study.classes, volumes.T, strict=True))
    picture = volume_curves(
        dict(zip(study.classes, curves.T, strict=True)),
        colours={name: class_colour(value) for name, value in study.classes.items()},
        frame_duration_s=study.image.frame_duration_s,
        reference_ml=reference,
    )
    return save_png(folder / f"{study.name}_volumes.png", picture)


def _volume_table(study: Segmented, curves: np.ndarray) -> str:
    rows = []
    for name, curve in zip(study.classes, curves.T, strict=True):
        largest, smallest = float(curve.max()), float(curve.min())
        change = f"{100 * (largest - smallest) / largest:.0f} %" if largest else "-"
        cavity = "ventricle" in name.lower() and "myocard" not in name.lower()
        note = " (ejection fraction)" if cavity and smallest and study.image.frames > 1 else ""
        high, low = (f"{volume:.1f} mL" for volume in (largest, smallest))
        rows.append([name, high, str(int(curve.argmax())), low, str(int(curve.argmin())), change + note])
    colours = [class_colour(value) for value in study.classes.values()]
    return page.table(
        ["class", "largest", "in frame", "smallest", "in frame", "(largest - smallest) / largest"], rows, colours
    )


def _evaluation_section(summary: Mapping[str, Any]) -> list[str]:
    shown, rows = metrics.shown, []
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        rows.append([
            name, f"{shown(dice['mean'], 3)} ± {shown(dice['std'], 3)}", str(dice["n"]), shown(distance["mean"], 2),
            shown(distance["median"], 2), str(distance["n"]), shown(error["bias"], 2), shown(error["mean_absolute"], 2),
            str(entry["n_one_empty"]), str(entry["n_both_empty"]),
        ])  # fmt: skip
    head = ["class", "Dice, mean ± SD", "n", "HD95 mm, mean", "median", "n", "volume bias mL", "absolute mL"]
    scored = f"{summary['cases']} cases of {summary['subjects']} subjects, {summary['labelled_frames']} labelled frames"
    if left_out := summary.get("without_prediction"):
        scored += f" ({len(left_out)} references without prediction left out)"
    return [
        page.text("Against the reference", "h2"),
        page.text(f"{scored}; mean over classes of the mean Dice {shown(summary['mean_foreground_dice'], 3)}."),
        page.table(
            [*head, "one empty", "both empty"], rows, [class_colour(e["value"]) for e in summary["classes"].values()]
        ),
        page.text(summary["convention"], kind="soft"),
        page.text(summary["averaging"], kind="soft"),
    ]
