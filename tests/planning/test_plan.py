"""A plan fits its GPU, has the largest clips that fit, keeps what is set, explains itself, and is taken by `unet4d train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from tests.builders import collect_log, resolve_plainly, write_dataset_json
from unet4d.config import Config, DataConfig, ModelConfig, RecomputeConfig, ResolvedConfig, TrainConfig
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.planning.candidates import (
    StepMemoryEstimator,
    group_by_view,
    list_candidates,
    planned_model,
    usual_largest,
    whole_study,
)
from unet4d.planning.plan import Plan, _cheapest, plan, plan_run
from unet4d.system.byte_sizes import GB
from unet4d.system.gpu_memory import CONTEXT_BYTES, NCCL_BYTES, sufficient_bytes
from unet4d.training.step_memory import PlannedStep, StepCost, count_step_cost, recompute_schedules

PLAIN = RecomputeConfig(0, lstm="gates")
CINE = Fingerprint(1.4, (1.4, 1.4, 10.0), ((250, 256, 11), (200, 220, 10), (220, 240, 9)), (30, 25, 28), 3)


def with_room(megabytes: float, gpus: int = 1) -> float:
    """Return the size in GB of a GPU that has this much for a training step, the spare included."""
    return (CONTEXT_BYTES + megabytes * 1e6 + NCCL_BYTES * (gpus > 1)) / GB


def small(frame_wise: bool = False, recompute: RecomputeConfig | None = None, **data) -> Config:
    """Return settings that are counted quickly: one recurrence at the bottleneck, or none."""
    model = ModelConfig([4, 8], 0 if frame_wise else [0, 1], direction="forward")
    return Config(DataConfig(folds=3, **data), model, recompute=recompute or RecomputeConfig())


@pytest.fixture(scope="module", autouse=True)
def counted_once() -> Iterator[None]:
    """Count each step once for all tests: it takes a second, and the cost of a step depends on its settings alone."""
    costs: dict[str, StepCost] = {}
    is_available = torch.cuda.is_available

    def count_once(config: ResolvedConfig, *given: int) -> StepCost:
        key = repr((config.model, config.data.patch_size, config.data.frames, config.train, config.recompute, given))
        if key not in costs:
            with pytest.MonkeyPatch.context() as really:
                # An optimizer asks a GPU that is here whether it captures a graph; one that a test invents has no answer.
                really.setattr(torch.cuda, "is_available", is_available)
                costs[key] = count_step_cost(config, *given)
        return costs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unet4d.planning.candidates.count_step_cost", count_once)
        yield


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A dataset of three studies that are headers and zeros."""

    def made(shape: tuple[int, ...], spacing: tuple[float, ...] = (2.0, 2.0, 8.0)) -> Path:
        root = tmp_path_factory.mktemp("headers")
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*spacing, 1.0])), root / "study.nii.gz")
        cases = [{"case": c, "subject": c, "image": "study.nii.gz", "label": "study.nii.gz"} for c in "abc"]
        return write_dataset_json(root, cases, {"background": 0, "heart": 1}, name="zeros")

    return made


@pytest.fixture(scope="module")
def planned(headers, tmp_path_factory) -> dict[int, Plan]:
    """Return the plans of one dataset by the MB of memory for a training step, from the smallest."""
    dataset, out = headers((80, 64, 3, 10)), tmp_path_factory.mktemp("plans")
    config = small(frame_wise=True, recompute=PLAIN)
    return {room: plan(dataset, out / f"{room}.yaml", config, with_room(room)) for room in (10, 20, 40, 80, 200)}


def seen(config: Config) -> int:
    return math.prod(config.data.patch_size) * config.data.frames


