"""Clips grow in thirds of a run to what is configured, on sizes the network can compute."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet4d.config import Config, DataConfig, TrainConfig
from unet4d.pipeline.curriculum import stages


def config(growth="clips", frames=8, patch=(64, 64, 8), epochs=10, steps=30, batch_size=2, accumulate=3) -> Config:
    loop = TrainConfig(epochs, steps, batch_size, accumulate_batches=accumulate, growth=growth)
    return Config(DataConfig(patch_size=patch, frames=frames), train=loop)


def test_without_growth_there_is_one_stage():
    assert stages(config("off"), (16, 16, 2)) == [(0, 0, 8, (64, 64, 8))]


def test_frames_are_a_quarter_a_half_and_all_of_them():
    whole = (64, 64, 8)
    assert stages(config(), (16, 16, 2)) == [(0, 0, 2, whole), (100, 600, 4, whole), (200, 1200, 8, whole)]
    assert [stage.frames for stage in stages(config(frames=30), (1, 1, 1))] == [8, 15, 30]


@pytest.mark.parametrize(
    ("frames", "wanted"), [(4, [(0, 2), (200, 4)]), (3, [(0, 2), (200, 3)]), (2, [(0, 2)]), (1, [(0, 1)])]
)
def test_few_frames_are_not_cut_below_two_and_like_stages_are_one(frames, wanted):
    assert [(stage.first_step, stage.frames) for stage in stages(config(frames=frames), (16, 16, 2))] == wanted


@pytest.mark.parametrize(
    ("patch", "stride", "wanted"),
    [
        ((64, 64, 8), (16, 16, 2), [(32, 32, 8), (48, 48, 8), (64, 64, 8)]),
        ((96, 80, 16), (32, 16, 8), [(64, 48, 16), (96, 64, 16), (96, 80, 16)]),  # 48, 40; 72, 60; rounded up
        ((32, 16, 1), (16, 16, 1), [(32, 16, 1)] * 3),  # the bottleneck keeps two voxels, where it has them
    ],
)
def test_patches_are_a_half_three_quarters_and_all_in_the_plane_rounded_up_to_the_stride(patch, stride, wanted):
    found = stages(config("patches", patch=patch), stride)
    assert [stage.patch_size for stage in found] == wanted
    assert [stage.frames for stage in found] == [2, 4, 8]


@pytest.mark.parametrize(("steps", "wanted"), [(1, [(0, 8)]), (2, [(0, 4), (1, 8)]), (3, [(0, 2), (1, 4), (2, 8)])])
def test_a_run_of_few_steps_skips_what_no_step_is_left_for_and_ends_on_all(steps, wanted):
    found = stages(config(epochs=1, steps=steps), (16, 16, 2))
    assert [(stage.first_step, stage.frames) for stage in found] == wanted


@given(
    st.sampled_from(["off", "clips", "patches"]),
    st.integers(1, 40),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.sampled_from([1, 2, 4, 16])] * 3),
    st.integers(1, 20),
)
def test_stages_begin_at_0_grow_and_end_on_what_is_configured(growth, frames, cells, stride, steps):
    patch = tuple(n * m for n, m in zip(cells, stride, strict=True))
    found = stages(config(growth, frames, patch, epochs=1, steps=steps), stride)
    assert (found[0].first_step, found[-1].frames, found[-1].patch_size) == (0, frames, patch)
    assert all(n % m == 0 for stage in found for n, m in zip(stage.patch_size, stride, strict=True))
    assert all(stage.frames >= min(2, frames) and stage.patch_size[2] == patch[2] for stage in found)
    for before, after in itertools.pairwise(found):
        assert before.first_step < after.first_step < steps
        grown = [
            b <= a for b, a in zip((before.frames, *before.patch_size), (after.frames, *after.patch_size), strict=True)
        ]
        assert all(grown)
    assert all(stage.first_clip == 6 * stage.first_step for stage in found)  # 2 clips in each of 3 batches
