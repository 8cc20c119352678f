"""The search for post-processing steps that help, on predictions with references: greedy, one step per round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
class ChosenSteps:
    """The steps that helped, and what they were chosen by, in plain values for the record.

    Attributes:
        steps: that were kept, in their order.
        trials: every step in every round: its changes of the Dice, the subjects that improved and worsened, whether it was kept,
            and why not.
        before: scores without any step, see `_score`.
        after: with all that were kept.
    """

    steps: list[Step]
    trials: list[dict[str, Any]]
    before: dict[str, Any]
    after: dict[str, Any]


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
    remaining, trials, steps = candidate_steps(labels), list[dict[str, Any]](), list[Step]()
    maps: Sequence[np.ndarray] = [case.label for case in cases]
    first = score = _score(cases, [case.label[case.frames] for case in cases], labels)
    while True:
        scores = [_score_step(step, cases, maps, labels) for step in remaining]
        tried = [
            {"round": len(steps) + 1, **step.as_dict(), **_judge(score, after)}
            for step, after in zip(remaining, scores, strict=True)
        ]
        passed = [index for index, trial in enumerate(tried) if trial["why_not"] is None]
        best = max(passed, key=lambda index: tried[index]["change_of_mean_foreground_dice"], default=None)
        trials += [trial | {"kept": index == best} for index, trial in enumerate(tried)]
        if best is None:
            return ChosenSteps(steps, trials, first, score)
        steps.append(remaining.pop(best))
        maps = [apply_steps(label, steps[-1:], labels, case.cyclic) for case, label in zip(cases, maps, strict=True)]
        score = scores[best]


def _score_step(
    step: Step, cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], labels: Mapping[str, int]
) -> dict[str, Any]:
    """Score a step on label maps (T, X, Y, Z); of one that looks at one frame at a time, process the labelled frames alone."""
    check_stop()
    over_time, processed = step.operation == "remove_single_frame_components", []
    for case, label in zip(cases, maps, strict=True):
        changed = apply_steps(label if over_time else label[case.frames], [step], labels, case.cyclic)
        processed.append(changed[case.frames] if over_time else changed)
    return _score(cases, processed, labels)


def _score(cases: Sequence[HeldOutPrediction], maps: Sequence[np.ndarray], labels: Mapping[str, int]) -> dict[str, Any]:
    """Score label maps (n, X, Y, Z) of the labelled frames.

    Returns:
        `dice`: of each class, mean and n over the labelled frames of all cases, as `summary_statistics` returns them;
        `mean_foreground_dice`: each class weighs the same, None where no class is defined; `subjects`: that of each subject.
    """
    classes = {name: value for name, value in labels.items() if value}
    rows: dict[str, list[np.ndarray]] = {}
    for case, label in zip(cases, maps, strict=True):
        rows.setdefault(case.subject, []).append(dice(count_voxels(case.reference, label, list(classes.values()))))
    by_subject = {subject: np.concatenate(found) for subject, found in rows.items()}  # (frames, K) each
    columns = np.concatenate(list(by_subject.values())).T
    return {
        "mean_foreground_dice": _mean_of_classes(columns),
        "dice": {name: summary_statistics(column) for name, column in zip(classes, columns, strict=True)},
        "subjects": {subject: _mean_of_classes(found.T) for subject, found in by_subject.items()},
    }


def _mean_of_classes(columns: np.ndarray) -> float | None:
    """Return the mean over classes of their means over frames, of Dice (K, frames)."""
    means = [summary_statistics(column)["mean"] for column in columns]
    return summary_statistics(np.array(means, np.float64))["mean"]  # None is NaN there, and ignored


def _judge(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes from one score to another, and the reason against the step under `RULE`; None where there is none."""
    change = _change(before["mean_foreground_dice"], after["mean_foreground_dice"])
    changes = {name: _change(was["mean"], after["dice"][name]["mean"]) for name, was in before["dice"].items()}
    of_subjects = {
        # A Dice that is undefined afterwards was 0: all that was found was wrong, and is gone.
        name: 1.0 if was is not None and after["subjects"][name] is None else _change(was, after["subjects"][name])
        for name, was in before["subjects"].items()
    }
    improved = [name for name, change_of_subject in of_subjects.items() if change_of_subject > 0]
    worsened = [name for name, change_of_subject in of_subjects.items() if change_of_subject < 0]
    name, fall = min(changes.items(), key=lambda item: item[1])
    why_not = None
    if not improved and not worsened and change == 0:
        why_not = "changes no Dice"
    elif fall < -TOLERANCE:
        why_not = f"lowers {name} by {-fall:.4f}"
    elif change <= MARGIN:
        why_not = f"no more than {MARGIN}"
    elif len(improved) <= len(worsened) or len(improved) < min(2, len(of_subjects)):
        why_not = f"{len(improved)} of {count(len(of_subjects), 'subject')} improve, {len(worsened)} worsen"
    return {
        "change_of_mean_foreground_dice": change,
        "change_of_dice": changes,
        "improved": improved,
        "worsened": worsened,
        "why_not": why_not,
    }


def _change(before: float | None, after: float | None) -> float:
    """Return the change from one mean to another; 0 where one of them is undefined."""
    return 0.0 if before is None or after is None else after - before
