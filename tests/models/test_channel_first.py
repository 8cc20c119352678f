"""The network on MONAI's axes: the same logits, in MONAI's sliding window and engines; the example trains, saves and scores."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from tests.builders import make_network, randomize_projections
from unet4d.images.image4d import read_image
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.models.channel_first import ChannelFirst
from unet4d.phantom import write_phantom

NEEDS_IGNITE = pytest.mark.skipif(importlib.util.find_spec("ignite") is None, reason="pytorch-ignite is not installed")


def network(cyclic: bool = True) -> ChannelFirst:
    torch.manual_seed(0)
    return ChannelFirst(randomize_projections(make_network(2, 3, (4, 6), lstm_channels=2)), cyclic, 2).eval()


def test_logits_are_those_of_the_network_on_either_axes_and_keep_meta_data():
    image, made = torch.randn(2, 2, 5, 8, 8, 4), network()
    wanted = made.network(image.transpose(1, 2), cyclic=True, priming_frames=2).transpose(1, 2)
    torch.testing.assert_close(made(image), wanted)
    found = made(MetaTensor(image, meta={"frames": 5}))
    torch.testing.assert_close(found.as_tensor(), wanted)
    assert found.meta["frames"] == 5
    found.as_tensor().sum().backward()
    assert all(weight.grad is not None for weight in made.parameters())


def test_monais_sliding_window_slides_in_space_and_sees_all_frames():
    image, made, seen = torch.randn(1, 2, 5, 12, 8, 4), network(), []

    def predictor(window):
        seen.append(window.shape)
        return made(window)

    logits = SlidingWindowInferer((-1, 8, 8, 4), overlap=0.5)(image, predictor)
    assert logits.shape == (1, 3, 5, 12, 8, 4)
    assert seen == [(1, 2, 5, 8, 8, 4)] * 2
    torch.testing.assert_close(logits[..., :4, :, :], made(image[..., :8, :, :])[..., :4, :, :])


@NEEDS_IGNITE
def test_the_example_trains_by_monai_and_writes_label_maps_that_have_its_dice(tmp_path):
    from examples.monai_training import run

    write_phantom(tmp_path, 3, 2, shape=(40, 36, 5))
    torch.manual_seed(0)
    score = run(tmp_path, epochs=1)
    label, found = (read_image(tmp_path / folder / "phantom001.nii.gz") for folder in ("labels", "found"))
    assert found.frame_duration_s == label.frame_duration_s
    np.testing.assert_array_equal(found.affine, label.affine)
    volume = [image.array.astype(np.uint8).reshape(1, -1, *image.grid[1:]) for image in (label, found)]
    assert dice(count_voxels(*volume, [1, 2, 3])).mean() == pytest.approx(score, abs=1e-3)
