"""Blocks that couple frames: any `TemporalBlock` in place of the ConvLSTM, and which classes a checkpoint may name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.real_cine.conv_over_time import ConvOverTime
from experiments.real_cine.linear_recurrence import LinearRecurrence
from tests.builders import build_network, make_network, randomize_projections, save_network, tiny_config, tiny_task
from unet4d.config import InferenceConfig, ModelConfig, RecomputeConfig
from unet4d.errors import InputError
from unet4d.inference.streaming import StreamingSegmenter
from unet4d.inference.window_memory import window_memory
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.checkpoint import load_model
from unet4d.models.clstm_unet import CLSTMUNet, can_be_chunked
from unet4d.models.conv_check import network_convolutions
from unet4d.models.convlstm import ConvLSTM3d
from unet4d.models.temporal import TemporalBlock, allow_temporal, import_temporal
from unet4d.training import step_memory
from unet4d.training.loss import ClipLoss
from unet4d.training.step_memory import StepCost, choose_recompute, count_step_cost, recompute_schedules
from unet4d.training.train import train

CONV, LINEAR, LSTM = (f"{block.__module__}.{block.__name__}" for block in (ConvOverTime, LinearRecurrence, ConvLSTM3d))
BLOCKS = pytest.mark.parametrize("temporal", [CONV, LINEAR, LSTM, None], ids=["conv", "linear", "full LSTM", "LSTM"])
RIVALS = pytest.mark.parametrize("temporal", [CONV, LINEAR], ids=["conv", "linear"])
DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "bidirectional"])
LAYERS = pytest.mark.parametrize("layers", [1, 2])
STRIDES, KERNELS = [(2, 2, 1), (2, 2, 2)], [(3, 3, 1), (3, 3, 3), (3, 3, 3)]


def network(temporal: str | None, direction: str = "bidirectional", layers: int = 1, hidden=2) -> CLSTMUNet:
    """Return a network in float64 whose projections are not zero."""
    torch.manual_seed(0)
    settings = {"direction": direction, "lstm_layers": layers, "temporal": temporal}
    made = make_network(1, 3, (4, 6, 8), STRIDES, KERNELS, hidden, **settings)
    return randomize_projections(made).double().eval()


def clip(frames: int = 7) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, frames, 1, 8, 8, 4, dtype=torch.float64)


def test_the_kind_of_a_network_names_its_block():
    kinds = [
        tiny_config(**more).model.kind for more in ({"temporal": CONV}, {}, {"temporal": CONV, "lstm_channels": 0})
    ]
    assert kinds == [
        f"bidirectional U-Net with {CONV}",
        "bidirectional CLSTM-UNet",
        "frame-wise baseline (no recurrence)",
    ]


@BLOCKS
def test_a_new_network_computes_what_its_baseline_computes_and_takes_its_weights(temporal):
    torch.manual_seed(0)
    made, baseline = (
        build_network(ModelConfig([4, 6, 8], hidden, STRIDES, KERNELS, temporal=temporal), 1, 3).double()
        for hidden in (2, 0)
    )
    assert baseline.is_frame_wise
    assert not made.is_frame_wise
    assert not made.load_state_dict(baseline.state_dict(), strict=False).unexpected_keys
    assert torch.equal(made(clip()), baseline(clip()))


@RIVALS
@DIRECTIONS
def test_frames_are_coupled_and_a_forward_network_is_causal_to_the_bit(temporal, direction):
    made, x = network(temporal, direction).float(), clip().float()
    changed = x.clone()
    changed[:, 4] += 1
    same = [torch.equal(made(x)[:, t], made(changed)[:, t]) for t in range(7)]
    assert not same[4]
    assert not same[5]
    assert same[3] == (direction == "forward")
    if direction == "forward":
        assert all(same[:4])


@RIVALS
@DIRECTIONS
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_cyclic_study_of_any_length_is_the_middle_of_a_long_one(temporal, direction, frames):
    made, x = network(temporal, direction), clip(frames)
    open_, cyclic = made(x), made(x, cyclic=True)
    assert open_.shape == cyclic.shape == (2, frames, 3, 8, 8, 4)
    assert not torch.allclose(open_, cyclic)
    loops = 1 if made.num_cells else -(-4 // frames)  # before and after; convolutions see four frames back
    around = made(x.repeat(1, 2 * loops + 1, 1, 1, 1, 1))
    torch.testing.assert_close(cyclic, around[:, loops * frames : (loops + 1) * frames])


@DIRECTIONS
def test_convolutions_over_a_loop_do_not_depend_on_where_it_begins(direction):
    made, x = network(CONV, direction, 2), clip(5)
    torch.testing.assert_close(made(x.roll(2, 1), cyclic=True).roll(-2, 1), made(x, cyclic=True))


@DIRECTIONS
def test_chunks_with_the_state_handed_over_give_loss_and_gradients_of_all_frames_at_once(direction):
    made, label = network(LINEAR, direction, 2), torch.randint(0, 3, (2, 7, 8, 8, 4), dtype=torch.uint8)
    labelled = [[True, False, False, False, True, False, False], [False] * 5 + [True, False]]

    def gradients(schedule: RecomputeConfig) -> list[torch.Tensor]:
        made.zero_grad()
        loss = ClipLoss(made, schedule)(clip(), label, labelled)
        loss.backward()
        return [loss.detach(), *(weight.grad for weight in made.parameters())]

    whole = gradients(RecomputeConfig(0))
    assert all(gradient.abs().sum() > 0 for gradient in whole)
    for got, wanted in zip(gradients(RecomputeConfig(2, 2)), whole, strict=True):
        torch.testing.assert_close(got, wanted)


@RIVALS
@pytest.mark.parametrize("cyclic", [False, True])
def test_a_window_is_the_same_however_few_frames_are_asked_for_at_once(temporal, cyclic):
    made, x = network(temporal).float(), clip()[:1].float()

    def logits(chunk_frames: int | None) -> torch.Tensor:
        run = InferenceConfig(chunk_frames=chunk_frames)
        predictor = WindowPredictor(made, torch.device("cpu"), (8, 8, 4), run, "fp32", cyclic)
        predictor.limit_frames(7, chunk_frames or 7)
        return predictor.logits(x)

    torch.testing.assert_close(logits(2), logits(None), atol=1e-4, rtol=1e-4)


@RIVALS
def test_gradients_reach_every_weight_and_every_frame_and_stay_finite_under_bf16(temporal):
    made, x = network(temporal).float().train(), clip().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = made(x)[:, 3]
    logits.float().square().mean().backward()
    weights = [weight.grad for weight in made.parameters()]
    assert all(bool(grad.isfinite().all() and grad.abs().sum() > 0) for grad in (*weights, x.grad))
    assert all(float(x.grad[:, t].abs().sum()) > 0 for t in (1, 2, 4, 5))


@LAYERS
@DIRECTIONS
def test_a_linear_recurrence_is_its_formula_frame_by_frame(direction, layers):
    torch.manual_seed(0)
    block = LinearRecurrence(6, 2, (3, 3, 1), layers, direction).double()
    x, directions = torch.randn(1, 5, 6, 4, 4, 2, dtype=torch.float64), 1 if direction == "forward" else 2
    start = [torch.randn(1, 2, 4, 4, 2, dtype=torch.float64) for _ in range(block.num_cells)]
    features, after = block.reduce(x[0]), []
    for layer, gates in enumerate(block.gates):
        both = gates(features)
        outputs = torch.empty(5, 2 * directions, 4, 4, 2, dtype=torch.float64)
        for way in range(directions):
            own, h = slice(2 * way, 2 * way + 2), start[directions * layer + way][0]
            for t in range(5)[:: -1 if way else 1]:
                f = torch.sigmoid(both[t, : 2 * directions][own])
                h = f * h + (1 - f) * both[t, 2 * directions :][own]
                outputs[t, own] = h
            after.append(h[None])
        features = outputs
    got, states = block(x, start)
    torch.testing.assert_close(got[0], features)
    torch.testing.assert_close(states, after)


@pytest.mark.parametrize("kernel", [(3, 3, 1), (3, 3, 3)])
@pytest.mark.parametrize("channels", [32, 320])
def test_rivals_are_about_as_large_as_the_convlstm(channels, kernel):
    shape = channels, channels // 8, kernel, 1, "bidirectional"
    lstm, conv, linear = (
        sum(weight.numel() for weight in block.parameters())
        for block in (ConvLSTM3d(*shape, input_kernel_size=1), ConvOverTime(*shape), LinearRecurrence(*shape))
    )
    assert ConvOverTime(*shape).out_channels == LinearRecurrence(*shape).out_channels == ConvLSTM3d(*shape).out_channels
    assert 0.6 < conv / lstm < 1.1
    assert 0.6 < linear / lstm < 1.1


def test_without_states_a_clip_is_computed_at_once_or_refused(tmp_path, monkeypatch):
    config = tiny_config(temporal=CONV, frames=9)
    made = build_network(config.model, 1, 2)
    assert not made.is_chunkable
    assert [can_be_chunked(tiny_config(temporal=one).model) for one in (CONV, LINEAR, None)] == [False, True, True]
    assert can_be_chunked(tiny_config(temporal=CONV, lstm_channels=0).model)
    with pytest.raises(InputError, match=r"chunk_frames 4 .*carries no state"):
        ClipLoss(made, RecomputeConfig(4))
    assert {schedule.chunk_frames for schedule in recompute_schedules(RecomputeConfig(), 9, False)} == {0}
    monkeypatch.setattr(step_memory, "count_step_cost", lambda *_: StepCost(10**12, 10**12, 0, 0))
    assert choose_recompute(config, 1, 2, 1, 10**9)[0].recompute.chunk_frames == 0
    memory = window_memory(config.model, 1, 2, (16, 16, 4), "fp32")
    assert memory.fitting(9, 1) == 9
    assert memory.needed(9, 1) == memory.needed(9, 9)
    save_network(tmp_path / "model.pt", config, tiny_task("heart"))
    model = load_model(tmp_path / "model.pt")
    with pytest.raises(InputError, match="carries no state"):
        StreamingSegmenter(model, torch.eye(4).numpy(), (16, 16, 4))


@pytest.mark.slow
@RIVALS
def test_the_memory_of_a_step_is_counted_with_the_block(temporal):
    with_block, baseline = (
        count_step_cost(tiny_config(temporal=temporal, chunk_frames=0, **more), 1, 2, 1)
        for more in ({}, {"lstm_channels": 0})
    )
    assert with_block.peak_bytes > baseline.peak_bytes
    assert with_block.flops > baseline.flops


class OddConvolutions(TemporalBlock):
    """A block whose convolutions are none of the network's kinds."""

    def __init__(self, channels, hidden_channels, *_):
        super().__init__()
        self.out_channels = hidden_channels
        self.wide = nn.Conv3d(channels, hidden_channels, 3, padding=2, dilation=2)
        self.plane = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1)

    def forward(self, x, state=None, cyclic=False):
        wide = self.wide(x.flatten(0, 1))
        plane = self.plane(wide.movedim(-1, 1).flatten(0, 1)).unflatten(0, (len(wide), -1)).movedim(1, -1)
        return plane.unflatten(0, x.shape[:2]), []


