"""Several networks together: the mean of their probabilities, and which may not be mixed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.builders import resolve_plainly
from unet4d.config import Config
from unet4d.errors import InputError
from unet4d.metrics.regions import Region
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.ensemble import check_compatible, mean_logits
from unet4d.models.task import Task

SHAPE = (3, 4, 5, 4, 2)  # T, K, X, Y, Z


def answers(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [5 * torch.randn(SHAPE, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_softmax_of_the_mean_is_the_mean_of_the_softmaxes(count):
    wanted = torch.stack([answer.softmax(1) for answer in answers(count)]).mean(0)
    torch.testing.assert_close(mean_logits(iter(answers(count))).softmax(1), wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_sigmoid_of_the_mean_of_regions_is_the_mean_of_the_sigmoids(count):
    wanted = torch.stack([answer.sigmoid() for answer in answers(count)]).mean(0)
    torch.testing.assert_close(mean_logits(iter(answers(count)), of_regions=True).sigmoid(), wanted)


def test_regions_that_are_very_sure_stay_finite():
    sure = torch.full(SHAPE, 3e4)
    assert mean_logits([sure.clone(), -sure, sure], of_regions=True).isfinite().all()


def test_one_answer_alone_stays_as_it_is():
    [answer] = answers(1)
    assert mean_logits([answer]) is answer


@pytest.mark.parametrize("count", [2, 4])
def test_a_network_with_itself_is_itself_up_to_what_no_class_feels(count):
    """Differences between classes stay, so whatever grid the logits are resampled to, the same class wins."""
    [answer] = answers(1)
    together = mean_logits(answer.clone() for _ in range(count))
    torch.testing.assert_close(together - together[:, :1], answer - answer[:, :1], atol=1e-5, rtol=1e-5)


def test_answers_that_are_very_sure_stay_finite():
    sure = torch.zeros(SHAPE)
    sure[:, 0] = 3e4
    assert mean_logits([sure, -sure]).isfinite().all()


def test_no_more_than_the_sum_and_one_answer_are_held():
    held: list[weakref.ref] = []

    def one_by_one() -> Iterator[torch.Tensor]:
        for answer in range(4):
            gc.collect()
            assert sum(one() is not None for one in held) <= 1  # the sum, while the next is computed
            made = torch.full(SHAPE, float(answer))
            held.append(weakref.ref(made))
            yield made
            del made

    mean_logits(one_by_one())


def model(name: str = "one", *, task: dict | None = None, data: dict | None = None) -> TrainedModel:
    known = {"labels": {"background": 0, "heart": 1}, "channel_names": ("cine",), "cyclic": True}
    config = resolve_plainly(Config())
    config.data = replace(config.data, **({"in_plane_spacing_mm": 1.5} | (data or {})))
    return TrainedModel(torch.nn.Identity(), config, Task(**(known | (task or {}))), Path(name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": {"labels": {"background": 0, "heart": 2}}}, r"labels \[.*2\)\] and \[.*1\)\]"),
        ({"task": {"labels": {"heart": 1, "background": 0}}}, "labels"),
        ({"task": {"regions": {"heart": Region((1,), 1)}}}, "regions"),
        ({"task": {"channel_names": ("T1",)}}, r"channels \['T1'\] and \['cine'\]"),
        ({"task": {"channel_kinds": ("velocity X",)}}, r"kinds \['velocity X'\] and \['signal'\]"),
        ({"task": {"cyclic": False}}, "time open and cyclic"),
        ({"data": {"in_plane_spacing_mm": 2.0}}, r"spacing .*\(2\.0, None\) and \(1\.5, None\)"),
        ({"data": {"slice_spacing_mm": 2.0}}, r"spacing .*\(1\.5, 2\.0\)"),
        ({"data": {"interpolation": "cubic"}}, r"interpolation"),
        ({"data": {"normalization": "none"}}, "normalization none and zscore"),
    ],
)
def test_models_that_differ_are_refused_with_both_names(changed, words):
    with pytest.raises(InputError, match=f"^other and one cannot form an ensemble: got {words}"):
        check_compatible([model(), model("two"), model("other", **changed)])


def test_regions_in_another_order_are_other_outputs():
    heart, cavity = ("heart", Region((1, 2), 1)), ("cavity", Region((2,), 2))
    one, other = (
        {"labels": {"background": 0, "wall": 1, "cavity": 2}, "regions": dict(pairs)}
        for pairs in ((heart, cavity), (cavity, heart))
    )
    check_compatible([model(task=one), model(task=one)])
    with pytest.raises(InputError, match="cannot form an ensemble: got regions"):
        check_compatible([model(task=one), model(task=other)])


def test_models_that_differ_elsewhere_may_be_mixed():
    check_compatible([model(), model(data={"patch_size": (8, 8, 8)}, task={"held_out": ("anna",)})])
    check_compatible([model(), model(task={"channel_kinds": ("signal",)})])  # an older checkpoint says nothing of kinds
    with pytest.raises(InputError, match="no model"):
        check_compatible([])
