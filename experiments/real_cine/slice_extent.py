"""Volume errors, split: those of the slices in which a structure is drawn, and those of its border.

    python -m experiments.real_cine.slice_extent DATASET WORK --arm clstm clstm_smoothed_cleaned nnunet_2d [--out OUT]

Where reference and prediction disagree on whether a slice holds the structure at all, the reference's area is taken: as if a reader
had said in which slices it lies. What is left of the errors is that of the border.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.real_cine.programs import RECORD
from experiments.real_cine.protocol import CLEAN, SUITES, Job, held_out_cases, read_suite, select_jobs
from experiments.real_cine.scores import RESULTS
from experiments.real_cine.table import markdown_table
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError
from unet4d.evaluation.cardiac_function import score_cardiac_function
from unet4d.images.image4d import read_label
from unet4d.metrics.volume_curves import voxel_volume_ml
from unet4d.system.files import write_json, write_text

STRUCTURES = ("right ventricle", "left ventricle")
NAME = "slice_extent"


def with_known_extent(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the areas of the prediction, those of the reference in slices that only one of the two holds.

    Args:
        reference: (T, Z), area or volume of the structure in each slice.
        prediction: (T, Z), the same.
    """
    return np.where((reference > 0) == (prediction > 0), prediction, reference)


def score_case(case: Case, dataset: Dataset, predicted: Path) -> list[dict[str, Any]]:
    """Return one row per structure: errors at the labelled frames as they are, and with the extent of the reference."""
    image = case.image()
    reference, labelled = read_labelled(case, dataset, image)
    prediction = read_label(predicted, like=image)
    rows = []
    for name, value in dataset.labels:
        if name not in STRUCTURES:
            continue
        true_ml, ml = (
            (label[labelled] == value).sum((1, 2)) * voxel_volume_ml(image.affine) for label in (reference, prediction)
        )
        known_ml = with_known_extent(true_ml, ml)
        row: dict[str, Any] = {"case": case.name, "class": name}
        for kind, volumes in (("", ml), ("known_extent_", known_ml)):
            (found,) = score_cardiac_function(
                {name: true_ml.sum(1)}, {name: volumes.sum(1)}, None, dataset.time == "cyclic"
            )
            for measure in ("ef_percent", "esv_ml", "edv_ml"):
                quantity, unit = measure.split("_")
                row[f"{kind}{quantity}_error_{unit}"] = abs(found[f"matched_{measure}"] - found[f"reference_{measure}"])
        extra, missed = (ml > 0) & (true_ml == 0), (ml == 0) & (true_ml > 0)
        row |= {"extra_slices": int(extra.sum()), "missed_slices": int(missed.sum()), "slices": ml.size}
        rows.append(row)
    return rows


def score_jobs(jobs: Sequence[Job], dataset: Path, work: Path) -> list[dict[str, Any]]:
    """Return the rows of all finished jobs. Raises InputError where there is none."""
    content, rows = read_dataset(dataset), []
    for job in jobs:
        folder = job.folder(work) / CLEAN
        if (folder / RECORD).exists():
            for case in held_out_cases(content, job.fold):
                found = score_case(case, content, folder / "predicted" / f"{case.name}.nii.gz")
                rows += [{"arm": job.arm.name, "seed": job.seed} | row for row in found]
    if not rows:
        raise InputError(f"{work} has no finished job of these arms; run experiments.real_cine.run first")
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row per arm and structure: means over patients and seeds, sums of slices."""
    lines = []
    for arm, name in dict.fromkeys((row["arm"], row["class"]) for row in rows):
        of = [row for row in rows if (row["arm"], row["class"]) == (arm, name)]
        errors = [
            f"{fmean(row[q] for row in of):.1f}, {fmean(row[f'known_extent_{q}'] for row in of):.1f}"
            for q in ("ef_error_percent", "esv_error_ml", "edv_error_ml")
        ]
        slices = [str(sum(row[q] for row in of)) for q in ("extra_slices", "missed_slices", "slices")]
        lines.append([arm, name, *errors, *slices])
    head = [
        "arm",
        "structure",
        "EF error, points; its extent known",
        "ESV error, mL; the same",
        "EDV error, mL; the same",
    ]
    return markdown_table([*head, "slices drawn too many", "too few", "of"], lines) + "\n"


def main() -> None:
    """Write and print the table of the given arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of the runs")
    parser.add_argument("--arm", nargs="+", required=True)
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        rows = score_jobs(select_jobs(read_suite(given.suite), given.arm), given.dataset, given.work)
    except InputError as error:
        print(f"real_cine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    write_json(given.out / f"{NAME}.json", rows)
    write_text(given.out / f"{NAME}.md", text := markdown(rows))
    print(text)


if __name__ == "__main__":
    main()
