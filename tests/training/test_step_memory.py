"""Recompute schedules: the fastest one that fits is taken."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.cuda._utils import _get_device_index

from tests.builders import build_network, tiny_config
from unet4d.config import RecomputeConfig, ResolvedConfig
from unet4d.system import gpu_memory
from unet4d.system.byte_sizes import GB
from unet4d.system.gpu_memory import free_bytes, sufficient_bytes, usable_bytes
from unet4d.training import step_memory
from unet4d.training.step_memory import (
    StepCost,
    choose_recompute,
    count_step_cost,
    describe_recompute,
    recompute_schedules,
)


def ladder(frames: int) -> list[RecomputeConfig]:
    return recompute_schedules(RecomputeConfig(), frames)


def config(frames: int = 9, **memory) -> ResolvedConfig:
    return tiny_config(lstm_channels=4, patch_size=(32, 32, 8), frames=frames, batch_size=1, precision="bf16", **memory)


def counted(cut: RecomputeConfig, frames: int = 9) -> int:
    return count_step_cost(dataclasses.replace(config(frames), recompute=cut), 1, 3, frames).working_bytes


def test_the_schedules_go_from_all_at_once_over_ever_narrower_chunks_to_groups():
    widths = [rung.chunk_frames for rung in ladder(9)]
    assert widths == [0, 0, 0, 8, 4, 2, 1, 1, 1]
    assert [rung.lstm for rung in ladder(9)] == ["gates"] + ["hidden"] * 8
    assert [rung.stages for rung in ladder(9)] == [False, False, True] + [False] * 4 + [True] * 2
    assert [rung.group_chunks for rung in ladder(9)] == [1] * 8 + [3]
    assert [rung.chunk_frames for rung in ladder(1)] == [0, 0, 0]


@pytest.mark.slow
def test_cutting_needs_less_the_narrower_until_the_kept_states_weigh_more_than_the_frames():
    needed = [counted(rung) for rung in ladder(9)]
    assert needed[:3] == sorted(needed[:3], reverse=True)
    assert needed[3:6] == sorted(needed[3:6], reverse=True)
    assert needed[6] > needed[5]
    assert min(needed) == needed[-1]


def test_a_frozen_encoder_needs_neither_gradients_nor_moments_nor_kept_activations():
    plain = dataclasses.replace(config(3), recompute=RecomputeConfig(0))
    train = dataclasses.replace(plain.train, init_from="run", freeze="encoder")
    cost, frozen = (count_step_cost(made, 1, 3, 3) for made in (plain, dataclasses.replace(plain, train=train)))
    weights = [weight.numel() for weight in build_network(plain.model, 1, 3).encoder.parameters()]
    spared, rounding = 3 * 4 * sum(weights), 4 * 512 * len(weights)  # gradient, two moments, number of steps
    assert spared <= cost.fixed_bytes - frozen.fixed_bytes <= spared + rounding
    assert frozen.working_bytes < cost.working_bytes - spared - rounding
    assert frozen.flops < cost.flops


def made_up(monkeypatch, needs: list[int], frames: int = 9) -> None:
    """Let the schedules need this many bytes."""

    def count(config, in_channels, out_channels, labelled_frames, is_whole=True, regions=()):
        taken = needs[ladder(frames).index(config.recompute)]
        return StepCost(taken, taken, 0, 0)

    monkeypatch.setattr(step_memory, "count_step_cost", count)


NEEDS = [100, 90, 80, 70, 60, 40, 50, 45, 30]


@pytest.mark.parametrize(("room", "rung"), [(950, 0), (96, 1), (81, 2), (61, 4), (57, 5), (41, 5), (39, 8), (30, 8)])
def test_the_first_rung_that_fits_with_something_to_spare_is_taken(room, rung, monkeypatch):
    made_up(monkeypatch, NEEDS)
    chosen, is_enough = choose_recompute(config(), 1, 3, 9, sufficient_bytes(room))
    assert (chosen.recompute, chosen.planned_bytes, is_enough) == (ladder(9)[rung], NEEDS[rung], True)


@pytest.mark.parametrize(
    ("size", "usable"), [(80, 72.8), (40, 36.4), (24, 21.84), (10, 8.5), (6, 4.5), (4, 3.0), (1, 0.75), (0, 0)]
)
def test_nine_percent_and_at_least_one_and_a_half_gb_are_spared_and_a_quarter_of_a_small_memory(size, usable):
    assert usable_bytes(size * GB) == pytest.approx(usable * GB)
    assert sufficient_bytes(usable * GB) == pytest.approx(size * GB)


def test_a_way_with_a_tensor_of_two_to_the_31_elements_is_no_way(monkeypatch):
    def count(config, in_channels, out_channels, labelled_frames, is_whole=True, regions=()):
        return StepCost(10, 10, 0, 0, largest_elements=2**31 - (config.recompute.chunk_frames == 4))

    monkeypatch.setattr(step_memory, "count_step_cost", count)
    assert choose_recompute(config(), 1, 3, 9, 10**12)[0].recompute == ladder(9)[4]


def free_on_a_gpu(monkeypatch, free: int, reserved: int = 0, allocated: int = 0, fraction: float = 1.0) -> list[str]:
    """Have a GPU with this free memory; returns what is asked of it, in order."""
    asked: list[str] = []
    monkeypatch.setattr(gpu_memory, "warm_up", lambda device: asked.append("warm up"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append("free") or (free, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def allowed(device: torch.device | int) -> float:
        _get_device_index(device)  # as torch does: "cuda" without an index is refused
        return fraction

    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", allowed)
    return asked


def test_free_memory_is_read_after_the_warm_up(monkeypatch):
    asked = free_on_a_gpu(monkeypatch, 5 * GB, 3 * GB, GB)
    assert free_bytes(torch.device("cuda")) == 7 * GB
    assert asked == ["warm up", "free"]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_no_more_is_free_than_the_process_is_allowed_to_take(monkeypatch, device):
    free_on_a_gpu(monkeypatch, 70 * GB, 3 * GB, GB, fraction=0.3)
    assert free_bytes(torch.device(device)) == 23 * GB


def test_the_warm_up_uses_both_libraries_once_and_bears_a_full_gpu(monkeypatch):
    used: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: used.append("done"))
    conv3d = torch.nn.functional.conv3d
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda *a, **k: used.append("conv3d") or conv3d(*a, **k))
    gpu_memory.warm_up.cache_clear()
    for _ in range(2):
        with torch.inference_mode():  # as while windows are stitched
            gpu_memory.warm_up(torch.device("cpu"))
    assert used == ["conv3d", "done"]

    def full(*inputs, **options):
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(torch.nn.functional, "conv3d", full)
    gpu_memory.warm_up.cache_clear()
    gpu_memory.warm_up(torch.device("cpu"))
    gpu_memory.warm_up.cache_clear()


def test_where_nothing_fits_it_is_the_rung_that_needs_least(monkeypatch):
    made_up(monkeypatch, [*NEEDS[:-1], 55])
    chosen, is_enough = choose_recompute(config(), 1, 3, 9, 20)
    assert (chosen.recompute, is_enough) == (ladder(9)[5], False)


def test_a_way_that_was_asked_for_is_the_first_tried(monkeypatch):
    made_up(monkeypatch, NEEDS)
    assert choose_recompute(config(chunk_frames=4), 1, 3, 9, 1000)[0].recompute == ladder(9)[4]
    assert choose_recompute(config(chunk_frames=4), 1, 3, 9, sufficient_bytes(48))[0].recompute == ladder(9)[5]


def test_a_planned_step_has_the_counted_bytes():
    chosen, is_enough = choose_recompute(config(3, chunk_frames=2), 1, 3, 3, 10**12)
    assert is_enough
    assert chosen.planned_bytes == counted(RecomputeConfig(2), 3)


def test_leaner_ways_than_an_odd_one_are_the_rungs_below_it():
    assert recompute_schedules(RecomputeConfig(3), 9)[1:] == ladder(9)[5:]
    assert recompute_schedules(ladder(9)[-1], 9) == ladder(9)[-1:]
    assert recompute_schedules(RecomputeConfig(16), 9)[1:] == ladder(9)[2:]


def test_what_was_set_is_kept_where_the_width_of_chunks_is_left_open():
    """Pins settings that were kept in the record of a run and not in the run."""
    assert all(rung.stages for rung in recompute_schedules(RecomputeConfig(stages=True), 9))
    assert {rung.lstm for rung in recompute_schedules(RecomputeConfig(lstm="gates"), 9)} == {"gates"}
    assert {rung.group_chunks for rung in recompute_schedules(RecomputeConfig(group_chunks=3), 9)} == {3}


def test_a_schedule_is_described():
    assert describe_recompute(RecomputeConfig(0)) == "all frames at once"
    assert describe_recompute(RecomputeConfig(0, lstm="gates")) == "all frames at once, gates kept"
    assert (
        describe_recompute(RecomputeConfig(1, stages=True))
        == "chunks of 1 frame, the rest recomputed, encoder stages twice"
    )
    assert describe_recompute(RecomputeConfig(2, 4)) == "chunks of 2 frames in groups of 4, the rest recomputed"
