"""Counted memory: answers drawn by hand, and the CPU allocator as a witness."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.builders import build_network, make_config, resolve_model_plainly, resolve_plainly
from unet4d.config import Config, ModelConfig, Size
from unet4d.models import clstm_unet
from unet4d.models.memory_trace import MemoryTrace, peak_bytes
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import StepCost, count_step_cost

MODEL = ModelConfig(channels=[8, 16], lstm_channels=4, strides=[(2, 2, 1)], kernel_size=[(3, 3, 1), (3, 3, 3)])
SIZE, FRAMES, BATCH, CLASSES = (16, 16, 8), 4, 2, 3


class SmallUNet(nn.Module):
    """Two levels of what a 3D U-Net is made of."""

    def __init__(self, channels: int = 8):
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.01, inplace=True))

        self.first, self.below = block(1, channels), block(channels, 2 * channels, stride=2)
        self.up = nn.ConvTranspose3d(2 * channels, channels, 2, 2)
        self.last, self.head = block(2 * channels, channels), nn.Conv3d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        return self.head(self.last(torch.cat((self.up(self.below(skip)), skip), 1)))


def train(dtype: torch.dtype = torch.float32, steps: int = 2, trace: MemoryTrace | None = None) -> list[int]:
    """Steps of AdamW; with a trace, gives the peak of each."""
    network, edge = SmallUNet(), 16
    adam = torch.optim.AdamW(network.parameters())
    image, label = torch.rand(2, 1, edge, edge, edge), torch.zeros(2, edge, edge, edge, dtype=torch.long)
    peaks = []
    for _ in range(steps):
        if trace is not None:
            trace.peak_bytes = trace.current_bytes
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(image)
        nn.functional.cross_entropy(logits.float(), label).backward()
        adam.step()
        del logits
        if trace is not None:
            peaks.append(trace.peak_bytes)
    return peaks


def handed_out_bytes(run: Callable[[], object], inside_convolutions: bool = False) -> int:
    """The most bytes the CPU allocator had handed out at once.

    Where asked for with what a convolution takes and gives back before it ends: oneDNN's copies in a layout of its own and, in
    bf16, some MB of scratch that hardly depend on the size.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    todo, events = list(profiler.profiler.kineto_results.experimental_event_tree()), []
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag.name == "Allocation":
            events.append(
                (event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size, convolution(event))
            )
    events.sort(key=lambda e: e[0])
    taken: dict[int, int] = {}
    changes = [size for *_, size, _ in events]
    for i, (_, pointer, size, inside) in enumerate(events):
        if size > 0:
            taken[pointer] = i
        elif (
            (begin := taken.pop(pointer, None)) is not None
            and inside is not None
            and events[begin][3] == inside
            and not inside_convolutions
        ):
            changes[begin] = changes[i] = 0
    return max(itertools.accumulate(changes))


def convolution(event) -> int | None:
    """Which convolution an event of the profiler lies in."""
    found = None
    while (event := event.parent) is not None:
        if event.name.startswith("aten::conv"):
            found = event.id
    return found


def traced(run: Callable[[], object], fake: bool) -> MemoryTrace:
    if fake:
        with FakeTensorMode():
            return traced(run, fake=False)
    with MemoryTrace() as trace:
        run()
    return trace


