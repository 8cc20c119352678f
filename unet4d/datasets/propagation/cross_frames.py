"""Drawings that contradict one another: the label of one drawn frame, carried to the next one, should fit what is drawn there.

A class is reported where the carried label overlaps the drawn one by less than a low limit, or by far less than the label that
was not moved: motion brings labels together, unless one of them is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.issues import Issue
from unet4d.datasets.propagation.carry import STRIDE, carry_label, find_box, overlap, walk
from unet4d.datasets.propagation.registration import Deformation, Greedy, MakeRegistration, Registration
from unet4d.system.failures import failure_of_study
from unet4d.system.progress_bar import ProgressBar

LOWEST_OVERLAP = 0.5
"""Dice of a carried class below which it is reported. Of the drawings of 14 cine studies as they are the lowest was 0.75."""
MOST_LOST = 0.05
"""Dice that moving may take from a class before it is reported. In the same studies moving gave 0.02 or more to each class."""


class Comparison(NamedTuple):
    """Two drawn labels of a study: Dice overlap by class value, once one is carried to the other's frame, and unmoved.

    Attributes:
        first, second: their frames.
        carried: of the better one of both directions, because a registration may fail in one.
        unmoved: of the labels as they are drawn.
    """

    first: int
    second: int
    carried: Mapping[int, float]
    unmoved: Mapping[int, float]


def check_cross_frames(dataset: Dataset, make_registration: MakeRegistration = Greedy) -> list[Issue]:
    """Return an issue for each pair of neighboring drawn frames that contradict one another; test cases are checked, too.

    Studies with one drawn frame or none are skipped, and those that cannot be read: the other checks report them.

    Raises:
        InputError: Greedy is missing.
    """
    issues: list[Issue] = []
    for case in ProgressBar(dataset.cases, "comparing drawn frames", unit="study"):
        try:
            issues += _check_case(case, dataset, make_registration)
        except Exception as error:
            failure_of_study(error)
    return issues


def compare_drawn(
    image: np.ndarray,
    drawn: Mapping[int, np.ndarray],
    cyclic: bool,
    registration: Registration,
    spacing_mm: Sequence[float],
    ignored: int | None = None,
) -> Iterator[Comparison]:
    """Carry the label of each drawn frame to the next one and back; the arguments are those of `propagate_labels`."""
    box = find_box(list(drawn.values()), spacing_mm, ignored)
    moving, labels = image[(slice(None), *box)], {t: label[box] for t, label in drawn.items()}
    for first, second in neighbors(sorted(drawn), len(image), cyclic):
        there = deformation_between(moving, first, second, True, registration)
        back = deformation_between(moving, second, first, False, registration)
        carried, unmoved = compare_labels(labels[first], labels[second], there, back, registration, ignored)
        yield Comparison(first, second, carried, unmoved)


def compare_labels(
    first: np.ndarray,
    second: np.ndarray,
    there: Deformation,
    back: Deformation,
    registration: Registration,
    ignored: int | None = None,
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the Dice overlap of two labels (X, Y, Z) by class value: carried, the better one of both directions, and unmoved."""
    carried: dict[int, float] = {}
    for source, target, deformation in ((first, second, there), (second, first, back)):
        label = carry_label(source, np.unique(source), deformation, registration)
        for value, score in _overlap(label, target, ignored).items():
            carried[value] = max(score, carried.get(value, 0.0))
    return carried, _overlap(first, second, ignored)


def deformation_between(
    image: np.ndarray, source: int, target: int, later: bool, registration: Registration
) -> Deformation:
    """Return the deformation that brings one frame onto another, which is later in time or round the cycle, or else earlier."""
    way = 1 if later else -1
    steps = way * (target - source) % len(image)
    between = [(source + way * step) % len(image) for step in range(STRIDE, steps, STRIDE)]
    *_, (_, deformation) = walk(image, source, [*between, target], registration, stride=1)
    return deformation


def neighbors(drawn: Sequence[int], frames: int, cyclic: bool) -> list[tuple[int, int]]:
    """Return neighboring drawn frames, the earlier one first; of two in a cycle, the pair with the shorter way between them."""
    pairs = list(itertools.pairwise(drawn))
    if not cyclic or len(drawn) < 2:
        return pairs
    around = (drawn[-1], drawn[0])
    if len(drawn) > 2:
        return [*pairs, around]
    return [min((*pairs, around), key=lambda pair: (pair[1] - pair[0]) % frames)]


def contradictions(found: Comparison) -> list[int]:
    """Return the class values that two drawn frames contradict one another in."""
    return [
        value
        for value, score in found.carried.items()
        if score < max(LOWEST_OVERLAP, found.unmoved.get(value, 0.0) - MOST_LOST)
    ]


def _check_case(case: Case, dataset: Dataset, make_registration: MakeRegistration) -> Iterator[Issue]:
    if case.label is None or (case.labelled_frames is not None and len(case.labelled_frames) < 2):
        return
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    drawn = {int(t): label[t] for t in np.flatnonzero(labelled) if t not in case.partial.propagated}
    ignored = dataset.ignored_value if dataset.ignore is not None or case.partial.has_slices else None
    names = {value: name for name, value in dataset.labels}
    registration = make_registration(image.spacing)
    for found in compare_drawn(image.array[0], drawn, dataset.cyclic, registration, image.spacing, ignored):
        if wrong := contradictions(found):
            listed = ", ".join(f"{names[value]} {found.carried[value]:.2f}" for value in wrong)
            text = (
                f"case {case.name}: the labels of frames {found.first} and {found.second} contradict one another: carried from one "
                f"to the other they overlap by a Dice of {listed}; look at both frames, and correct the wrong one"
            )
            yield Issue.of("frames-contradict", case.files[len(case.images)], text, case.name)


def _overlap(label: np.ndarray, other: np.ndarray, ignored: int | None) -> dict[int, float]:
    """Return the Dice overlap of two labels (X, Y, Z) by class value, without voxels that are ignored in either."""
    counted = (label != ignored) & (other != ignored)
    values = sorted({int(value) for one in (label, other) for value in np.unique(one)} - {0, ignored})
    return overlap(label * counted, other * counted, [value for value in values if value is not None])
