"""Steps of post-processing: hand-drawn answers, components by brute force, what must hold for any label map, and the record."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from unet4d.errors import InputError
from unet4d.inference.postprocessing_search import candidate_steps
from unet4d.inference.postprocessing_steps import (
    EVERY_CLASS,
    OPERATIONS,
    OVER_TIME,
    POSTPROCESSING,
    OtherCheckpoints,
    Step,
    apply_steps,
    read_steps,
    write_steps,
)
from unet4d.metrics.regions import Region

LABELS = {"background": 0, "muscle": 1, "cavity": 2}
LARGEST, LARGEST_4D, HOLES, SINGLE, MAJORITY = OPERATIONS
REMOVALS = [
    Step(operation, name) for operation in (LARGEST, LARGEST_4D, SINGLE) for name in ("muscle", "cavity", EVERY_CLASS)
]
EVERY_STEP = [*REMOVALS, Step(HOLES, "muscle"), Step(HOLES, "cavity")]
IDS = [f"{step.operation}-{step.class_name}" for step in EVERY_STEP]


def drawn(*frames: str) -> np.ndarray:
    """(T, X, Y, Z) of drawings: a line a row along X, a digit a voxel along Y, slices beside each other; . is background."""
    found = []
    for frame in frames:
        rows = [[list(part.replace(".", "0")) for part in line.split()] for line in frame.strip().splitlines()]
        found.append(np.array(rows).astype(np.uint8).transpose(0, 2, 1))
    return np.stack(found)


def made(label: np.ndarray, operation: str, name: str, cyclic: bool = False) -> np.ndarray:
    before = label.copy()
    after = apply_steps(label, [Step(operation, name)], LABELS, cyclic)
    np.testing.assert_array_equal(label, before, "the input was changed")
    assert after.dtype == np.uint8
    return after


def test_a_region_is_one_with_what_lies_in_it():
    """Its smaller component goes with the cavity inside; its hole becomes what the region is painted with."""
    classes = {"heart": Region((1, 2), 1), "cavity": 2}
    label = drawn("111.12\n1.1...\n122...")
    np.testing.assert_array_equal(
        apply_steps(label, [Step(LARGEST, "heart")], classes, False), drawn("111...\n1.1...\n122...")
    )
    np.testing.assert_array_equal(
        apply_steps(label, [Step(HOLES, "heart")], classes, False), drawn("111.12\n111...\n122...")
    )
    assert [step.class_name for step in candidate_steps(classes)][:3] == ["heart", "cavity", EVERY_CLASS]


def test_of_a_class_the_largest_component_of_each_frame_stays():
    label = drawn(
        """
        11..1
        1....
        ...22
        2...2
        """,
        """
        1..11
        ...11
        ..222
        2...2
        """,
    )
    want = drawn(
        """
        11...
        1....
        ...22
        2...2
        """,
        """
        ...11
        ...11
        ..222
        2...2
        """,
    )
    np.testing.assert_array_equal(made(label, LARGEST, "muscle"), want)


def test_voxels_that_share_a_corner_are_one_component():
    in_plane = drawn("1.. ...\n.1. ...\n..1 ...")
    through_slices = drawn("1.. ...\n... .1.\n... ...")
    apart = drawn("1.. ...\n... ..1\n... ...")
    for label in (in_plane, through_slices):
        np.testing.assert_array_equal(made(label, LARGEST, "muscle"), label)
    np.testing.assert_array_equal(made(apart, LARGEST, "muscle"), drawn("1.. ...\n... ...\n... ..."))


def test_of_equals_the_first_along_x_then_y_then_z_stays():
    along_x = drawn("...\n.1.\n...\n1..")
    along_y = drawn("..1.1")
    np.testing.assert_array_equal(made(along_x, LARGEST, "muscle"), drawn("...\n.1.\n...\n..."))
    np.testing.assert_array_equal(made(along_y, LARGEST, "muscle"), drawn("..1.."))
    along_z = drawn("1 . 1")
    np.testing.assert_array_equal(made(along_z, LARGEST, "muscle"), drawn("1 . ."))


def test_of_all_classes_together_an_island_of_any_goes():
    label = drawn("1.22.\n1.2.1\n1222.\n.....\n2...1")
    want = drawn("1.22.\n1.2.1\n1222.\n.....\n.....")
    np.testing.assert_array_equal(made(label, LARGEST, EVERY_CLASS), want)


def test_a_hole_is_filled_and_the_bay_beside_it_is_not():
    label = drawn("......\n.1111.\n.1.11.\n.111..\n.11.1.\n......")
    want = drawn("......\n.1111.\n.1111.\n.111..\n.11.1.\n......")
    np.testing.assert_array_equal(made(label, HOLES, "muscle"), want)


def test_a_contour_that_closes_by_corners_alone_encloses():
    label = drawn(".....\n..1..\n.1.1.\n..1..\n.....")
    np.testing.assert_array_equal(made(label, HOLES, "muscle"), drawn(".....\n..1..\n.111.\n..1..\n....."))


def test_the_ring_does_not_swallow_the_cavity_nor_a_gap_between_them():
    label = drawn(".....\n.111.\n.121.\n.111.\n.....")
    gap = drawn("11111\n12..1\n122.1\n11111")
    for one in (label, gap):
        np.testing.assert_array_equal(made(one, HOLES, "muscle"), one)


def test_a_slice_whose_cavity_was_missed_stays_open_while_the_cavity_is_beside_it():
    shell = "111 111 111 111 111\n111 1{0}1 1{1}1 1{2}1 111\n111 111 111 111 111"
    missed_in_the_middle = drawn(shell.format(2, ".", 2))
    np.testing.assert_array_equal(made(missed_in_the_middle, HOLES, "muscle"), missed_in_the_middle)
    no_cavity = drawn(shell.format(1, ".", 1))
    np.testing.assert_array_equal(made(no_cavity, HOLES, "muscle"), drawn(shell.format(1, 1, 1)))


def test_the_border_of_the_image_is_open_but_an_axis_of_one_voxel_has_none():
    ring = "111\n1.1\n111"
    tube = drawn("111 111 111\n1.1 1.1 111\n111 111 111")
    np.testing.assert_array_equal(made(tube, HOLES, "muscle"), tube)
    np.testing.assert_array_equal(made(drawn(ring), HOLES, "muscle"), drawn("111\n111\n111"))
    bay = drawn("1.1\n1.1\n111")
    np.testing.assert_array_equal(made(bay, HOLES, "muscle"), bay)


def test_what_lives_for_one_frame_goes():
    label = drawn("11...1", "11....", "11.1..", ".1....")
    np.testing.assert_array_equal(made(label, SINGLE, "muscle"), drawn("11....", "11....", "11....", ".1...."))


def test_what_moves_by_one_voxel_lives_on_and_what_jumps_does_not():
    moves = drawn("1.....", ".1....", "..1...")
    jumps = drawn("1.....", "..1...", "....1.")
    np.testing.assert_array_equal(made(moves, SINGLE, "muscle"), moves)
    assert not made(jumps, SINGLE, "muscle").any()


def test_a_cyclic_series_wraps_and_an_open_one_does_not():
    label = drawn("1...", "....", "..1.", "1...")
    np.testing.assert_array_equal(made(label, SINGLE, "muscle", cyclic=True), drawn("1...", "....", "....", "1..."))
    assert not made(label, SINGLE, "muscle").any()


def test_at_the_end_of_an_open_series_the_one_neighbor_counts():
    label = drawn("1..2", "1..2", "....", "1..2", "1..2")
    np.testing.assert_array_equal(made(label, SINGLE, "muscle"), label)


@pytest.mark.parametrize("cyclic", [False, True])
def test_one_frame_and_two(cyclic):
    one = drawn("1.2")
    np.testing.assert_array_equal(made(one, SINGLE, "muscle", cyclic), one)
    two = drawn("1..1", "1...")
    np.testing.assert_array_equal(made(two, SINGLE, "muscle", cyclic), drawn("1...", "1..."))
    np.testing.assert_array_equal(made(drawn("1...", "..1."), SINGLE, "muscle", cyclic), drawn("....", "...."))


def test_of_all_classes_together_a_voxel_that_changes_its_class_lives_on():
    label = drawn("1....", "2...1", "1....")
    np.testing.assert_array_equal(made(label, SINGLE, EVERY_CLASS), drawn("1....", "2....", "1...."))
    np.testing.assert_array_equal(made(label, SINGLE, "cavity"), drawn("1....", "....1", "1...."))


def test_what_is_joined_in_another_frame_is_one_component_over_time():
    """A part apart in one frame alone stays; an island of all frames goes, though it is the larger one of frame 1."""
    label = drawn("111..2.1", "1.1..211", "111..2.1")
    np.testing.assert_array_equal(made(label, LARGEST_4D, "muscle"), drawn("111..2..", "1.1..2..", "111..2.."))
    np.testing.assert_array_equal(made(label, LARGEST, "muscle")[1], drawn(".....211")[0])
    moves = drawn("11....", "..11..", "....11")
    assert (made(moves, LARGEST_4D, "muscle") != 0).sum() == 2, "what jumps by more than itself is not one"


def test_components_over_time_of_a_cycle_join_its_last_frame_to_its_first():
    label = drawn("11....", "1.....", "....11", "1...11", "1.....")
    np.testing.assert_array_equal(made(label, LARGEST_4D, "muscle")[1:4], drawn("......", "....11", "....11"))
    wrapped = made(label, LARGEST_4D, "muscle", cyclic=True)
    np.testing.assert_array_equal(wrapped, drawn("11....", "1.....", "......", "1.....", "1....."))


def test_a_label_of_one_frame_alone_gives_way_to_its_neighbors_in_time():
    label = drawn("112..", "1.2..", "11211", "112..")
    np.testing.assert_array_equal(made(label, MAJORITY, EVERY_CLASS), drawn("112..", "112..", "112..", "112.."))


@given(st.lists(st.integers(0, 3), min_size=3, max_size=8), st.booleans())
def test_a_label_that_lasts_two_frames_stays(values, cyclic):
    """So a wall that moves over a voxel moves on; of a cyclic series the lasting wraps around."""
    twice = np.repeat(values, 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(apply_steps(twice, [Step(MAJORITY, EVERY_CLASS)], LABELS, cyclic), twice)


@given(arrays(np.uint8, (6, 3, 2, 1), elements=st.integers(0, 2)), st.integers(0, 5))
def test_the_majority_of_a_cycle_is_that_of_three_masks_whichever_frame_is_first(label, shift):
    after = apply_steps(label, [Step(MAJORITY, EVERY_CLASS)], LABELS, True)
    three = np.stack([np.roll(label, 1, 0), label, np.roll(label, -1, 0)])
    for value in range(3):
        most = (three == value).sum(axis=0) > 1
        assert (after[most] == value).all()
    all_differ = np.array([len(set(column)) == 3 for column in three.reshape(3, -1).T]).reshape(label.shape)
    np.testing.assert_array_equal(after[all_differ], label[all_differ])
    rolled = apply_steps(np.roll(label, shift, 0), [Step(MAJORITY, EVERY_CLASS)], LABELS, True)
    np.testing.assert_array_equal(rolled, np.roll(after, shift, 0))


def test_the_ends_of_an_open_series_and_two_frames_have_no_majority():
    label = drawn("1.", "2.", "2.", ".1")
    np.testing.assert_array_equal(made(label, MAJORITY, EVERY_CLASS), label)
    for few in (label[:1], label[:2]):
        np.testing.assert_array_equal(made(few, MAJORITY, EVERY_CLASS, cyclic=True), few)


def test_the_majority_is_one_of_all_classes():
    with pytest.raises(InputError, match="majority_over_time of 'muscle', expected all classes"):
        Step(MAJORITY, "muscle")


def test_steps_come_one_after_the_other():
    island = drawn("1111111\n1112111\n1111111\n.....22")
    cleaned = [Step(LARGEST, "cavity"), Step(HOLES, "muscle")]
    np.testing.assert_array_equal(
        apply_steps(island, cleaned, LABELS, False), drawn("1111111\n1111111\n1111111\n.....22")
    )
    np.testing.assert_array_equal(
        apply_steps(island, cleaned[::-1], LABELS, False), drawn("1111111\n111.111\n1111111\n.....22")
    )


@pytest.mark.parametrize("step", EVERY_STEP, ids=IDS)
def test_nothing_to_do_is_no_error(step):
    for label in (
        np.zeros((2, 3, 4, 2), np.uint8),
        np.zeros((1, 1, 1, 1), np.uint8),
        np.full((1, 2, 2, 2), 2, np.uint8),
    ):
        np.testing.assert_array_equal(apply_steps(label, [step], LABELS, True), label)


def neighbors(voxel: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The voxel itself and those that share a corner with it."""
    for offset in itertools.product((-1, 0, 1), repeat=len(voxel)):
        yield tuple(v + d for v, d in zip(voxel, offset, strict=True))


