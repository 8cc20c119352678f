"""However a clip is cut, its loss and every gradient are those of the plain step; only memory and time differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from processes import run_ranks
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from tests.builders import build_network, make_network, randomize_projections
from unet4d.config import DataConfig, ModelConfig, RecomputeConfig
from unet4d.errors import InputError
from unet4d.models import clstm_unet
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.memory_trace import peak_bytes
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import ClipDataset, collate
from unet4d.system.distributed import ProcessGroup
from unet4d.training.area_jitter import AreaJitter
from unet4d.training.loss import ClipLoss, LabelledFramesLoss

STRIDES, KERNELS = [(2, 2, 1), (2, 2, 2)], [(3, 3, 1), (3, 3, 3), (3, 3, 3)]
FRAMES, GRID = 7, (8, 8, 4)
COMPARED = [[False] * 4 + [True] * 3, [True] * 4 + [False] * 3]
LABELLED = [[True, False, False, False, True, False, False], [False] * 5 + [True, False]]
CUTS = [
    RecomputeConfig(1),
    RecomputeConfig(2),
    RecomputeConfig(3, stages=True),
    RecomputeConfig(2, lstm="gates"),
    RecomputeConfig(1, 3),
    RecomputeConfig(2, 2, stages=True, lstm="gates"),
    RecomputeConfig(100, 2),
]


def network(
    direction="bidirectional", lstm_layers=1, lstm_channels=None, dropout=0.0, dtype=torch.float64, deep=False, **more
):
    """Return a small network with projections that are not zero."""
    torch.manual_seed(0)
    made = make_network(1, 3, (4, 6, 8), STRIDES, KERNELS, lstm_channels, direction, lstm_layers, dropout, deep, **more)
    return randomize_projections(made, 0.5).to(dtype)


def clip(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    label = torch.randint(0, 3, (2, FRAMES, *GRID), dtype=torch.uint8)
    return torch.randn(2, FRAMES, 1, *GRID, dtype=dtype), label


def loss_and_gradients(made, memory, image, label, labelled=LABELLED, consistency=0.0) -> list[torch.Tensor]:
    """Return the loss, the image's gradient, and that of every weight; with a weight of `consistency`, areas are compared."""
    torch.manual_seed(2)  # the same channels dropped every time
    made.zero_grad()
    image = image.clone().requires_grad_()
    clip_loss = ClipLoss(made, memory, consistency_weight=consistency)
    loss = clip_loss(image, label, labelled, made.sample_dropout(len(image)), COMPARED)
    loss.backward()
    return [loss.detach(), image.grad, *(weight.grad for weight in made.parameters())]


def check_equal(ours: list[torch.Tensor], plain: list[torch.Tensor], **tolerance: float) -> None:
    for mine, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, wanted, **tolerance)


@pytest.mark.parametrize("memory", CUTS, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        partial(network, "forward"),
        partial(network, "forward", lstm_layers=2, dropout=0.4),
        partial(network, dropout=0.4),
        partial(network, lstm_layers=2),
        partial(network, lstm_layers=3, lstm_channels=[0, 2, 0]),
        partial(network, lstm_channels=0),
        partial(network, dropout=0.4, deep=True),
        partial(network, blocks="residual"),
        partial(network, lstm_channels=[0, 2, 3]),
    ],
    ids=[
        "forward",
        "forward of two layers, dropout",
        "bidirectional, dropout",
        "two layers",
        "three at one level",
        "frame-wise",
        "deep supervision, dropout",
        "residual blocks",
        "none at full resolution",
    ],
)
def test_any_cut_gives_the_loss_and_the_gradients_of_the_plain_step(make, memory):
    made, given = make(), clip()
    check_equal(loss_and_gradients(made, memory, *given), loss_and_gradients(made, RecomputeConfig(0), *given))