@pytest.mark.parametrize("fake", [False, True])
class TestByHand:
    """A tensor of 256 float32 is 1024 bytes."""

    @pytest.fixture(autouse=True)
    def _mode(self, fake):
        if not fake:
            yield
            return
        with FakeTensorMode():
            yield

    def test_a_chain_peaks_at_two_tensors_and_what_is_held(self):
        x = torch.ones(256)

        def run():
            y = x * 2
            z = y.relu()  # y and z
            del y
            return z.exp()  # z and its exponential

        assert peak_bytes(run, [x]) == 2048

    def test_sizes_are_rounded_up_to_blocks(self):
        assert peak_bytes(lambda: torch.ones(129)) == 1024
        assert peak_bytes(lambda: torch.ones(1, dtype=torch.uint8)) == 512
        assert peak_bytes(lambda: torch.ones(0)) == 0

    def test_a_view_is_not_counted_twice_and_keeps_the_whole_alive(self):
        with MemoryTrace() as trace:
            x = torch.ones(256)
            part = x.view(16, 16)[3:5].t()
            assert trace.current_bytes == 1024
            del x
            assert trace.current_bytes == 1024
            del part
            assert trace.current_bytes == 0
        assert trace.peak_bytes == 1024

    def test_in_place_adds_nothing(self):
        x = torch.ones(256)
        assert peak_bytes(lambda: x.add_(1).relu_().mul_(2), [x]) == 0

    def test_what_was_made_outside_counts_when_held(self):
        x = torch.ones(256)
        trace = MemoryTrace()
        trace.hold([x, x[:3]])
        assert trace.current_bytes == 1024
        del x
        assert trace.current_bytes == 0

    def test_a_storage_that_grows_is_counted_anew(self):
        with MemoryTrace() as trace:
            x = torch.ones(256)
            x.resize_(512)
            assert trace.current_bytes == 2048
            x.set_(torch.ones(128))
            assert trace.current_bytes == 512
        assert trace.peak_bytes == 2048 + 512

    def test_what_autograd_keeps_lives_until_backward(self):
        weight = torch.ones(256, requires_grad=True)
        with MemoryTrace() as trace:
            trace.hold([weight])
            loss = weight.exp().exp().sum()  # both exponentials are kept; the sum is a block
            assert trace.current_bytes == 1024 + 2 * 1024 + 512
            loss.backward()
            assert trace.current_bytes == 1024 + 1024 + 512  # weight, gradient, sum

    def test_what_a_function_of_our_own_keeps_lives_until_backward(self):
        class Squared(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x, torch.ones_like(x))
                return x * x

            @staticmethod
            def backward(ctx, grad):
                x, one = ctx.saved_tensors
                return 2 * grad * x * one

        x = torch.ones(256, requires_grad=True)
        with MemoryTrace() as trace:
            y = Squared.apply(x)
            loss = y.sum()
            del y
            assert trace.current_bytes == 1024 + 512  # its ones, and the sum
            loss.backward()
            assert trace.current_bytes == 1024 + 512  # the gradient, and the sum

    def test_checkpoints_keep_their_inputs_only(self):
        x = torch.ones(256, requires_grad=True)

        def four(y):
            for _ in range(4):
                y = y.exp()
            return y

        def kept_bytes(block):
            with MemoryTrace() as trace:
                trace.hold([x])
                y = block(block(x))
                before_bytes = trace.current_bytes
                y.backward(torch.ones_like(y))
                return before_bytes, trace.peak_bytes

        plain_bytes, plain_peak_bytes = kept_bytes(four)
        again_bytes, again_peak_bytes = kept_bytes(
            lambda y: checkpoint(four, y, use_reentrant=False, preserve_rng_state=False)
        )
        assert plain_bytes == (1 + 8) * 1024  # x and every exponential
        assert again_bytes == (1 + 2) * 1024  # x and the two outputs
        assert plain_peak_bytes - again_peak_bytes == 3 * 1024  # one block's inner three, not alive with the other's

    def test_copies_that_an_operation_makes_for_itself_are_seen(self):
        there = torch.ones(256, dtype=torch.bool)
        assert peak_bytes(lambda: there.sum(), [there]) == 2048 + 512  # int64
        conv, x = nn.Conv3d(1, 1, 1, bias=False), torch.ones(1, 4, 8, 8, 1).transpose(1, 4)
        with torch.no_grad():
            assert peak_bytes(lambda: conv(x), [x, conv.weight]) == 1024 + 1024  # a contiguous input, and the output

    def test_a_second_step_peaks_as_the_third(self):
        with MemoryTrace() as trace:
            peaks = train(steps=4, trace=trace)
        assert peaks[0] < peaks[1] == peaks[2] == peaks[3]


def test_flops_of_convolutions_are_counted_forward_and_backward():
    down, up = nn.Conv3d(2, 3, 3, padding=1), nn.ConvTranspose3d(3, 5, 2, 2)
    x = torch.ones(2, 2, 4, 4, 4)
    down_flops = 2 * (2 * 4**3) * (3 * 2 * 27)  # two a product; voxels; weights
    up_flops = 2 * (2 * 4**3) * (3 * 5 * 8)
    with MemoryTrace() as trace:
        loss = up(down(x)).sum()
        assert trace.flops == down_flops + up_flops
        loss.backward()  # gradients of both weights, and of up's input, but not of x
    assert trace.flops == 2 * down_flops + 3 * up_flops


def test_flops_are_those_of_the_flop_counter():
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        train(steps=1)
    assert traced(lambda: train(steps=1), fake=True).flops == counter.get_total_flops()


