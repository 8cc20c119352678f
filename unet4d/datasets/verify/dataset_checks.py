"""What only shows when studies are compared: one image under two names, a class nobody drew, a study unlike all others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.convert.file_names import shared_stems, shorten_list
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.images.grid import WorkingGrid
from unet4d.images.nifti import case_name
from unet4d.system.text import count

FEWEST_STUDIES = 5
"""Of fewer, none can be said to be unlike the others."""
_FAR = 6.0  # deviations (1.4826 median absolute ones) from the median
_ALIKE = 0.9  # share of the studies whose axes must agree before another direction is worth a word
_SAME_WAY = math.cos(math.radians(60))

Checked = Sequence[tuple[Case, StudyProperties]]


def check_across(dataset: Dataset, checked: Checked) -> list[Issue]:
    """The faults of the studies whose images can be read, compared with one another."""
    faults = [*_same_images(dataset, checked), *_same_labels(checked), *_absent_classes(dataset, checked)]
    if len(checked) >= FEWEST_STUDIES:
        faults += [fault for quantity in _quantities(dataset, checked) for fault in _outliers(quantity, checked)]
        faults += _turned(checked)
    return faults


def check_shared_stems(dataset: Dataset) -> list[Issue]:
    """Return a fault for each stem that the names of cases, or of their images, share across subjects."""
    cases, json = (*dataset.training, *dataset.test), dataset.root / "dataset.json"
    found: dict[frozenset[str], Issue] = {}
    for name_of in (lambda case: case.name, lambda case: _path_stem(case, dataset)):
        names = {name_of(case): case for case in cases}
        groups: dict[str, list[Case]] = {}
        for name, stem in shared_stems(names).items():
            groups.setdefault(stem, []).append(names[name])
        for stem, group in groups.items():
            subjects = dict.fromkeys(case.subject for case in group)
            if len(subjects) > 1:
                message = (
                    f"{json}: cases {shorten_list(case.name for case in group)} share the stem {stem} and are of "
                    f'{len(subjects)} subjects; if they are frames of one, a split would divide it; give them one "subject"'
                )
                found.setdefault(frozenset(case.name for case in group), Issue("stem-split", message, str(json)))
    return list(found.values())


def _path_stem(case: Case, dataset: Dataset) -> str:
    """Return the path of a case's first image in the dataset, without suffix and number of its channel."""
    stem = (case.images[0].relative_to(dataset.root).parent / case_name(case.images[0])).as_posix()
    return re.sub(r"_[0-9]{4}$", "", stem)


def _groups(checked: Checked, digest: Callable[[StudyProperties], str]) -> Iterator[list[tuple[Case, StudyProperties]]]:
    """Studies that share a digest, two or more each."""
    groups: dict[str, list[tuple[Case, StudyProperties]]] = {}
    for case, facts in checked:
        if digest(facts):
            groups.setdefault(digest(facts), []).append((case, facts))
    return (group for group in groups.values() if len(group) > 1)


def _same_images(dataset: Dataset, checked: Checked) -> Iterator[Issue]:
    tests = set(dataset.test)
    for group in _groups(checked, lambda facts: facts.voxels):
        (first, _), *others = group
        for case, facts in others:
            divided = facts.subject != first.subject or (case in tests) != (first in tests)
            what = f"{case.images[0]}: case {case.name} holds the same voxels as {first.name} ({first.images[0]})"
            if divided:
                message = (
                    f"{what}, and a split would put one on each side; leave one of them out, or give both one subject"
                )
            else:
                message = f"{what}, of the same subject; see that both are meant"
            kind = "same-image" if divided else "image-twice"
            yield Issue(kind, message, str(case.images[0]), case.name)


def _same_labels(checked: Checked) -> Iterator[Issue]:
    for group in _groups(checked, lambda facts: facts.drawn):
        (first, like), *others = group
        for case, facts in others:
            if facts.voxels != like.voxels:
                file = case.files[len(case.images)]
                message = (
                    f"{file}: the label of case {case.name} is that of {first.name} ({first.files[len(first.images)]}), whose "
                    "image is another; see which of the two it belongs to"
                )
                yield Issue("same-label", message, str(file), case.name)


def _absent_classes(dataset: Dataset, checked: Checked) -> Iterator[Issue]:
    drawn = [facts for _, facts in checked if facts.labelled_frames]
    json = dataset.root / "dataset.json"
    for name, value in dataset.labels:
        if value and drawn and not any(any(facts.volumes_ml[name]) for facts in drawn):
            message = (
                f"{json}: no labelled frame of {count(len(drawn), 'study', 'studies')} has the class {name!r} (value "
                f"{value}); correct its "
                "value, or leave it out"
            )
            yield Issue("class-absent", message, str(json))


class _Quantity(NamedTuple):
    """Something of every study that should not be far from that of the others.

    Attributes:
        kind: of the fault.
        words: what it is, with "{}" for the value.
        values: by place of the study; studies without one are left out.
        least: factor from the median below which nothing is far; for shares, the difference.
        is_share: compared by difference, not by factor.
        file: which file of a case to name.
    """

    kind: str
    words: str
    values: Mapping[int, float]
    least: float
    is_share: bool = False
    file: Callable[[Case], Path] = lambda case: case.images[0]