def test_a_plan_fits_its_gpu_and_the_next_larger_choice_does_not(planned):
    for room, made in planned.items():
        assert made.budget_bytes == pytest.approx(room * 1e6, abs=1)
        assert made.step.fits(made.budget_bytes)
        if made.larger:
            assert not made.larger.step.fits(made.budget_bytes)
            assert seen(made.larger.config) >= seen(made.config)
        if made.smaller:
            assert made.smaller.step.fits(made.budget_bytes)
            assert seen(made.smaller.config) <= seen(made.config)


def test_a_smaller_gpu_never_sees_more(planned):
    views = [seen(made.config) for made in planned.values()]
    assert views == sorted(views)
    assert len(set(views)) > 2
    assert planned[200].larger is None
    assert planned[200].config.data.patch_size == (80, 64, 3)
    assert planned[200].config.data.frames == 10
    assert planned[200].config.train.batch_size == 2


def test_the_file_is_the_configuration_that_was_chosen(planned):
    for made in planned.values():
        text = made.path.read_text()
        assert Config.from_dict(yaml.safe_load(text)) == made.config
        settings = [line for line in text.splitlines() if line.startswith("  ")]
        assert settings
        assert [line for line in settings if "  # " not in line] == []


def test_the_plan_says_what_it_takes_and_what_lies_beside_it(planned):
    text = planned[20].text
    for words in (
        "expected peak ",
        "MB of a GPU of 0.82 GB, and 800 MB for driver and libraries",
        "TFLOP a step, 1.00 times its plain step: all frames at once",
        "next larger: patch ",
        "next smaller: patch ",
        "slices of 8 mm beside pixels of 2 mm",
    ):
        assert words in text
    assert "next larger: none: this is the whole study with all 10 frames" in planned[200].text
    assert planned[20].path.read_text().startswith("# Planned by unet4d plan for zeros: expected peak ")


def test_the_same_is_planned_twice(planned, headers, tmp_path):
    again = plan(headers((80, 64, 3, 10)), tmp_path / "p.yaml", small(True, PLAIN), with_room(20))
    assert again.path.read_bytes() == planned[20].path.read_bytes()


def test_of_the_ways_that_fit_the_fastest_is_taken(phantom, tmp_path):
    made = plan(phantom, tmp_path / "plan.yaml", small(), with_room(5))
    assert made.step.recompute != PLAIN
    assert made.config.recompute == made.step.recompute
    counts = StepMemoryEstimator(1, 4, lambda frames: frames, made.budget_bytes)
    config = resolve_plainly(
        dataclasses.replace(made.config, train=dataclasses.replace(made.config.train, precision="bf16"))
    )
    rungs = recompute_schedules(RecomputeConfig(), 4)
    faster = rungs[: rungs.index(made.step.recompute)]
    assert [rung for rung in faster if counts.fits(counts.count(config, rung))] == []
    assert counts.count(config, made.step.recompute) == made.step  # the true count, not a scaled one


def test_scaling_to_another_patch_or_batch_is_near_the_count():
    large, middle, *_ = list_candidates(small(frame_wise=True), CINE)
    tiny = list_candidates(small(frame_wise=True, frames=30), CINE)[-1]
    counts = StepMemoryEstimator(1, 4, lambda frames: 2, 10**15)
    counts.count(large, PLAIN)
    for other in (middle, tiny):
        scaled, exact = counts.estimate(other, PLAIN), counts.count(other, PLAIN)
        assert scaled.planned_bytes == pytest.approx(exact.planned_bytes, rel=0.02)
        assert scaled.cost.flops == exact.cost.flops


def test_the_candidates_go_from_what_sees_most_to_what_sees_least():
    found = list_candidates(Config(), CINE)
    assert [seen(one) for one in found] == sorted((seen(one) for one in found), reverse=True)
    first, second, last = found[0], found[1], found[-1]
    # 250 x 256 x 11, rounded up to 16 x 16 x 2.
    assert (first.data.patch_size, first.data.frames, first.train.batch_size) == ((256, 256, 12), 30, 2)
    assert (second.data.patch_size, second.data.frames, second.train.batch_size) == ((256, 256, 12), 30, 1)
    assert {(one.train.batch_size, one.train.accumulate_batches) for one in found} == {(2, 1), (1, 2)}
    # A quarter, 63 x 64, rounded up; the slices stay.
    assert (last.data.patch_size, last.data.frames, last.train.batch_size) == ((64, 64, 12), 8, 1)
    assert {one.data.frames for one in found} == {30, 15, 8}


