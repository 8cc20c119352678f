"""Which steps of post-processing help, judged on predictions that have references: a greedy choice, one step a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unet4d.inference.postprocessing_steps import EVERY_CLASS, OPERATIONS, Step, apply
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.temporal_consistency import flicker
from unet4d.system.signals import check_stop
from unet4d.system.text import count

MARGIN, TOLERANCE = 0.0005, 0.0001
RULE = (
    f"In each round the step that raises the mean foreground Dice most is kept, if it raises it by more than {MARGIN}, lowers the "
    f"mean Dice of no class by more than {TOLERANCE}, and improves more subjects than it worsens and at least two (of one subject "
    "alone: that one). The rounds end when no step passes. Dice is judged on the labelled frames, as unet4d evaluate does: the "
    "mean of a class runs over all labelled frames, the mean foreground Dice over the classes' means."
)
FLICKER = (
    "Components that live one frame, and their voxels, over all frames of all cases, labelled or not: what unet4d evaluate calls "
    "flicker_components and flicker_voxels. They are told beside the Dice and decide nothing."
)
Flicker = dict[str, dict[str, int]]
"""Class name to {"components": ..., "voxels": ...}, see `FLICKER`."""


@dataclass(frozen=True, eq=False)
class HeldOutPrediction:
    """A prediction with its reference.

    Attributes:
        name: of the case.
        subject: the person or animal.
        label: (T, X, Y, Z) uint8, the prediction in all frames.
        reference: (n, X, Y, Z) uint8, of the labelled frames.
        frames: the n labelled frames.
        cyclic: whether the last frame leads into the first.
    """

    name: str
    subject: str
    label: np.ndarray
    reference: np.ndarray
    frames: np.ndarray
    cyclic: bool

    @classmethod
    def of(
        cls, name: str, subject: str, label: np.ndarray, reference: np.ndarray, labelled: np.ndarray, cyclic: bool
    ) -> HeldOutPrediction:
        """Of whole label maps (T, X, Y, Z) and `labelled` (T,) bool: kept are the voxels that matter, a tenth of them.

        A margin of one voxel stays around them, where the image has it: so every step gives there what it gives in the whole image.
        """
        frames = np.flatnonzero(labelled)
        occupied = (label != 0).any(axis=0) | (reference[frames] != 0).any(axis=0)
        box = []
        for axis in range(3):
            hit = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
            box.append(slice(max(0, hit[0] - 1), hit[-1] + 2) if hit.size else slice(0, 1))
        inside = (slice(None), *box)
        return cls(name, subject, label[inside].copy(), reference[frames][inside].copy(), frames, cyclic)


@dataclass(frozen=True)
class Score:
    """How good predictions are, K foreground classes by name.

    Attributes:
        dice: of each class, mean and n over the labelled frames of all cases, as `unet4d.metrics.describe` gives them.
        subjects: mean foreground Dice of each subject; None where it is undefined.
    """

    dice: dict[str, dict[str, Any]]
    subjects: dict[str, float | None]

    @property
    def mean(self) -> float | None:
        """Mean foreground Dice: each class weighs the same; None where no class is defined."""
        return _mean([entry["mean"] for entry in self.dice.values()])


@dataclass(frozen=True)
class Trial:
    """What a step did to the predictions as the steps kept before it left them.

    Attributes:
        number: of the round, from 1.
        before: the Dice without the step.
        after: with it.
        improved: subjects whose mean foreground Dice rose.
        worsened: those whose fell.
        flicker: before and after; of a step that sees one frame at a time None.
        why_not: what speaks against it; None where nothing does.
        kept: whether it was the best of its round.
    """

    number: int
    step: Step
    before: Score
    after: Score
    improved: tuple[str, ...]
    worsened: tuple[str, ...]
    flicker: tuple[Flicker, Flicker] | None = None
    why_not: str | None = None
    kept: bool = False

    @property
    def change(self) -> float:
        """Of the mean foreground Dice; a class that is defined only before or only after changes it, too."""
        return _change(self.before.mean, self.after.mean)

    @property
    def changes(self) -> dict[str, float]:
        """Of the mean Dice of each class."""
        return {name: _change(entry["mean"], self.after.dice[name]["mean"]) for name, entry in self.before.dice.items()}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how.

    Attributes:
        steps: those kept, in their order.
        trials: all, round by round.
        before: the Dice without any step.
        after: with all of them.
        flicker: before and after.
    """

    steps: list[Step]
    trials: list[Trial]
    before: Score
    after: Score
    flicker: tuple[Flicker, Flicker]


def candidates(labels: Mapping[str, int]) -> list[Step]:
    """Every operation for every foreground class; removals for all classes as one, too, where there are several."""
    names, _ = _foreground(labels)
    steps = []
    for operation in OPERATIONS:
        every = [EVERY_CLASS] if len(names) > 1 and operation != "fill_holes" else []
        steps += [Step(operation, name) for name in [*names, *every]]
    return steps


