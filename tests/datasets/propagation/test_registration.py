"""Tests: Greedy, where it is installed, finds a motion that is known."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.datasets.propagation.carry import overlap, propagate_labels
from unet4d.datasets.propagation.registration import Greedy

pytest.importorskip("picsl_greedy", reason="picsl-greedy is not installed (the extra registration)")

SPACING = (1.5, 1.5, 8.0)


def ring(frames: int = 4, slices: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return image (T, X, Y, Z) and label of a ring around a cavity that moves and contracts in a cycle."""
    x, y = np.meshgrid(np.arange(40), np.arange(36), indexing="ij")
    image, label = np.zeros((frames, 40, 36, slices), np.float32), np.zeros((frames, 40, 36, slices), np.uint8)
    for t in range(frames):
        phase = (1 - np.cos(2 * np.pi * t / frames)) / 2
        inner, outer = 9 - 3.5 * phase, 13 - 1.5 * phase
        distance = np.hypot(x - 18 - 2.5 * phase, y - 18)
        label[t] = np.where(distance < inner, 2, np.where(distance < outer, 1, 0))[..., None]
        smooth = 100 / (1 + np.exp(distance - inner)) + 30 / (1 + np.exp(outer - distance))
        image[t] = (smooth + 40 / (1 + np.exp(np.hypot(x - 36, y - 5) - 4)))[..., None]
    return image, label


def test_a_ring_is_followed_through_its_cycle_from_one_drawn_frame_and_from_two():
    image, label = ring()
    unmoved = overlap(label[0], label[2], (1, 2))
    for drawn in ((0,), (0, 2)):
        found = dict(propagate_labels(image, {t: label[t] for t in drawn}, True, Greedy(SPACING), SPACING))
        for t, frame in found.items():
            scores = overlap(frame.label, label[t], (1, 2))
            assert min(scores.values()) > 0.75
            assert min(frame.confidence.values()) > 0.75
            if t == 2:
                assert all(scores[value] > unmoved[value] + 0.2 for value in (1, 2))


def test_two_steps_composed_are_the_whole_way_and_the_way_back_ends_where_it_began():
    image, label = ring()
    greedy, shares = Greedy(SPACING), (label[:1] == 2).astype(np.float32)
    near, far = greedy.register(image[2], image[1]), greedy.register(image[1], image[0])
    by_steps = greedy.carry(greedy.carry(shares, far), near)
    at_once = greedy.carry(shares, greedy.compose(near, far))
    assert np.abs(by_steps - at_once).mean() < 0.01
    back = greedy.compose(greedy.register(image[0], image[1]), greedy.register(image[1], image[2]))
    assert np.count_nonzero((greedy.carry(at_once, back) > 0.5) != (shares > 0.5)) < 0.12 * shares.sum()


@pytest.mark.parametrize("slices", [1, 2])
def test_frames_of_one_value_move_nothing_and_few_slices_suffice(slices):
    _, label = ring(2, slices)
    shares, empty = (label[:1] == 2).astype(np.float32), np.zeros(label.shape[1:], np.float32)
    greedy = Greedy(SPACING)
    assert np.allclose(greedy.carry(shares, greedy.register(empty, empty + 1)), shares)


def test_the_same_frames_give_the_same_deformation():
    image, label = ring(2)
    shares = (label[:1] == 2).astype(np.float32)
    first, again = (
        greedy.carry(shares, greedy.register(image[1], image[0])) for greedy in (Greedy(SPACING), Greedy(SPACING))
    )
    assert np.array_equal(first, again)


def test_the_memory_of_a_deformation_that_nobody_holds_is_used_again():
    image, _ = ring(2)
    greedy = Greedy(SPACING)
    kept = greedy.register(image[1], image[0])
    names = {greedy.register(image[0], image[1]).name for _ in range(3)}
    assert len(names | {kept.name}) == 2