def test_large_batches_are_candidates_for_whole_studies_of_large_datasets_alone():
    def batches(studies: int, view: int) -> list[tuple[int, int]]:
        options = group_by_view(list_candidates(Config(), CINE, studies))[view]
        return [(one.train.batch_size, one.train.accumulate_batches) for one in options]

    assert batches(79, 0) == batches(10**6, 1) == [(2, 1), (1, 2)]
    assert batches(80, 0) == [(4, 1), (2, 1), (1, 2)]
    assert batches(160, 0) == [(8, 1), (4, 1), (2, 1), (1, 2)]
    given = Config(train=TrainConfig(batch_size=3, accumulate_batches=2))
    assert {(one.train.batch_size, one.train.accumulate_batches) for one in list_candidates(given, CINE, 10**6)} == {
        (3, 2)
    }
    given = Config(train=TrainConfig(accumulate_batches=4))
    assert {(one.train.batch_size, one.train.accumulate_batches) for one in list_candidates(given, CINE, 10**6)} == {
        (2, 4),
        (1, 4),
    }


class MadeUpCounts(StepMemoryEstimator):
    """Counts of 100 bytes and 10 operations for each clip of a batch; in chunks a third of the bytes, and 16 operations."""

    def count(self, config: Config, memory: RecomputeConfig) -> PlannedStep:
        clips, is_cut = config.train.batch_size, bool(memory.chunk_frames)
        need = 100 * clips // (3 if is_cut else 1)
        work = (16 if is_cut else 10) * clips * config.train.accumulate_batches
        return PlannedStep(memory, StepCost(need, need, 0, work))

    estimate = count


@pytest.mark.parametrize(
    ("room", "batch", "is_cut"),
    [(900, (8, 1), False), (300, (2, 1), False), (150, (1, 2), False), (80, (2, 1), True), (40, (1, 2), True)],
)
def test_of_the_batches_that_fit_the_one_that_computes_least_for_a_clip_is_taken(room, batch, is_cut):
    """At 150 bytes 2 clips fit in chunks, and one after the other at once, which is 1.6 times cheaper."""
    counts = MadeUpCounts(1, 4, lambda frames: frames, math.ceil(sufficient_bytes(room)))
    chosen = _cheapest(group_by_view(list_candidates(Config(), CINE, 10**6))[0], counts)
    assert (chosen.config.train.batch_size, chosen.config.train.accumulate_batches) == batch
    assert bool(chosen.step.recompute.chunk_frames) == is_cut


def test_two_batches_of_one_clip_are_planned_where_one_of_two_would_have_to_be_cut(headers, tmp_path):
    dataset, asked = headers((80, 64, 3, 10)), small(frames=4, patch_size=(64, 64, 3))
    alone = dataclasses.replace(asked, train=TrainConfig(batch_size=1, accumulate_batches=2), recompute=PLAIN)
    needed = plan(dataset, tmp_path / "one.yaml", alone, 24).step.planned_bytes
    made = plan(dataset, tmp_path / "plan.yaml", asked, with_room(sufficient_bytes(1.01 * needed) / 1e6))
    assert (made.config.train.batch_size, made.config.train.accumulate_batches) == (1, 2)
    assert made.step.cost.largest_elements > 0
    assert made.config.recompute == PLAIN
    assert "less work per clip" in made.text.partition("train.accumulate_batches")[2].partition("\n")[0]
    assert Config.from_dict(yaml.safe_load(made.path.read_text())) == made.config


