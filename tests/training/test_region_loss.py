"""The loss of regions: nnU-Net's, written out by hand, for whole labels; exact for partly drawn ones, and for any chunks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.builders import make_network, randomize_projections, tiny_config
from unet4d.config import RecomputeConfig
from unet4d.training.area_jitter import AreaJitter
from unet4d.training.loss import ClipLoss, FrameTeaching, Teaching
from unet4d.training.region_loss import RegionsLoss
from unet4d.training.step_memory import count_step_cost

REGIONS = ((1, 2, 3), (2, 3), (3,))
ALL = torch.ones(3, 4, dtype=torch.bool)


def sample(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 2 * torch.randn(frames, 3, 4, 3, 2, dtype=torch.float64), torch.randint(0, 4, (frames, 4, 3, 2))


def by_hand(logits, label, counted=None, in_dice=None, weights=None):
    """Write the loss out per region; `counted` and `in_dice` (N, 3, X, Y, Z) are the voxels of each part, `weights` (N,)."""
    truth = torch.stack([sum(label == k for k in region) for region in REGIONS], 1).double()
    ones = torch.ones_like(truth)
    weights = torch.ones(len(label)) if weights is None else weights
    weight = weights.double()[:, None, None, None, None]
    counted, in_dice = ((ones if mask is None else mask) * weight for mask in (counted, in_dice))
    entropy = (binary_cross_entropy_with_logits(logits, truth, reduction="none") * counted).sum() / counted.sum()
    over, p = (0, 2, 3, 4), logits.sigmoid()
    dice = (2 * (p * truth * in_dice).sum(over) + 1e-5) / ((p * in_dice).sum(over) + (truth * in_dice).sum(over) + 1e-5)
    return entropy + (1 - dice).mean()


def test_it_is_nnunets_binary_cross_entropy_and_batch_dice_in_value_and_gradient():
    logits, label = sample()
    logits.requires_grad_()
    loss = RegionsLoss(REGIONS)
    ours, wanted = loss(logits[None], label[None], torch.tensor([[True] * 3])), by_hand(logits, label)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(wanted, logits))
    parts = loss.sums(logits[:1], label[:1].byte()) + loss.sums(logits[1:], label[1:])
    torch.testing.assert_close(loss.from_sums(parts), ours)


def test_whole_labels_teach_the_same_with_and_without_statements():
    logits, label = sample()
    loss, teaching = RegionsLoss(REGIONS), FrameTeaching(torch.ones(3), ALL)
    torch.testing.assert_close(loss.sums(logits, label, teaching), loss.sums(logits, label))


def test_ignored_voxels_weights_and_undrawn_classes_by_hand():
    """Frame 1 has half the weight. In frame 2 only class 3 was drawn: its background may be of both larger regions."""
    logits, label = sample()
    label[0, :2] = 255
    label[2][label[2] != 3] = 0
    annotated = ALL.clone()
    annotated[2, 1:3] = False
    weights = torch.tensor([1.0, 0.5, 1.0])
    counted = torch.ones_like(logits)
    counted[0, :, :2] = 0
    counted[2, :2] = (label[2] == 3).double()
    in_dice = torch.ones_like(logits)
    in_dice[0, :, :2] = 0
    in_dice[2, :2] = 0
    logits.requires_grad_()
    loss = RegionsLoss(REGIONS)
    ours = loss.from_sums(loss.sums(logits, label, FrameTeaching(weights, annotated)))
    torch.testing.assert_close(ours, by_hand(logits, label, counted, in_dice, weights))
    [gradient] = torch.autograd.grad(ours, logits)
    assert not gradient[0, :, :2].any()
    assert not gradient[2, :2][(label[2] == 0).expand(2, -1, -1, -1)].any()
    assert gradient[2, 2].all()


def test_a_region_that_is_nowhere_and_not_predicted_costs_nothing():
    logits, label = torch.full((1, 3, 4, 4, 2), -40.0), torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    assert RegionsLoss(REGIONS)(logits[None], label[None], torch.tensor([[True]])) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_any_size_stay_finite_in_half_precision(dtype):
    logits, label = (30 * sample()[0]).to(dtype), sample()[1]
    sums = RegionsLoss(REGIONS).sums(logits, label)
    assert sums.dtype == torch.float32
    assert sums.isfinite().all()


@pytest.mark.parametrize("memory", [RecomputeConfig(2), RecomputeConfig(1, 2, stages=True)], ids=str)
def test_any_cut_gives_the_loss_and_the_gradients_of_the_plain_step(memory):
    """With deep supervision, jitter of areas, frames of different weight and ignored voxels."""
    torch.manual_seed(1)
    network = make_network(1, 3, (4, 6, 8), None, None, None, "bidirectional", 1, 0.0, True)
    network = randomize_projections(network, 0.5).double()
    image, label = torch.randn(2, 5, 1, 8, 8, 4, dtype=torch.float64), torch.randint(0, 4, (2, 5, 8, 8, 4))
    label[:, :, 0] = 255
    labelled = [[True, False, True, False, False], [False, True, False, False, True]]
    compared = [[True] * 4 + [False], [False] + [True] * 4]
    teaching = Teaching([[1.0] * 5, [0.5] * 5], [None, (1, 3)])
    found = []
    for schedule in (RecomputeConfig(0), memory):
        loss = ClipLoss(network, schedule, consistency_weight=2.0, loss=RegionsLoss(REGIONS))
        value = loss(image, label, labelled, compared=compared, teaching=teaching)
        found.append([value, *torch.autograd.grad(value, list(network.parameters()))])
    for plain, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, plain)


def test_the_area_of_a_region_is_the_sum_of_its_probability_and_every_region_counts():
    logits, _ = sample(5)
    areas = AreaJitter.areas(logits, of_regions=True)
    torch.testing.assert_close(areas, logits.sigmoid().sum((2, 3)))
    jitter, middle = sums = AreaJitter.sums(areas[None], [[True] * 5])
    torch.testing.assert_close(
        AreaJitter.from_sums(sums, torch.ones(3), of_regions=True), (jitter / middle.clamp(min=1)).mean()
    )


def test_the_memory_of_a_step_is_counted_with_the_loss_of_regions():
    config = tiny_config(patch_size=(16, 16, 4), frames=2, batch_size=1)
    count = partial(count_step_cost, config, 1, 3, 2)
    partly, plain = count(is_whole=False, regions=REGIONS), count()
    assert partly.flops == plain.flops
    assert partly.peak_bytes > plain.peak_bytes
