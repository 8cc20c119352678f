"""Time in a clip: frames as drawn by hand, places that leave none out, and a bound on labelled frames that holds."""

from __future__ import annotations

import inspect
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet4d.config import DataConfig
from unet4d.errors import InputError
from unet4d.pipeline.clip_frames import (
    TIME_PRESETS,
    ClipFrames,
    ClipPosition,
    TemporalWarp,
    clip_frames,
    clip_positions,
    even_runs,
    most_labelled_frames,
    stratified_item,
)

LEVELS = sorted(TIME_PRESETS)


def drawn_by_hand(clip) -> str:
    """A clip as the module's docstring writes it, without brackets: - marks padding."""
    return " ".join(f"{frame}{'-' * bool(pad)}" for frame, pad in zip(*clip, strict=True))


@st.composite
def timings(draw, frames: int) -> TemporalWarp:
    step = st.none() if frames == 1 else st.none() | st.integers(0, frames - 2)
    speed = st.floats(0.4, 2.5)
    return TemporalWarp(
        draw(st.integers(1, 5)), (draw(speed), draw(speed)), draw(st.booleans()), draw(step), draw(step)
    )


# frames


@pytest.mark.parametrize(
    ("anchor", "position", "frames", "study_frames", "cyclic", "timing", "wanted"),
    [
        # steady
        (5, 1, 4, 6, True, TemporalWarp(), "4 5 0 1"),
        (0, 3, 4, 6, True, TemporalWarp(), "3 4 5 0"),
        (3, 1, 4, 6, False, TemporalWarp(), "2 3 4 5"),
        (0, 0, 4, 6, False, TemporalWarp(), "0 1 2 3"),
        (0, 0, 1, 1, False, TemporalWarp(), "0"),
        # stride
        (5, 1, 4, 8, True, TemporalWarp(2), "3 5 7 1"),
        (5, 1, 4, 9, False, TemporalWarp(2), "4 5 6 7"),
        (5, 1, 4, 10, False, TemporalWarp(2), "3 5 7 9"),
        (5, 1, 4, 10, False, TemporalWarp(9), "3 5 7 9"),
        (5, 0, 8, 10, True, TemporalWarp(5), "5 0 5 0 5 0 5 0"),
        (2, 1, 3, 6, True, TemporalWarp(4), "4 2 0"),
        # backwards
        (5, 1, 4, 8, True, TemporalWarp(2, reverse=True), "7 5 3 1"),
        (0, 1, 4, 6, True, TemporalWarp(reverse=True), "1 0 5 4"),
        (3, 1, 4, 6, False, TemporalWarp(3, reverse=True), "4 3 2 1"),
        # speed: positions 0, 1.25, 2.5, 3.75, 5 and 0, 0.75, 1.5, 2.25, 3 from the anchor, halves to the even frame
        (1, 0, 5, 9, True, TemporalWarp(speeds=(1.25, 1.25)), "1 2 3 5 6"),
        (1, 0, 5, 9, True, TemporalWarp(speeds=(0.75, 0.75)), "1 2 3 3 4"),
        (4, 4, 5, 9, True, TemporalWarp(speeds=(0.75, 0.75)), "1 2 2 3 4"),
        (4, 0, 3, 9, True, TemporalWarp(2, speeds=(0.5, 1.5)), "4 5 8"),
        (0, 0, 4, 20, True, TemporalWarp(4, speeds=(0.5, 2.0)), "0 2 6 14"),  # steps 2, 4, 8
        (1, 0, 5, 6, False, TemporalWarp(speeds=(1.25, 1.25)), "1 2 3 4 5"),
        (1, 0, 5, 5, True, TemporalWarp(speeds=(1.25, 1.25)), "1 2 3 0 1"),
        # dropped and repeated
        (5, 1, 4, 12, False, TemporalWarp(2, drop=1), "3 5 9 11"),
        (5, 1, 4, 12, False, TemporalWarp(2, drop=0), "1 5 7 9"),
        (5, 1, 4, 11, False, TemporalWarp(2, drop=1), "4 5 7 8"),
        (5, 1, 4, 8, False, TemporalWarp(1, drop=1), "4 5 6 7"),
        (5, 1, 4, 12, False, TemporalWarp(2, repeat=1), "3 5 5 7"),
        (5, 1, 4, 12, False, TemporalWarp(2, repeat=0), "5 5 7 9"),
        (5, 1, 4, 12, False, TemporalWarp(2, drop=1, repeat=1), "3 5 5 7"),
        (5, 1, 4, 12, True, TemporalWarp(2, drop=0, repeat=2), "1 5 7 7"),
        # studies shorter than the clip
        (1, 1, 5, 2, True, TemporalWarp(), "0 1 0 1 0"),
        (1, 2, 5, 2, False, TemporalWarp(), "0- 0 1 1- 1-"),
        (1, 2, 5, 2, False, TemporalWarp(reverse=True), "1- 1- 1 0 0-"),
        (1, 2, 5, 2, False, TemporalWarp(3, drop=2), "0- 0 1 1- 1-"),
        (2, 3, 4, 3, False, TemporalWarp(speeds=(0.75, 0.75)), "0 0 1 2"),
        (0, 2, 3, 1, True, TemporalWarp(), "0 0 0"),
        (0, 2, 3, 1, False, TemporalWarp(), "0- 0- 0"),
    ],
)
def test_clips_equal_the_drawing(anchor, position, frames, study_frames, cyclic, timing, wanted):
    assert drawn_by_hand(clip_frames(anchor, position, frames, study_frames, cyclic, timing)) == wanted