def test_counts_of_several_batches_scaled_from_one_are_near_the_count():
    first, *_ = list_candidates(small(frame_wise=True), CINE)
    counts = StepMemoryEstimator(1, 4, lambda frames: 2, 10**15)
    counts.count(first, PLAIN)
    several = dataclasses.replace(first, train=dataclasses.replace(first.train, batch_size=1, accumulate_batches=2))
    scaled, exact = counts.estimate(several, PLAIN), counts.count(several, PLAIN)
    assert scaled.planned_bytes == pytest.approx(exact.planned_bytes, rel=0.02)
    assert scaled.cost.flops == pytest.approx(exact.cost.flops, rel=1e-3)


def test_a_plan_that_leaves_most_of_the_card_empty_says_why(planned, headers, tmp_path):
    dataset = headers((80, 64, 3, 10))
    text = plan(dataset, tmp_path / "plan.yaml", small(True, PLAIN), 80).text
    assert "100% of the GPU's memory stays empty" in text
    assert "its 2 clips are enough for 2 training studies; raise --train.batch_size" in text
    given = dataclasses.replace(small(True, PLAIN), train=TrainConfig(batch_size=2))
    assert "--train.batch_size was given" in plan(dataset, tmp_path / "plan.yaml", given, 80).text
    full = [made for made in planned.values() if made.step.planned_bytes > made.budget_bytes / 2]
    assert full
    assert all("stays empty" not in made.text for made in full)


def test_short_studies_are_not_clipped_and_small_ones_not_cut():
    few = Fingerprint(2.0, (2.0, 2.0, 8.0), ((30, 28, 5),), (7,), 1)
    assert {(one.data.patch_size, one.data.frames) for one in list_candidates(Config(), few)} == {((32, 28, 5), 7)}


def test_an_outlier_does_not_set_the_patch():
    assert usual_largest([10, 12, 14]) == 14
    assert usual_largest([10, 40]) == 40  # of two, neither is the usual one
    assert usual_largest([10] * 9 + [14, 40]) == 14
    shapes = ((64, 64, 8),) * 11 + ((200, 64, 8),)
    assert whole_study(Fingerprint(1.0, (1.0, 1.0, 5.0), shapes, (5,) * 12, 12)) == (64, 64, 8)


def test_levels_that_would_pool_nothing_are_cut_off_unless_they_were_asked_for():
    iso = (1.0, 1.0, 1.0)
    assert planned_model(ModelConfig(), iso, (128, 128, 128)).channels == [32, 64, 128, 256, 320]
    cut = planned_model(ModelConfig(), iso, (32, 32, 32))  # 32 16 8 4
    assert (cut.channels, cut.strides) == ([32, 64, 128, 256], [(2, 2, 2)] * 3)
    assert cut.lstm_channels == ModelConfig().lstm_channels_per_level()[:4]
    assert planned_model(ModelConfig(), iso, (4, 4, 4)).channels == [32, 64]  # a network has two levels
    assert planned_model(ModelConfig(lstm_channels=[0]), iso, (32, 32, 32)).lstm_channels == [0, 8, 16, 32]
    assert planned_model(ModelConfig(None), iso, (32, 32, 32)) == cut
    for asked in (ModelConfig([8] * 5), ModelConfig(lstm_channels=[4] * 5), ModelConfig(strides=[(1, 1, 1)] * 4)):
        assert len(planned_model(asked, iso, (32, 32, 32)).channels) == 5


