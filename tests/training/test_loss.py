"""The loss sees the labelled frames, all of them, and nothing else; the jitter sees neighbors without their labels."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn.functional import cross_entropy, one_hot

from unet4d.metrics.volume_curves import roughness
from unet4d.training.area_jitter import AreaJitter
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


# jitter of areas


def curve(*areas: float) -> torch.Tensor:
    """Areas (1, T, 2, 1) of background and one structure in one slice."""
    return torch.stack([torch.full((len(areas),), 1000.0), torch.tensor(areas)], 1).double()[None, ..., None]


ONES = torch.ones(2)


def jitter(areas: torch.Tensor, compared: list[list[bool]] | None = None, dice: torch.Tensor = ONES) -> torch.Tensor:
    flags = [[True] * areas.shape[1]] * len(areas) if compared is None else compared
    return AreaJitter.from_sums(AreaJitter.sums(areas, flags), dice)


def test_the_jitter_of_a_curve_drawn_by_hand_and_its_gradient():
    """Areas 10, 14, 12: the second difference is 10 - 2 * 14 + 12 = -6, over the area 14 in the middle."""
    areas = curve(10, 14, 12).requires_grad_()
    found = jitter(areas)
    assert found.item() == pytest.approx(36 / 14**2)
    (gradient,) = torch.autograd.grad(found, areas)
    assert gradient[0, :, 1, 0].tolist() == pytest.approx([2 * -6 * by / 14**2 for by in (1, -2, 1)])
    assert not gradient[0, :, 0].any(), "background counts"


def test_the_jitter_is_the_square_of_the_roughness_where_the_mean_is_that_of_the_middle():
    areas = [20.0, 24, 16, 18, 22]
    assert sum(areas) / 5 == 20
    wanted = roughness(areas, cyclic=False) ** 2 * 20**2 * 3 / (24**2 + 16**2 + 18**2)
    assert jitter(curve(*areas)).item() == pytest.approx(wanted)


@pytest.mark.parametrize("areas", [(5, 5, 5, 5), (2, 4, 6, 8), (0, 0, 0, 0)])
def test_a_steady_or_evenly_growing_area_has_no_jitter_and_no_gradient(areas):
    given = curve(*areas).requires_grad_()
    assert jitter(given) == 0
    assert not torch.autograd.grad(jitter(given), given)[0].any()


@pytest.mark.parametrize("flags", ["00000", "11011", "01100", "10101"])
def test_fewer_than_three_neighbors_in_a_row_are_not_compared(flags):
    given = curve(9, 1, 8, 2, 9).requires_grad_()
    found = jitter(given, [[flag == "1" for flag in flags]])
    assert found == 0
    assert not torch.autograd.grad(found, given)[0].any()


@pytest.mark.parametrize("areas", [(9,), (9, 1)])
def test_clips_of_fewer_than_three_frames_have_no_jitter(areas):
    given = curve(*areas).requires_grad_()
    assert jitter(given) == 0
    assert not torch.autograd.grad(jitter(given), given)[0].any()


def test_only_compared_frames_get_a_gradient():
    given = curve(9, 1, 8, 2, 9).requires_grad_()
    (gradient,) = torch.autograd.grad(jitter(given, [[False, True, True, True, False]]), given)
    assert (gradient[0, :, 1, 0] != 0).tolist() == [False, True, True, True, False]


def test_slices_do_not_make_up_for_each_other_and_clips_add_up():
    up, down = curve(10, 14, 10), curve(10, 6, 10)
    both = torch.cat([up, down], -1)
    assert jitter(both).item() == pytest.approx(2 * 8**2 / (14**2 + 6**2))
    assert jitter(both.sum(-1, keepdim=True)) == 0
    parts = sum(AreaJitter.sums(part, [[True] * 3]) for part in (up, down))
    torch.testing.assert_close(AreaJitter.from_sums(parts, ONES), jitter(torch.cat([up, down])))


def test_a_structure_counts_by_the_square_of_its_dice_which_gets_no_gradient():
    dice = torch.tensor([1.0, 0.5], requires_grad=True)
    given = curve(10, 14, 12).requires_grad_()
    found = jitter(given, dice=dice)
    assert found.item() == pytest.approx(0.25 * 36 / 14**2)
    found.backward()
    assert dice.grad is None


def test_a_structure_of_less_than_a_voxel_hardly_counts():
    assert jitter(curve(1e-3, 3e-3, 1e-3)) < 1e-4


def test_areas_are_sums_of_probabilities_per_slice_in_float32():
    logits = sample()[0][0]  # (4, 3, 3, 2, 2)
    areas = AreaJitter.areas(logits)
    torch.testing.assert_close(areas, logits.softmax(1).sum((2, 3)))
    torch.testing.assert_close(areas.sum(1), torch.full((4, 2), 6.0, dtype=torch.float64))
    assert AreaJitter.areas(logits.bfloat16()).dtype == torch.float32


def test_the_gradient_of_the_jitter_is_that_of_differences_of_its_value_at_fixed_areas():
    torch.manual_seed(4)
    logits = torch.randn(4, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    flags = [[True] * 4]
    middle = AreaJitter.sums(AreaJitter.areas(logits.detach())[None], flags)[1]

    def at_fixed_areas(given: torch.Tensor) -> torch.Tensor:
        return (AreaJitter.sums(AreaJitter.areas(given)[None], flags)[0] / middle)[1:].mean()

    torch.testing.assert_close(
        torch.autograd.grad(jitter(AreaJitter.areas(logits)[None], dice=torch.ones(3)), logits),
        torch.autograd.grad(at_fixed_areas(logits), logits),
    )
    assert torch.autograd.gradcheck(at_fixed_areas, logits)