@pytest.mark.parametrize("memory", [RecomputeConfig(0), RecomputeConfig(3, stages=True)], ids=str)
@pytest.mark.parametrize("at_once", [1, 2])
def test_frames_decoded_in_groups_give_the_same_loss_and_gradients(memory, at_once, monkeypatch):
    made, given = network(deep=True), clip()
    plain = loss_and_gradients(made, RecomputeConfig(0), *given)
    monkeypatch.setattr(clstm_unet, "MOST_ELEMENTS", at_once * 2 * 4 * 8 * 8 * 4)
    decoded = []
    made.head.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    check_equal(loss_and_gradients(made, memory, *given), plain)
    assert max(decoded) == at_once


def test_the_plain_step_is_the_loss_of_the_networks_logits():
    made, (image, label) = network(), clip()
    wanted = LabelledFramesLoss()(made(image), label, torch.tensor(LABELLED))
    torch.testing.assert_close(ClipLoss(made, RecomputeConfig(0))(image, label, LABELLED), wanted)


def four_levels() -> CLSTMUNet:
    torch.manual_seed(0)
    strides, kernels = [(2, 2, 1), (2, 1, 2), (2, 2, 2)], [(3, 3, 3)] * 4
    return make_network(1, 3, (4, 5, 6, 7), strides, kernels, 2, deep_supervision=True).double()


def test_deep_supervision_is_the_weighted_mean_of_the_losses_of_all_levels_but_the_bottleneck():
    """Weights 4, 2 and 1 of 7; the truth of a level is its nearest voxel, as torch takes it."""
    made, (label, labelled) = four_levels(), (clip()[1], torch.tensor(LABELLED))
    image = torch.randn(2, FRAMES, 1, *GRID, dtype=torch.float64)
    levels, _ = made.level_logits(image, deep_supervision=True)
    wanted = 0.0
    for weight, level, grid in zip((4, 2, 1), levels, [(8, 8, 4), (4, 4, 4), (2, 4, 2)], strict=True):
        assert level.shape == (2 * FRAMES, 3, *grid)
        truth = torch.nn.functional.interpolate(label.flatten(0, 1)[None].double(), grid, mode="nearest")[0].long()
        unfolded = level.unflatten(0, (2, FRAMES)), truth.unflatten(0, (2, FRAMES))
        wanted += weight / 7 * LabelledFramesLoss()(*unfolded, labelled)
    torch.testing.assert_close(ClipLoss(made, RecomputeConfig(0))(image, label, LABELLED), wanted)


def test_deep_supervision_teaches_every_head():
    made, given = four_levels(), clip()
    ClipLoss(made, RecomputeConfig(2))(*given, LABELLED).backward()
    assert [float(head.weight.grad.abs().sum()) > 0 for head in made.lower_heads.values()] == [True, True]