@pytest.mark.parametrize(
    ("shown", "length", "study_frames", "wanted"),
    [
        ("3 5 7 8 9 9", 3, 12, [0, 2]),
        ("3 5 7 8 9 9", 2, 12, [0, 1, 2, 3]),
        ("3 4 5 6", 4, 12, [0]),
        ("4 5 0 1", 3, 6, [0, 1]),  # over the end of a loop
        ("1 0 5 4", 3, 6, [0, 1]),  # backwards
        ("0- 0 1 2 2-", 3, 3, [1]),
        ("0 0 0", 3, 1, []),
        ("0 2 3 5", 3, 9, []),
    ],
)
def test_runs_of_evenly_spaced_frames_equal_the_drawing(shown, length, study_frames, wanted):
    frames = np.array([int(frame.rstrip("-")) for frame in shown.split()])
    padding = np.array([frame.endswith("-") for frame in shown.split()])
    assert even_runs(ClipFrames(frames, padding), length, study_frames) == wanted


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.data())
def test_every_frame_is_one_of_the_study_and_the_anchor_stands_at_its_position(study_frames, frames, cyclic, data):
    anchor, timing = data.draw(st.integers(0, study_frames - 1)), data.draw(timings(frames))
    choices = clip_positions(anchor, frames, study_frames, cyclic, timing.reverse)
    place = data.draw(st.sampled_from([place for place in choices if place.reverse == timing.reverse]))
    held, padding = clip_frames(anchor, place.position, frames, study_frames, cyclic, timing)
    assert (held.shape, padding.shape) == ((frames,), (frames,))
    assert set(held.tolist()) <= set(range(study_frames))
    assert held[place.position] == anchor
    assert not padding[place.position]
    if cyclic or study_frames >= frames:
        assert not padding.any()
    if not cyclic:
        assert (np.diff(held) * (-1 if timing.reverse else 1) >= 0).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 30), st.data())
def test_a_rotated_loop_gives_the_rotated_clip(study_frames, frames, by, data):
    anchor, position = data.draw(st.integers(0, study_frames - 1)), data.draw(st.integers(0, frames - 1))
    timing = data.draw(timings(frames))
    here = clip_frames(anchor, position, frames, study_frames, True, timing).frames
    there = clip_frames((anchor + by) % study_frames, position, frames, study_frames, True, timing).frames
    assert ((here + by) % study_frames).tolist() == there.tolist()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(1, 3), st.data())
def test_backwards_is_the_clip_turned_round_and_twice_is_the_clip(study_frames, frames, cyclic, stride, data):
    anchor, position = data.draw(st.integers(0, study_frames - 1)), data.draw(st.integers(0, frames - 1))
    forward = clip_frames(anchor, position, frames, study_frames, cyclic, TemporalWarp(stride))
    mirrored = clip_frames(
        anchor, frames - 1 - position, frames, study_frames, cyclic, TemporalWarp(stride, reverse=True)
    )
    assert np.array_equal(forward.frames, mirrored.frames[::-1])
    assert np.array_equal(forward.padding, mirrored.padding[::-1])
    timing = data.draw(timings(frames))
    back = TemporalWarp(timing.stride, timing.speeds, not timing.reverse, timing.drop, timing.repeat)
    assert np.array_equal(timing.offsets(frames, position), -back.offsets(frames, position))


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_the_positions_of_a_loop_are_all_its_rotations(frames):
    for anchor in range(frames):
        rotations = {tuple(clip_frames(anchor, p, frames, frames, True).frames.tolist()) for p in range(frames)}
        assert rotations == {tuple(np.roll(range(frames), by).tolist()) for by in range(frames)}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.data())
