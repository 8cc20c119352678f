"""A loss and an augmentation of the user's: trained with, resumed to the bit, counted by plan, not needed to predict."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.losses import FocalLoss, TverskyLoss

from examples.own_classes import Focal, Tversky
from tests.builders import cached_study, make_network, randomize_projections, skip_drawing, tiny_config
from tests.training.test_resume import equal
from unet4d.config import Config, DataConfig, RecomputeConfig, TrainConfig
from unet4d.errors import InputError
from unet4d.models.checkpoint import LAST, load_checkpoint, load_model
from unet4d.pipeline.augmentation.compose import Augmentation
from unet4d.pipeline.clip_dataset import ClipDataset
from unet4d.training.loss import ClipLoss, LabelledFramesLoss
from unet4d.training.own_classes import build_loss, import_own_classes
from unet4d.training.region_loss import RegionsLoss
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import count_step_cost
from unet4d.training.train import train

LOSS, FOCAL, AUGMENTER = (f"examples.own_classes.{name}" for name in ("Tversky", "Focal", "WithMonai"))
REGIONS = ((1, 2), (2,))


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 3, 4, 2, dtype=torch.float64), torch.randint(0, 4, (3, 3, 4, 2))


@pytest.mark.parametrize(
    ("own", "monai"),
    [
        (Tversky, TverskyLoss(False, True, softmax=True, alpha=0.3, beta=0.7, batch=True)),
        (Focal, FocalLoss(to_onehot_y=True, use_softmax=True)),
    ],
)
def test_the_examples_are_monais_losses_and_add_up_over_chunks(own, monai):
    logits, label = sample()
    wanted, loss = monai(logits, label.unsqueeze(1)), own()
    torch.testing.assert_close(
        loss.from_sums(loss.sums(logits, label)), wanted, check_dtype=False, atol=1e-4, rtol=1e-4
    )
    network = randomize_projections(make_network(1, 4, (4, 6), lstm_channels=2)).double()
    image, truth = torch.randn(1, 5, 1, 8, 8, 4).double(), torch.randint(0, 4, (1, 5, 8, 8, 4))
    chunks = [
        ClipLoss(network, RecomputeConfig(n), loss=own())(image, truth, [[True, False, False, True, True]])
        for n in (0, 2)
    ]
    torch.testing.assert_close(*chunks)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module with a loss and an augmentation on Python's path, which is not imported; return its name."""
    source = "import torch\nfrom examples.own_classes import Tversky, WithMonai\n\n\n"
    source += "class Loss(Tversky):\n    pass\n\n\nclass Augmenter(WithMonai):\n    pass\n\n\n"
    source += "class Reading(Tversky):\n    def sums(self, logits, label, teaching=None):\n"
    source += "        assert logits.sum().item() < 1e9\n        return super().sums(logits, label, teaching)\n\n\n"
    source += "class Weighted(Tversky):\n    def __init__(self):\n        super().__init__()\n"
    source += "        self.weight = torch.nn.Parameter(torch.ones(1))\n"
    (tmp_path / "classes_elsewhere.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "classes_elsewhere"
    sys.modules.pop("classes_elsewhere", None)


def test_a_run_with_both_resumes_to_the_bit_and_predicts_without_them(phantom, tiny, tmp_path, elsewhere, monkeypatch):
    skip_drawing(monkeypatch)
    classes = {"loss": f"{elsewhere}.Loss", "augmenter": f"{elsewhere}.Augmenter"}
    config = tiny(steps_per_epoch=1, consistency_weight=0.1, **classes)
    whole, stopped, usual, steps = tmp_path / "whole", tmp_path / "stopped", TrainingStep.update, []
    train(phantom, whole, config, "cpu")

    def failing(step):
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return usual(step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            train(phantom, stopped, config, "cpu")
    sys.modules.pop(elsewhere)
    train(phantom, stopped, config, "cpu", resume=True)
    one, other = (load_checkpoint(run / LAST) for run in (whole, stopped))
    for content in (one, other):
        content["training"].pop("timer")
    assert equal(one, other)
    sys.modules.pop(elsewhere)
    assert load_model(whole).config.train.loss == f"{elsewhere}.Loss"
    assert elsewhere not in sys.modules


def test_plan_counts_the_memory_of_a_loss_and_says_where_it_cannot(elsewhere):
    settings = {"patch_size": (16, 16, 4), "frames": 3}
    plain, focal = (count_step_cost(tiny_config(**settings, loss=loss), 1, 3, 3) for loss in (None, FOCAL))
    assert focal.peak_bytes != plain.peak_bytes
    importlib.import_module(elsewhere)
    with pytest.raises(InputError, match=r"train\.loss classes_elsewhere\.Reading: got code that reads values"):
        count_step_cost(tiny_config(**settings, loss=f"{elsewhere}.Reading"), 1, 3, 3)


def test_a_class_of_another_kind_is_refused_before_anything_is_written(phantom, tiny, tmp_path, elsewhere):
    cases = {
        "train.loss": ["os.path", "subprocess.Popen", AUGMENTER, "no_such_package.Loss"],
        "data.augmenter": ["os.path", LOSS, "unet4d.pipeline.augmentation.compose.Augmentation"],
    }
    for setting, paths in cases.items():
        for path in paths:
            with pytest.raises(InputError, match=rf"got {setting} {path}"):
                train(phantom, tmp_path / "run", tiny(**{setting.partition(".")[2]: path}), "cpu")
    assert not (tmp_path / "run").exists()
    for section, name in ((TrainConfig, "loss"), (DataConfig, "augmenter")):
        with pytest.raises(InputError, match=r"package\.module\.Class"):
            section(**{name: "Mine"})


@pytest.mark.parametrize("code", ["raise SystemExit(0)", "def (:", "loss = learning_rate"])
def test_a_module_that_fails_or_ends_is_named_in_one_line(code, tmp_path, monkeypatch):
    (tmp_path / "broken_elsewhere.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(
        InputError, match=r"importing broken_elsewhere failed \((SystemExit|SyntaxError|NameError)"
    ) as caught:
        import_own_classes(Config(train=TrainConfig(loss="broken_elsewhere.Loss")))
    assert "\n" not in str(caught.value)


def test_a_loss_must_fit_the_dataset_and_the_settings(elsewhere):
    import_own_classes(Config(train=TrainConfig(loss=f"{elsewhere}.Weighted")))
    for loss, regions, fault in (
        (LOSS, REGIONS, "subclass of .*RegionsLoss"),
        (f"{elsewhere}.Weighted", (), "weights"),
    ):
        with pytest.raises(InputError, match=fault):
            build_loss(TrainConfig(loss=loss), regions)
    with pytest.raises(InputError, match="consistency_weight"):
        build_loss(TrainConfig(loss=FOCAL, consistency_weight=1.0))
    assert [type(build_loss(TrainConfig(), regions)) for regions in ((), REGIONS)] == [LabelledFramesLoss, RegionsLoss]


class Same(Augmentation):
    """An augmentation that changes nothing of the package's."""


def test_an_augmentation_changes_what_it_names_and_nothing_else():
    config = tiny_config(patch_size=(8, 8, 3), frames=4, augmentation="strong").data
    build = partial(ClipDataset, [cached_study()], cyclic=True, seed=3)
    plain, same, monai = (
        build(config=replace(config, augmenter=path)) for path in (None, f"{__name__}.Same", AUGMENTER)
    )
    numbers = range(6)
    for ours, theirs in ((plain, same), (monai, build(config=monai.config))):
        assert all(torch.equal(ours[n].image, theirs[n].image) for n in numbers)
    pairs = [(plain[n], monai[n]) for n in numbers]
    assert any(not torch.equal(one.image, other.image) for one, other in pairs)
    assert all(torch.equal(one.label, other.label) and one.image.shape == other.image.shape for one, other in pairs)