def test_convolutions_that_are_compared_are_the_networks_own():
    odd, plain = (
        network_convolutions(tiny_config(**more).model, (1, 2), (16, 16, 4))
        for more in ({"temporal": f"{__name__}.OddConvolutions"}, {"lstm_channels": 0})
    )
    assert set(plain) <= set(odd)
    assert {shape.weight[2:] for shape in odd} == {shape.weight[2:] for shape in plain}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module with a block on Python's path, and return a checkpoint whose network has it; the module is not imported."""
    source = f"from {ConvOverTime.__module__} import ConvOverTime\n\n\nclass Mine(ConvOverTime):\n    pass\n"
    (tmp_path / "blocks_elsewhere.py").write_text(source + "\n\ndef run(*given):\n    raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_temporal("blocks_elsewhere.Mine")
    save_network(tmp_path / "model.pt", tiny_config(temporal="blocks_elsewhere.Mine"), tiny_task("heart"))
    monkeypatch.delitem(sys.modules, "blocks_elsewhere")
    yield tmp_path / "model.pt"
    sys.modules.pop("blocks_elsewhere", None)


def test_a_class_that_a_checkpoint_names_is_imported_only_where_the_user_allows_it(elsewhere, monkeypatch):
    with pytest.raises(InputError, match=r"set UNET4D_ALLOW_TEMPORAL=blocks_elsewhere\.Mine"):
        load_model(elsewhere)
    monkeypatch.setenv("UNET4D_ALLOW_TEMPORAL", "other.Block,blocks_elsewhere")
    with pytest.raises(InputError, match="expected a class that you allow"):
        load_model(elsewhere)
    assert "blocks_elsewhere" not in sys.modules
    monkeypatch.setenv("UNET4D_ALLOW_TEMPORAL", "other.Block, blocks_elsewhere.Mine")
    blocks = [addition.lstm for addition in load_model(elsewhere).network.recurrent.values()]
    assert {type(block).__name__ for block in blocks} == {"Mine"}
    monkeypatch.delenv("UNET4D_ALLOW_TEMPORAL")
    load_model(elsewhere)  # the module is imported now


@pytest.mark.parametrize(
    "path",
    ["os.system", "subprocess.Popen", "unet4d.load_model", "torch.nn.Conv3d", "unet4d.models.temporal.TemporalBlock"],
)
def test_only_a_temporal_block_is_called(path):
    with pytest.raises(InputError, match="expected a subclass of"):
        allow_temporal(path, "a checkpoint")  # its module is imported
    with pytest.raises(InputError, match="expected a subclass of"):
        make_network(1, 2, (4, 6), lstm_channels=2, temporal=path)


def test_a_user_that_names_a_class_that_is_not_there_is_told(phantom, tiny, tmp_path, elsewhere):
    with pytest.raises(InputError, match=r"importing no_such_package\.blocks failed .*PYTHONPATH"):
        import_temporal("no_such_package.blocks.Mine")
    with pytest.raises(InputError, match="expected a subclass of"):
        import_temporal("blocks_elsewhere.run")
    config = tiny()
    config.model.temporal = "blocks_elsewhere.Yours"
    with pytest.raises(InputError, match=r"blocks_elsewhere\.Yours"):
        train(phantom, tmp_path / "run", config, "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["Mine", "", "my-blocks.Mine", "os; print()", "a..b", "a.b."])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(InputError, match=r"model\.temporal is .*package\.module\.Class"):
        ModelConfig(temporal=path)