@pytest.mark.parametrize("deep", [False, True])
def test_a_part_of_a_batch_with_the_sums_of_the_rest_has_the_loss_of_all(deep):
    made, (image, label) = network(deep=deep), clip()
    parts = [slice(0, 1), slice(1, 2)]
    sums: list[list[torch.Tensor]] = [[], []]

    def loss_of(part: slice, total: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        clip_loss = ClipLoss(made, RecomputeConfig(2), total, consistency_weight=2.0)
        return clip_loss(image[part], label[part], LABELLED[part], compared=COMPARED[part])

    for part, noted in zip(parts, sums, strict=True):
        loss_of(part, lambda own, noted=noted: noted.append(own) or own)
    whole = loss_of(slice(0, 2))
    for part, others in zip(parts, map(iter, reversed(sums)), strict=True):
        torch.testing.assert_close(loss_of(part, lambda own, others=others: own + next(others)), whole)


def consistency_oracle(made, image, label) -> torch.Tensor:
    """Return the loss of labelled frames plus five times the jitter, from the logits of all frames."""
    logits, labelled = made(image), torch.tensor(LABELLED)
    dice = LabelledFramesLoss.dice(LabelledFramesLoss.sums(logits[labelled], label[labelled]))
    areas = AreaJitter.areas(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
    jitter = AreaJitter.from_sums(AreaJitter.sums(areas, COMPARED), dice)
    assert jitter > 1e-6
    return LabelledFramesLoss()(logits, label, labelled) + 5 * jitter


@pytest.mark.parametrize("memory", [RecomputeConfig(0), RecomputeConfig(1), RecomputeConfig(2, 2)], ids=str)
@pytest.mark.parametrize("make", [network, partial(network, lstm_channels=0)], ids=["recurrent", "frame-wise"])
def test_any_cut_gives_the_jitter_of_the_whole_clip(make, memory):
    made, (image, label) = make(), clip()
    given = image.clone().requires_grad_()
    wanted = consistency_oracle(made, given, label)
    gradients = torch.autograd.grad(wanted, [given, *made.parameters()])
    check_equal(loss_and_gradients(made, memory, image, label, consistency=5.0), [wanted.detach(), *gradients])


def test_without_its_weight_areas_are_not_compared_to_the_bit():
    made, given = network(dtype=torch.float32), clip(torch.float32)
    decoded = []
    made.head.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    off = loss_and_gradients(made, RecomputeConfig(0), *given)
    assert decoded == [3]
    loss = ClipLoss(made, RecomputeConfig(0))(*given, LABELLED)
    made.zero_grad()
    loss.backward()
    assert all(map(torch.equal, [off[0], *off[2:]], [loss.detach(), *(weight.grad for weight in made.parameters())]))


@pytest.mark.parametrize("memory", [RecomputeConfig(0), RecomputeConfig(2)], ids=str)
def test_of_a_frame_wise_network_unlabelled_frames_learn_where_they_are_compared_and_nowhere_else(memory):
    made, (image, label) = network(lstm_channels=0), clip()
    reached = [
        loss_and_gradients(made, memory, image, label, consistency=weight)[1].flatten(2).any(2).tolist()
        for weight in (0.0, 1.0)
    ]
    assert reached[0] == LABELLED
    assert reached[1] == [[a or b for a, b in zip(*rows, strict=True)] for rows in zip(LABELLED, COMPARED, strict=True)]


def test_a_real_augmented_batch_gives_the_same_too():
    torch.manual_seed(3)
    label = torch.randint(0, 3, (2, 20, 20, 6), dtype=torch.uint8).numpy()
    image = torch.randn(1, 6, 20, 20, 6).numpy()
    foreground = torch.tensor([[0, 1, 9, 9, 3], [1, 2, 8, 8, 2]], dtype=torch.int32).numpy()
    study = CachedStudy("a", image, label, (1, 4), foreground, (1.0, 1.0, 8.0))
    clips = ClipDataset([study], DataConfig(patch_size=GRID, frames=5, augmentation="strong"), cyclic=True, seed=0)
    batch, made = collate([clips[0], clips[1]]), network("bidirectional")
    given = batch.image.double(), batch.label, batch.labelled.tolist()
    check_equal(
        loss_and_gradients(made, RecomputeConfig(2), *given), loss_and_gradients(made, RecomputeConfig(0), *given)
    )


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_under_mixed_precision_cuts_differ_from_the_plain_step_as_roundings_do(direction):
    made, (image, label) = network(direction, dtype=torch.float32), clip(torch.float32)
    exact = torch.cat([g.flatten() for g in loss_and_gradients(made, RecomputeConfig(0), image, label)[2:]])
    with torch.autocast("cpu", torch.bfloat16):
        plain, cut = (
            loss_and_gradients(made, memory, image, label) for memory in (RecomputeConfig(0), RecomputeConfig(2))
        )
    torch.testing.assert_close(cut[0], plain[0], rtol=1e-2, atol=0)
    off = [
        (torch.cat([g.flatten() for g in gradients[2:]]) - exact).norm() / exact.norm() for gradients in (plain, cut)
    ]
    assert off[1] < 1.3 * off[0] < 0.5


def test_a_cut_step_is_deterministic_to_the_bit():
    made, given = network(dropout=0.4, dtype=torch.float32), clip(torch.float32)
    first, second = (loss_and_gradients(made, RecomputeConfig(2, 2, stages=True), *given) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_dropout_takes_whole_channels_from_all_frames_alike_and_only_in_training():
    made, (image, _) = network("forward", dropout=0.5), clip()
    image = image[:, :1].expand(-1, FRAMES, -1, -1, -1, -1)
    seen = []
    made.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made.recurrent.clear()
    torch.manual_seed(0)
    drawn = made.train()(image)
    torch.testing.assert_close(drawn, drawn[:, :1].expand_as(drawn))  # equal frames stay equal
    factors = torch.stack([factor[0] for factor in made.sample_dropout(50)[:1]])
    assert set(factors.unique().tolist()) == {0.0, 2.0}  # kept channels are scaled to keep the mean
    assert not torch.allclose(made(image), drawn)
    assert torch.equal(made.eval()(image), made(image))


def test_an_unlabelled_frame_is_never_decoded():
    made, given = network("forward"), clip()
    decoded = []
    made.head.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    ClipLoss(made, RecomputeConfig(2))(*given, LABELLED)
    assert sum(decoded) == 3
    assert max(decoded) == 2


def framewise_oracle(made: CLSTMUNet, image: torch.Tensor, label: torch.Tensor, labelled) -> list[torch.Tensor]:
    """Return loss and gradients where every frame is encoded and decoded, and the labelled ones are selected afterwards."""
    made.zero_grad()
    image = image.clone().requires_grad_()
    levels, _ = made.level_logits(image, deep_supervision=True)
    weights, total = [0.5**level for level in range(len(levels))], 0.0
    for weight, logits, (x, y, z) in zip(weights, levels, made.head_strides, strict=True):
        truth, folded = label[:, :, ::x, ::y, ::z], logits.unflatten(0, image.shape[:2])
        total += weight / sum(weights) * LabelledFramesLoss()(folded, truth, torch.tensor(labelled))
    total.backward()
    return [total.detach(), image.grad, *(weight.grad for weight in made.parameters())]


@pytest.mark.parametrize("memory", [RecomputeConfig(0), *CUTS], ids=str)
@pytest.mark.parametrize("labelled", [LABELLED, [[True] + [False] * 6, [False] * 7], [[True] * 7] * 2])
def test_a_frame_wise_network_learns_from_labelled_frames_alone_as_if_all_were_encoded(memory, labelled):
    """Covers a clip without any labelled frame, in the second pattern."""
    made, given = network(lstm_channels=0, deep=True), clip()
    check_equal(loss_and_gradients(made, memory, *given, labelled), framewise_oracle(made, *given, labelled))


@pytest.mark.parametrize("memory", [RecomputeConfig(0), *CUTS[:5]], ids=str)
def test_a_network_that_skips_recurrence_learns_as_its_baseline_and_its_recurrent_weights_do_not(memory):
    made, baseline = network(dropout=0.4, deep=True), network(dropout=0.4, deep=True, lstm_channels=0)
    baseline.load_state_dict({n: w for n, w in made.state_dict().items() if not n.startswith("recurrent.")})
    made.skip_recurrence = True
    loss, grad_image, *_ = loss_and_gradients(made, memory, *clip())
    gradients = {name: weight.grad for name, weight in made.named_parameters()}
    recurrent = [gradients.pop(name) for name in list(gradients) if name.startswith("recurrent.")]
    assert recurrent
    assert not any(gradient.any() for gradient in recurrent)
    wanted = loss_and_gradients(baseline, memory, *clip())
    check_equal([loss, grad_image, *gradients.values()], wanted)


def test_a_frame_wise_network_drops_the_same_channels_as_if_all_frames_were_encoded():
    made, image = network(lstm_channels=0, dropout=0.5), clip()[0]
    dropout = made.sample_dropout(2, torch.Generator().manual_seed(3))
    [alone], _ = made.level_logits(image, frames=torch.tensor([0, 4, 12]), dropout=dropout)
    torch.testing.assert_close(alone, made.level_logits(image, dropout=dropout)[0][0][[0, 4, 12]])


@pytest.mark.parametrize("memory", [RecomputeConfig(0), RecomputeConfig(2)], ids=str)
@pytest.mark.parametrize(("frames", "taught", "most"), [(8, [3], 0.27), (30, [0, 12], 0.17)])
@pytest.mark.parametrize("hidden", [0, 4], ids=["baseline", "recurrence skipped"])
def test_a_frame_wise_step_spends_no_convolution_on_unlabelled_frames(memory, frames, taught, most, hidden):
    made = build_network(ModelConfig([8, 16, 32], hidden, STRIDES, KERNELS), 1, 4)
    made.skip_recurrence = bool(hidden)
    labelled = [[t in taught for t in range(frames)]]

    def flops(run: Callable[[], torch.Tensor]) -> int:
        made.zero_grad()
        with FlopCounterMode(display=False) as counter:
            run().backward()
        return counter.get_total_flops()

    image, label = torch.randn(1, frames, 1, 16, 16, 4), torch.zeros(1, frames, 16, 16, 4, dtype=torch.uint8)
    chosen = torch.tensor(taught)
    every = flops(lambda: made._decode([level[chosen] for level in made._encode(image, None)], False)[0].sum())
    recomputes = 4 / 3 if memory.chunk_frames else 1
    assert flops(lambda: ClipLoss(made, memory)(image, label, labelled)) <= most * every * recomputes
    # No more than the labelled frames alone.
    alone = flops(lambda: ClipLoss(made, memory)(image[:, taught], label[:, taught], [[True] * len(taught)]))
    assert flops(lambda: ClipLoss(made, RecomputeConfig(0))(image, label, labelled)) <= alone


def test_a_batch_without_a_labelled_frame_is_refused():
    with pytest.raises(InputError, match="no frame is labelled"):
        ClipLoss(network(), RecomputeConfig(0))(*clip(), [[False] * FRAMES] * 2)


def test_each_step_of_leanness_needs_less_memory_and_more_frames_cost_only_their_states():
    made = network(dtype=torch.float32, lstm_channels=[])

    def needed(memory: RecomputeConfig, frames: int) -> int:
        torch.manual_seed(1)
        image, label = torch.randn(1, frames, 1, 16, 16, 4), torch.zeros(1, frames, 16, 16, 4, dtype=torch.uint8)
        loss = ClipLoss(made, memory)
        made.zero_grad()
        return peak_bytes(lambda: loss(image, label, [[True] * frames]).backward(), [image, label, *made.parameters()])

    way = [
        RecomputeConfig(0),
        RecomputeConfig(0, stages=True),
        RecomputeConfig(4),
        RecomputeConfig(1),
        RecomputeConfig(1, stages=True),
    ]
    taken = [needed(memory, 8) for memory in way]
    of_eight = dict(zip(map(str, way), taken, strict=True))
    assert taken == sorted(taken, reverse=True)
    assert len(set(taken)) == len(taken)
    plain, cut, grouped = (
        (needed(memory, 12) - (of_eight.get(str(memory)) or needed(memory, 8))) / 4
        for memory in (RecomputeConfig(0), RecomputeConfig(1), RecomputeConfig(1, 4))
    )
    # Hidden and cell state in both directions: 1024 voxels, 256 voxels, 2 channels of 32 voxels (in a block of 512 bytes), float32.
    assert cut == 2 * 2 * (4096 + 1024 + 512)
    assert grouped == pytest.approx(cut / 4, rel=0.02)
    assert plain > 10 * cut


def _gradients_of_rank(ranks: ProcessGroup, lstm_channels: int | None) -> list[torch.Tensor]:
    (image, label), made, own = clip(), network(lstm_channels=lstm_channels), slice(ranks.rank, ranks.rank + 1)
    loss = DistributedDataParallel(ClipLoss(made, RecomputeConfig(2, 2, stages=True)))
    loss(image[own], label[own], LABELLED[own]).backward()
    return [weight.grad for weight in made.parameters()]


@pytest.mark.parametrize("lstm_channels", [None, 0], ids=["recurrent", "frame-wise"])
def test_two_processes_get_the_mean_of_their_gradients(lstm_channels):
    of_ranks = run_ranks(2, _gradients_of_rank, lstm_channels)
    image, label = clip()
    alone = [
        loss_and_gradients(
            network(lstm_channels=lstm_channels),
            RecomputeConfig(0),
            image[i : i + 1],
            label[i : i + 1],
            LABELLED[i : i + 1],
        )[2:]
        for i in range(2)
    ]
    for shared in of_ranks:
        check_equal(shared, [(a + b) / 2 for a, b in zip(*alone, strict=True)])