def components(voxels: set[tuple[int, ...]], faces: bool = False) -> list[set[tuple[int, ...]]]:
    """Components by flooding from voxel to voxel, in the order of their first voxels."""
    found, left = [], set(voxels)
    while left:
        edge = [min(left)]
        left.discard(edge[0])
        part = set(edge)
        while edge:
            voxel = edge.pop()
            for other in list(neighbors(voxel)):
                if other in left and (not faces or np.abs(np.subtract(other, voxel)).sum() == 1):
                    left.discard(other)
                    part.add(other)
                    edge.append(other)
        found.append(part)
    return found


def where(frame: np.ndarray, step: Step) -> set[tuple[int, ...]]:
    mask = frame != 0 if step.class_name == EVERY_CLASS else frame == LABELS[step.class_name]
    return set(map(tuple, np.argwhere(mask).tolist()))


def by_hand(label: np.ndarray, step: Step, cyclic: bool) -> np.ndarray:
    """The same, voxel by voxel on sets."""
    after, frames = label.copy(), len(label)
    if step.operation == LARGEST_4D:
        parts = [
            {(t, *voxel) for voxel in part} for t, frame in enumerate(label) for part in components(where(frame, step))
        ]
        joined: list[set[tuple[int, ...]]] = []
        for part in parts:
            next_ones = {((t + d) % frames if cyclic else t + d, *voxel) for t, *voxel in part for d in (-1, 1)}
            beside = [other for other in joined if other & next_ones]
            joined = [other for other in joined if other not in beside] + [part.union(*beside)]
        kept = max(sorted(joined, key=min), key=len, default=set())  # of equals the first
        for voxel in set().union(*joined) - kept:
            after[voxel] = 0
        return after
    for t, frame in enumerate(label):
        inside = where(frame, step)
        if step.operation == LARGEST:
            kept = max(components(inside), key=len, default=set())  # of equals the first
            for voxel in inside - kept:
                after[(t, *voxel)] = 0
        elif step.operation == SINGLE:
            beside = {(t + d) % frames if cyclic else t + d for d in (-1, 1)} & set(range(frames)) - {t}
            there = set().union(*(where(label[other], step) for other in beside)) if beside else None
            for part in components(inside):
                if there is not None and not any(other in there for voxel in part for other in neighbors(voxel)):
                    for voxel in part:
                        after[(t, *voxel)] = 0
        else:
            for part in components(set(map(tuple, np.argwhere(frame == 0).tolist())), faces=True):
                around = {
                    other for v in part for other in neighbors(v) if np.abs(np.subtract(other, v)).sum() == 1
                } - part
                around = {o for o in around if all(n > 1 or 0 <= i < n for i, n in zip(o, frame.shape, strict=True))}
                if around and around <= inside:
                    for voxel in part:
                        after[(t, *voxel)] = LABELS[step.class_name]
    return after


