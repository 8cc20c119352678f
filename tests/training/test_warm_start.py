"""Training begins with what fits of the weights of another training, adapted so that it keeps its meaning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.builders import build_network, randomize_projections, tiny_config
from unet4d.config import ModelConfig
from unet4d.errors import InputError
from unet4d.metrics.regions import Region
from unet4d.models.checkpoint import load_checkpoint, save_checkpoint
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.task import Task
from unet4d.training.warm_start import load_initial_weights, resize_kernel

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


def size_of(made: CLSTMUNet) -> int:
    return sum(weight.numel() for weight in made.parameters())


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
    initial = load_initial_weights(new, TASK, content(baseline), PATH)
    assert initial.text.endswith(f"; new: {', '.join(sorted({'.'.join(name.split('.')[:2]) for name in own}))}")
    assert initial.share == pytest.approx(1 - sum(w.numel() for w in own.values()) / size_of(new))
    assert torch.equal(new(clip()), baseline(clip()))
    assert own
    assert all(torch.equal(new.state_dict()[name], weight) for name, weight in own.items())


@pytest.mark.parametrize("model", [MODEL, BASELINE])
def test_from_the_same_network_all_weights_are_taken(content, model):
    before, new = network(model, seed=5), network(model)
    initial = load_initial_weights(new, TASK, content(before), PATH)
    assert initial.text == f"100 % of its {size_of(new):,} weights from {PATH}"
    assert (initial.share, sorted(initial.whole)) == (1, sorted(new.state_dict()))
    assert all(map(torch.equal, new.parameters(), before.parameters()))


@pytest.mark.parametrize("model", [MODEL, BASELINE])
def test_heads_of_deep_supervision_may_be_missing(content, model):
    before, new = network(model, seed=5), network(replace(MODEL, deep_supervision=True))
    own = new.lower_heads["1"].weight.clone()
    load_initial_weights(new, TASK, content(before), PATH)
    assert torch.equal(new.lower_heads["1"].weight, own)
    assert torch.equal(new.head.weight, before.head.weight)


FLAT = replace(MODEL, channels=[4, 6], strides=[(2, 2, 1)], kernel_size=[(3, 3, 1)] * 2)


@pytest.mark.parametrize(
    ("was", "now", "new", "left"),
    [
        (MODEL, FLAT, "", "decoder.1, encoder.2, recurrent.2"),
        (FLAT, MODEL, "decoder.1, encoder.2, recurrent.2", ""),
        (MODEL, BASELINE, "", "recurrent.0, recurrent.1, recurrent.2"),
        (replace(MODEL, channels=[4, 6, 10]), MODEL, "decoder.1, encoder.2, recurrent.2", "decoder.1, encoder.2, recurrent.2"),
        (replace(MODEL, channels=[5, 6, 8]), MODEL, "decoder.0, encoder.0, encoder.1, head, recurrent.0",
         "decoder.0, encoder.0, encoder.1, head, recurrent.0"),
        (replace(MODEL, lstm_channels=3), MODEL, "recurrent.0, recurrent.1, recurrent.2", "recurrent.0, recurrent.1, recurrent.2"),
        (replace(MODEL, direction="forward"), MODEL, *["recurrent.0, recurrent.1, recurrent.2"] * 2),
        (replace(MODEL, direction="forward", lstm_layers=2), MODEL, *["recurrent.0, recurrent.1, recurrent.2"] * 2),
    ],
    ids=["fewer levels", "more levels", "no recurrence", "wider below", "wider above", "hidden channels", "direction", "layers"],
)  # fmt: skip
def test_of_another_network_the_parts_that_fit_are_taken_and_named(content, was, now, new, left):
    before, made = network(was, seed=5), network(now)
    own = {name: weight.clone() for name, weight in made.state_dict().items()}
    initial = load_initial_weights(made, TASK, content(before), PATH)
    parts = dict(part.split(": ") for part in initial.text.split("; ")[1:])
    assert (parts.get("new", ""), parts.get("left out", "")) == (new, left)
    for name, weight in made.state_dict().items():
        is_taken = name in initial.whole
        assert torch.equal(weight, before.state_dict()[name] if is_taken else own[name]), name
    taken = sum(weight.numel() for name, weight in own.items() if name in initial.whole)
    assert initial.share == pytest.approx(taken / size_of(made))


@pytest.mark.parametrize("grown", [[(3, 3, 3)] * 3, [(5, 3, 1)] * 3, [(3, 3, 1), (3, 3, 3), (3, 5, 3)]])
def test_with_larger_kernels_the_network_computes_what_it_computed(content, grown):
    before, new = network(seed=5), network(replace(MODEL, kernel_size=grown))
    initial = load_initial_weights(new, TASK, content(before), PATH)
    assert initial.share == 1
    assert "; adapted kernels: decoder." in initial.text
    with torch.no_grad():
        torch.testing.assert_close(new(clip()), before(clip()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("was", [[(2, 2, 1), (2, 2, 1)], [(2, 2, 2), (2, 2, 1)]])
def test_with_other_strides_an_image_that_is_constant_across_slices_gets_its_answer(content, was):
    """Nothing is convolved across slices, and a network without strides across them answers alike in all."""
    before = network(replace(MODEL, strides=was), seed=5)
    new = network(replace(MODEL, strides=[(2, 2, 2), (2, 2, 1)]))
    load_initial_weights(new, TASK, content(before), PATH)
    image = clip()[..., :1].expand(-1, -1, -1, -1, -1, 4)
    with torch.no_grad():
        torch.testing.assert_close(new(image), before(image), rtol=1e-4, atol=1e-4)


def test_where_a_stride_shrinks_the_upsampling_is_the_mean_of_its_taps(content):
    before, new = network(replace(MODEL, strides=[(2, 2, 2), (2, 2, 2)]), seed=5), network()
    load_initial_weights(new, TASK, content(before), PATH)
    for one, other in zip(new.decoder, before.decoder, strict=True):
        torch.testing.assert_close(one.up.weight, other.up.weight.mean(-1, keepdim=True))


@pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1), (5, 3), (3, 5), (5, 1), (3, 3)])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_resized_kernel_answers_as_before_to_what_is_constant_along_its_axis(before, now, axis):
    torch.manual_seed(0)
    kernel = torch.randn(3, 2, *(before if i == axis else 3 for i in (2, 3, 4)))
    image = torch.randn(1, 2, *(1 if i == axis else 7 for i in (2, 3, 4)))
    image = image.expand(1, 2, *(11 if i == axis else 7 for i in (2, 3, 4)))
    resized = resize_kernel(kernel, axis, now)
    assert resized.shape[axis] == now
    answers = [functional.conv3d(image, one).select(axis, 0) for one in (kernel, resized)]
    torch.testing.assert_close(*answers)
    if now >= before:  # and to anything else
        image = torch.randn(1, 2, 11, 11, 11)
        padded = [functional.conv3d(image, one, padding=[k // 2 for k in one.shape[2:]]) for one in (kernel, resized)]
        torch.testing.assert_close(*padded)


def test_a_checkpoint_that_fits_nowhere_is_refused_in_one_line_and_changes_nothing(content):
    new, was = network(), {name: weight.clone() for name, weight in network().state_dict().items()}
    with pytest.raises(
        InputError, match=rf"^{PATH} fits nowhere: .* \[8, 12\].*--model.channels '\[8, 12\]'"
    ) as refused:
        load_initial_weights(new, TASK, content(network(replace(FLAT, channels=[8, 12]))) | config_of([8, 12]), PATH)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(new.state_dict()[name], weight) for name, weight in was.items())


def config_of(channels: list[int]) -> dict[str, Any]:
    return {"config": tiny_config(channels=channels).as_dict()}


def test_a_frozen_part_that_the_checkpoint_lacks_is_refused(content):
    deeper = network(MODEL)
    deeper.encoder.requires_grad_(False)
    with pytest.raises(InputError, match=r"lacks weights of encoder\.2, .* leave train\.freeze out$"):
        load_initial_weights(deeper, TASK, content(network(FLAT, seed=5)), PATH)


def test_channels_follow_their_names_and_kinds_and_an_unknown_one_begins_with_the_mean(content):
    before = network(seed=5)
    task = replace(TASK, channel_names=("flow", "T1 map", "magnitude"), channel_kinds=("velocity X", "map", "signal"))
    new = build_network(MODEL, 3, 3).eval()
    initial = load_initial_weights(new, task, content(before), PATH)
    stem, was = new.encoder[0][0].weight, before.encoder[0][0].weight
    assert torch.equal(stem[:, [2, 0]], was)
    torch.testing.assert_close(stem[:, 1], was.mean(1))
    assert initial.text.endswith("; channels that begin with the mean of the known: T1 map")
    assert "encoder.0.0.weight" not in initial.whole
    image = clip()
    with torch.no_grad():  # a channel that shows nothing changes nothing
        seen = torch.stack((image[:, :, 1], torch.zeros_like(image[:, :, 0]), image[:, :, 0]), 2)
        torch.testing.assert_close(new(seen), before(image), rtol=1e-4, atol=1e-4)


def test_two_unknown_channels_of_the_same_content_are_the_one_that_it_knew(content):
    task = Task({"background": 0, "heart": 1, "aorta": 2}, ("cine MRI",), True, (), ("signal",))
    torch.manual_seed(5)
    before, new = build_network(MODEL, 1, 3).eval(), build_network(MODEL, 2, 3).eval()
    load_initial_weights(
        new, replace(task, channel_names=("a", "b"), channel_kinds=("signal",) * 2), content(before, task), PATH
    )
    image = clip()[:, :, :1]
    with torch.no_grad():  # instance norm takes the factor of two out
        torch.testing.assert_close(new(image.expand(-1, -1, 2, -1, -1, -1)), before(image), rtol=1e-3, atol=1e-3)


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


def test_outputs_of_regions_follow_their_names_and_are_never_those_of_classes(content):
    regions = {"whole": Region((1, 2), 1), "heart": Region((1,), 1), "aorta": Region((2,), 2)}
    other = {"heart": Region((1,), 1), "vessel": Region((1, 2), 2), "whole": Region((1, 2), 1)}
    task = replace(TASK, regions=regions)
    before, new = network(seed=5), network()
    own = new.head.weight.clone()
    told = load_initial_weights(new, replace(TASK, regions=other), content(before, task), PATH)
    assert told.text.endswith("; new outputs: vessel")
    assert torch.equal(new.head.weight, torch.stack([before.head.weight[1], own[1], before.head.weight[0]]))
    new = network()
    told = load_initial_weights(new, task, content(before), PATH)
    assert told.text.endswith("; new outputs: whole, heart, aorta")
    assert torch.equal(new.head.weight, own)
    assert torch.equal(new.encoder[0][0].weight, before.encoder[0][0].weight)


def test_outputs_of_classes_that_the_checkpoint_does_not_know_are_the_networks_own(content):
    task = replace(TASK, labels={"background": 0, "lesion": 1, "heart": 2, "vein": 3})
    torch.manual_seed(1)
    before, new = network(seed=5), build_network(MODEL, 2, 4).eval()
    own = new.head.weight.clone()
    told = load_initial_weights(new, task, content(before), PATH)
    assert told.text.endswith(f"{PATH}; new outputs: lesion, vein")
    assert set(new.state_dict()) - set(told.whole) == {"head.weight", "head.bias"}
    assert told.share == pytest.approx(1 - (own[1].numel() + own[3].numel() + 2) / size_of(new))
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


def test_other_values_in_the_label_files_and_another_order_of_time_are_the_same_task(content):
    other = replace(TASK, labels={"background": 0, "heart": 30, "aorta": 7}, cyclic=False, held_out=("a",))
    load_initial_weights(network(), TASK, content(network(), other), PATH)
