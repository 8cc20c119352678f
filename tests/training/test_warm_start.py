"""Training begins with weights that were trained for the same task, and with no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.builders import build_network, randomize_projections, tiny_config
from unet4d.config import ModelConfig
from unet4d.errors import InputError
from unet4d.models.checkpoint import Task, load_checkpoint, save_checkpoint
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.training.warm_start import load_initial_weights

TASK = Task({"background": 0, "heart": 1, "aorta": 2}, ("magnitude", "flow"), True, (), ("signal", "velocity X"))
MODEL = ModelConfig([4, 6, 8], 2, [(2, 2, 1), (2, 2, 1)], [(3, 3, 1)] * 3)
BASELINE = replace(MODEL, lstm_channels=0)
PATH = "runs/before/checkpoint_last.pt"


def network(model: ModelConfig = MODEL, seed: int = 0) -> CLSTMUNet:
    """With weights as after some training: the recurrence awake."""
    torch.manual_seed(seed)
    made = build_network(model, 2, 3)
    return (randomize_projections(made) if seed else made).eval()


@pytest.fixture
def content(tmp_path):
    """Return the content of a checkpoint of a network with this configuration."""

    def written(made: CLSTMUNet, task: Task = TASK) -> dict[str, Any]:
        save_checkpoint(tmp_path / "before.pt", tiny_config(), task, made, {})
        return load_checkpoint(tmp_path / "before.pt")

    return written


def clip() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(1, 4, 2, 8, 8, 2)


@pytest.mark.parametrize(
    ("deep", "model"),
    [(False, MODEL), (True, MODEL), (False, replace(MODEL, lstm_channels=[0]))],
    ids=["plain", "deep", "none at full resolution"],
)
def test_from_its_baseline_a_new_network_computes_to_the_bit_what_the_baseline_computes(content, deep, model):
    baseline, new = network(replace(BASELINE, deep_supervision=deep), seed=5), network(model)
    own = {name: weight.clone() for name, weight in new.state_dict().items() if name.startswith("recurrent.")}
    assert (
        load_initial_weights(new, TASK, content(baseline), PATH) == f"the weights of the frame-wise baseline in {PATH}"
    )
    assert torch.equal(new(clip()), baseline(clip()))
    assert own
    assert all(torch.equal(new.state_dict()[name], weight) for name, weight in own.items())


@pytest.mark.parametrize("model", [MODEL, BASELINE])
def test_from_the_same_network_all_weights_are_taken(content, model):
    before, new = network(model, seed=5), network(model)
    assert load_initial_weights(new, TASK, content(before), PATH) == f"the weights of the same network in {PATH}"
    assert all(map(torch.equal, new.parameters(), before.parameters()))


@pytest.mark.parametrize("model", [MODEL, BASELINE])
def test_heads_of_deep_supervision_may_be_missing(content, model):
    before, new = network(model, seed=5), network(replace(MODEL, deep_supervision=True))
    own = new.lower_heads["1"].weight.clone()
    load_initial_weights(new, TASK, content(before), PATH)
    assert torch.equal(new.lower_heads["1"].weight, own)
    assert torch.equal(new.head.weight, before.head.weight)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": [4, 6, 10]}, r"of another shape \['decoder.1"),
        ({"channels": [4, 6], "strides": [(2, 2, 1)], "kernel_size": [(3, 3, 1)] * 2}, r"missing \['decoder.1"),
        ({"kernel_size": [(3, 3, 3)] * 3}, r"of another shape \['decoder.0"),
        ({"lstm_channels": 3}, r"of another shape \['recurrent.0"),
        ({"direction": "forward"}, r"missing \['recurrent.0"),
    ],
)
def test_another_network_is_refused_by_what_differs(content, change, says):
    new, was = network(), {name: weight.clone() for name, weight in network().state_dict().items()}
    with pytest.raises(InputError, match=f"^{PATH}: .*{says}") as refused:
        load_initial_weights(new, TASK, content(network(replace(MODEL, **change), seed=5)), PATH)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(new.state_dict()[name], weight) for name, weight in was.items())


def test_a_baseline_cannot_begin_with_recurrence(content):
    with pytest.raises(InputError, match=r"extra \['recurrent"):
        load_initial_weights(network(BASELINE), TASK, content(network()), PATH)


@pytest.mark.parametrize("model", [MODEL, BASELINE], ids=["same network", "from its baseline"])
def test_outputs_follow_the_names_of_classes_in_another_order(content, model):
    """The new network's second class is the old one's third."""
    other = replace(TASK, labels={"background": 0, "aorta": 1, "heart": 2})
    before, new = network(replace(model, deep_supervision=True), seed=5), network(replace(MODEL, deep_supervision=True))
    load_initial_weights(new, other, content(before), PATH)
    with torch.no_grad():
        for now, then in zip(
            new.level_logits(clip(), deep_supervision=True)[0],
            before.level_logits(clip(), deep_supervision=True)[0],
            strict=True,
        ):
            torch.testing.assert_close(now, then[:, [0, 2, 1]])


def test_outputs_of_classes_that_the_checkpoint_does_not_know_are_the_networks_own(content):
    task = replace(TASK, labels={"background": 0, "lesion": 1, "heart": 2, "vein": 3})
    torch.manual_seed(1)
    before, new = network(seed=5), build_network(MODEL, 2, 4).eval()
    own = new.head.weight.clone()
    told = load_initial_weights(new, task, content(before), PATH)
    assert told.endswith(f"{PATH}, but for the outputs of lesion, vein, which it does not know")
    wanted = torch.stack([before.head.weight[0], own[1], before.head.weight[1], own[3]])
    assert torch.equal(new.head.weight, wanted)
    with torch.no_grad():
        torch.testing.assert_close(new(clip())[:, :, [0, 2]], before(clip())[:, :, :2])


def test_fewer_classes_and_weights_in_half_precision_are_taken(content):
    before = network(seed=5)
    load_initial_weights(
        new := build_network(MODEL, 2, 2),
        replace(TASK, labels={"background": 0, "aorta": 1}),
        content(before.half()),
        PATH,
    )
    assert {weight.dtype for weight in new.parameters()} == {torch.float32}
    assert torch.equal(new.head.weight, before.float().head.weight[[0, 2]])


def test_the_name_of_a_single_channel_does_not_matter(content):
    before, new = (build_network(MODEL, 1, 3) for _ in range(2))
    task = Task({"background": 0, "heart": 1, "aorta": 2}, ("cine MRI",), True, (), ("signal",))
    load_initial_weights(new, replace(task, channel_names=("MRI",)), content(before, task), PATH)
    assert all(map(torch.equal, new.parameters(), before.parameters()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channel_names": ("flow", "magnitude")}, "the channels flow, magnitude, expected magnitude, flow"),
        ({"channel_kinds": ("signal", "signal")}, "the kinds of channels signal, signal, expected signal, velocity X"),
    ],
)
def test_another_task_is_refused(content, change, says):
    with pytest.raises(InputError, match=f"{PATH} was trained for {says}"):
        load_initial_weights(network(), TASK, content(network(), replace(TASK, **change)), PATH)


def test_other_values_in_the_label_files_and_another_order_of_time_are_the_same_task(content):
    other = replace(TASK, labels={"background": 0, "heart": 30, "aorta": 7}, cyclic=False, held_out=("a",))
    load_initial_weights(network(), TASK, content(network(), other), PATH)
