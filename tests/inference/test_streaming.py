"""Frame by frame as they arrive: what the whole study would have given, in memory that does not grow."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from unet4d import load_model, read_image
from unet4d.errors import InputError, Unet4DError
from unet4d.images.grid import WorkingGrid
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import prepare_image
from unet4d.inference.segment import segment
from unet4d.inference.streaming import StreamingSegmenter, scale_of
from unet4d.metrics.regions import Region
from unet4d.pipeline.normalization import normalize


@pytest.fixture
def image(study, tmp_path):
    study(tmp_path / "heart.nii.gz", frames=6, shape=(30, 26, 5))
    return read_image(tmp_path / "heart.nii.gz")


@pytest.fixture
def model(model_file):
    return load_model(model_file(direction="forward"))


@pytest.mark.parametrize("lstm_channels", [2, [0, 2]])
def test_the_labels_are_those_of_the_whole_study(model_file, image, lstm_channels):
    model = load_model(model_file(direction="forward", lstm_channels=lstm_channels))
    live = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    labels = np.stack([live.step(image.array[:, t]) for t in range(image.frames)])
    whole = segment(model, image, time="open", precision="fp32")
    assert labels.dtype == np.uint8
    assert (labels == whole).mean() > 0.9999
    cold = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    assert not np.array_equal(cold.step(image.array[0, 3]), whole[3]), "the frames before count"


def test_regions_are_painted_in_their_order_as_in_the_whole_study(model_file, image):
    model = load_model(model_file(labels={"background": 0, "wall": 1, "blood": 2}, direction="forward"))
    regions = {"heart": Region((1, 2), 1), "blood": Region((2,), 2), "wall": Region((1,), 1)}
    model = replace(model, task=replace(model.task, regions=regions))
    with torch.no_grad():  # so that each region is somewhere, and none everywhere
        model.network.head.bias -= model.network(torch.randn(1, 2, 1, 16, 16, 4)).mean((0, 1, 3, 4, 5))
    live = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    labels = np.stack([live.step(image.array[:, t]) for t in range(image.frames)])
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert (labels == segment(model, image, time="open", precision="fp32")).mean() > 0.9999
    last = replace(model, task=replace(model.task, regions={**regions, "wall": Region((1, 2), 2)}))
    painted = StreamingSegmenter(last, image.affine, image.grid, scale=live.scale, precision="fp32")
    again = np.stack([painted.step(image.array[:, t]) for t in range(image.frames)])
    assert ((labels == 0) == (again == 0)).all()
    assert (again[labels == 2] == 2).all()
    assert (again[labels == 1] == 2).any(), "where the last region is, its value is painted over that of the first"


def test_prediction_and_streaming_interpolate_as_training_did(model, image):
    data = replace(model.config.data, interpolation="cubic", slice_spacing_mm=6.0)
    cubic = replace(model, config=replace(model.config, data=data))
    prepared = prepare_image([cubic], image, InferenceOptions())
    grid = WorkingGrid.of(image.affine, image.grid, data.in_plane_spacing_mm, 6.0, "cubic")
    assert np.array_equal(prepared.image.numpy(), normalize(grid.image(image.array), "zscore"))
    assert not np.allclose(
        prepared.image, normalize(replace(grid, interpolation="linear").image(image.array), "zscore")
    )
    live = StreamingSegmenter(cubic, image.affine, image.grid, scale=scale_of(cubic, image), precision="fp32")
    whole = segment(cubic, image, time="open", precision="fp32")
    assert (np.stack([live.step(image.array[:, t]) for t in range(image.frames)]) == whole).mean() > 0.9999


def test_reset_begins_anew(model, image):
    live = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    first, _ = live.step(image.array[0, 0]), live.step(image.array[0, 1])
    assert not np.array_equal(live.step(image.array[0, 0]), first)
    live.reset()
    assert np.array_equal(live.step(image.array[0, 0]), first)


def test_without_a_scale_the_first_frames_serves_for_all(model, image):
    """A study twice as bright gives the same, and a later frame that alone is twice as bright does not."""
    one, other, third = (StreamingSegmenter(model, image.affine, image.grid, precision="fp32") for _ in range(3))
    labels = [one.step(image.array[0, t]) for t in range(3)]
    brighter = [other.step(2 * image.array[0, t]) for t in range(3)]
    assert (np.stack(labels) == np.stack(brighter)).mean() > 0.9999
    third.step(image.array[0, 0])
    assert (third.step(2 * image.array[0, 1]) != labels[1]).mean() > 0.01


def test_memory_does_not_grow_with_frames(model, image):
    live = StreamingSegmenter(model, image.affine, image.grid, precision="fp32")
    counted = []
    for _ in range(6):
        live.step(image.array[0, 0])
        gc.collect()
        counted.append(sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor))
    assert len(set(counted[1:])) == 1


def test_a_bidirectional_network_is_refused(model_file, image):
    model = load_model(model_file(direction="bidirectional"))
    with pytest.raises(InputError, match=r"is bidirectional: .* train one with --model.direction forward"):
        StreamingSegmenter(model, image.affine, image.grid)


def test_the_frame_wise_baseline_runs_live_too(model_file, image):
    model = load_model(model_file(lstm_channels=0))
    live = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    labels = np.stack([live.step(image.array[:, t]) for t in range(image.frames)])
    assert (labels == segment(model, image, time="open", precision="fp32")).mean() > 0.9999


def test_what_no_frame_can_lie_on_is_told_at_once(model, image):
    with pytest.raises(InputError, match=r"affine .*inverse"):
        StreamingSegmenter(model, np.zeros((4, 4)), image.grid)
    with pytest.raises(InputError, match="overlap 1"):
        StreamingSegmenter(model, image.affine, image.grid, overlap=1)


def test_an_answer_that_is_no_number_is_not_taken_for_background(model, image):
    torch.nn.init.constant_(model.network.head.weight, torch.nan)
    with pytest.raises(Unet4DError, match="not a number"):
        StreamingSegmenter(model, image.affine, image.grid).step(image.array[:, 0])


def test_a_wrong_frame_is_told(model, image):
    live = StreamingSegmenter(model, image.affine, image.grid)
    with pytest.raises(InputError, match=r"shape \(1, 3, 3, 3\), expected \(C, X, Y, Z\) = \(1, 30, 26, 5\)"):
        live.step(np.zeros((3, 3, 3)))
    damaged = image.array[0, 0].copy()
    damaged[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        live.step(damaged)
