"""Single frames that went wrong: exactly those drawn, as k-space has it, the others to the bit as they were."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unet4d.pipeline.augmentation.artifacts import (
    FrameArtifact,
    Ghosting,
    Mistriggering,
    SignalDropout,
    add_ghosts,
    apply_artifacts,
    lose_signal,
    mix_lines,
    sample_artifacts,
)
from unet4d.pipeline.augmentation.intensity import NoiseParams
from unet4d.pipeline.augmentation.presets import ARTIFACT_PRESETS

SHAPE = (16, 12, 4)
SEEDS = range(200)
KINDS = ("signal", "map", "velocity X", "velocity Z")
HAPPENED = {
    "dropout": SignalDropout(0.6),
    "region": SignalDropout(0.6, (0.2, -0.3, 0.0), 0.5),
    "ghosting": Ghosting(1, 0.3, 0.4, 0.5),
    "mistriggered": Mistriggering(0, (0, 2, 5), 1),
    "noise": NoiseParams(0.5, 3),
}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def drawn(
    seed: int, strength: str = "strong", frames: int = 8, gated: bool = True, rate: float | None = None
) -> tuple[FrameArtifact, ...]:
    return sample_artifacts(np.random.default_rng(seed), ARTIFACT_PRESETS[strength], frames, SHAPE, gated, rate)


# the draw


@pytest.mark.parametrize("frames", [2, 3, 5, 8])
def test_no_two_neighbors_go_wrong_and_at_most_half_of_a_clip(frames):
    found = [[one.frame for one in drawn(seed, frames=frames)] for seed in SEEDS]
    assert {t for frame in found for t in frame} == set(range(frames))
    assert max(map(len, found)) == min(2, frames // 2)
    assert all(later - earlier > 1 for frame in found for earlier, later in itertools.pairwise(frame))


def test_a_lone_frame_gets_no_artifact():
    assert not any(drawn(seed, frames=1) for seed in SEEDS)


def test_the_share_of_clips_with_artifacts_is_that_of_the_preset_with_all_kinds():
    for strength, by in ARTIFACT_PRESETS.items():
        found = [drawn(seed, strength) for seed in range(1000)]
        assert abs(sum(map(bool, found)) / 1000 - by.probability) < 0.04
        assert {type(one.artifact) for draw in found for one in draw} == {
            SignalDropout,
            Ghosting,
            Mistriggering,
            NoiseParams,
        }


@pytest.mark.parametrize(("weaker", "stronger"), [("mild", "strong"), ("strong", "severe")])
def test_a_stronger_preset_hits_more_clips_and_harder(weaker, stronger):
    mild, strong = ARTIFACT_PRESETS[weaker], ARTIFACT_PRESETS[stronger]
    assert strong.probability > mild.probability
    for name in ("dropout", "ghosting", "mistriggered", "noise"):
        assert getattr(strong, name).low > getattr(mild, name).low
        assert getattr(strong, name).high >= getattr(mild, name).high


@pytest.mark.parametrize(("rate", "frames"), [(0.0, 4), (0.2, 4), (0.2, 9), (0.5, 6), (0.3, 2)])
def test_a_rate_is_the_share_of_frames_with_an_artifact_over_many_clips(rate, frames):
    found = [[one.frame for one in drawn(seed, "severe", frames, rate=rate)] for seed in range(600)]
    assert sum(map(len, found)) / 600 / frames == pytest.approx(rate, abs=0.025)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(later - earlier > 1 for clip in found for earlier, later in itertools.pairwise(clip))


@pytest.mark.parametrize("frames", [1, 3])
def test_no_rate_hits_more_than_half_of_a_clip(frames):
    assert max(len(drawn(seed, "severe", frames, rate=0.5)) for seed in SEEDS) == frames // 2


def test_triggers_are_missed_only_where_there_are_triggers():
    kinds = {type(one.artifact) for seed in SEEDS for one in drawn(seed, gated=False)}
    assert kinds == {SignalDropout, Ghosting, NoiseParams}


def test_lines_come_from_a_neighbor_inside_the_clip_that_is_intact():
    sources = set()
    for seed in SEEDS:
        draw = drawn(seed, frames=4)
        for one in draw:
            if isinstance(one.artifact, Mistriggering):
                assert abs(one.artifact.source - one.frame) == 1
                assert 0 <= one.artifact.source < 4
                assert one.artifact.source not in [other.frame for other in draw]
                assert len(set(one.artifact.lines)) == len(one.artifact.lines)
                assert max(one.artifact.lines) <= SHAPE[one.artifact.axis] // 2
                sources.add(one.artifact.source - one.frame)
    assert sources == {-1, 1}


# the clip


@pytest.mark.parametrize("name", HAPPENED)
def test_exactly_the_sampled_frames_change_and_the_others_stay_to_the_bit(name):
    clip = random(4, 6, *SHAPE)
    out = apply_artifacts(clip.clone(), [FrameArtifact(t, HAPPENED[name]) for t in (2, 5)], KINDS, [1.0] * 4)
    hit = ~(out == clip).flatten(2).all(2)
    channels = {"dropout": [0], "region": [0], "ghosting": [0], "mistriggered": [0, 2, 3], "noise": [0, 2, 3]}[name]
    assert hit.nonzero().tolist() == [[channel, t] for channel in channels for t in (2, 5)]


def test_components_of_a_velocity_swap_the_same_lines():
    clip = random(1, 3, *SHAPE).repeat(4, 1, 1, 1, 1)
    out = apply_artifacts(clip, [FrameArtifact(2, HAPPENED["mistriggered"])], KINDS, [1.0] * 4)
    assert torch.equal(out[2], out[3])


def test_each_channel_gets_its_lines_from_itself():
    clip = random(4, 3, *SHAPE)
    happened = HAPPENED["mistriggered"]
    out = apply_artifacts(clip.clone(), [FrameArtifact(2, happened)], KINDS, [1.0] * 4)
    expected = mix_lines(clip[3, 2], clip[3, 1], happened.axis, happened.lines)
    assert torch.allclose(out[3, 2], expected, atol=1e-5)


def test_noise_goes_with_the_unit_of_its_channel():
    clip = torch.zeros(2, 2, 30, 30, 6)
    kinds = ("velocity X", "velocity Y")
    out = apply_artifacts(clip, [FrameArtifact(1, NoiseParams(0.5, 3))], kinds, [1.0, 100.0])
    assert float(out[0, 1].std()) == pytest.approx(0.5, rel=0.05)
    assert float(out[1, 1].std()) == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("shape", [SHAPE, (5, 3, 1)])
def test_constant_frames_give_no_nan(shape):
    for seed in SEEDS:
        draw = sample_artifacts(np.random.default_rng(seed), ARTIFACT_PRESETS["strong"], 4, shape, True)
        assert apply_artifacts(torch.zeros(4, 4, *shape), draw, KINDS, [1.0] * 4).isfinite().all()


# dropout


def test_a_dropout_takes_its_share_of_the_signal_above_the_minimum():
    frame = torch.tensor([-1.0, 0.0, 3.0])[:, None, None]
    assert lose_signal(frame, SignalDropout(0.75)).flatten().tolist() == [-1.0, -0.75, 0.0]
    assert torch.equal(lose_signal(frame, SignalDropout(0.0)), frame)


def test_a_region_drops_out_most_in_its_middle_and_not_far_away():
    frame = torch.ones(41, 41, 5)
    frame[0, 0, 0] = 0
    out = lose_signal(frame, SignalDropout(0.8, (0.5, -0.5, 0.0), 0.3))
    assert np.unravel_index(int(out[1:].argmin()), (40, 41, 5)) == (29, 10, 2)
    assert float(out[30, 10, 2]) == pytest.approx(0.2, abs=1e-6)
    assert float(out[36, 10, 2]) == pytest.approx(1 - 0.8 * math.exp(-2), abs=1e-5)  # at its radius
    assert float(out[5, 35, 2]) > 0.999


# ghosting


def test_a_ghost_is_a_modulation_of_the_lines_of_k_space():
    """Oracle: every line times 1 + 2 a cos(2 pi d line / n + phase), in k-space, and the magnitude of that."""
    frame, axis, away, n = random(*SHAPE).abs(), 1, 5, SHAPE[1]
    frame -= frame.min()
    out = add_ghosts(frame, Ghosting(axis, away / n, 0.3, 0.7))
    lines = torch.fft.fftfreq(n) * n
    factor = 1 + 0.6 * torch.cos(2 * math.pi * away * lines / n + 0.7)
    expected = torch.fft.ifft(torch.fft.fft(frame, dim=axis) * factor[None, :, None], dim=axis).abs()
    assert torch.allclose(out, expected, atol=1e-5)


def test_a_ghost_without_brightness_is_none_and_one_with_it_lies_where_it_should():
    frame = torch.zeros(20, 8, 2)
    frame[10] = 1
    assert torch.allclose(add_ghosts(frame, Ghosting(0, 0.25, 0.0, 0.3)), frame)
    out = add_ghosts(frame, Ghosting(0, 0.25, 0.4, 0.3))[:, 0, 0]
    assert out.nonzero().flatten().tolist() == [5, 10, 15]
    assert out[[5, 10, 15]].tolist() == pytest.approx([0.4, 1.0, 0.4])


# mistriggered lines


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(16, 12, 4), (15, 11, 3)])
def test_no_line_of_another_frame_is_the_frame_and_all_are_the_other(axis, shape):
    frame, other = random(2, *shape)
    assert torch.allclose(mix_lines(frame, other, axis, ()), frame, atol=1e-5)
    assert torch.allclose(mix_lines(frame, other, axis, range(shape[axis] // 2 + 1)), other, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_lines_chosen_are_the_others_and_the_rest_the_frames_own(axis):
    frame, other = random(2, *SHAPE)
    out, mine, theirs = (
        torch.fft.fft2(one, dim=(0, 1)).movedim(axis, 0)
        for one in (mix_lines(frame, other, axis, (1, 4)), frame, other)
    )
    n = SHAPE[axis]
    taken = torch.tensor([min(line, n - line) in (1, 4) for line in range(n)])
    assert torch.allclose(out[taken], theirs[taken], atol=1e-3)
    assert torch.allclose(out[~taken], mine[~taken], atol=1e-3)
    assert not torch.allclose(theirs[taken], mine[taken], atol=1)