@st.composite
def label_maps(draw) -> np.ndarray:
    shape = draw(st.tuples(*(st.integers(1, n) for n in (4, 5, 5, 3))))
    few = st.sampled_from([0, 0, 0, 1, 2]) if draw(st.booleans()) else st.sampled_from([1, 1, 1, 0, 2])
    return draw(arrays(np.uint8, shape, elements=few, fill=st.nothing()))


EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("step", EVERY_STEP, ids=IDS)
@EXAMPLES
@given(label=label_maps(), cyclic=st.booleans())
def test_is_what_flooding_voxel_by_voxel_gives(step, label, cyclic):
    np.testing.assert_array_equal(apply_steps(label, [step], LABELS, cyclic), by_hand(label, step, cyclic))


@pytest.mark.parametrize("step", EVERY_STEP, ids=IDS)
@EXAMPLES
@given(label=label_maps(), cyclic=st.booleans(), shift=st.integers(1, 3))
def test_what_must_hold_for_any_label_map(step, label, cyclic, shift):
    after = apply_steps(label, [step], LABELS, cyclic)
    np.testing.assert_array_equal(apply_steps(after, [step], LABELS, cyclic), after, "not idempotent")
    changed = after != label
    if step.operation == HOLES:
        assert (label[changed] == 0).all()
        assert (after[changed] == LABELS[step.class_name]).all()
    else:
        assert (after[changed] == 0).all()
    if step.class_name != EVERY_CLASS:
        others = label == 3 - LABELS[step.class_name]
        np.testing.assert_array_equal(after[others], label[others])
    swapped = {"background": 0, "muscle": 2, "cavity": 1}
    exchanged = np.array([0, 2, 1], np.uint8)
    np.testing.assert_array_equal(apply_steps(exchanged[label], [step], swapped, cyclic), exchanged[after])
    if cyclic or step.operation not in OVER_TIME:
        rolled = apply_steps(np.roll(label, shift, 0), [step], LABELS, cyclic)
        if step.operation == LARGEST_4D:  # of equals another one may be the first
            assert (rolled != 0).sum() == (after != 0).sum()
        else:
            np.testing.assert_array_equal(rolled, np.roll(after, shift, 0))
    if step.operation not in OVER_TIME:
        alone = [apply_steps(frame[None], [step], LABELS, cyclic)[0] for frame in label]
        np.testing.assert_array_equal(after, np.stack(alone), "a frame saw another")
    elif step.operation == SINGLE:
        np.testing.assert_array_equal(apply_steps(label[::-1], [step], LABELS, cyclic), after[::-1])