def test_fake_tensors_and_real_ones_give_the_same_count():
    fake, real = traced(train, fake=True), traced(train, fake=False)
    assert (fake.peak_bytes, fake.flops) == (real.peak_bytes, real.flops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_allocator_bears_the_count_out(dtype):
    train(dtype)  # what the first run allocates once and for all
    ratio = traced(lambda: train(dtype), fake=True).peak_bytes / handed_out_bytes(lambda: train(dtype))
    assert 1 <= ratio < 1.03


def config(precision: str, size: Size = SIZE, **memory) -> Config:
    loop = {"patch_size": size, "frames": FRAMES, "precision": precision, "batch_size": BATCH}
    return resolve_plainly(make_config(**vars(MODEL), **loop, **memory))


LABELLED = torch.tensor([[False, False, True, True]] * BATCH)
"""Made here, outside any `FakeTensorMode`, because a step reads it."""


def steps(config: Config, count: int = 2, is_whole: bool = True) -> None:
    """Training steps as `count_step_cost` counts them, on random images if they are real."""
    step = TrainingStep(build_network(config.model, 1, CLASSES), config, torch.device("cpu"))
    grid = config.data.patch_size
    image, label = torch.rand(BATCH, FRAMES, 1, *grid), torch.zeros(BATCH, FRAMES, *grid, dtype=torch.uint8)
    for _ in range(count):
        step(Batch(image, label, LABELLED, weights=None if is_whole else LABELLED.float(), annotated=((1,),) * BATCH))


@functools.cache
def planned(precision: str, chunk_frames: int) -> StepCost:
    return count_step_cost(config(precision, chunk_frames=chunk_frames), 1, CLASSES, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk_frames", [0, 2])
def test_the_allocator_bears_the_planned_step_out(precision, chunk_frames):
    real_bytes = handed_out_bytes(lambda: steps(config(precision, chunk_frames=chunk_frames)))
    assert 1 <= planned(precision, chunk_frames).peak_bytes / real_bytes < 1.05


def test_the_allocator_bears_a_step_on_partly_drawn_labels_out():
    chosen = config("fp32", chunk_frames=0)
    counted = count_step_cost(chosen, 1, CLASSES, 2, is_whole=False).peak_bytes
    assert 1 <= counted / handed_out_bytes(lambda: steps(chosen, is_whole=False)) < 1.05
    assert counted >= planned("fp32", 0).peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_allocator_bears_a_step_of_residual_blocks_out(precision):
    chosen = config(precision, chunk_frames=2, stages=True)
    chosen = dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, blocks="residual"))
    real_bytes = handed_out_bytes(lambda: steps(chosen))
    assert 1 <= count_step_cost(chosen, 1, CLASSES, 2).peak_bytes / real_bytes < 1.05


@functools.cache
def plan_over_bytes(precision: str, chunk_frames: int) -> float:
    """Return the planned bytes over those handed out with what convolutions take inside.

    At 32 channels the blocks of oneDNN's layout are full; it pads 8 channels to 16.
    """
    model = resolve_model_plainly(dataclasses.replace(MODEL, channels=[32, 64]))
    chosen = dataclasses.replace(config(precision, (32, 32, 16), chunk_frames=chunk_frames), model=model)
    real_bytes = handed_out_bytes(lambda: steps(chosen), inside_convolutions=True)
    return count_step_cost(chosen, 1, CLASSES, 2).working_bytes / real_bytes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("chunk_frames", [0, 2])
def test_with_what_convolutions_take_inside_the_plan_is_never_under(precision, chunk_frames):
    assert plan_over_bytes(precision, chunk_frames) >= 1


HAS_AMX = getattr(torch.cpu, "_is_amx_tile_supported", bool)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "chunk_frames", "most"),
    [
        ("bf16", 0, 1.1),
        pytest.param(
            "bf16",
            2,
            1.1,
            marks=pytest.mark.xfail(not HAS_AMX, reason="1.12 without AMX: oneDNN copies less", strict=True),
        ),
        ("fp32", 0, 1.15),
        ("fp32", 2, 1.15),
    ],
)
def test_with_what_convolutions_take_inside_the_plan_is_not_much_over(precision, chunk_frames, most):
    assert plan_over_bytes(precision, chunk_frames) < most


def test_the_planned_step_is_like_all_that_follow_the_first():
    three = traced(lambda: steps(config("bf16", chunk_frames=2), 3), fake=True)
    assert planned("bf16", 2).peak_bytes == three.peak_bytes


def test_the_plan_tells_what_is_fixed_and_what_is_computed_again():
    plain, cut = planned("bf16", 0), planned("bf16", 2)
    weights = list(build_network(MODEL, 1, CLASSES).parameters())
    fixed_bytes = 4 * 4 * sum(w.numel() for w in weights)  # float32 weights, gradients, and two moments
    assert plain.fixed_bytes == cut.fixed_bytes
    assert (
        fixed_bytes <= plain.fixed_bytes <= fixed_bytes + 5 * len(weights) * 512
    )  # rounded; AdamW counts its steps, too
    assert cut.peak_bytes < plain.peak_bytes
    assert cut.flops > plain.flops


