"""Partly drawn labels teach where they were drawn, by their weight, and nowhere else; whole ones as they always did, to the bit."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from tests.builders import make_network, randomize_projections
from unet4d.config import RecomputeConfig
from unet4d.images.grid import IGNORE
from unet4d.training.loss import ClipLoss, FrameTeaching, LabelledFramesLoss, Teaching

ALL = torch.ones(1, 3, dtype=torch.bool)
LABELLED = [[True, False, True, True], [False, True, False, True]]
WHOLE = Teaching([[1.0] * 4] * 2, (None, None))


def frames(n: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (n, K, 4, 4, 2) that need a gradient, and classes."""
    torch.manual_seed(0)
    return torch.randn(n, classes, 4, 4, 2, requires_grad=True), torch.randint(
        0, classes, (n, 4, 4, 2), dtype=torch.uint8
    )


def teaching(n: int, weights: list[float] | None = None, annotated: list[list[bool]] | None = None) -> FrameTeaching:
    drawn = ALL.expand(n, 3) if annotated is None else torch.tensor(annotated)
    return FrameTeaching(torch.tensor(weights or [1.0] * n), drawn)


def loss_of(logits: torch.Tensor, label: torch.Tensor, taught: FrameTeaching | None = None) -> torch.Tensor:
    return LabelledFramesLoss.from_sums(LabelledFramesLoss.sums(logits, label, taught))