def test_open_clips_lie_inside_or_hold_the_whole_study(study_frames, frames, both_ways, data):
    anchor, stride = data.draw(st.integers(0, study_frames - 1)), data.draw(st.integers(1, 4))
    for position, reverse in clip_positions(anchor, frames, study_frames, False, both_ways):
        held, padding = clip_frames(
            anchor, position, frames, study_frames, False, TemporalWarp(stride, reverse=reverse)
        )
        steps = np.diff(held) * (-1 if reverse else 1)
        if study_frames >= frames:  # the largest stride up to the one wanted that stays inside
            assert not padding.any()
            assert len(set(steps.tolist())) <= 1
            if frames > 1 and (taken := int(steps[0])) < stride:
                wider = anchor + (taken + 1) * (np.arange(frames) - position) * (-1 if reverse else 1)
                assert wider.min() < 0 or wider.max() >= study_frames
        else:
            assert sorted(held[~padding].tolist()) == list(range(study_frames))  # each once
            assert set(held[padding].tolist()) <= {0, study_frames - 1}


# places


def test_positions_equal_the_drawing():
    positions = [[p for p, _ in clip_positions(anchor, 4, 6, False, False)] for anchor in range(6)]
    assert positions == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3], [3]]
    assert [p for p, _ in clip_positions(0, 4, 6, True, False)] == [0, 1, 2, 3]
    assert [p for p, _ in clip_positions(0, 4, 2, False, False)] == [0, 1, 2]
    assert [p for p, _ in clip_positions(1, 4, 2, False, False)] == [1, 2, 3]
    assert [p for p, _ in clip_positions(2, 4, 4, False, False)] == [2]
    assert clip_positions(0, 4, 6, False, True) == [ClipPosition(0, False), ClipPosition(3, True)]
    assert len(clip_positions(0, 4, 6, True, True)) == 8


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans(), st.booleans(), st.data())
def test_every_frame_has_a_place_and_as_many_backwards_as_forwards(study_frames, frames, cyclic, both_ways, data):
    anchor = data.draw(st.integers(0, study_frames - 1))
    found = clip_positions(anchor, frames, study_frames, cyclic, both_ways)
    assert len(set(found)) == len(found) > 0
    assert sum(place.reverse for place in found) == (len(found) // 2 if both_ways else 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 9))
def test_each_lap_takes_every_item_once(count, lap, seed):
    visits = [stratified_item(lap * count + turn, count, [seed, 7]) for turn in range(count)]
    assert [made for made, _ in visits] == [lap] * count
    assert sorted(item for _, item in visits) == list(range(count))


def test_laps_and_seeds_differ_in_order():
    orders = {
        tuple(stratified_item(lap * 9 + turn, 9, seed)[1] for turn in range(9))
        for lap in range(5)
        for seed in ([0, 2], [0, 3], [1, 2])
    }
    assert len(orders) == 15


# what is drawn


@pytest.mark.parametrize("level", LEVELS)
def test_sampled_timings_stay_within_their_preset(level):
    by, config = TIME_PRESETS[level], DataConfig(time_augmentation=level, max_frame_stride=3)
    rng = np.random.default_rng(0)
    made = [TemporalWarp.sample(rng, config, 6, reverse=False) for _ in range(600)]
    share = Counter(one.stride for one in made)
    assert all(150 < share[stride] < 250 for stride in (1, 2, 3))
    speeds = np.array([one.speeds for one in made])
    assert by.slowest - 1e-9 <= speeds.min() <= speeds.max() <= by.fastest + 1e-9
    assert np.mean((speeds != 1).any(1)) == pytest.approx(by.vary, abs=0.08)
    for name, wanted in (("drop", by.drop), ("repeat", by.repeat)):
        steps = [getattr(one, name) for one in made if getattr(one, name) is not None]
        assert len(steps) / 600 == pytest.approx(wanted, abs=0.06)
        assert set(steps) == (set(range(5)) if wanted else set())
    if by.drop:
        both = sum(one.drop is not None and one.repeat is not None for one in made)
        assert both / 600 == pytest.approx(by.drop * by.repeat, abs=0.04)
    if by.vary:
        assert abs(np.log(speeds).mean()) < 0.05


def test_off_with_stride_1_is_a_clip_of_neighbors():
    rng = np.random.default_rng(0)
    assert {TemporalWarp.sample(rng, DataConfig(), frames, False) for frames in (1, 2, 8) for _ in range(20)} == {
        TemporalWarp()
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("frames", [1, 2])
def test_clips_of_one_and_two_frames_have_a_timing(frames, level):
    rng = np.random.default_rng(0)
    config = DataConfig(time_augmentation=level, max_frame_stride=4)
    for _ in range(50):
        timing = TemporalWarp.sample(rng, config, frames, True)
        assert timing.offsets(frames, 0)[0] == 0
        assert frames > 1 or timing.drop is timing.repeat is None


@pytest.mark.parametrize("values", [{"max_frame_stride": 0}, {"time_augmentation": "hard"}])
def test_a_bad_setting_is_named(values):
    with pytest.raises(InputError, match=f"data.{next(iter(values))} is .*, expected "):
        DataConfig(**values)


# the planner's bound


def seen_labelled(clip, labelled) -> int:
    return int((np.isin(clip.frames, labelled) & ~clip.padding).sum())


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("frames", [1, 4, 7])
@pytest.mark.parametrize("max_frame_stride", [1, 3, 6])
def test_without_augmentation_the_bound_is_met_and_never_passed(frames, cyclic, max_frame_stride):
    config = DataConfig(max_frame_stride=max_frame_stride)
    for study_frames in range(1, 8):
        clips = [
            clip_frames(anchor, place.position, frames, study_frames, cyclic, TemporalWarp(stride))
            for anchor in range(study_frames)
            for place in clip_positions(anchor, frames, study_frames, cyclic, False)
            for stride in range(1, max_frame_stride + 1)
        ]
        for count in range(1, study_frames + 1):
            most = max(seen_labelled(clip, l) for clip in clips for l in combinations(range(study_frames), count))  # noqa: E741
            assert most_labelled_frames(frames, study_frames, count, cyclic, config) == most


def test_a_stride_that_divides_the_loop_shows_the_same_few_again_and_again():
    assert most_labelled_frames(8, 10, 2, True, DataConfig()) == 2
    assert most_labelled_frames(8, 10, 2, True, DataConfig(max_frame_stride=5)) == 8
    assert most_labelled_frames(8, 10, 2, False, DataConfig(max_frame_stride=5)) == 2
    assert most_labelled_frames(8, 3, 3, False, DataConfig()) == 3  # padding is not labelled
    assert most_labelled_frames(8, 3, 3, True, DataConfig()) == 8


@settings(max_examples=400, deadline=None)
@given(
    st.integers(1, 16),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from(["mild", "strong"]),
    st.integers(1, 3),
    st.data(),
)
def test_with_augmentation_the_bound_is_never_passed(study_frames, frames, cyclic, level, max_frame_stride, data):
    by, config = TIME_PRESETS[level], DataConfig(time_augmentation=level, max_frame_stride=max_frame_stride)
    labelled = data.draw(st.lists(st.integers(0, study_frames - 1), min_size=1, max_size=3, unique=True))
    speed = st.sampled_from([by.slowest, by.fastest]) | st.floats(by.slowest, by.fastest)
    step = st.none() if frames == 1 else st.none() | st.integers(0, frames - 2)
    place = data.draw(st.sampled_from(clip_positions(labelled[0], frames, study_frames, cyclic, by.both_ways)))
    stride = data.draw(st.integers(1, max_frame_stride))
    timing = TemporalWarp(stride, (data.draw(speed), data.draw(speed)), place.reverse, data.draw(step), data.draw(step))
    clip = clip_frames(labelled[0], place.position, frames, study_frames, cyclic, timing)
    assert (
        1 <= seen_labelled(clip, labelled) <= most_labelled_frames(frames, study_frames, len(labelled), cyclic, config)
    )


def test_with_augmentation_the_bound_stays_near():
    """Two labelled frames of a cine do not become a clip full of them: memory is planned by this."""
    mild = DataConfig(time_augmentation="mild")
    assert most_labelled_frames(16, 30, 2, True, mild) == 5
    assert most_labelled_frames(16, 30, 2, False, mild) == 5
    assert most_labelled_frames(8, 30, 30, True, mild) == 8


def test_the_help_names_the_speeds_of_mild():
    mild = TIME_PRESETS["mild"]
    assert f"{mild.slowest} to {mild.fastest} times" in inspect.getsource(DataConfig)
