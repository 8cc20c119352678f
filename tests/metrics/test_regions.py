"""Regions: nnU-Net's notation read and written, measures of unions of label values, and mistakes in the notation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.drawn import draw
from tests.errors import error_of
from unet4d.metrics.components import count_components
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.regions import Region, classes_of, label_values, parse_regions, regions_entry, regions_from_dict
from unet4d.metrics.surface import surface_scores
from unet4d.metrics.temporal_consistency import flicker, frame_to_frame_dice
from unet4d.metrics.volume_curves import volumes_ml

TUMOR = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
WHOLE, CORE, ENHANCING = Region((1, 2, 3), 1), Region((2, 3), 2), Region((3,), 3)


def test_labels_and_regions_are_read_and_written_in_nnunets_notation():
    labels, regions = parse_regions(TUMOR, [1, 2, 3], "file")
    assert labels == {"background": 0, "label 1": 1, "label 2": 2, "enhancing": 3}
    assert list(regions.items()) == [("whole", WHOLE), ("core", CORE), ("enhancing", ENHANCING)]
    assert regions_entry(regions) == {"labels": TUMOR, "regions_class_order": [1, 2, 3]}
    assert classes_of(labels, regions) == regions
    assert regions_from_dict({name: region.as_dict() for name, region in regions.items()}, "regions") == regions


def test_lists_of_one_value_are_classes_as_in_nnunet():
    assert parse_regions({"background": 0, "heart": [2]}, None, "file") == ({"background": 0, "heart": 2}, {})


def test_voxels_that_are_ignored_are_in_no_region():
    labels, regions = parse_regions(TUMOR | {"ignore": 4}, [1, 2, 3], "file")
    assert labels["ignore"] == 4
    assert list(regions) == ["whole", "core", "enhancing"]


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (
            TUMOR,
            None,
            '"regions_class_order" is missing, expected one label value for each of the 3 regions whole, core',
        ),
        (TUMOR, [1, 2], "expected one label value for each of the 3 regions"),
        (TUMOR, [1, 2, 4], r"got 4 for enhancing, in no region, expected one of its values [3]"),
        (TUMOR, [1, 1, 3], r"got 1 for core, which is in whole, expected one of its values [2, 3]"),
        (TUMOR | {"core": [2, 3, 0]}, [1, 2, 3], "expected label values from 1 to 255, without the background"),
        (TUMOR | {"core": ["whole"]}, [1, 2, 3], "expected label values from 1 to 255"),
        (TUMOR | {"core": [2, 300]}, [1, 2, 3], "expected label values from 1 to 255"),
        (TUMOR | {"core": []}, [1, 2, 3], "expected label values from 1 to 255"),
        (TUMOR | {"again": [3, 2]}, [1, 2, 3, 2], "has the values [2, 3] for core and again, expected one region"),
        ({"a": [1, 2], "b": 2}, [1, 2], "background at 0"),
        (TUMOR | {"ignore": 3}, [1, 2, 3], "3 is the value of 'ignore' and of a class"),
        ({"background": 0, "a": [1, 2], "A ": 2}, [1, 2], "'a' is the name of two classes"),
    ],
)
def test_a_mistake_in_regions_is_reported_in_one_line(labels, order, words):
    message = error_of(parse_regions, labels, order, "file")
    assert words in message
    assert message.startswith("file: ")
    assert "\n" not in message


def test_a_region_is_measured_by_hand_as_nnunet_does():
    """Dice of the union of values, 2 tp / (2 tp + fp + fn): whole 2*5/(2*5+1+1), core 2*2/(2*2+1+2), enhancing absent from both."""
    reference = draw("1122. 1122.")
    prediction = draw("1112. 112.1")
    found = dice(count_voxels(reference, prediction, [WHOLE, CORE, ENHANCING]))[0]
    np.testing.assert_allclose(found, [2 * 7 / (2 * 7 + 1 + 1), 2 * 2 / (2 * 2 + 0 + 2), np.nan])
    np.testing.assert_array_equal(volumes_ml(prediction, [WHOLE, CORE, ENHANCING], 0.5), [[4.0, 1.0, 0.0]])


@pytest.mark.parametrize("seed", range(3))
def test_a_region_is_measured_as_the_binary_map_of_its_union(seed):
    reference, prediction = np.random.default_rng(seed).integers(0, 4, (2, 3, 6, 5, 3)).astype(np.uint8)
    region = Region((1, 3), 1)
    for measure in (
        lambda a, b, v: vars(count_voxels(a, b, v)).values(),
        lambda a, b, v: vars(surface_scores(a, b, v, (1.0, 2.0, 3.0))).values(),
        lambda a, _, v: [volumes_ml(a, v, 0.1), frame_to_frame_dice(a, v, cyclic=True)],
        lambda a, _, v: [*flicker(a, v, cyclic=True), *count_components(a, v)],
    ):
        unions = [np.isin(label, (1, 3)).astype(np.uint8) for label in (reference, prediction)]
        mixed = measure(reference, prediction, [region, 2])
        for got, of_union, of_class in zip(
            mixed, measure(*unions, [1]), measure(reference, prediction, [2]), strict=True
        ):
            np.testing.assert_array_equal(got, np.hstack([of_union, of_class]))


def test_values_of_overlapping_regions_count_once():
    assert label_values([WHOLE, CORE, 7]) == [1, 2, 3, 7]
