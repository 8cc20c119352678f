"""Validation: scores as drawn by hand, the same for any number of processes, and pictures of the best and the worst study."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import run_ranks
from sliding import sliding_window

import unet4d.training.validation
from tests.builders import build_network, cached_study, tiny_config, tiny_task
from unet4d.config import InferenceConfig
from unet4d.errors import Stopped
from unet4d.images.grid import IGNORE
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.segment import SegmentationResult
from unet4d.inference.sliding_window import LogitRows
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.pipeline.cached_study import CachedStudy, LabelScope
from unet4d.system.distributed import ProcessGroup
from unet4d.training.validation import Validation, ValidationResult

TASK = tiny_task("wall", "blood", cyclic=False)
SMALL = tiny_config(patch_size=(8, 8, 4), lstm_channels=[1, 1], overlap=0.25)
CPU = torch.device("cpu")


class Unused(torch.nn.Module):
    """Stands where a network is asked for and the image holds the answer."""


@pytest.fixture
def answers_in_the_image(monkeypatch):
    """Images that hold the class to predict at every voxel."""
    answer_with_the_image(monkeypatch)


def answer_with_the_image(monkeypatch) -> None:
    def read(models, study, *given, **named):
        assert not models[0].network.training
        return SegmentationResult(study.image[(slice(None),) * 5][0].numpy().astype(np.uint8))

    monkeypatch.setattr(unet4d.training.validation, "segment_study", read)


@pytest.fixture
def drawn(monkeypatch):
    """Return what was asked to be drawn: (kind, arguments by name)."""
    return draw_sums(monkeypatch)


def draw_sums(monkeypatch) -> list[tuple[str, dict]]:
    asked: list[tuple[str, dict]] = []

    def sheet(image, label, affine, **named):
        asked.append(("contours", named | {"label": label}))
        return np.full((2, 2, 3), int(label.sum()) % 256, np.uint8)

    def curves(curves_ml, **named):
        asked.append(("volumes", named | {"curves_ml": curves_ml}))
        return np.full((1, 1, 3), 7, np.uint8)

    monkeypatch.setattr(unet4d.training.validation, "draw_contour_sheet", sheet)
    monkeypatch.setattr(unet4d.training.validation, "draw_curves", curves)
    return asked


def study(case: str, predicted: np.ndarray, reference: np.ndarray, frames: tuple[int, ...]) -> CachedStudy:
    """A study that is predicted as given: `predicted (T, X)`, `reference (T, X)`, of which only `frames` are labelled."""
    predicted, reference = (np.asarray(array)[:, :, None, None] for array in (predicted, reference))
    image = predicted[None].astype(np.float32)
    return CachedStudy(case, image, reference[list(frames)].astype(np.uint8), frames, np.empty(0), (2.0, 1.0, 5.0))


def two() -> list[CachedStudy]:
    """Frame 1 of `anna` is not labelled and all wrong; `ben` has no blood anywhere."""
    anna = study("anna", [[1, 1, 2, 0], [2, 2, 2, 2], [1, 0, 2, 2]], [[1, 1, 2, 0], [0, 0, 0, 0], [1, 1, 2, 0]], (0, 2))
    ben = study("ben", [[1, 0, 0, 0]], [[0, 0, 0, 1]], (0,))
    return [anna, ben]


def validated(studies, ranks: ProcessGroup | None = None, check=lambda: None) -> ValidationResult:
    return Validation(studies, tiny_config(patch_size=(4, 1, 1)), TASK, CPU, ranks or ProcessGroup())(Unused(), check)


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
def test_scores_drawn_by_hand():
    """Check by hand: of anna, wall: 1 and 2/3; blood: 1 and 2/3. Of ben, wall 0; blood undefined, and left out."""
    values = validated(two()).values
    wall, blood = (1 + 2 / 3 + 0) / 3, (1 + 2 / 3) / 2
    assert values["dice"] == {"wall": pytest.approx(wall), "blood": pytest.approx(blood)}
    assert values["mean_foreground_dice"] == pytest.approx((wall + blood) / 2)
    assert values["case_dice"] == {"anna": pytest.approx(5 / 6), "ben": 0.0}
    assert values["predicted_voxels"] == {"wall": 2 + 1 + 1, "blood": 1 + 2 + 0}
    assert values["reference_voxels"] == {"wall": 2 + 2 + 1, "blood": 1 + 1 + 0}


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
def test_a_value_that_is_undefined_everywhere_is_none():
    values = validated([study("empty", [[0, 0]], [[0, 0]], (0,))])
    assert values.values["dice"] == {"wall": None, "blood": None}
    assert values.values["mean_foreground_dice"] is None
    assert values.values["case_dice"] == {"empty": None}
    assert values.pictures == {}


def of_quality(name: str, right: int) -> CachedStudy:
    """A study of 8 voxels of blood of which this many are found."""
    return study(name, [[2] * right + [0] * (8 - right)] * 2, [[2] * 8] * 2, (0, 1))


def validated_by(ranks: ProcessGroup, studies) -> tuple[ValidationResult, int]:
    """To be run in a process of its own."""
    checks: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        answer_with_the_image(patch)
        draw_sums(patch)
        return validated(studies, ranks, lambda: checks.append(None)), len(checks)


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_result(size):
    """The last round of five studies leaves processes without one; they check as often."""
    studies = [of_quality(f"case{i}", right) for i, right in enumerate((3, 1, 7, 5, 2))]
    alone = validated(studies)
    for verdict, checks in run_ranks(size, validated_by, studies):
        assert verdict.values == alone.values
        assert list(verdict.values["case_dice"]) == [f"case{i}" for i in range(5)]
        assert verdict.pictures.keys() == alone.pictures.keys()
        assert all((verdict.pictures[name] == alone.pictures[name]).all() for name in alone.pictures)
        assert checks == -(-5 // size)


@pytest.mark.usefixtures("answers_in_the_image")
@pytest.mark.parametrize(
    ("found", "best", "worst"),
    [
        ((3, 1, 7, 5), "case2", "case1"),
        ((4, 4, 4), "case0", "case2"),
        ((1, 6, 6, 1), "case1", "case3"),
        ((5,), "case0", None),
    ],
)
def test_the_best_and_the_worst_are_shown(drawn, found, best, worst):
    pictures = validated([of_quality(f"case{i}", right) for i, right in enumerate(found)]).pictures
    names = {"best": best} | ({"worst": worst} if worst else {})
    assert list(pictures) == [f"validation/{which} {what}" for which in names for what in ("contours", "volumes")]
    assert [named["title"].split(":")[0] for _, named in drawn] == [case for case in names.values() for _ in range(2)]
    label = drawn[0][1]["label"]
    assert np.count_nonzero(label) == 2 * found[int(best.removeprefix("case"))]


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
def test_only_two_predictions_are_kept():
    studies = [of_quality(f"case{i}", right) for i, right in enumerate((3, 1, 7, 5, 2))]
    _, kept = Validation(studies, tiny_config(patch_size=(4, 1, 1)), TASK, CPU, ProcessGroup())._score_mine(
        Unused().eval(), lambda: None
    )
    assert sorted(kept) == [1, 2]
    assert all(label.dtype == np.uint8 for label in kept.values())


@pytest.mark.usefixtures("answers_in_the_image")
def test_contours_are_of_the_largest_and_smallest_volume_and_references_only_where_drawn(drawn):
    """Blood changes most: predicted 1, 3, 0, 2, 2; the reference has 3 in frame 1 and 1 in frame 4, the wall less change."""
    predicted = [[2, 0, 0, 1], [2, 2, 2, 1], [0, 0, 0, 1], [2, 2, 0, 1], [2, 2, 0, 1]]
    validated([study("heart", predicted, [[0] * 4, [2, 2, 2, 1], [0] * 4, [0] * 4, [2, 0, 0, 1]], (1, 4))])
    (_, sheet), (_, curves) = drawn
    assert sheet["frames"] == [1, 2, 4]
    assert sheet["extremes"] == [1, 2], "of the prediction"
    assert [bool(frame.any()) for frame in sheet["reference"]] == [False, True, False, False, True]
    assert sheet["class_names"] == {1: "wall", 2: "blood"}
    voxel_ml = 2.0 * 1.0 * 5.0 / 1000
    np.testing.assert_allclose(curves["curves_ml"]["blood"], np.array([1, 3, 0, 2, 2]) * voxel_ml)
    np.testing.assert_allclose(curves["reference"]["blood"], np.array([np.nan, 3, np.nan, np.nan, 1]) * voxel_ml)


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
def test_an_error_of_the_check_ends_the_validation():
    left = [None, None]

    def stop():
        if not left:
            raise Stopped("SIGTERM came")
        left.pop()

    with pytest.raises(Stopped):
        validated([of_quality(f"case{i}", 3) for i in range(5)], check=stop)


@pytest.mark.parametrize(("size", "least", "most"), [(1, 3, 20), (2, 1, 1)])
def test_one_process_asks_after_every_window_and_several_where_all_ask(size, least, most):
    study = cached_study("one", 3, (0,), shape=(12, 10, 4))
    calls: list[None] = []
    validation = Validation([study], SMALL, TASK, CPU, ProcessGroup(0, size))
    validation._score_mine(build_network(SMALL.model, 1, 3).eval(), lambda: calls.append(None))
    assert least <= len(calls) <= most


@pytest.mark.parametrize("left_bytes", [1e9, 160e3, 125e3])
def test_however_little_memory_is_left_the_classes_are_those_of_all_logits_at_once(monkeypatch, left_bytes):
    """Logits of a whole study lie side by side only where there is room for them."""
    torch.manual_seed(0)
    network, blocks, logits_until = build_network(SMALL.model, 1, 3).eval(), [], LogitRows.logits_until

    def noted(self, end, keep=None):
        logits = logits_until(self, end, keep)
        blocks.append(logits.shape[2])
        return logits

    monkeypatch.setattr(LogitRows, "logits_until", noted)
    monkeypatch.setattr(MemoryBudget, "left_bytes", lambda self: left_bytes)
    image = torch.randn(1, 3, 30, 10, 4)
    study = CachedStudy("one", image.numpy(), np.zeros((1, 30, 10, 4), np.uint8), (0,), np.empty(0), (1.0, 1.0, 4.0))
    found = Validation([study], SMALL, TASK, CPU, ProcessGroup())._segment(network, study, lambda: None)
    assert found.dtype == np.uint8
    assert (max(blocks) < 30) == (left_bytes < 1e9)
    window = {"cyclic": False, "device": CPU, "precision": "fp32"}
    wanted = sliding_window(network, image, (8, 8, 4), InferenceConfig(0.25), **window).argmax(1)
    assert np.array_equal(found, wanted.numpy())


def test_a_network_is_scored_on_the_whole_study():
    """And drawn for good."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 3, 12, 10, 4)).astype(np.float32)
    label = rng.integers(0, 3, (2, 12, 10, 4)).astype(np.uint8)
    real = CachedStudy("real", image, label, (0, 2), np.empty(0), (1.0, 1.0, 4.0))
    torch.manual_seed(0)
    network = build_network(SMALL.model, 1, 3)
    verdict = Validation([real], SMALL, TASK, CPU, ProcessGroup())(network, lambda: None)

    logits = sliding_window(
        network.eval(), torch.from_numpy(image), (8, 8, 4), SMALL.inference, cyclic=False, device=CPU, precision="fp32"
    )
    wanted = dice(count_voxels(label, logits.argmax(1).numpy()[[0, 2]], [1, 2])).mean(0)
    assert list(verdict.values["dice"].values()) == pytest.approx(wanted.tolist())
    assert list(verdict.pictures) == ["validation/best contours", "validation/best volumes"]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in verdict.pictures.values())


@pytest.mark.usefixtures("answers_in_the_image", "drawn")
def test_only_drawn_voxels_frames_and_classes_are_scored():
    """The last two voxels of frame 0 are ignored, frame 1 is propagated, and class 2 was not drawn in `ben`."""
    predicted = [[1, 1, 2, 2], [0, 0, 0, 0]]
    anna = study("anna", predicted, [[1, 0, IGNORE, IGNORE], [1, 1, 1, 1]], (0, 1))
    anna = replace(anna, scope=LabelScope(ignores=True, propagated=(1,)))
    ben = replace(study("ben", [[1, 2, 2, 0]], [[1, 1, 0, 0]], (0,)), scope=LabelScope(annotated=(1,)))
    values = validated([anna, ben]).values
    assert values["dice"] == {"wall": pytest.approx(2 / 3), "blood": None}
    assert values["predicted_voxels"] == {"wall": 3, "blood": 0}
    assert values["reference_voxels"] == {"wall": 3, "blood": 0}
