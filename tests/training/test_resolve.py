"""Sizes that a CPU trains with where none are set: within reach of it, and never in place of what was given."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import collect_log, make_config
from unet4d.config import Config, ModelConfig, ResolvedConfig
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.training.monitoring.summary import CONFIG
from unet4d.training.resolve import CPU_CHANNELS, CPU_FRAMES, CPU_PATCH_VOXELS, fit_cpu, resolve
from unet4d.training.train import train


def seen(*shape: int, frames: int = 30) -> Fingerprint:
    x, y, z = shape
    return Fingerprint(1.5, (1.5, 1.5, 8.0), ((x, y, z),) * 3, (frames,) * 3, 3)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((224, 256, 10), (80, 80, 10)), ((64, 64, 64), (40, 40, 32)), ((300, 300, 1), (128, 128, 1)), ((40, 36, 5),) * 2],
)
def test_a_patch_holds_as_much_of_a_study_as_a_cpu_can_train_on(shape, patch):
    assert fit_cpu(Config(), seen(*shape))[0].data.patch_size == patch


@given(st.tuples(*[st.integers(1, 600)] * 3))
def test_no_study_gives_a_patch_beyond_a_cpu_or_beyond_itself(shape):
    patch = fit_cpu(Config(), seen(*shape))[0].data.patch_size
    assert patch is not None
    assert 1 <= math.prod(patch) <= CPU_PATCH_VOXELS
    assert all(1 <= edge <= n for edge, n in zip(patch, shape, strict=True))


def test_what_is_chosen_is_named_with_the_options_that_override_it():
    config, line = fit_cpu(Config(), seen(224, 256, 10))
    assert (config.model.channels, config.data.frames) == (CPU_CHANNELS, CPU_FRAMES)
    for words in ("--data.patch_size '[80, 80, 10]'", "--model.channels '[16, 32, 64, 128]'", "--data.frames 4"):
        assert words in line


@pytest.mark.parametrize(
    ("setting", "others"),
    [
        ({"patch_size": (48, 48, 8)}, {"--data.frames"}),
        ({"frames": 12}, {"--data.patch_size", "--model.channels"}),
        ({"channels": [8, 16]}, {"--data.patch_size", "--data.frames"}),
        ({"strides": [(2, 2, 1)] * 4}, {"--data.patch_size", "--data.frames"}),
        ({"lstm_channels": [1, 2, 4, 8, 16]}, {"--data.patch_size", "--data.frames"}),
        ({"patch_size": (48, 48, 8), "frames": 6}, set()),
    ],
)
def test_what_is_given_stays(setting, others):
    given_config = make_config(**setting)
    config, line = fit_cpu(given_config, seen(224, 256, 10))
    assert {word for word in line.split() if word.startswith("--")} == others
    for section in ("data", "model"):
        now, before = vars(getattr(config, section)), vars(getattr(given_config, section))
        free = {option.partition(".")[2] for option in others}
        assert {name: value for name, value in now.items() if name not in free} == {
            name: value for name, value in before.items() if name not in free
        }


def test_sizes_for_a_gpu_are_as_before():
    resolved = resolve(Config(), seen(224, 256, 10), "fp32")
    assert (resolved.data.patch_size, resolved.data.frames) == ((128, 128, 10), 8)
    assert resolved.model.channels == ModelConfig().channels


def test_a_run_on_a_cpu_keeps_the_sizes_chosen_and_resumes_with_them(phantom, tmp_path, monkeypatch, tiny):
    loop = {"epochs": 1, "steps_per_epoch": 1, "num_workers": 0, "val_subjects": [], "batch_size": 1}
    log = collect_log()
    train(phantom, tmp_path / "run", make_config(**loop), "cpu", skip_verify=True)
    assert [line for line in log if line.startswith("sizes chosen for a CPU")]
    kept = yaml.safe_load((tmp_path / "run" / CONFIG).read_text())
    assert kept["model"]["channels"] == CPU_CHANNELS
    assert (kept["data"]["patch_size"], kept["data"]["frames"]) == ([40, 40, 5], 4)
    train(phantom, tmp_path / "run", Config.from_dict(kept), "cpu", resume=True, skip_verify=True)


@pytest.mark.parametrize(
    ("given", "factor"), [({}, 1.0), ({"init_from": "run"}, 0.3), ({"init_from": "run", "init_lr_factor": 1.0}, 1.0)]
)
def test_weights_from_another_training_learn_more_slowly_unless_a_factor_is_given(given, factor):
    resolved = resolve(make_config(**given), seen(64, 64, 8), "fp32")
    assert resolved.train.init_lr_factor == factor
    assert ResolvedConfig.from_dict(resolved.as_dict()) == resolved


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 0.0),
        ({"time_budget": "1h"}, 0.5),
        ({"time_budget": "1h", "init_from": "run"}, 0.0),
        ({"time_budget": "1h", "artifacts": 0.2}, 0.0),
        ({"time_budget": "1h", "time_augmentation": "mild"}, 0.0),
        ({"time_budget": "1h", "consistency_weight": 1.0}, 0.0),
        ({"time_budget": "1h", "framewise_fraction": 0.0}, 0.0),
        ({"time_budget": "1h", "artifacts": 0.2, "framewise_fraction": 0.3}, 0.3),
        ({"framewise_fraction": 0.2}, 0.2),
    ],
)
def test_half_of_a_time_budget_is_frame_wise_unless_clips_teach_more_or_a_share_is_given(given, share):
    resolved = resolve(make_config(**given), seen(64, 64, 8), "fp32")
    assert resolved.train.framewise_fraction == share
    assert ResolvedConfig.from_dict(resolved.as_dict()) == resolved