def test_heads_of_deep_supervision_and_a_moving_average_are_counted():
    three = resolve_model_plainly(
        dataclasses.replace(MODEL, channels=[8, 16, 24], strides=[(2, 2, 1), (2, 2, 2)], kernel_size=[(3, 3, 3)] * 3)
    )
    plain = dataclasses.replace(config("fp32", chunk_frames=0), model=three)
    deep = dataclasses.replace(plain, model=dataclasses.replace(three, deep_supervision=True))
    averaged = dataclasses.replace(plain, train=dataclasses.replace(plain.train, ema_decay=0.99))
    counted, taught, kept = (count_step_cost(one, 1, CLASSES, 3) for one in (plain, deep, averaged))
    voxels = BATCH * 3 * (8 * 8 * 8)  # of the labelled frames at level 1
    head_flops = 2 * voxels * 16 * CLASSES  # forward; as many for the gradient of its input, and of its weight
    assert taught.flops - counted.flops == 3 * head_flops
    assert taught.peak_bytes > counted.peak_bytes
    weights_bytes = sum(-(-4 * w.numel() // 512) * 512 for w in build_network(three, 1, CLASSES).parameters())
    assert kept.fixed_bytes - counted.fixed_bytes == kept.peak_bytes - counted.peak_bytes == weights_bytes


def test_unlabelled_frames_of_a_frame_wise_network_are_not_counted():
    """Their image alone is there."""
    framewise = dataclasses.replace(
        config("bf16", chunk_frames=0), model=resolve_model_plainly(dataclasses.replace(MODEL, lstm_channels=0))
    )
    longer = dataclasses.replace(framewise, data=dataclasses.replace(framewise.data, frames=4 * FRAMES))
    short, long = (count_step_cost(one, 1, CLASSES, 2) for one in (framewise, longer))
    image_and_label_bytes = BATCH * 3 * FRAMES * 16 * 16 * 8 * (4 + 1)
    assert long.flops == short.flops
    assert long.peak_bytes - short.peak_bytes <= image_and_label_bytes


def test_compared_frames_are_counted_as_decoded_beside_the_labelled_ones():
    framewise = resolve_model_plainly(dataclasses.replace(MODEL, lstm_channels=0))
    plain = dataclasses.replace(config("fp32", chunk_frames=0), model=framewise)
    plain = dataclasses.replace(plain, data=dataclasses.replace(plain.data, frames=8))
    consistent = dataclasses.replace(plain, train=dataclasses.replace(plain.train, consistency_weight=1.0))
    one, four, compared = (
        count_step_cost(given, 1, CLASSES, labelled) for given, labelled in ((plain, 1), (plain, 4), (consistent, 1))
    )
    assert compared.flops == four.flops
    assert one.peak_bytes < compared.peak_bytes
    assert compared.peak_bytes == pytest.approx(four.peak_bytes, rel=0.02)


def test_of_several_batches_the_gradients_are_held_and_the_work_adds_up():
    plain = config("bf16", chunk_frames=0)
    several = dataclasses.replace(plain, train=dataclasses.replace(plain.train, accumulate_batches=3))
    one, three = planned("bf16", 0), count_step_cost(several, 1, CLASSES, 2)
    gradients = sum(-(-4 * w.numel() // 512) * 512 for w in build_network(MODEL, 1, CLASSES).parameters())
    assert three.flops == 3 * one.flops
    assert 0 < three.peak_bytes - one.peak_bytes <= gradients + 4 * 512  # and the losses


def test_the_largest_tensor_is_counted_and_frames_are_decoded_in_groups_to_bound_it(monkeypatch):
    """The largest is the concatenation of the first level's 8 channels with a skip of as many; then what is encoded."""
    model = resolve_model_plainly(dataclasses.replace(MODEL, lstm_channels=1))
    chosen, frame = dataclasses.replace(config("bf16", chunk_frames=0), model=model), 2 * 8 * 16 * 16 * 8
    plain = count_step_cost(chosen, 1, CLASSES, FRAMES)
    assert plain.largest_elements == BATCH * FRAMES * frame
    monkeypatch.setattr(clstm_unet, "MOST_ELEMENTS", 3 * frame - 1)
    grouped = count_step_cost(chosen, 1, CLASSES, FRAMES)
    assert grouped.largest_elements == BATCH * FRAMES * frame // 2
    assert grouped.flops == plain.flops


def test_half_precisions_take_the_same():
    assert planned("fp16", 2) == planned("bf16", 2)


def test_planning_draws_nothing_random_and_leaves_its_config():
    chosen = config("fp16", chunk_frames=2)
    before, state = dataclasses.replace(chosen), torch.get_rng_state()
    count_step_cost(chosen, 1, CLASSES, 1)
    assert chosen == before
    assert torch.equal(state, torch.get_rng_state())
