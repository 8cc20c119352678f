"""Checks that compare studies: one image under two names, a class without labels, a study unlike all others."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.convert.file_names import shared_stems
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.images.grid import WorkingGrid
from unet4d.images.nifti import case_name
from unet4d.system.text import count, shorten_list

FEWEST_STUDIES = 5
"""Among fewer studies no outlier is reported."""
_FAR = 6.0  # deviations (1.4826 median absolute ones) from the median
_MOST_AGREE = 0.9  # share of the studies with one orientation, from which another one is reported
_SAME_WAY = math.cos(math.radians(60))

CheckedStudies = Sequence[tuple[Case, StudyProperties]]


def check_across(dataset: Dataset, checked: CheckedStudies) -> list[Issue]:
    """Return the issues that comparing studies with a readable image shows."""
    issues = [*_same_images(dataset, checked), *_same_labels(checked), *_absent_classes(dataset, checked)]
    issues += _hidden_regions(dataset)
    if len(checked) >= FEWEST_STUDIES:
        issues += [issue for quantity in _quantities(dataset, checked) for issue in _outliers(quantity, checked)]
        issues += _other_orientations(checked)
    return issues


def check_shared_stems(dataset: Dataset) -> list[Issue]:
    """Return an issue for each stem that the names of cases, or of their images, share across subjects."""
    json, found = dataset.root / "dataset.json", dict[frozenset[str], Issue]()
    for name_of in (lambda case: case.name, lambda case: _path_stem(case, dataset)):
        names = {name_of(case): case for case in dataset.cases}
        groups: dict[str, list[Case]] = {}
        for name, stem in shared_stems(names).items():
            groups.setdefault(stem, []).append(names[name])
        for stem, group in groups.items():
            subjects = {case.subject for case in group}
            if len(subjects) > 1:
                text = (
                    f"cases {shorten_list(case.name for case in group)} share the stem {stem} and are of {len(subjects)} subjects; "
                    'if they are frames of one, a split would divide it; give them one "subject"'
                )
                found.setdefault(frozenset(case.name for case in group), Issue.of("stem-split", json, text))
    return list(found.values())


def _path_stem(case: Case, dataset: Dataset) -> str:
    stem = (case.images[0].relative_to(dataset.root).parent / case_name(case.images[0])).as_posix()
    return re.sub(r"_[0-9]{4}$", "", stem)


def _groups(checked: CheckedStudies, digest: Callable[[StudyProperties], str]) -> Iterator[CheckedStudies]:
    """Yield studies that share a digest, two or more each."""
    groups: dict[str, list[tuple[Case, StudyProperties]]] = {}
    for case, properties in checked:
        if digest(properties):
            groups.setdefault(digest(properties), []).append((case, properties))
    return (group for group in groups.values() if len(group) > 1)


def _same_images(dataset: Dataset, checked: CheckedStudies) -> Iterator[Issue]:
    tests = set(dataset.test)
    for (first, _), *others in _groups(checked, lambda properties: properties.voxels):
        for case, properties in others:
            divided = properties.subject != first.subject or (case in tests) != (first in tests)
            text = f"case {case.name} holds the same voxels as {first.name} ({first.images[0]}), " + (
                "and a split would put one on each side; leave one of them out, or give both one subject"
                if divided
                else "of the same subject; check that both are meant"
            )
            yield Issue.of("same-image" if divided else "image-twice", case.images[0], text, case.name)


def _same_labels(checked: CheckedStudies) -> Iterator[Issue]:
    for (first, like), *others in _groups(checked, lambda properties: properties.drawn):
        for case, properties in others:
            if properties.voxels != like.voxels:
                text = (
                    f"the label of case {case.name} is that of {first.name} ({first.files[len(first.images)]}), which has another "
                    "image; find out which of the two it belongs to"
                )
                yield Issue.of("same-label", case.files[len(case.images)], text, case.name)


def _absent_classes(dataset: Dataset, checked: CheckedStudies) -> Iterator[Issue]:
    labelled = [properties for _, properties in checked if properties.labelled_frames]
    for name, value in dataset.labels:
        if value and labelled and not any(any(one.volumes_ml.get(name, ())) for one in labelled):
            text = (
                f"no labelled frame of {count(len(labelled), 'study', 'studies')} has the class {name!r} (value {value}); correct "
                "its value, or leave it out"
            )
            yield Issue.of("class-absent", dataset.root / "dataset.json", text)


def _hidden_regions(dataset: Dataset) -> Iterator[Issue]:
    """Yield an issue for each region that a later one, which holds it, paints over with another value."""
    for (part, region), (whole, later) in itertools.combinations(dataset.regions.items(), 2):
        if set(region.values) < set(later.values) and region.paint != later.paint:
            text = (
                f"region {whole!r} comes after its part {part!r}, and its predictions would hide that; put {whole!r} first, in "
                '"labels" and in "regions_class_order"'
            )
            yield Issue.of("region-hidden", dataset.root / "dataset.json", text)


class _Quantity(NamedTuple):
    """A quantity that should not differ much between studies."""

    kind: str  # of the issue
    description: str  # with "{}" for the value
    values: Mapping[int, float]  # by index of the study, of those that have one
    least: float  # factor from the median below which nothing is an outlier; for shares, the difference
    is_share: bool = False  # compared by difference, not by factor
    file: Callable[[Case], Path] = lambda case: case.images[0]  # to name


def _quantities(dataset: Dataset, checked: CheckedStudies) -> Iterator[_Quantity]:
    studies = [properties for _, properties in checked]
    grids = [WorkingGrid.of(study.matrix, study.size) for study in studies]

    def quantity(kind: str, description: str, values: Iterable[float], least: float) -> _Quantity:
        return _Quantity(kind, description, {i: value for i, value in enumerate(values) if value > 0}, least)

    yield quantity("outlier-spacing", "pixels of {} mm", (math.sqrt(g.spacing[0] * g.spacing[1]) for g in grids), 2.0)
    yield quantity(
        "outlier-spacing", "slices {} mm apart", (g.spacing[2] if g.shape[2] > 1 else 0.0 for g in grids), 3.0
    )
    yield quantity("outlier-size", "{} voxels along its shorter side", (float(min(g.shape[:2])) for g in grids), 4.0)
    yield quantity("outlier-size", "{} slices", (float(g.shape[2]) for g in grids), 5.0)
    yield quantity("outlier-size", "{} frames", (float(study.frames) for study in studies), 5.0)
    durations = (study.frame_duration_s or 0.0 for study in studies)
    yield quantity("outlier-duration", "a frame duration of {} s", durations, 10.0)
    for name in dataset.channel_names:
        ranges = [_range(study.intensities.get(name)) for study in studies]
        yield quantity(
            "outlier-intensity", f"in {name} intensities that span {{}}", (width for width, _ in ranges), 8.0
        )
        middle = {i: share for i, (width, share) in enumerate(ranges) if width > 0}
        description = f"in {name} a median intensity at {{}} of their span"
        yield _Quantity("outlier-intensity", description, middle, 0.4, is_share=True)
    for name in dataset.class_names[1:]:
        volumes = (median([ml for ml in study.whole_volumes_ml(name) if ml > 0] or [0.0]) for study in studies)
        volume = quantity("outlier-volume", f"{{}} mL of {name}", volumes, 10.0)
        yield volume._replace(file=lambda case: case.files[len(case.images)])


def _range(percentiles: Sequence[float] | None) -> tuple[float, float]:
    """Return the width from the 0.5 to the 99.5 percentile, and the position of the median in it, 0 to 1."""
    if percentiles is None:
        return 0.0, 0.0
    low, middle, high = percentiles
    return high - low, (middle - low) / (high - low) if high > low else 0.0


def _outliers(quantity: _Quantity, checked: CheckedStudies) -> Iterator[Issue]:
    """Yield studies farther from the median than the spread of the others explains, and than the least that matters."""
    if len(quantity.values) < FEWEST_STUDIES:
        return
    scaled = {i: v if quantity.is_share else math.log(v) for i, v in quantity.values.items()}
    middle = median(scaled.values())
    spread = 1.4826 * median(abs(v - middle) for v in scaled.values())
    limit = max(_FAR * spread, quantity.least if quantity.is_share else math.log(quantity.least))
    for i, value in scaled.items():
        if abs(value - middle) > limit * (1 + 1e-9):
            case, usual = checked[i][0], middle if quantity.is_share else math.exp(middle)
            got = quantity.description.format(f"{quantity.values[i]:.3g}")
            text = f"case {case.name} has {got}; the median of the studies is {usual:.3g}; check whether that is true"
            yield Issue.of(quantity.kind, quantity.file(case), text, case.name)


def _other_orientations(checked: CheckedStudies) -> Iterator[Issue]:
    """Yield studies with an axis that is flipped, swapped, or 60 degrees and more away from that in nearly all others."""
    axes = np.stack([study.matrix[:3, :3] / np.linalg.norm(study.matrix[:3, :3], axis=0) for _, study in checked])
    agree = np.einsum("ika,jka->ija", axes, axes).min(axis=-1) >= _SAME_WAY
    usual = int(agree.sum(axis=1).argmax())
    if agree[usual].mean() < _MOST_AGREE - 1e-9 and np.count_nonzero(~agree[usual]) > 1:
        return
    expected = _directions(checked[usual][1])
    for (case, properties), agrees in zip(checked, agree[usual], strict=True):
        if not agrees:
            text = (
                f"the axes of case {case.name} run towards {_directions(properties)}, those of nearly all other studies towards "
                f"{expected}; check whether its header is true"
            )
            yield Issue.of("outlier-orientation", case.images[0], text, case.name)


def _directions(properties: StudyProperties) -> str:
    """Return the direction of each axis, as "right, anterior, superior"."""
    names = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
    columns = properties.matrix[:3, :3].T
    return ", ".join(names[int(np.abs(c).argmax())][int(c[np.abs(c).argmax()] > 0)] for c in columns)
