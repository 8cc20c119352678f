"""A training step: what it computes, what it leaves as it is when a gradient is not finite, that it hangs on no past."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import build_network, randomize_projections, tiny_config
from unet4d.config import RecomputeConfig, ResolvedConfig
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.distributed import ProcessGroup
from unet4d.training.loss import ClipLoss
from unet4d.training.optimizer import build_optimizer
from unet4d.training.step import TrainingStep

CPU = torch.device("cpu")
LABELLED = [[True, True, False], [True, False, True]]


def config(**settings) -> ResolvedConfig:
    loop = {"batch_size": 2, "learning_rate": 1e-2, "epochs": 10, "steps_per_epoch": 10} | settings
    return tiny_config(channels=[4, 6], patch_size=(8, 8, 2), frames=3, chunk_frames=0, **loop)


def made(precision: str = "fp32", **settings) -> TrainingStep:
    """Return the same step at every call, with recurrent projections that are not zero."""
    chosen = config(precision=precision, **settings)
    torch.manual_seed(0)
    return TrainingStep(randomize_projections(build_network(chosen.model, 1, 3), 0.1), chosen, CPU)


def clips(seed: int, corrupted: float | None = None):
    """A batch; `corrupted` is the value of one of its voxels."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, 1, 8, 8, 2, generator=draw)
    if corrupted is not None:
        image[1, 0, 0, 3, 2, 1] = corrupted
    label = torch.randint(0, 3, (2, 3, 8, 8, 2), dtype=torch.uint8, generator=draw)
    return Batch(image, label, torch.tensor(LABELLED))


def weights(step: TrainingStep) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.network.state_dict().items()}


def moments(step: TrainingStep) -> dict:
    return copy.deepcopy(step.optimizer.state_dict()["state"])


def corrupt_gradient(step: TrainingStep):
    """Makes one number of one weight's gradient infinite until it is removed."""
    return step.network.head.weight.register_hook(lambda of: of.index_fill(0, torch.tensor([1]), float("inf")))


def enlarge_gradient(step: TrainingStep, by: float):
    """Make every weight's gradient so much larger until they are removed."""
    return [weight.register_hook(lambda of: of * by) for weight in step.network.parameters()]


def spoil_loss(step: TrainingStep):
    """Make the loss infinite and leave its gradient a number, until it is removed."""
    return step.clip_loss.register_forward_hook(lambda module, given, loss: loss + float("inf"))


def set_scale(step: TrainingStep, scale: float) -> None:
    step.scaler.scale(torch.ones(()))  # which makes it
    step.scaler.update(scale)