def test_what_is_set_is_kept(phantom, tmp_path):
    asked = Config(
        DataConfig(["phantom002"], in_plane_spacing_mm=2.5, slice_spacing_mm=9.0, patch_size=(15, 16, 4), frames=3),
        ModelConfig([4, 8, 8], [0, 0, 3], direction="forward"),
        TrainConfig(batch_size=3, precision="fp32", epochs=7),
        seed=4,
        recompute=RecomputeConfig(2, stages=True),
    )
    made = plan(phantom, tmp_path / "plan.yaml", asked, 24)
    chosen, written = made.config, yaml.safe_load(made.path.read_text())
    assert (chosen.data.in_plane_spacing_mm, chosen.data.slice_spacing_mm, chosen.data.frames) == (2.5, 9.0, 3)
    assert chosen.data.patch_size == (16, 16, 4)
    assert "as given, padded to multiples of the strides' 2 x 4 x 1" in made.text
    assert (chosen.model.channels, chosen.model.lstm_channels) == ([4, 8, 8], [0, 0, 3])
    assert (chosen.train, chosen.recompute, chosen.seed) == (asked.train, asked.recompute, 4)
    assert made.larger is None
    assert made.smaller is None
    assert (written["data"]["val_subjects"], written["model"]["direction"], written["seed"]) == (
        ["phantom002"],
        "forward",
        4,
    )


def test_a_given_width_of_chunks_is_the_only_one_planned():
    config = Config(DataConfig(frames=9), recompute=RecomputeConfig(3))
    assert StepMemoryEstimator(1, 4, lambda frames: frames, 1)._schedules(config) == [RecomputeConfig(3)]


def test_a_single_frame_is_planned_with_a_hint_that_recurrence_adds_nothing(headers, tmp_path):
    made = plan(headers((24, 20, 4)), tmp_path / "plan.yaml", small(), 24)
    assert made.config.data.frames == 1
    assert "--model.lstm_channels 0 is the frame-wise baseline" in made.text
    baseline = plan(headers((24, 20, 4)), tmp_path / "plan.yaml", small(frame_wise=True), 24)
    assert "is the frame-wise baseline" not in baseline.text