def test_a_frame_is_searched_once_per_step_however_many_components_it_has(monkeypatch):
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 for n in (96, 96, 12)), indexing="ij")
    heart = np.select([np.hypot(x, y) < 10, np.hypot(x, y) < 20], [2, 1]).astype(np.uint8)
    label = np.repeat(heart[None], 8, 0)
    specks = np.zeros(heart.shape, bool)
    specks[3:90:10, 3:90:10, 3] = True
    label[::2, specks & (np.hypot(x, y) > 24)] = 1
    label[3, 47:49, 48, 6] = 0
    searched = {"muscle": [], "cavity": []}
    usual = ndimage.label
    for name, steps in (
        ("muscle", [Step(LARGEST, "muscle")]),
        ("cavity", [Step(SINGLE, "cavity"), Step(HOLES, "cavity")]),
    ):
        monkeypatch.setattr(ndimage, "label", lambda mask, *g, n=name: searched[n].append(mask.size) or usual(mask, *g))
        label = apply_steps(label, steps, LABELS, True)
    assert len(searched["muscle"]) == 8
    assert len(searched["cavity"]) <= 2 * 8
    assert max(searched["cavity"]) < heart.size / 10, "more than the box around the class"
    np.testing.assert_array_equal(label, np.repeat(heart[None], 8, 0))


