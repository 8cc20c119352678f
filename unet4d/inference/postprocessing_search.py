"""The search for post-processing steps that help, on predictions with references: greedy, one step per round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unet4d.inference.postprocessing_steps import EVERY_CLASS, OPERATIONS, Step, apply_steps
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.statistics import summary_statistics
from unet4d.system.signals import check_stop
from unet4d.system.text import count

MARGIN, TOLERANCE = 0.0005, 0.0001
RULE = (
    f"In each round the step that raises the mean foreground Dice most is kept, if it raises it by more than {MARGIN}, lowers the "
    f"mean Dice of no class by more than {TOLERANCE}, and improves more subjects than it worsens and at least two (of one subject "
    "alone: that one). The rounds end when no step passes. Dice is judged on the labelled frames, as unet4d evaluate does: the "
    "mean of a class runs over all labelled frames, the mean foreground Dice over the classes' means."
)


@dataclass(frozen=True, eq=False)
class HeldOutPrediction:
    """A prediction with its reference, both cropped to the voxels that matter.

    Attributes:
        subject: the person or animal.
        label: (T, X, Y, Z) uint8, the prediction in all frames.
        reference: (n, X, Y, Z) uint8, of the labelled frames.
        frames: the n labelled frames.
        cyclic: whether the last frame leads into the first.
    """

    subject: str
    label: np.ndarray
    reference: np.ndarray
    frames: np.ndarray
    cyclic: bool

    @classmethod
    def crop(
        cls, subject: str, label: np.ndarray, reference: np.ndarray, labelled: np.ndarray, cyclic: bool
    ) -> HeldOutPrediction:
        """Crop whole label maps (T, X, Y, Z), with `labelled` (T,) bool, to what has a class, a tenth of the voxels.

        A margin of one voxel stays around it, where the image has one: so every step does there what it does in the whole image.
        """
        frames = np.flatnonzero(labelled)
        occupied = (label != 0).any(axis=0) | (reference[frames] != 0).any(axis=0)
        bounds = []
        for axis in range(3):
            hit = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
            bounds.append(slice(max(0, hit[0] - 1), hit[-1] + 2) if hit.size else slice(0, 1))
        inside = (slice(None), *bounds)
        return cls(subject, label[inside].copy(), reference[frames][inside].copy(), frames, cyclic)


@dataclass(frozen=True)
class PredictionScore:
    """The scores of all predictions together, for K foreground classes by name.

    Attributes:
        dice: of each class, mean and n over the labelled frames of all cases, as `summary_statistics` returns them.
        subjects: mean foreground Dice of each subject; None where it is undefined.
    """

    dice: dict[str, dict[str, Any]]
    subjects: dict[str, float | None]

    @property
    def mean(self) -> float | None:
        """Return the mean foreground Dice: each class weighs the same; None where no class is defined."""
        return _mean([entry["mean"] for entry in self.dice.values()])

    def as_dict(self) -> dict[str, Any]:
        """Return the scores for the record."""
        return {"mean_foreground_dice": self.mean, "dice": self.dice, "subjects": self.subjects}


@dataclass(frozen=True)
class StepTrial:
    """The effect of a step on the predictions after the steps kept before it.

    Attributes:
        number: of the round, from 1.
        step: that was tried.
        before: the scores without the step.
        after: with it.
        kept: whether it was the best of its round.
    """

    number: int
    step: Step
    before: PredictionScore
    after: PredictionScore
    kept: bool = False

    @property
    def change(self) -> float:
        """Return the change of the mean foreground Dice; a class defined only before or only after changes it, too."""
        return _change(self.before.mean, self.after.mean)

    @property
    def changes(self) -> dict[str, float]:
        """Return the change of the mean Dice of each class."""
        return {name: _change(entry["mean"], self.after.dice[name]["mean"]) for name, entry in self.before.dice.items()}

    def subjects(self, sign: int) -> list[str]:
        """Return the subjects with a mean foreground Dice that rose (sign 1) or fell (-1).

        A Dice that is undefined afterwards was 0: all that was found was wrong, and is gone.
        """
        changes = {
            name: 1.0
            if was is not None and self.after.subjects[name] is None
            else _change(was, self.after.subjects[name])
            for name, was in self.before.subjects.items()
        }
        return [name for name, change in changes.items() if change * sign > 0]

    @property
    def why_not(self) -> str | None:
        """Return the reason against the step under `RULE`; None where there is none."""
        name, fall = min(self.changes.items(), key=lambda item: item[1])
        improved, worsened, subjects = len(self.subjects(1)), len(self.subjects(-1)), len(self.before.subjects)
        if not improved and not worsened and self.change == 0:
            return "changes no Dice"
        if fall < -TOLERANCE:
            return f"lowers {name} by {-fall:.4f}"
        if self.change <= MARGIN:
            return f"no more than {MARGIN}"
        if improved <= worsened or improved < min(2, subjects):
            return f"{improved} of {count(subjects, 'subject')} improve, {worsened} worsen"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the trial for the record."""
        return {
            "round": self.number,
            **self.step.as_dict(),
            "change_of_mean_foreground_dice": self.change,
            "change_of_dice": self.changes,
            "improved": self.subjects(1),
            "worsened": self.subjects(-1),
            "kept": self.kept,
            "why_not": self.why_not,
        }