def test_train_takes_the_plan_as_it_is(command, phantom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data.folds", 3, "--model.channels", "[4,8]", "--data.patch_size", "[16,16,4]", "--data.frames", 2]
    done = command("plan", phantom, "--gpu-memory", 0.83, *words, "--model.lstm_channels", "[0,1]")
    assert (done.code, done.error) == (0, "")
    assert "written: plan.yaml; train with it: unet4d train --dataset" in done.told
    short = ["--train.epochs", 1, "--train.steps_per_epoch", 1, "--data.num_workers", 0]
    done = command("train", "--dataset", phantom, "--out", "run", "--config", "plan.yaml", *short)
    assert done.code == 0
    chosen = Config.from_dict(yaml.safe_load(Path("plan.yaml").read_text(encoding="utf-8")))
    trained = Config.from_dict(yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8")))
    assert (trained.model, trained.recompute) == (chosen.model, chosen.recompute)
    assert trained.data.patch_size == chosen.data.patch_size


def test_a_config_file_and_the_command_line_are_kept(command, phantom, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {folds: 3, frames: 2}\nmodel: {channels: [4, 8], lstm_channels: 0}\n")
    out = tmp_path / "plan.yaml"
    done = command(
        "plan", phantom, "--gpu-memory", 1, "--config", tmp_path / "mine.yaml", "--data.frames", 1, "--out", out
    )
    assert done.code == 0
    written = yaml.safe_load(out.read_text())
    assert (written["data"]["folds"], written["data"]["frames"], written["model"]["channels"]) == (3, 1, [4, 8])


@pytest.mark.parametrize("gpus", [2, 4])
def test_several_gpus_hold_a_share_each_and_the_file_has_the_batch_of_all(headers, planned, tmp_path, gpus):
    for room in (20, 200):
        one = planned[room]
        size = with_room(room, gpus)
        made = plan(headers((80, 64, 3, 10)), tmp_path / "plan.yaml", small(True, PLAIN), size, gpus=gpus)
        assert made.step == one.step
        assert made.config.train.batch_size == gpus * one.config.train.batch_size
        assert dataclasses.replace(made.config, train=one.config.train) == one.config
        assert Config.from_dict(yaml.safe_load(made.path.read_text())) == made.config
        share = one.config.train.batch_size
        assert f"clips of a step, at most {share} on each of {gpus} GPUs\n" in made.text
        assert f"of each of {gpus} GPUs of " in made.text
        assert f"{made.step.cost.flops / 1e12:.3g} TFLOP" in made.text.partition("on each GPU ")[2]
        assert "next larger on each GPU: " in made.text
        assert "on each GPU" not in one.text


@pytest.mark.parametrize(("batch", "share"), [(4, 1), (5, 2), (8, 2)])
def test_of_a_batch_that_is_given_the_largest_share_is_planned(headers, tmp_path, batch, share):
    dataset, asked = headers((80, 64, 3, 10)), small(True, PLAIN, frames=4, patch_size=(64, 64, 3))
    given, alone = (
        dataclasses.replace(asked, train=dataclasses.replace(asked.train, batch_size=n)) for n in (batch, share)
    )
    made = plan(dataset, tmp_path / "all.yaml", given, 24, gpus=4)
    assert made.step == plan(dataset, tmp_path / "one.yaml", alone, 24).step
    assert made.config.train.batch_size == batch
    assert f"as given: clips of a step, at most {share} on each of 4 GPUs" in made.text


def test_a_plan_for_several_gpus_says_how_to_start_them(command, phantom, tmp_path):
    out = tmp_path / "plan.yaml"
    for words, start in ([], "unet4d train"), (["--gpus", 4], "torchrun --nproc-per-node 4 -m unet4d train"):
        done = command("plan", phantom, *SMALL, "--gpu-memory", 24, "--out", out, *words)
        assert f"train with it: {start} --dataset {phantom} --out RUN --config {out}\n" in done.told


SMALL = ["--data.folds", "3", "--model.channels", "[4,8]", "--model.lstm_channels", "0", "--data.frames", "2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpu-memory", "big"], "--gpu_memory is big"),
        (["--gpu-memory", "0"], "--gpu_memory is 0"),
        (["--gpu-memory=-24"], "--gpu_memory is -24"),
        (["--gpu-memory", "nan"], "--gpu_memory is nan"),
        (["--gpu-memory", "0.5"], "a GPU of 0.5 GB has 0 bytes for it; name a GPU of 1 GB or more, or lower"),
        (["--gpu-memory", "24", "--gpus", "0"], "--gpus 0, expected"),
        (
            ["--gpu-memory", "24", "--gpus", "3", "--train.batch_size", "2"],
            "batch_size 2 for 3 GPUs, expected 3 or more",
        ),
        (["--gpu-memory", "24", "--data.folds", "5"], "5 folds of 3 labelled subjects"),
        (["--gpu-memory", "24", "--model.lstm_channels", "[1,2,3]"], "model.lstm_channels is [1, 2, 3], expected one"),
        (["--gpu-memory", "24", "--data.frame", "5"], "--data.frame is not known, expected perhaps --data.frames"),
        (["--gpu-memory", "24", "--out", "."], "--out . is a folder"),
        (["--gpu-memory", "24", "--out", "/dev/null"], "/dev/null is a pipe, a socket or a device"),
        (["--gpu-memory", "24", "--out", "mine.txt"], "--out mine.txt, which exists and is no plan"),
        (["--gpu-memory", "24", "--out", "mine.txt/plan.yaml"], "mine.txt is a file, expected a folder"),
        (["--gpu-memory", "24", "--config", "none.yaml"], "--config none.yaml is missing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, phantom, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("precious", encoding="utf-8")
    done = command("plan", phantom, *SMALL, *options)
    assert done.code == 2
    assert words in done.line
    assert Path("mine.txt").read_text(encoding="utf-8") == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_fit_says_what_would(command, phantom, tmp_path):
    out = tmp_path / "plan.yaml"
    done = command("plan", phantom, *SMALL, "--gpu-memory", 0.8001, "--train.batch_size", 2, "--out", out)
    assert "the smallest choice does not fit" in done.line
    assert "or lower --data.frames, --train.batch_size, --model.channels" in done.line
    assert command("plan", phantom, *SMALL, "--gpu-memory", 1, "--train.batch_size", 2, "--out", out).code == 0


def test_no_dataset_is_an_error(command, tmp_path):
    done = command("plan", tmp_path / "none", "--gpu-memory", "24", "--out", tmp_path / "plan.yaml")
    assert done.code == 2
    assert "none is missing, expected a dataset folder" in done.line


def test_an_older_plan_is_replaced(planned, headers, tmp_path):
    out = tmp_path / "plan.yaml"
    out.write_bytes(planned[200].path.read_bytes())
    plan(headers((80, 64, 3, 10)), out, small(True, PLAIN), with_room(20))
    assert out.read_bytes() == planned[20].path.read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
def test_without_a_gpu_a_size_is_to_be_named(command, phantom, tmp_path):
    done = command("plan", phantom, "--out", tmp_path / "plan.yaml")
    assert done.code == 2
    assert "no CUDA GPU is here; name a size: --gpu_memory 24" in done.line


def test_a_gpu_with_less_free_than_named_is_reported(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("unet4d.planning.plan.free_bytes", lambda device: int(11.2 * GB))
    monkeypatch.setattr("unet4d.planning.plan.find_device", torch.device)
    config = small(frame_wise=True, frames=2, recompute=PLAIN)
    warned = plan(phantom, tmp_path / "plan.yaml", config, 24)
    assert warned.text.startswith("the GPU here has 11.2 GB free, less than the 24 GB planned for\n")
    assert "GPU here has" not in plan(phantom, tmp_path / "plan.yaml", config, 12).text

    def busy(device: torch.device) -> int:
        raise torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    with monkeypatch.context() as unusable:
        unusable.setattr("unet4d.planning.plan.free_bytes", busy)
        assert "GPU here has" not in plan(phantom, tmp_path / "plan.yaml", config, 24).text
    shared = plan(phantom, tmp_path / "plan.yaml", config, "auto", gpus=2)
    assert shared.budget_bytes == int(11.2 * GB) - NCCL_BYTES
    free = plan(phantom, tmp_path / "plan.yaml", config, "auto")
    assert free.budget_bytes == int(11.2 * GB)
    assert "of the 11.2 GB that are free of the GPU here" in free.text


# What `train` plans by itself --------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """Have a GPU with room for a training step of 40 MB, as far as planning sees."""
    monkeypatch.setattr("unet4d.planning.plan.find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("unet4d.planning.plan.free_bytes", lambda device: int(40e6))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def test_train_takes_on_a_gpu_what_plan_chooses_and_prints_it(gpu, headers, tmp_path):
    dataset, config = headers((80, 64, 3, 10)), small(frame_wise=True, recompute=PLAIN)
    log = collect_log()
    made = plan_run(dataset, config)
    assert made == plan(dataset, tmp_path / "plan.yaml", config).config
    assert str(list(made.data.patch_size)) in log[0]
    assert f"--data.frames {made.data.frames}" in log[0]
    asked = replace(config, data=replace(config.data, frames=2))
    assert plan_run(dataset, asked).data.frames == 2


def test_train_plans_nothing_on_a_cpu_or_where_all_is_given(gpu, monkeypatch):
    monkeypatch.setattr("unet4d.planning.plan.plan", None)
    sized = Config(DataConfig(patch_size=(16, 16, 4), frames=2), train=TrainConfig(batch_size=1))
    assert plan_run("nowhere", sized) is sized
    unset = Config()
    assert plan_run("nowhere", unset, "cpu") is unset
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert plan_run("nowhere", unset) is unset