@pytest.mark.parametrize(
    ("operation", "name", "wanted"),
    [
        ("largest", "muscle", "got operation 'largest', expected one of largest_component, largest_component_over"),
        ("fill_holes", "*", "got fill_holes of '*', expected one class"),
        ("fill_holes", 1, "got fill_holes of 1, expected one class"),
    ],
)
def test_an_unknown_step_is_refused(operation, name, wanted):
    with pytest.raises(InputError, match=wanted.replace("*", r"\*")):
        Step(operation, name)


@pytest.mark.parametrize("name", ["atrium", "background"])
def test_a_class_that_the_labels_lack_is_refused(name):
    with pytest.raises(InputError, match=f"'{name}', expected a class among muscle, cavity"):
        apply_steps(np.zeros((1, 2, 2, 2), np.uint8), [Step(LARGEST, name)], LABELS, False)


@pytest.fixture
def run(tmp_path: Path, partial_documents) -> Path:
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0/checkpoint_best.pt").write_bytes(b"weights")
    return tmp_path


def recorded(run: Path, steps: list[Step]) -> Path:
    return write_steps(run, steps, [run / "fold_0/checkpoint_best.pt"], {"note": "hand-made"})


@pytest.mark.parametrize("steps", [[], EVERY_STEP])
def test_what_is_recorded_is_read(run, steps):
    assert read_steps(run) is None
    path = recorded(run, steps)
    assert path == run / POSTPROCESSING
    assert read_steps(run) == steps
    found = json.loads(path.read_text())
    assert found["note"] == "hand-made"
    by_sha256sum = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"  # printf weights | sha256sum
    assert found["checkpoints"] == {"fold_0/checkpoint_best.pt": by_sha256sum}


def test_steps_chosen_for_other_weights_are_refused(run):
    recorded(run, EVERY_STEP)
    (run / "fold_0/checkpoint_best.pt").write_bytes(b"others")
    for change in ("changed", "gone", "unknown"):
        if change == "gone":
            (run / "fold_0/checkpoint_best.pt").unlink()
        elif change == "unknown":
            (run / POSTPROCESSING).write_text('{"steps": [], "checkpoints": {"a": 1}}')
        with pytest.raises(OtherCheckpoints, match=r"other checkpoints .* unet4d postprocess chooses anew"):
            read_steps(run)


@pytest.mark.parametrize(
    "spoiled",
    [
        "{",
        "[]",
        '{"steps": 3}',
        '{"steps": []}',
        '{"steps": [{"operation": "melt", "class": "muscle"}], "checkpoints": {"a": "b"}}',
        '{"steps": [{"operation": ["melt"], "class": "muscle"}], "checkpoints": {"a": "b"}}',
        '{"steps": ["largest_component"], "checkpoints": {"a": "b"}}',
        '{"steps": [{"operation": "fill_holes"}], "checkpoints": {"a": "b"}}',
    ],
)
def test_a_damaged_record_is_one_line(run, spoiled):
    (run / POSTPROCESSING).write_text(spoiled)
    with pytest.raises(
        InputError, match=r"is not what unet4d postprocess writes .*; run unet4d postprocess .* again, or remove"
    ) as error:
        read_steps(run)
    assert "\n" not in str(error.value)