def same(one, other) -> bool:
    """Equal to the bit, NaN not equal to itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize("fault", ["image", "gradient", "loss"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_is_as_without_it(precision, fault, first):
    step, other = made(precision), made(precision)
    for one in () if first else (step, other):
        one(clips(0))
    before, trained = weights(step), moments(step)
    hook = {"gradient": corrupt_gradient, "loss": spoil_loss}.get(fault, lambda step: None)(step)
    loss, norm = step(clips(1, float("nan") if fault == "image" else None))
    if hook:
        hook.remove()
    assert not (loss.isfinite() and norm.isfinite())
    assert same(weights(step), before)
    if not first:
        assert same(moments(step), trained)

    other.optimizer.zero_grad()
    other.optimizer.step()  # takes nothing without gradients
    if precision == "fp16":
        set_scale(other, 2.0**15)
    assert same(step(clips(2)), other(clips(2)))
    assert same(weights(step), weights(other))
    assert same(moments(step), moments(other))
    assert not same(weights(step), before)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gradient_whose_norm_float32_cannot_hold_changes_nothing(precision, clip):
    """Pins a step that was reported as skipped and was not: its gradients, each finite, became 0 or, not clipped, NaN."""
    step = made(precision, gradient_clip=clip, weight_decay=0.1)
    step(clips(0))
    before, trained = weights(step), moments(step)
    hooks = enlarge_gradient(step, 1e25 if precision != "fp16" else 1e20)
    loss = step.gradients([clips(1)])
    assert all(weight.grad.isfinite().all() for weight in step.network.parameters())
    norm = step.update()
    for hook in hooks:
        hook.remove()
    assert (bool(loss.isfinite()), bool(norm.isfinite())) == (True, False)
    assert same(weights(step), before)
    assert same(moments(step), trained)
    assert step(clips(2))[1].isfinite()
    assert not same(weights(step), before)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_large_gradient_with_a_norm_that_float32_holds_trains(precision, clip):
    step = made(precision, gradient_clip=clip)
    before = weights(step)
    enlarge_gradient(step, 1e10)
    for seed in range(3):
        assert all(value.isfinite() for value in step(clips(seed)))
    after = weights(step)
    assert all(value.isfinite().all() for value in [*after.values(), *step.optimizer.state_dict()["state"][0].values()])
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_one_corrupted_batch_of_several_skips_the_step():
    step = made(accumulate_batches=2)
    before = weights(step)
    loss = step.gradients([clips(0), clips(1, float("inf"))])
    step.update()
    assert not loss.isfinite()
    assert same(weights(step), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_the_scale_is_one_and_stays_so(precision):
    step = made(precision)
    for seed, corrupted in enumerate((None, float("nan"), None)):
        step(clips(seed, corrupted))
        assert step.scale == 1


def test_a_scale_that_was_read_stays_as_it_was():
    """It is read by the host only when the next steps are queued."""
    step = made("fp16")
    step(clips(0))
    read = step.scale
    step(clips(1, float("nan")))
    assert (float(read), float(step.scale)) == (2.0**16, 2.0**15)


def test_fp16_halves_its_scale_until_nothing_overflows_and_continues():
    step = made("fp16")
    assert step.scale == 2**16
    set_scale(step, 2.0**40)
    before, scales = weights(step), []
    while same(weights(step), before):
        step(clips(0))
        scales.append(step.scale)
        assert len(scales) < 40
    halved = scales[:-1]
    assert halved == [2.0 ** (39 - n) for n in range(len(halved))]
    assert scales[-1] == halved[-1] <= 2**30


def test_fp16_scales_the_gradient_and_not_the_weights_share_of_it():
    """Without the loss scaler the gradient of most voxels would be too small for fp16."""
    norms = {}
    for precision in ("fp32", "fp16"):
        step = made(precision, gradient_clip=0)
        step.gradients([clips(0)])
        norms[precision] = step.update()
    torch.testing.assert_close(norms["fp16"], norms["fp32"], rtol=0.01, atol=0)


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_in_fp32_the_curve_is_that_of_a_plain_loop_to_the_bit(clip):
    """A loop as in every tutorial: no scaler, and nothing that looks for what is not finite."""
    step, other = made(gradient_clip=clip), made(gradient_clip=clip)
    network, train = other.network, other.config
    loss_of, plain = ClipLoss(network, RecomputeConfig(0)), build_optimizer(network, train)
    for seed in range(6):
        plain.zero_grad()
        loss = loss_of(*clips(seed)[:2], LABELLED)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip or float("inf"))
        plain.step()
        assert same(step(clips(seed)), (loss.detach(), norm))
    assert same(weights(step), weights(other))


def test_the_fused_optimiser_is_adamw():
    train = config(weight_decay=0.1).train
    networks = [made().network for _ in range(2)]
    fused = build_optimizer(networks[0], train)
    assert all(group["fused"] for group in fused.param_groups)
    groups = [
        {"params": [p for p in networks[1].parameters() if (p.ndim > 1) == decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    plain = AdamW(groups, lr=train.learning_rate, fused=False, foreach=False)
    torch.manual_seed(1)
    for _ in range(20):
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        fused.step()
        plain.step()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gradient_of_several_batches_is_the_mean_of_theirs(precision):
    def gradient(*batches):
        step = made(precision, accumulate_batches=len(batches), gradient_clip=0)
        loss = step.gradients(batches)
        step.scaler.unscale_(step.optimizer)
        return loss, [p.grad for p in step.network.parameters()]

    (loss_0, of_0), (loss_1, of_1), (loss, of_both) = (
        gradient(clips(0)),
        gradient(clips(1)),
        gradient(clips(0), clips(1)),
    )
    torch.testing.assert_close(loss, (loss_0 + loss_1) / 2)
    assert not torch.allclose(loss_0, loss_1)
    for one, other, both in zip(of_0, of_1, of_both, strict=True):
        torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_a_step_leaves_no_gradient_behind_for_the_next():
    step, fresh = made(gradient_clip=0), made(gradient_clip=0)
    step.gradients([clips(0)])
    for one in (step, fresh):
        one.gradients([clips(1)])
    for one, other in zip(step.network.parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_dropout_hangs_on_the_number_of_the_step_alone():
    def loss(number, seed=0):
        torch.manual_seed(seed)
        return made(dropout=0.5).gradients([clips(0)], number)

    step = made(dropout=0.5)
    for number in (0, 1, 2):
        step.gradients([clips(0)], number)
    assert same(step.gradients([clips(0)], 7), loss(7))  # whatever was drawn before
    assert same(loss(7, seed=3), loss(7))
    assert len({float(loss(number)) for number in range(5)}) == 5


def test_each_of_a_steps_batches_drops_other_channels():
    """Batch a of the A of step s is number s * A + a: no two of a run are alike."""
    alone = made(dropout=0.5)
    one, other = (alone.gradients([clips(0)], number) for number in (6, 7))
    assert not torch.equal(one, other)
    torch.testing.assert_close(made(dropout=0.5, accumulate_batches=2).gradients([clips(0)] * 2, 3), (one + other) / 2)


def test_another_seed_drops_other_channels():
    step = made(dropout=0.5)
    before = step.gradients([clips(0)], 1)
    step.seed = 1
    assert not torch.equal(step.gradients([clips(0)], 1), before)


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_several_processes_are_the_rows_of_one_draw(size):
    step = made(dropout=0.5, batch_size=5)
    whole, shares = step._sample_dropout(4), []
    for rank in range(size):
        step.ranks = ProcessGroup(rank, size)
        shares.append(step._sample_dropout(4))
    assert [len(factor) for factor in whole] == [5, 5]
    for level, factor in enumerate(whole):
        assert torch.equal(torch.cat([share[level] for share in shares]), factor)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_frozen_encoder_stays_as_it_is_and_leaves_the_gradients_of_all_others(precision):
    frozen, other = (
        made(precision, weight_decay=0.1, **more) for more in ({"init_from": "run", "freeze": "encoder"}, {})
    )
    before = weights(frozen)
    for step in (frozen, other):
        step.gradients([clips(0)])
    for (name, weight), of in zip(frozen.network.named_parameters(), other.network.parameters(), strict=True):
        assert weight.grad is None if name.startswith("encoder.") else torch.equal(weight.grad, of.grad)
    frozen.update()
    moved = {name for name, weight in weights(frozen).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if not name.startswith("encoder.")}
    assert len(moments(frozen)) == len(moved)


def test_the_global_generator_is_left_alone():
    step = made(dropout=0.5)
    before = torch.get_rng_state()
    step(clips(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.0), ("fp32", 3.0), ("bf16", 1.0), ("fp16", 1.0)])
def test_a_step_restored_from_its_state_continues_to_the_bit(precision, factor):
    rates = {"lstm_lr_factor": factor, "init_from": "run", "init_lr_factor": factor / 6}
    step = made(precision, warmup_steps=5, **rates)
    step.set_initial(["encoder.0.0.weight", "encoder.0.1.weight"] if factor == 3 else [])
    for seed, corrupted in enumerate((None, float("nan"), None)):
        step(clips(seed, corrupted))
    restored = made(precision, warmup_steps=5, **rates)
    restored.network.load_state_dict(weights(step))
    restored.load_state_dict(copy.deepcopy(step.state_dict()))
    assert restored.scale == step.scale == (2**15 if precision == "fp16" else 1)
    for seed in (3, 4):
        assert same(restored(clips(seed)), step(clips(seed)))
    assert same(weights(restored), weights(step))
    assert same(moments(restored), moments(step))
    assert same(restored.scaler.state_dict(), step.scaler.state_dict())


class Reads(TorchDispatchMode):
    """Notes what makes the program wait for a device: a number read from it."""

    found: list[str]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_nothing_in_a_step_waits_for_the_device(precision):
    step, reads = made(precision, dropout=0.5), Reads()
    step(clips(0))
    reads.found = []
    batches = [clips(1), clips(2)]
    with reads:
        step.gradients(batches, 1)
        norm, _scale = step.update(), step.scale
    assert reads.found == []
    with reads:
        norm.item()
    assert len(reads.found) == 1


def test_a_frame_wise_step_is_that_of_the_baseline_and_leaves_recurrent_weights_as_they_are():
    step, baseline = made(weight_decay=0.1, dropout=0.3), made(weight_decay=0.1, dropout=0.3, lstm_channels=0)
    baseline.network.load_state_dict({n: w for n, w in weights(step).items() if not n.startswith("recurrent.")})
    before, step.frame_wise = weights(step), True
    for number in range(2):
        assert same(step(clips(number)), baseline(clips(number)))
    after, of_baseline = weights(step), weights(baseline)
    assert same({name: after[name] for name in of_baseline}, of_baseline)
    recurrent = [name for name in after if name.startswith("recurrent.")]
    assert all(torch.equal(after[name], before[name]) for name in recurrent)
    assert not step.network.is_frame_wise
    step.frame_wise = False
    step(clips(2))
    assert not any(torch.equal(weights(step)[name], before[name]) for name in recurrent)
