"""The main memory of a window: counted, and never less than what a real run holds."""

from __future__ import annotations

import pytest
import torch

from tests.builders import build_network, resolve_model_plainly
from unet4d.config import InferenceConfig, ModelConfig
from unet4d.inference.window_memory import generous_bytes, window_memory
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.memory_trace import MemoryTrace

ROI, CLASSES = (16, 16, 4), 3


def config(direction: str = "bidirectional", channels=(8, 16)) -> ModelConfig:
    strides = [(2, 2, 1)] * (len(channels) - 1)
    return resolve_model_plainly(ModelConfig(list(channels), None, strides, [(3, 3, 3)] * len(channels), direction))


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(("frames", "at_once"), [(6, 6), (8, 3), (9, 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_real_window_holds_no_more_and_not_much_less(direction, frames, at_once, averaged):
    made = config(direction)
    memory = window_memory(made, 1, CLASSES, ROI, "fp32")
    network = build_network(made, 1, CLASSES).eval()
    run = InferenceConfig(chunk_frames=at_once, mirror_axes=[0] if averaged else [])
    predictor = WindowPredictor(network, torch.device("cpu"), ROI, run, "fp32", cyclic=False)
    with torch.no_grad(), MemoryTrace() as trace:
        predictor.logits(torch.zeros(1, frames, 1, *ROI))
    needed = memory.needed(frames, at_once, averaged)
    assert trace.working_bytes <= needed <= 2.5 * trace.working_bytes


def test_averaging_counts_another_image_and_a_sum():
    memory = window_memory(config(), 2, CLASSES, ROI, "fp32")
    assert memory.needed(5, 2, True) - memory.needed(5, 2) == 5 * 4 * 16 * 16 * 4 * (2 + 2 * CLASSES)


def test_as_many_frames_at_once_as_fit_and_one_where_none_do():
    memory = window_memory(config(), 1, CLASSES, ROI, "fp32")
    assert memory.fitting(20, memory.needed(20, 20)) == 20
    assert memory.fitting(20, memory.needed(20, 20) - 1) == 10
    assert memory.fitting(20, 0) == 1


@pytest.mark.parametrize("channels", [(4, 8), (16, 32, 64), (32, 64, 128)])
def test_the_generous_count_is_above_the_exact_one(channels):
    made = config(channels=channels)
    memory = window_memory(made, 1, CLASSES, ROI, "fp32")
    for frames in (1, 8, 30):
        assert memory.needed(frames, frames, True) <= generous_bytes(made, 1, CLASSES, ROI, frames)
