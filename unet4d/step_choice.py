"""Which steps of post-processing help, judged on predictions that have references: a greedy choice, one step a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unet4d.metrics import count_voxels, describe, dice
from unet4d.postprocessing import EVERY_CLASS, OPERATIONS, Step, apply

MARGIN, TOLERANCE = 0.0005, 0.0001
RULE = (
    f"In each round the step that raises the mean foreground Dice most is kept, if it raises it by more than {MARGIN}, lowers the "
    f"mean Dice of no class by more than {TOLERANCE}, and improves more subjects than it worsens and at least two (of one subject "
    "alone: that one). The rounds end when no step passes. Dice is judged on the labelled frames, as unet4d evaluate does: the "
    "mean of a class runs over all labelled frames, the mean foreground Dice over the classes' means."
)
FLICKER = (
    "Flicker of a class: how often a voxel differs, in being of the class, from the frames before and after, which agree; over "
    "the class's voxels in the frames that have both. Over all frames, labelled or not; of fewer than three frames undefined."
)


@dataclass(frozen=True, eq=False)
class Judged:
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
    ) -> Judged:
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
        flicker: of each class, before and after; of steps over time alone.
        why_not: what speaks against it; None where nothing does.
        kept: whether it was the best of its round.
    """

    number: int
    step: Step
    before: Score
    after: Score
    improved: tuple[str, ...]
    worsened: tuple[str, ...]
    flicker: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
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
        flicker: of each class, before and after.
    """

    steps: list[Step]
    trials: list[Trial]
    before: Score
    after: Score
    flicker: dict[str, tuple[float | None, float | None]]


def candidates(labels: Mapping[str, int]) -> list[Step]:
    """Every operation for every foreground class; removals for all classes as one, too, where there are several."""
    names = [name for name, value in labels.items() if value]
    steps = []
    for operation in OPERATIONS:
        every = [EVERY_CLASS] if len(names) > 1 and operation != "fill_holes" else []
        steps += [Step(operation, name) for name in [*names, *every]]
    return steps


def choose(cases: Sequence[Judged], labels: Mapping[str, int]) -> Choice:
    """Choose steps greedily, see `RULE`.

    Args:
        cases: at least one.
        labels: class name to label value, background at 0.
    """
    remaining, trials = candidates(labels), list[Trial]()
    steps: list[Step] = []
    now = [case.label for case in cases]
    before = found = _score(cases, [label[case.frames] for case, label in zip(cases, now, strict=True)], labels)
    while True:
        number = 1 + len(steps)
        tried = [_try(step, number, cases, now, found, labels) for step in remaining]
        passed = [index for index, trial in enumerate(tried) if trial.why_not is None]
        best = max(passed, key=lambda index: tried[index].change, default=None)
        trials += [replace(trial, kept=index == best) for index, trial in enumerate(tried)]
        if best is None:
            break
        steps.append(remaining.pop(best))
        found = tried[best].after
        now = [apply(label, steps[-1:], labels, case.cyclic) for case, label in zip(cases, now, strict=True)]
    original = [case.label for case in cases]
    return Choice(steps, trials, before, found, _flicker_change(cases, original, now, labels))


def flicker(labels: Sequence[np.ndarray], value: int, cyclic: Sequence[bool]) -> float | None:
    """The flicker of one class over label maps (T, X, Y, Z), see `FLICKER`; None where it is undefined."""
    blips = voxels = 0
    for label, wraps in zip(labels, cyclic, strict=True):
        frames = len(label)
        for t in (range(frames) if wraps else range(1, frames - 1)) if frames > 2 else ():
            before, here, after = (label[(t + d) % frames] == value for d in (-1, 0, 1))
            blips += int(np.count_nonzero((before == after) & (before != here)))
            voxels += int(np.count_nonzero(here))
    return blips / voxels if voxels else None


def _try(
    step: Step, number: int, cases: Sequence[Judged], now: Sequence[np.ndarray], found: Score, labels: Mapping[str, int]
) -> Trial:
    """One step judged. Of steps that see one frame at a time, the labelled frames are all that need work."""
    over_time = step.operation == "remove_single_frame_components"
    seen = [label if over_time else label[case.frames] for case, label in zip(cases, now, strict=True)]
    made = [apply(label, [step], labels, case.cyclic) for case, label in zip(cases, seen, strict=True)]
    scored = [label[case.frames] if over_time else label for case, label in zip(cases, made, strict=True)]
    after = _score(cases, scored, labels)
    improved = tuple(name for name, was in found.subjects.items() if _sign(was, after.subjects[name]) > 0)
    worsened = tuple(name for name, was in found.subjects.items() if _sign(was, after.subjects[name]) < 0)
    flickers = _flicker_change(cases, now, made, labels) if over_time else {}
    trial = Trial(number, step, found, after, improved, worsened, flickers)
    return replace(trial, why_not=_why_not(trial, len(found.subjects)))


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
        why = f"{improved} of {subjects} subjects improve, {worsened} worsen"
    return why


def _score(cases: Sequence[Judged], predictions: Sequence[np.ndarray], labels: Mapping[str, int]) -> Score:
    """Score predictions (n, X, Y, Z) of the labelled frames."""
    names, values = zip(*((name, value) for name, value in labels.items() if value), strict=True)
    rows: dict[str, list[np.ndarray]] = {}
    for case, prediction in zip(cases, predictions, strict=True):
        rows.setdefault(case.subject, []).append(dice(count_voxels(case.reference, prediction, values)))
    by_subject = {subject: np.concatenate(found) for subject, found in rows.items()}  # (frames, K) each
    together = np.concatenate(list(by_subject.values()))
    return Score(
        {name: describe(together[:, k]) for k, name in enumerate(names)},
        {subject: _mean([describe(column)["mean"] for column in found.T]) for subject, found in by_subject.items()},
    )


def _flicker_change(
    cases: Sequence[Judged], before: Sequence[np.ndarray], after: Sequence[np.ndarray], labels: Mapping[str, int]
) -> dict[str, tuple[float | None, float | None]]:
    cyclic = [case.cyclic for case in cases]
    classes = {name: value for name, value in labels.items() if value}
    return {name: (flicker(before, value, cyclic), flicker(after, value, cyclic)) for name, value in classes.items()}


def _change(before: float | None, after: float | None) -> float:
    """From one mean to another; none where one of them is undefined."""
    return 0.0 if before is None or after is None else after - before


def _sign(before: float | None, after: float | None) -> float:
    """Above 0 where a subject got better. What is undefined after was 0 before: all that was there was wrong, and is gone."""
    return 1.0 if before is not None and after is None else _change(before, after)


def _mean(values: Sequence[float | None]) -> float | None:
    return describe(np.array(values, np.float64))["mean"]  # None is NaN there, and left out
