"""Scores of finished jobs: read from the folder of the runs, and kept in the repository.

Of a job its record is kept, in NAME_jobs.json, and each value that is scored of a patient, in NAME_scores.csv. So the tables can be
made anew where networks and label maps are gone, and an arm can be tested against one that was run on another machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from experiments.real_cine.programs import RECORD
from experiments.real_cine.protocol import CHECKOUT, CLEAN, Job, Suite, select_jobs
from unet4d.errors import InputError
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES, RowKey
from unet4d.evaluation.results import read_evaluation
from unet4d.system.csv_file import csv_text, read_table
from unet4d.system.files import read_json, write_json, write_text

RESULTS = CHECKOUT / "experiments" / "results" / "real_cine"
GROUPS = {
    "Labelled frames": ("dice", "hd95_mm"),
    "Whole cycle": ("roughness", "closure", "frame_to_frame_dice", "flicker_components"),
    "Errors at the labelled frames": (
        *("ef_error_percent", "edv_error_ml", "esv_error_ml", "sv_error_ml", "mass_error_g"),
    ),
}
"""Scored quantities, as the tables group them."""
QUANTITIES = tuple(name for group in GROUPS.values() for name in group)
JOB = ("arm", "fold", "seed")
ROW = ("case", "subject", "frame", "class")

Rows = Mapping[RowKey, tuple[str, float]]
"""Case, frame and class of a row to its subject and value."""


class JobScores(NamedTuple):
    """A finished job: its record, and its defined values by quantity."""

    record: Mapping[str, Any]
    rows: Mapping[str, Rows]


def finished_jobs(suite: Suite, work: Path | None, view: str, kept: Path) -> dict[str, list[JobScores]]:
    """Return the finished jobs of each arm that has some: those in `work`, and others that are kept in a folder.

    Kept scores are left out where the options or the budget of their arm have changed since. So are those of an arm with
    `network_of` where that arm's own are left out or come from `work`: a table never mixes two networks.

    Raises:
        InputError: there is none.
    """
    known = _read_kept(kept, _name(suite, view))
    found: dict[str, list[JobScores]] = {}
    taken = set()  # of what is kept
    for job in select_jobs(suite):
        key, source = ((arm, str(job.fold), str(job.seed)) for arm in (job.arm.name, job.arm.network_of))
        if work and (job.folder(work) / view / RECORD).exists():
            found.setdefault(job.arm.name, []).append(_read_job(job.folder(work) / view))
        elif (
            (scores := known.get(key))
            and _is_of(job, scores.record)
            and (job.arm.network_of is None or source in taken)
        ):
            taken.add(key)
            found.setdefault(job.arm.name, []).append(scores)
    if not found:
        raise InputError(
            f"{work or kept} has no finished job of {suite.name} with --view {view}; run experiments.real_cine.run first"
        )
    return found


def keep(suite: Suite, view: str, jobs: Mapping[str, list[JobScores]], out: Path) -> None:
    """Write NAME_jobs.json and NAME_scores.csv of a suite."""
    every = [(arm, job) for arm, of_arm in jobs.items() for job in of_arm]
    write_json(out / f"{_name(suite, view)}_jobs.json", [dict(job.record) for _, job in every])
    lines = [_line(arm, job, key) for arm, job in every for key in _keys(job)]
    write_text(out / f"{_name(suite, view)}_scores.csv", csv_text([[*JOB, *ROW, *QUANTITIES], *lines]))


def mean_rows(jobs: Iterable[JobScores], quantity: str) -> Rows:
    """Return the values of a quantity, averaged over the jobs that have the same row: the seeds of an arm."""
    found: dict[RowKey, tuple[str, list[float]]] = {}
    for job in jobs:
        for key, (subject, value) in job.rows[quantity].items():
            found.setdefault(key, (subject, []))[1].append(value)
    return {key: (subject, fmean(values)) for key, (subject, values) in found.items()}


def _name(suite: Suite, view: str) -> str:
    return suite.name if view == CLEAN else f"{suite.name}_{view}"


def _is_of(job: Job, record: Mapping[str, Any]) -> bool:
    """Return whether a record is of a job as it is planned today."""
    return (record["options"], record["budget"]) == (job.arm.options, job.budget)


def _read_job(folder: Path) -> JobScores:
    """Read the record and the scores in the folder of a view."""
    results = read_evaluation(folder / "scores")
    rows = {
        name: {k: (subject, v) for k, subject, v in COMPARISON_QUANTITIES[name].values(results) if math.isfinite(v)}
        for name in QUANTITIES
    }
    return JobScores(read_json(folder / RECORD), rows)


def _read_kept(folder: Path, name: str) -> dict[tuple[str, ...], JobScores]:
    """Read what `keep` wrote, by arm, fold and seed; nothing where it is not there."""
    records, scores = folder / f"{name}_jobs.json", folder / f"{name}_scores.csv"
    if not records.exists():
        return {}
    found = {
        tuple(str(record[part]) for part in JOB): JobScores(record, {name: {} for name in QUANTITIES})
        for record in read_json(records)
    }
    for line in read_table(scores, [*JOB, *ROW, *QUANTITIES], "run experiments.real_cine.table again"):
        rows = found[tuple(line[part] for part in JOB)].rows
        for name in QUANTITIES:
            if line[name]:
                rows[name][line["case"], line["frame"], line["class"]] = (line["subject"], float(line[name]))  # type: ignore[index]
    return found


def _keys(job: JobScores) -> list[tuple[str, RowKey]]:
    """Return subject and key of each row that has a value, in the order of the quantities."""
    return list(dict.fromkeys((subject, key) for rows in job.rows.values() for key, (subject, _) in rows.items()))


def _line(arm: str, job: JobScores, of: tuple[str, RowKey]) -> list[Any]:
    """Return a line of the kept scores."""
    subject, key = of
    case, frame, class_name = key
    values = [job.rows[name][key][1] if key in job.rows[name] else "" for name in QUANTITIES]
    return [arm, job.record["fold"], job.record["seed"], case, subject, frame, class_name, *values]
