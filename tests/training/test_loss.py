"""The loss sees the labelled frames, all of them, and nothing else."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn.functional import cross_entropy, one_hot

from unet4d.training.loss import LabelledFramesLoss, level_weights


def sample():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, 2, 2, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 4, 3, 2, 2))
    labelled = torch.tensor([[True, False, False, True], [False, False, True, False]])
    return logits, label, labelled


def test_it_is_dice_plus_cross_entropy_written_out_by_hand():
    logits, label, labelled = sample()
    chosen, truth = logits[labelled], label[labelled]
    p = chosen.softmax(1)[:, 1:]
    g = one_hot(truth, 3).movedim(-1, 1)[:, 1:].double()
    over = (0, 2, 3, 4)  # batch Dice: voxels of all labelled frames together, per class
    soft_dice = (2 * (p * g).sum(over) + 1e-5) / (p.sum(over) + g.sum(over) + 1e-5)
    wanted = (1 - soft_dice).mean() + cross_entropy(chosen, truth)
    torch.testing.assert_close(LabelledFramesLoss()(logits, label, labelled), wanted)


def test_it_is_monais_loss_of_the_labelled_frames_in_value_and_gradient():
    logits, label, labelled = sample()
    logits.requires_grad_()
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    ours, theirs = LabelledFramesLoss()(logits, label, labelled), monai(logits[labelled], label[labelled].unsqueeze(1))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_sums_of_parts_add_up_to_the_loss_of_the_whole(kind):
    logits, label, _ = sample()
    parts = LabelledFramesLoss.sums(logits[:, 3], label[:, 3].to(kind)) + LabelledFramesLoss.sums(
        logits[:, 1], label[:, 1].to(kind)
    )
    whole = LabelledFramesLoss()(logits, label, torch.tensor([[False, True, False, True]] * 2))
    torch.testing.assert_close(LabelledFramesLoss.from_sums(parts), whole)


def test_a_class_that_is_nowhere_and_not_predicted_costs_nothing():
    label = torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    logits = torch.tensor([40.0, 0, 0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 2)
    assert LabelledFramesLoss.from_sums(LabelledFramesLoss.sums(logits, label)) < 1e-3


def test_values_on_unlabelled_frames_never_matter():
    logits, label, labelled = sample()
    logits.requires_grad_()
    loss = LabelledFramesLoss()(logits, label, labelled)
    other = label.clone()
    other[~labelled] = 2 - other[~labelled]
    assert torch.equal(loss, LabelledFramesLoss()(logits, other, labelled))
    (gradient,) = torch.autograd.grad(loss, logits)
    reached = gradient.abs().amax((2, 3, 4, 5)) > 0
    assert torch.equal(reached, labelled)


def test_a_perfect_answer_costs_next_to_nothing_and_a_wrong_one_much():
    _, label, labelled = sample()
    perfect = 20.0 * one_hot(label, 3).movedim(-1, 2).float()
    assert LabelledFramesLoss()(perfect, label, labelled) < 1e-3
    assert LabelledFramesLoss()(perfect.roll(1, 2), label, labelled) > 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_computed_in_float32_whatever_the_logits(dtype):
    logits, label, labelled = sample()
    assert LabelledFramesLoss()(logits.to(dtype), label, labelled).dtype == torch.float32


def test_each_level_counts_half_of_the_one_above_and_all_together_one():
    assert level_weights(1) == [1.0]
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
