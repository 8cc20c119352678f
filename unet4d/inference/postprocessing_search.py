"""The search for post-processing steps that help, on predictions with references: greedy, one step per round.

In each round the step that raises the mean foreground Dice most is kept, if it raises it by more than `MARGIN`, lowers the mean
Dice of no class by more than `TOLERANCE`, and improves more subjects than it worsens and at least two (of one subject alone: that
one). The rounds end when no step passes. Then `majority_over_time` is kept if it lowers the roughness of the volume curves, and the
mean Dice of no class by more than `TOLERANCE`: of two label maps as right as each other, the smoother one.

Dice is judged on the labelled frames, as unet4d evaluate does: the mean of a class runs over all labelled frames, the mean
foreground Dice over the classes' means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.inference.postprocessing_steps import EVERY_CLASS, OPERATIONS, OVER_TIME, Step, apply_steps, bounding_box
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.regions import ClassValue, class_mask
from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.volume_curves import roughness
from unet4d.system.signals import check_stop

MARGIN, TOLERANCE = 0.0005, 0.0001
_MAJORITY = Step("majority_over_time", EVERY_CLASS)


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
        box = bounding_box(occupied) or (slice(0, 1),) * 3
        inside = (slice(None), *(slice(max(0, side.start - 1), side.stop + 1) for side in box))
        return cls(subject, label[inside].copy(), reference[frames][inside].copy(), frames, cyclic)


@dataclass(frozen=True)
class DiceScores:
    """Dice of label maps on their labelled frames; None where undefined.

    Attributes:
        mean_foreground_dice: mean of the classes.
        dice: of each class, over the labelled frames of all cases.
        subjects: mean foreground Dice of each subject.
    """

    mean_foreground_dice: float | None
    dice: Mapping[str, float | None]
    subjects: Mapping[str, float | None]


def candidate_steps(classes: Mapping[str, ClassValue]) -> list[Step]:
    """Return the steps of the rounds: an operation for a class; removals for all classes as one, too, where there are several."""
    names = [name for name, value in classes.items() if value]
    steps = []
    for operation in (operation for operation in OPERATIONS if operation != _MAJORITY.operation):
        every = [EVERY_CLASS] if len(names) > 1 and operation != "fill_holes" else []
        steps += [Step(operation, name) for name in [*names, *every]]
    return steps


def choose_steps(
    cases: Sequence[HeldOutPrediction], classes: Mapping[str, ClassValue]
) -> tuple[list[Step], list[DiceScores]]:
    """Choose steps on one case or more; return those that help, in their order, and the scores before the first and after each."""
    remaining, steps = candidate_steps(classes), list[Step]()
    maps = [case.label for case in cases]
    scores = [_score(cases, [case.label[case.frames] for case in cases], classes)]
    while True:
        tried = [_score_step(step, cases, maps, classes) for step in remaining]
        helping = [index for index, after in enumerate(tried) if _helps(scores[-1], after)]
        if not helping:
            break
        best = max(
            helping, key=lambda index: _change(scores[-1].mean_foreground_dice, tried[index].mean_foreground_dice)
        )
        steps.append(remaining.pop(best))
        scores.append(tried[best])
        maps = _apply(steps[-1], cases, maps, classes)
    smoothed = _apply(_MAJORITY, cases, maps, classes)
    after = _score(cases, [label[case.frames] for case, label in zip(cases, smoothed, strict=True)], classes)
    if _lowers_no_class(scores[-1], after) and _is_smoother(cases, maps, smoothed, classes):
        steps.append(_MAJORITY)
        scores.append(after)
    return steps, scores


def _apply(
    step: Step, cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], classes: Mapping[str, ClassValue]
) -> list[np.ndarray]:
    return [apply_steps(label, [step], classes, case.cyclic) for case, label in zip(cases, maps, strict=True)]


def _is_smoother(
    cases: Sequence[HeldOutPrediction],
    maps: Sequence[np.ndarray],
    smoothed: Sequence[np.ndarray],
    classes: Mapping[str, ClassValue],
) -> bool:
    """Return whether the roughness of the classes' curves, on average over those that have one, is lower in `smoothed`."""
    values = [value for value in classes.values() if value]

    def curve_roughness(label: np.ndarray, value: ClassValue, cyclic: bool) -> float | None:
        return roughness(class_mask(label, value).sum(axis=(1, 2, 3)), cyclic)

    changes = [
        _change(curve_roughness(before, value, case.cyclic), curve_roughness(after, value, case.cyclic))
        for case, before, after in zip(cases, maps, smoothed, strict=True)
        for value in values
    ]
    return sum(changes) < 0


def _score_step(
    step: Step, cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], classes: Mapping[str, ClassValue]
) -> DiceScores:
    """Score a step on label maps (T, X, Y, Z); of one that looks at one frame at a time, process the labelled frames alone."""
    check_stop()
    over_time, processed = step.operation in OVER_TIME, []
    for case, label in zip(cases, maps, strict=True):
        changed = apply_steps(label if over_time else label[case.frames], [step], classes, case.cyclic)
        processed.append(changed[case.frames] if over_time else changed)
    return _score(cases, processed, classes)


def _score(
    cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], classes: Mapping[str, ClassValue]
) -> DiceScores:
    """Score label maps (n, X, Y, Z) of the labelled frames."""
    classes = {name: value for name, value in classes.items() if value}
    found: dict[str, list[np.ndarray]] = {}
    for case, label in zip(cases, maps, strict=True):
        found.setdefault(case.subject, []).append(dice(count_voxels(case.reference, label, list(classes.values()))))
    of_subjects = {subject: np.concatenate(rows) for subject, rows in found.items()}  # (frames, K) each
    every = np.concatenate(list(of_subjects.values()))
    means = [_mean(column) for column in every.T]
    subjects = {subject: _mean([_mean(column) for column in rows.T]) for subject, rows in of_subjects.items()}
    return DiceScores(_mean(means), dict(zip(classes, means, strict=True)), subjects)


def _mean(values: np.ndarray | Sequence[float | None]) -> float | None:
    """Return the mean of what is defined; None where nothing is."""
    return summary_statistics(np.array(values, np.float64))["mean"]  # None is NaN there


def _helps(before: DiceScores, after: DiceScores) -> bool:
    """Return whether a step may be kept, see the rule above."""
    of_subjects = [
        # A Dice that is undefined afterwards was 0: all that was found was wrong, and is gone.
        1.0 if was is not None and after.subjects[name] is None else _change(was, after.subjects[name])
        for name, was in before.subjects.items()
    ]
    better, worse = sum(change > 0 for change in of_subjects), sum(change < 0 for change in of_subjects)
    return (
        _change(before.mean_foreground_dice, after.mean_foreground_dice) > MARGIN
        and _lowers_no_class(before, after)
        and better > worse
        and better >= min(2, len(of_subjects))
    )


def _lowers_no_class(before: DiceScores, after: DiceScores) -> bool:
    return all(_change(was, after.dice[name]) >= -TOLERANCE for name, was in before.dice.items())


def _change(before: float | None, after: float | None) -> float:
    """Return the change from one mean to another; 0 where one of them is undefined."""
    return 0.0 if before is None or after is None else after - before