def _quantities(dataset: Dataset, checked: Checked) -> Iterator[_Quantity]:
    facts = [facts for _, facts in checked]
    grids = [WorkingGrid.of(one.matrix, one.size) for one in facts]
    yield _of("outlier-spacing", "pixels of {} mm", (math.sqrt(g.spacing[0] * g.spacing[1]) for g in grids), 2.0)
    yield _of("outlier-spacing", "slices {} mm apart", (g.spacing[2] if g.shape[2] > 1 else 0.0 for g in grids), 3.0)
    yield _of("outlier-size", "{} voxels along its shorter side", (float(min(g.shape[:2])) for g in grids), 4.0)
    yield _of("outlier-size", "{} slices", (float(g.shape[2]) for g in grids), 5.0)
    yield _of("outlier-size", "{} frames", (float(one.frames) for one in facts), 5.0)
    yield _of("outlier-duration", "a frame duration of {} s", (one.frame_duration_s or 0.0 for one in facts), 10.0)
    for name in dataset.channel_names:
        ranges = [_range(one.intensities.get(name)) for one in facts]
        yield _of("outlier-intensity", f"in {name} intensities that span {{}}", (width for width, _ in ranges), 8.0)
        middle = {i: share for i, (width, share) in enumerate(ranges) if width > 0}
        words = f"in {name} a median intensity at {{}} of their span"
        yield _Quantity("outlier-intensity", words, middle, 0.4, is_share=True)
    for name in dataset.class_names[1:]:
        volumes = (median([ml for ml in one.volumes_ml.get(name, ()) if ml > 0] or [0.0]) for one in facts)
        label = _Quantity("outlier-volume", f"{{}} mL of {name}", _present(volumes), 10.0)
        yield label._replace(file=lambda case: case.files[len(case.images)])


def _of(kind: str, words: str, values: Iterable[float], least: float) -> _Quantity:
    return _Quantity(kind, words, _present(values), least)


def _present(values: Iterable[float]) -> dict[int, float]:
    """Place to value, of those above 0."""
    return {i: value for i, value in enumerate(values) if value > 0}


def _range(percentiles: Sequence[float] | None) -> tuple[float, float]:
    """Width from the 0.5 to the 99.5 percentile, and where in it the median lies, 0 to 1."""
    if percentiles is None:
        return 0.0, 0.0
    low, middle, high = percentiles
    return high - low, (middle - low) / (high - low) if high > low else 0.0


def _outliers(quantity: _Quantity, checked: Checked) -> Iterator[Issue]:
    """Studies farther from the median than the spread of the others explains, and than the least that matters."""
    if len(quantity.values) < FEWEST_STUDIES:
        return
    scaled = {i: v if quantity.is_share else math.log(v) for i, v in quantity.values.items()}
    middle = median(scaled.values())
    spread = 1.4826 * median(abs(v - middle) for v in scaled.values())
    limit = max(_FAR * spread, quantity.least if quantity.is_share else math.log(quantity.least))
    for i, value in scaled.items():
        if abs(value - middle) > limit * (1 + 1e-9):
            case, usual = checked[i][0], middle if quantity.is_share else math.exp(middle)
            file = quantity.file(case)
            came = quantity.words.format(f"{quantity.values[i]:.3g}")
            message = f"{file}: case {case.name} has {came}; the median of the studies is {usual:.3g}; see whether that is true"
            yield Issue(quantity.kind, message, str(file), case.name)


def _turned(checked: Checked) -> Iterator[Issue]:
    """Studies with an axis that points elsewhere than in nearly all others: flipped, swapped, or 60 degrees and more away."""
    axes = np.stack([facts.matrix[:3, :3] / np.linalg.norm(facts.matrix[:3, :3], axis=0) for _, facts in checked])
    alike = np.einsum("ika,jka->ija", axes, axes).min(axis=-1) >= _SAME_WAY
    usual = int(alike.sum(axis=1).argmax())
    if alike[usual].mean() < _ALIKE - 1e-9 and np.count_nonzero(~alike[usual]) > 1:
        return
    for (case, facts), agrees in zip(checked, alike[usual], strict=True):
        if not agrees:
            came, wanted = _directions(facts), _directions(checked[usual][1])
            message = (
                f"{case.images[0]}: the axes of case {case.name} run towards {came}, those of nearly all other studies towards "
                f"{wanted}; see that its header is true"
            )
            yield Issue("outlier-orientation", message, str(case.images[0]), case.name)


def _directions(facts: StudyProperties) -> str:
    """Where each axis points, as "right, anterior, superior"."""
    names = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
    columns = facts.matrix[:3, :3].T
    return ", ".join(names[int(np.abs(c).argmax())][int(c[np.abs(c).argmax()] > 0)] for c in columns)
