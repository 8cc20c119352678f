"""Tests: labels follow a known motion in both directions of time, with the confidence that the definition gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.datasets.propagation.moving import GRID, PLACES, Nothing, Shift, image_of, labels_of
from unet4d.datasets.propagation.carry import Gap, find_box, find_gaps, propagate_labels, walk

SPACING = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("drawn", "cyclic", "gaps"),
    [
        ([0, 3], True, [Gap(0, (1, 2), 3), Gap(3, (4, 5), 0)]),
        ([2], True, [Gap(2, (3, 4, 5, 0, 1), 2)]),
        ([0, 1, 5], True, [Gap(1, (2, 3, 4), 5)]),
        ([1, 3], False, [Gap(1, (2,), 3), Gap(None, (0,), 1), Gap(3, (4, 5), None)]),
        ([0, 1, 2, 3, 4, 5], True, []),
    ],
)
def test_gaps_lie_between_drawn_frames(drawn, cyclic, gaps):
    assert find_gaps(drawn, 6, cyclic) == gaps


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("drawn", [(0, 3), (2,), (1, 2, 5)])
def test_every_frame_gets_the_label_that_moved_as_the_image_did(drawn, cyclic):
    truth = labels_of()
    given = {t: truth[t] for t in drawn}
    found = dict(propagate_labels(image_of(truth), given, cyclic, Shift(), SPACING))
    assert sorted([*found, *drawn]) == list(range(len(PLACES)))
    for t, frame in found.items():
        assert np.array_equal(frame.label, truth[t])
        assert frame.confidence == {1: pytest.approx(1), 2: pytest.approx(1)}
        assert set(frame.sources) <= set(drawn)


def test_the_nearer_drawn_frame_prevails_and_confidence_is_the_weighted_agreement():
    first, last = (np.zeros(GRID, np.uint8) for _ in range(2))
    first[4:8, 4:6, 1], last[6:10, 4:6, 1] = 1, 1  # half of each overlaps: Dice 0.5
    image = np.zeros((4, *GRID), np.float32)
    found = dict(propagate_labels(image, {0: first, 3: last}, False, Nothing(), SPACING))
    for t, nearer in ((1, first), (2, last)):
        assert np.array_equal(found[t].label, nearer)
        assert found[t].confidence == {1: pytest.approx(2 / 3 * 1 + 1 / 3 * 0.5, abs=1e-6)}
        assert found[t].sources == (0, 3)


def test_beyond_the_last_drawn_frame_confidence_is_that_of_the_way_there_and_back():
    truth = labels_of(PLACES[:3])

    class Lossy(Shift):
        def carry(self, shares, deformation):
            carried = super().carry(shares, deformation)
            return (
                carried * np.float32([1, deformation[0] >= 0, 1])[:, None, None, None]
            )  # the wall is lost on the way back

    found = dict(propagate_labels(image_of(truth), {0: truth[0]}, False, Lossy(), SPACING))
    for t, frame in found.items():
        assert np.array_equal(frame.label, truth[t])
        assert frame.confidence == {1: 0.0, 2: 1.0}


def test_what_was_not_drawn_is_carried_and_is_no_class():
    truth = labels_of()
    drawn = truth[0].copy()
    drawn[:, :, 2], drawn[4:6, :, 1] = 9, 9
    found = dict(propagate_labels(image_of(truth), {0: drawn}, True, Shift(), SPACING, ignored=9))
    assert np.array_equal(found[1].label, np.roll(drawn, 1, axis=0))
    assert set(found[1].confidence) == {1, 2}


class Links:
    """Keeps which frames were registered: a frame is known by its only value."""

    def register(self, fixed, moving):
        """Return the pair of frames."""
        return [(int(fixed.flat[0]), int(moving.flat[0]))]

    def compose(self, near, far):
        """Return both chains in the order in which a point of the fixed frame follows them."""
        return near + far


@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_walk_is_a_chain_from_the_fixed_frame_to_the_moving_one(returning, stride):
    image = np.arange(7, dtype=np.float32)[:, None, None, None]
    for frame, links in walk(image, 6, [5, 4, 3, 2, 1], Links(), returning, stride):
        assert (links[0][0], links[-1][1]) == ((6, frame) if returning else (frame, 6))
        assert all(a[1] == b[0] for a, b in itertools.pairwise(links))
        assert len(links) == -(-(6 - frame) // stride)


def test_the_box_is_that_of_all_foreground_with_a_margin_inside_the_image():
    label = np.zeros((80, 80, 9), np.uint8)
    label[40, 10, 4], label[0, 0, 0] = 1, 7
    assert find_box([label], (2.0, 1.0, 10.0), ignored=7) == (slice(28, 53), slice(0, 36), slice(2, 7))
    assert find_box([np.zeros_like(label)], (2.0, 1.0, 10.0), None) == (slice(0, 80), slice(0, 80), slice(0, 9))