def loss_before(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss as it was before labels could be partly drawn, operation by operation."""
    log_probability = logits.log_softmax(1)
    predicted = log_probability.exp().sum((0, 2, 3, 4))
    log_probability_of_true = log_probability.gather(1, label.long().unsqueeze(1)).squeeze(1)
    probability_of_true = log_probability_of_true.exp()
    rows = []
    for k in range(logits.shape[1]):
        is_k = label == k
        surprise_of_k = -log_probability_of_true.where(is_k, 0).sum()
        rows.append((probability_of_true.where(is_k, 0).sum(), is_k.sum(), surprise_of_k))
    hit, true, surprise = (torch.stack(column) for column in zip(*rows, strict=True))
    true = true.to(hit)
    dice = (2 * hit + 1e-5) / (predicted + true + 1e-5)
    return (1 - dice[1:]).mean() + surprise.sum() / true.sum()


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


def test_whole_labels_have_the_loss_and_the_gradient_of_before_to_the_bit():
    logits, label = frames()
    ours, before = loss_of(logits, label), loss_before(logits, label)
    assert torch.equal(ours, before)
    assert torch.equal(gradient(ours, logits), gradient(before, logits))


def test_a_whole_label_beside_a_partly_drawn_one_teaches_as_it_does_alone():
    logits, label = frames()
    ours, plain = loss_of(logits, label, teaching(4)), loss_of(logits, label)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient(ours, logits), gradient(plain, logits))


def test_the_loss_is_that_of_the_drawn_voxels_alone_and_ignored_ones_get_no_gradient():
    """Slice 1 of two is ignored, so the loss is that of slice 0."""
    logits, label = frames()
    partly = label.clone()
    partly[..., 1] = IGNORE
    ours = loss_of(logits, partly, teaching(4))
    torch.testing.assert_close(ours, loss_of(logits[..., :1], label[..., :1]))
    found = gradient(ours, logits)
    assert not found[..., 1].any()
    torch.testing.assert_close(found[..., 0], gradient(loss_of(logits[..., :1], label[..., :1]), logits)[..., 0])


def test_where_all_is_ignored_there_is_no_loss_and_no_gradient():
    logits, label = frames()
    ours = loss_of(logits, torch.full_like(label, IGNORE), teaching(4))
    assert ours == 0
    assert not gradient(ours, logits).any()


def test_a_frame_of_weight_one_half_counts_half_in_every_sum():
    logits, label = frames(3)
    halved = LabelledFramesLoss.sums(logits, label, teaching(3, [1.0, 0.5, 1.0]))
    parts = [LabelledFramesLoss.sums(logits[i : i + 1], label[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(halved, parts[0] + 0.5 * parts[1] + parts[2])


def test_weights_that_are_all_alike_change_nothing():
    logits, label = frames()
    ours, plain = loss_of(logits, label, teaching(4, [0.25] * 4)), loss_of(logits, label)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_the_background_may_be_any_class_that_was_not_drawn():
    """A voxel of probabilities 0.5, 0.2, 0.3, its background perhaps class 2: -log 0.8; class 1 is predicted by 0.2 in vain."""
    logits = torch.tensor([0.5, 0.2, 0.3]).log().reshape(1, 3, 1, 1, 1).requires_grad_()
    label = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    sums = LabelledFramesLoss.sums(logits, label, teaching(1, annotated=[[True, True, False]]))
    hit, predicted, true, surprise = sums
    assert surprise.tolist() == pytest.approx([-math.log(0.8), 0, 0], abs=1e-6)
    assert predicted.tolist() == pytest.approx([0.5, 0.2, 0])
    assert (hit.tolist(), true.tolist()) == (pytest.approx([0.8, 0, 0]), [1, 0, 0])
    (moved,) = torch.autograd.grad(surprise.sum(), logits)
    assert moved.flatten().tolist() == pytest.approx([0.5 - 0.5 / 0.8, 0.2, 0.3 - 0.3 / 0.8], abs=1e-6)


def test_a_class_that_was_not_drawn_is_neither_taught_nor_untaught():
    """Probability moved from the background to that class makes no difference to the loss."""
    logits, label = frames()
    label[label == 2] = 0
    drawn = teaching(4, annotated=[[True, True, False]] * 4)
    swapped = logits[:, [2, 1, 0]]
    torch.testing.assert_close(loss_of(logits, label, drawn), loss_of(swapped, label, drawn))


def test_each_frame_has_its_own_classes():
    logits, label = frames(2)
    label[0][label[0] == 2] = 0
    annotated = [[True, True, False], [True, True, True]]
    both = LabelledFramesLoss.sums(logits, label, teaching(2, annotated=annotated))
    first = LabelledFramesLoss.sums(logits[:1], label[:1], teaching(1, annotated=annotated[:1]))
    torch.testing.assert_close(both, first + LabelledFramesLoss.sums(logits[1:], label[1:]))


# clips


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (2, 4, 1, 8, 8, 4), and classes that are ignored in slices 1 and 3 and on the left of slice 0."""
    torch.manual_seed(1)
    label = torch.randint(0, 3, (2, 4, 8, 8, 4), dtype=torch.uint8)
    label[..., 1::2], label[:, :, :4, :, 0] = IGNORE, IGNORE
    label[1][label[1] == 2] = 0
    return torch.randn(2, 4, 1, 8, 8, 4, dtype=torch.float64), label


PARTIAL = Teaching([[1.0, 0.0, 0.5, 1.0], [1.0, 0.25, 1.0, 1.0]], (None, (1,)))


def network():
    torch.manual_seed(0)
    strides, kernels = [(2, 2, 1), (2, 2, 2)], [(3, 3, 1), (3, 3, 3), (3, 3, 3)]
    made = make_network(1, 3, (4, 5, 6), strides, kernels, 2, deep_supervision=True)
    return randomize_projections(made, 0.5).double()


def test_no_gradient_comes_from_ignored_voxels_at_any_level():
    made, (image, label) = network(), clip()
    flags, gradients = [flag for row in LABELLED for flag in row], []
    for head in (made.head, *made.lower_heads.values()):
        head.register_forward_hook(lambda _, given, found: found.register_hook(gradients.append) and None)
    ClipLoss(made, RecomputeConfig(0))(image, label, LABELLED, teaching=PARTIAL).backward()
    assert len(gradients) == len(made.head_strides) == 2
    for found, (x, y, z) in zip(sorted(gradients, key=torch.numel, reverse=True), made.head_strides, strict=True):
        ignored = label.flatten(0, 1)[torch.tensor(flags)][:, ::x, ::y, ::z] == IGNORE
        reached = found.abs().sum(1) > 0
        assert ignored.any()
        assert torch.equal(reached, ~ignored)


@pytest.mark.parametrize(
    "memory", [RecomputeConfig(1), RecomputeConfig(3, stages=True), RecomputeConfig(1, 2)], ids=str
)
def test_any_cut_gives_the_loss_and_the_gradients_of_the_whole_clip(memory):
    made, given = network(), clip()
    found = []
    for schedule in (RecomputeConfig(0), memory):
        loss = ClipLoss(made, schedule, consistency_weight=2.0)(*given, LABELLED, compared=LABELLED, teaching=PARTIAL)
        found.append([loss, *torch.autograd.grad(loss, list(made.parameters()))])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_parts_of_a_batch_have_the_sums_of_the_whole():
    made, (image, label) = network(), clip()
    noted: list[torch.Tensor] = []
    for part in (slice(0, 1), slice(1, 2), slice(0, 2)):
        rows = Teaching(PARTIAL.weights[part], PARTIAL.annotated[part])
        note = partial(lambda sums: noted.append(sums.detach()) or sums)
        ClipLoss(made, RecomputeConfig(0), note)(image[part], label[part], LABELLED[part], teaching=rows)
    torch.testing.assert_close(noted[0] + noted[1], noted[2])


def test_a_teaching_of_whole_labels_is_the_plain_clip_loss():
    made, (image, label) = network(), clip()
    label = label.where(label != IGNORE, 0)
    plain, ours = (ClipLoss(made, RecomputeConfig(2))(image, label, LABELLED, teaching=rows) for rows in (None, WHOLE))
    torch.testing.assert_close(ours, plain)