@dataclass(frozen=True)
class ChosenSteps:
    """The steps that were kept, in their order, all trials round by round, and the scores without any step and with all of them."""

    steps: list[Step]
    trials: list[StepTrial]
    before: PredictionScore
    after: PredictionScore


def candidate_steps(labels: Mapping[str, int]) -> list[Step]:
    """Return every operation for every foreground class; removals for all classes as one, too, where there are several."""
    names = [name for name, value in labels.items() if value]
    steps = []
    for operation in OPERATIONS:
        every = [EVERY_CLASS] if len(names) > 1 and operation != "fill_holes" else []
        steps += [Step(operation, name) for name in [*names, *every]]
    return steps


def choose_steps(cases: Sequence[HeldOutPrediction], labels: Mapping[str, int]) -> ChosenSteps:
    """Choose steps greedily on one case or more, see `RULE`."""
    remaining, trials, steps = candidate_steps(labels), list[StepTrial](), list[Step]()
    maps: Sequence[np.ndarray] = [case.label for case in cases]
    first = score = _score(cases, [case.label[case.frames] for case in cases], labels)
    while True:
        number = len(steps) + 1
        tried = [StepTrial(number, step, score, _score_step(step, cases, maps, labels)) for step in remaining]
        passed = [index for index, trial in enumerate(tried) if trial.why_not is None]
        best = max(passed, key=lambda index: tried[index].change, default=None)
        trials += [replace(trial, kept=index == best) for index, trial in enumerate(tried)]
        if best is None:
            return ChosenSteps(steps, trials, first, score)
        steps.append(remaining.pop(best))
        maps = [apply_steps(label, steps[-1:], labels, case.cyclic) for case, label in zip(cases, maps, strict=True)]
        score = _score(cases, [label[case.frames] for case, label in zip(cases, maps, strict=True)], labels)


def _score_step(
    step: Step, cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], labels: Mapping[str, int]
) -> PredictionScore:
    """Score a step on label maps (T, X, Y, Z); of one that looks at one frame at a time, process the labelled frames alone."""
    check_stop()
    over_time, drawn = step.operation == "remove_single_frame_components", []
    for case, label in zip(cases, maps, strict=True):
        processed = apply_steps(label if over_time else label[case.frames], [step], labels, case.cyclic)
        drawn.append(processed[case.frames] if over_time else processed)
    return _score(cases, drawn, labels)


def _score(
    cases: Sequence[HeldOutPrediction], drawn: Sequence[np.ndarray], labels: Mapping[str, int]
) -> PredictionScore:
    """Score label maps (n, X, Y, Z) of the labelled frames."""
    classes = {name: value for name, value in labels.items() if value}
    rows: dict[str, list[np.ndarray]] = {}
    for case, label in zip(cases, drawn, strict=True):
        rows.setdefault(case.subject, []).append(dice(count_voxels(case.reference, label, list(classes.values()))))
    by_subject = {subject: np.concatenate(found) for subject, found in rows.items()}  # (frames, K) each
    together = np.concatenate(list(by_subject.values()))
    return PredictionScore(
        {name: summary_statistics(together[:, k]) for k, name in enumerate(classes)},
        {
            subject: _mean([summary_statistics(column)["mean"] for column in found.T])
            for subject, found in by_subject.items()
        },
    )


def _change(before: float | None, after: float | None) -> float:
    """Return the change from one mean to another; 0 where one of them is undefined."""
    return 0.0 if before is None or after is None else after - before


def _mean(values: Sequence[float | None]) -> float | None:
    return summary_statistics(np.array(values, np.float64))["mean"]  # None is NaN there, and ignored
