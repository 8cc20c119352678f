"""Config: plain values there and back, and every check names the knob, what came and what was wanted."""

from __future__ import annotations

import json

import pytest

from tests.builders import resolve_plainly
from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig, ResolvedConfig, TrainConfig
from unet4d.errors import InputError


def test_round_trip_through_plain_values():
    config = Config(
        data=DataConfig(patch_size=(64, 48, 8), frames=5),
        model=ModelConfig(channels=[8, 16], strides=[(2, 2, 1)]),
        seed=3,
    )
    plain = json.loads(json.dumps(config.as_dict()))
    assert plain == config.as_dict()
    assert Config.from_dict(plain).as_dict() == plain


@pytest.mark.parametrize("values", [{"modle": {}}, {"model": {"chanels": [8, 16]}}])
def test_an_unknown_key_is_named(values):
    key = "modle" if "modle" in values else "chanels"
    with pytest.raises(InputError, match=key):
        Config.from_dict(values)


def test_an_old_key_of_a_checkpoint_is_refused_with_the_new_one():
    with pytest.raises(InputError, match=r"'memory', it is called recompute now"):
        Config.from_dict({"memory": {}})
    with pytest.raises(
        InputError, match=r"'data.plane_spacing_mm', it is called data\.in_plane_spacing_mm now, 'memory', it"
    ):
        ResolvedConfig.from_dict({"data": {"plane_spacing_mm": 1.0}, "memory": {}})


def test_a_resolved_config_leaves_nothing_open():
    with pytest.raises(InputError, match=r"data\.folds is None, expected"):
        ResolvedConfig.from_dict({"data": {}})
    plain = resolve_plainly(Config()).as_dict()
    assert ResolvedConfig.from_dict(plain).as_dict() == plain
    assert list(plain["data"]) == list(Config().as_dict()["data"])  # the keys of a run's config.yaml
    with pytest.raises(InputError, match=r"model\.strides is None, expected"):
        ResolvedConfig.from_dict({**plain, "model": {**plain["model"], "strides": None}})


@pytest.mark.parametrize(
    ("lstm_channels", "per_level"),
    [(None, [0, 2, 4]), ([], [1, 2, 4]), (0, [0, 0, 0]), (6, [6, 6, 6]), ([0, 0, 5], [0, 0, 5]), ([0], [0, 2, 4])],
)
def test_lstm_channels_of_each_level(lstm_channels, per_level):
    assert ModelConfig(channels=[8, 16, 32], lstm_channels=lstm_channels).lstm_channels_per_level() == per_level


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DataConfig, {"folds": 1}),
        (DataConfig, {"in_plane_spacing_mm": 0.0}),
        (DataConfig, {"slice_spacing_mm": 1e-30}),
        (DataConfig, {"patch_size": (8, 0, 8)}),
        (DataConfig, {"frames": 0}),
        (DataConfig, {"foreground_fraction": 1.5}),
        (DataConfig, {"slice_spacing_mm": "mean"}),
        (DataConfig, {"interpolation": "nearest"}),
        (DataConfig, {"artifacts": 0.6}),
        (DataConfig, {"flip_axes": [3]}),
        (DataConfig, {"num_workers": -1}),
        (ModelConfig, {"channels": [8]}),
        (ModelConfig, {"channels": [8, 16], "lstm_channels": [1, 2, 3]}),
        (ModelConfig, {"channels": [8, 16], "lstm_channels": -1}),
        (ModelConfig, {"channels": [8, 16], "strides": [(2, 2, 1), (2, 2, 2)]}),
        (ModelConfig, {"channels": [8, 16], "kernel_size": [(3, 3, 2), (3, 3, 3)]}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"learning_rate": 0.0}),
        (TrainConfig, {"gradient_clip": -1.0}),
        (TrainConfig, {"lstm_lr_factor": 0.0}),
        (TrainConfig, {"init_from": "run", "init_lr_factor": 0.0}),
        (TrainConfig, {"init_from": "run", "freeze": "decoder"}),
        (TrainConfig, {"init_lr_factor": 0.3}),
        (TrainConfig, {"init_hold_steps": 5}),
        (TrainConfig, {"freeze": "encoder"}),
        (ModelConfig, {"channels": None, "strides": [(2, 2)]}),
        (InferenceConfig, {"overlap": 1.0}),
        (InferenceConfig, {"overlap": "half"}),
        (InferenceConfig, {"sw_batch_size": 1.5}),
        (InferenceConfig, {"chunk_frames": "x"}),
        (InferenceConfig, {"mirror_axes": 3}),
        (DataConfig, {"normalization": "z-score"}),
        (ModelConfig, {"direction": "backward"}),
        (TrainConfig, {"schedule": "cosin"}),
        (TrainConfig, {"precision": "bf61"}),
        (Config, {"fold": 5}),
        (Config, {"seed": -1}),
    ],
)
def test_a_bad_value_names_the_knob(kind, values):
    with pytest.raises(InputError, match=f"{list(values)[-1]} is .*, expected "):
        kind(**values)