def choose(cases: Sequence[HeldOutPrediction], labels: Mapping[str, int]) -> Choice:
    """Choose steps greedily, see `RULE`.

    Args:
        cases: at least one.
        labels: class name to label value, background at 0.
    """
    remaining, trials = candidates(labels), list[Trial]()
    steps: list[Step] = []
    first = now = _round(1, cases, [case.label for case in cases], labels)
    while True:
        tried = [_try(step, now, cases, labels) for step in remaining]
        passed = [index for index, trial in enumerate(tried) if trial.why_not is None]
        best = max(passed, key=lambda index: tried[index].change, default=None)
        trials += [replace(trial, kept=index == best) for index, trial in enumerate(tried)]
        if best is None:
            return Choice(steps, trials, first.score, now.score, (first.flicker, now.flicker))
        steps.append(remaining.pop(best))
        made = [apply(label, steps[-1:], labels, case.cyclic) for case, label in zip(cases, now.made, strict=True)]
        now = _round(now.number + 1, cases, made, labels)


@dataclass(frozen=True, eq=False)
class _Round:
    """The label maps (T, X, Y, Z) of the cases at the beginning of a round, and how good they are."""

    number: int
    made: Sequence[np.ndarray]
    score: Score
    flicker: Flicker


def _round(
    number: int, cases: Sequence[HeldOutPrediction], made: Sequence[np.ndarray], labels: Mapping[str, int]
) -> _Round:
    labelled = [label[case.frames] for case, label in zip(cases, made, strict=True)]
    return _Round(number, made, _score(cases, labelled, labels), _flicker(cases, made, labels))


def _try(step: Step, now: _Round, cases: Sequence[HeldOutPrediction], labels: Mapping[str, int]) -> Trial:
    """One step judged. Of steps that see one frame at a time, the labelled frames are all that need work."""
    check_stop()
    over_time = step.operation == "remove_single_frame_components"
    seen = [label if over_time else label[case.frames] for case, label in zip(cases, now.made, strict=True)]
    made = [apply(label, [step], labels, case.cyclic) for case, label in zip(cases, seen, strict=True)]
    after = _score(
        cases,
        [label[case.frames] if over_time else label for case, label in zip(cases, made, strict=True)],
        labels,
    )
    before = now.score.subjects
    improved = tuple(name for name, was in before.items() if _sign(was, after.subjects[name]) > 0)
    worsened = tuple(name for name, was in before.items() if _sign(was, after.subjects[name]) < 0)
    flickers = (now.flicker, _flicker(cases, made, labels)) if over_time else None
    trial = Trial(now.number, step, now.score, after, improved, worsened, flickers)
    return replace(trial, why_not=_why_not(trial, len(before)))


def _why_not(trial: Trial, subjects: int) -> str | None:
    """What speaks against a step under `RULE`."""
    name, fall = min(trial.changes.items(), key=lambda item: item[1])
    improved, worsened = len(trial.improved), len(trial.worsened)
    why = None
    if not improved and not worsened and trial.change == 0:
        why = "changes no Dice"
    elif fall < -TOLERANCE:
        why = f"lowers {name} by {-fall:.4f}"
    elif trial.change <= MARGIN:
        why = f"no more than {MARGIN}"
    elif improved <= worsened or improved < min(2, subjects):
        why = f"{improved} of {count(subjects, 'subject')} improve, {worsened} worsen"
    return why


def _score(cases: Sequence[HeldOutPrediction], predictions: Sequence[np.ndarray], labels: Mapping[str, int]) -> Score:
    """Score predictions (n, X, Y, Z) of the labelled frames."""
    names, values = _foreground(labels)
    rows: dict[str, list[np.ndarray]] = {}
    for case, prediction in zip(cases, predictions, strict=True):
        rows.setdefault(case.subject, []).append(dice(count_voxels(case.reference, prediction, values)))
    by_subject = {subject: np.concatenate(found) for subject, found in rows.items()}  # (frames, K) each
    together = np.concatenate(list(by_subject.values()))
    return Score(
        {name: summary_statistics(together[:, k]) for k, name in enumerate(names)},
        {
            subject: _mean([summary_statistics(column)["mean"] for column in found.T])
            for subject, found in by_subject.items()
        },
    )


def _flicker(cases: Sequence[HeldOutPrediction], made: Sequence[np.ndarray], labels: Mapping[str, int]) -> Flicker:
    """The flicker of label maps (T, X, Y, Z) of the cases."""
    names, values = _foreground(labels)
    counted = [flicker(label, values, case.cyclic) for case, label in zip(cases, made, strict=True)]
    components, voxels = (sum(one[i].sum(axis=0) for one in counted) for i in range(2))
    return {
        name: {"components": int(n), "voxels": int(of)} for name, n, of in zip(names, components, voxels, strict=True)
    }


def _foreground(labels: Mapping[str, int]) -> tuple[list[str], list[int]]:
    """Names and values of the classes but the background."""
    classes = {name: value for name, value in labels.items() if value}
    return list(classes), list(classes.values())


def _change(before: float | None, after: float | None) -> float:
    """From one mean to another; none where one of them is undefined."""
    return 0.0 if before is None or after is None else after - before


def _sign(before: float | None, after: float | None) -> float:
    """Above 0 where a subject got better. What is undefined after was 0 before: all that was there was wrong, and is gone."""
    return 1.0 if before is not None and after is None else _change(before, after)


def _mean(values: Sequence[float | None]) -> float | None:
    return summary_statistics(np.array(values, np.float64))["mean"]  # None is NaN there, and left out
