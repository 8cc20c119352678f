"""Arms, folds and jobs of the protocol, where a job keeps its files, and the label maps of programs without a writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.subject_folds import split_folds
from unet4d.errors import InputError
from unet4d.system.clocks import seconds_of

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
BASE = HERE / "base.yaml"
SUITES = ("arms", "artifacts", "ablations", "few_patients", "long", "propagated")
FOLDS = 2
CLEAN = "clean"
"""The view of the held-out studies as they are; other views are copies of the dataset, such as one with spoiled frames."""


@dataclass(frozen=True)
class Arm:
    """One method.

    Attributes:
        name: of the arm.
        program: a key of `programs.PROGRAMS`.
        seeds: one training per fold and seed.
        options: options of `unet4d train` beside base.yaml.
        quantities: what it is scored in; None: everything.
        patients: number of patients of a fold's training set that it trains on, the first by name; None: all. For unet4d alone.
        compared_with: the arm that it is tested against; None: that of its suite.
        epochs: length of its trainings in place of the budget, for a comparison at equal steps; None: the budget. For unet4d alone.
        propagated: options of `unet4d propagate`, which writes its training studies; None: drawn frames alone. For unet4d alone.
        network_of: the arm that trains its networks, with which it predicts in another way; None: itself. For unet4d, and for
            postprocessing, of which it is the arm that makes the label maps.
        predict: options of `unet4d predict`; null: its default. Nothing is smoothed over time unless it says so.
        steps: of postprocessing, [operation, class] each.
    """

    name: str
    program: str = "unet4d"
    seeds: Sequence[int] = (0,)
    options: dict[str, Any] = field(default_factory=dict)
    quantities: Sequence[str] | None = None
    patients: int | None = None
    compared_with: str | None = None
    epochs: int | None = None
    propagated: dict[str, float] | None = None
    network_of: str | None = None
    predict: dict[str, Any] = field(default_factory=dict)
    steps: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Suite:
    """Arms that are trained for the same time and compared in one table.

    Attributes:
        name: of its file.
        budget: CPU time of a training, such as "30m".
        compared_with: the arm that others are tested against where they name no other.
        tested: names of the quantities of the planned tests, see `unet4d.evaluation.comparison_metrics`.
        arms: in the order of running.
    """

    name: str
    budget: str
    compared_with: str
    tested: Sequence[str]
    arms: Sequence[Arm]

    @property
    def against(self) -> dict[str, str]:
        """Return the arms that are tested, each with the arm that it is tested against."""
        pairs = {arm.name: arm.compared_with or self.compared_with for arm in self.arms}
        return {name: other for name, other in pairs.items() if name != other}


@dataclass(frozen=True)
class Job:
    """One training of an arm, with prediction and scores of the patients that its fold holds out."""

    suite: str
    arm: Arm
    fold: int
    seed: int
    budget: str

    def __str__(self) -> str:
        return f"{self.arm.name} fold {self.fold} seed {self.seed}"

    def folder(self, work: Path) -> Path:
        """Return the folder of the job's files."""
        return self._folder(work, self.arm.name)

    def trained_folder(self, work: Path) -> Path:
        """Return the folder of the job that trains its network, itself or another one."""
        return self._folder(work, self.arm.network_of or self.arm.name)

    def _folder(self, work: Path, arm: str) -> Path:
        return work / self.suite / arm / f"fold_{self.fold}_seed_{self.seed}"


def read_suite(name: str) -> Suite:
    """Read NAME.yaml beside this file."""
    found = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    arms = [Arm(arm, **(about or {})) for arm, about in found.pop("arms").items()]
    return Suite(name, arms=arms, **found)


def select_jobs(
    suite: Suite,
    arms: Sequence[str] | None = None,
    fold: int | None = None,
    seed: int | None = None,
    budget: str | None = None,
) -> list[Job]:
    """Return the jobs of a suite in the order of running: arm by arm, seed by seed; None selects all.

    Raises:
        InputError: no such arm, fold or seed.
    """
    known = [arm.name for arm in suite.arms]
    if unknown := [name for name in arms or () if name not in known]:
        raise InputError(f"got the arm {unknown[0]!r}, expected some of {', '.join(known)}; correct it")
    jobs = [
        Job(suite.name, arm, k, s, budget or suite.budget)
        for arm in suite.arms
        if arms is None or arm.name in arms
        for s in arm.seeds
        for k in range(FOLDS)
        if fold in (None, k) and seed in (None, s)
    ]
    if not jobs:
        raise InputError(
            f"got fold {fold} and seed {seed}, expected a fold below {FOLDS} and a seed of the arm; correct it"
        )
    return jobs


def held_out_subjects(dataset: Dataset, fold: int) -> list[str]:
    """Return the subjects that a fold holds out: unet4d's own folds with seed 0, which depend on the subjects' names alone."""
    return split_folds(dataset, FOLDS, seed=0)[fold]


def held_out_cases(dataset: Dataset, fold: int) -> list[Case]:
    """Return the cases of the subjects that a fold holds out."""
    subjects = held_out_subjects(dataset, fold)
    return [case for case in dataset.training if case.subject in subjects]


def budget_seconds(budget: str) -> float:
    """Return the seconds of a budget such as "30m". Raises InputError for any other text."""
    if (seconds := seconds_of(budget)) is None:
        raise InputError(f"got the budget {budget!r}, expected a time such as 30m; correct it")
    return seconds


def write_label(path: Path, label: np.ndarray, like: nib.Nifti1Image) -> None:
    """Write a 4D label map (X, Y, Z, T) on the grid of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    nib.save(nib.Nifti1Image(label, None, header), path)
