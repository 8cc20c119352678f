"""The benchmark of prediction at toy sizes: equal labels, and true seconds and memory."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import bench.__main__ as bench_main
from bench import predict, predict_runs
from bench.child import Child
from bench.data_studies import LABELS, write_studies
from bench.measure import Rounds
from bench.predict import CYCLIC, FRAMEWISE, MONAI, OURS, MemorySizes, Sizes, cine_bars, cine_table, memory_bars
from bench.predict_runs import (
    Cost,
    Monai,
    Ours,
    memory_mb,
    monai_label,
    train_model,
    write_image,
    write_model,
    write_series,
)
from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig
from unet4d.errors import InputError
from unet4d.inference.memory_budget import PLANNED_SHARE
from unet4d.inference.options import InferenceOptions
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.checkpoint import load_model

MEMORY = MemorySizes((16, 16, 8), (0.0, 0.5), (16, 24), 2, (8, 8, 8), (4, 8), room_bytes=4e8)
TOY = Sizes((20, 18, 4), 3, 1.5, (8, 8, 4), 0.25, (4, 8), steps=2, rounds=1, memory=MEMORY)
NOTHING = Cost(None, 0, None, 0.0, 0.0, None)


@pytest.fixture
def written(tmp_path):
    """A study of 3 frames of 12 x 10 x 6 voxels and a bidirectional network with its own grid."""
    config = Config(
        DataConfig(patch_size=(8, 8, 4)), ModelConfig([4, 8], strides=[(2, 2, 1)]), inference=InferenceConfig(0.25)
    )
    write_series(tmp_path / "study.nii", (12, 10, 6), 3, (1.0, 1.0, 1.0))
    write_model(tmp_path / "model.pt", config, 3, (1.0, 1.0, 1.0))
    return tmp_path


def ours(folder) -> Ours:
    return Ours(folder / "model.pt", folder / "study.nii", folder / "out", InferenceOptions("open", precision="fp32"))


def test_monai_finds_what_ours_writes(written):
    one = ours(written)
    one.load()()
    label = np.moveaxis(np.asarray(nib.load(one.out / "study.nii.gz").dataobj), 3, 0)
    write_image(one.model, one.study, written / "image.npy")
    image = torch.from_numpy(np.load(written / "image.npy"))
    assert len(np.unique(label)) > 1
    assert np.array_equal(monai_label(load_model(one.model), image, False, "fp32").numpy(), label)
    assert not np.array_equal(monai_label(load_model(one.model), image, True, "fp32").numpy(), label)


def test_every_table_is_filled_printed_and_written(capsys):
    assert "predict" in bench_main.PARTS
    tables = predict.run(TOY, "fork")
    assert list(tables) == ["cine", "memory", "bars"]
    assert {MONAI, OURS, CYCLIC, FRAMEWISE} <= {row["prediction"] for row in tables["cine"]}
    few, many, *growing = tables["memory"]
    assert few["windows"] < many["windows"]
    assert growing[0]["windows"] < growing[1]["windows"]
    for table in tables.values():
        bench_main.print_table(table)
        assert len({tuple(row) for row in table}) == 1
    json.dumps(tables, allow_nan=False)
    assert "share of the time that is not the network's" in capsys.readouterr().out


def test_a_network_that_trained_on_small_patches_predicts_in_the_windows_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(predict_runs, "MOST_TRAINED", 8)
    write_studies(tmp_path, 1, 3, (24, 20, 4), 1, multiprocessing.get_context("fork"))
    config = Config(DataConfig(in_plane_spacing_mm=1.5, patch_size=(16, 16, 4)), ModelConfig([4, 8]))
    train_model(tmp_path / "model.pt", config, tmp_path, steps=2)
    model = load_model(tmp_path / "model.pt")
    assert model.config.data.patch_size == (16, 16, 4)
    assert list(model.task.labels) == list(LABELS)
    one = replace(ours(tmp_path), study=tmp_path / "study000.nii.gz", settings=InferenceOptions("open", overlap=0.0))
    assert one.load()().windows == 2 * 2  # of 22 x 19 x 4 voxels of 1.5 mm


def test_an_unknown_part_is_refused(capsys):
    assert bench_main.main(["predicts"]) == 2
    assert "predict" in capsys.readouterr().err


def test_the_memory_limit_leaves_the_room_beside_the_memory_used_before(written, monkeypatch):
    monkeypatch.setattr(predict_runs, "resident_bytes", lambda: 400_000_000)
    cost = replace(ours(written), room_bytes=1.5e9).load()()
    assert PLANNED_SHARE * cost.asked_mb - 400 == pytest.approx(1500)
    assert ours(written).load()().asked_mb is None


def test_the_network_is_timed_and_is_as_before_afterwards(written):
    before = WindowPredictor.logits
    cost = ours(written).load()()
    assert WindowPredictor.logits is before
    assert cost.windows > 1
    assert cost.network_s > 0


def test_memory_is_read_from_the_systems_report_on_this_process(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2000000 kB\nVmRSS:\t  1000000 kB\n")
    assert memory_mb("VmHWM", tmp_path / "status") == 2048
    assert memory_mb("VmRSS", tmp_path / "status") == 1024
    assert memory_mb("VmRSS", tmp_path / "none") == 0
    if os.path.exists("/proc/self/status"):
        assert memory_mb("VmHWM") > 10


class _Twice:
    """A prediction that works twice."""

    def load(self):
        turns = iter([NOTHING, NOTHING])

        def run():
            try:
                return next(turns)
            except StopIteration:
                raise InputError("one too many") from None

        return run


def test_a_child_predicts_as_often_as_it_is_called_and_passes_errors_on():
    with Child(_Twice(), multiprocessing.get_context("fork")) as child:
        assert child() == child() == NOTHING
        with pytest.raises(InputError, match="one too many"):
            child()
        assert len(child.answers) == 2
    assert not child.process.is_alive()


def cine(network_s: float) -> list[dict]:
    """Rows of two rounds, the network's seconds being the same in both."""
    work = {name: Ours(*[None] * 3, InferenceOptions("open")) for name in (OURS, CYCLIC, FRAMEWISE)}
    work[MONAI] = Monai(None, None, False, "fp32")
    rounds = Rounds({OURS: [10.0, 10.0], CYCLIC: [15.0, 12.0], FRAMEWISE: [8.0, 10.0], MONAI: [6.0, 9.0]})
    costs = {name: [NOTHING if name == MONAI else replace(NOTHING, network_s=network_s)] * 2 for name in work}
    return cine_table(rounds, costs, work)


def test_ratios_are_those_of_the_same_round():
    rows = {row["prediction"]: row for row in cine(8.0)}
    assert rows[OURS]["s / MONAI's"].median == pytest.approx((10 / 6 + 10 / 9) / 2)
    assert rows[OURS]["s / frame-wise"].median == pytest.approx(1.125)
    assert rows[CYCLIC]["s / frame-wise"].median == pytest.approx((15 / 8 + 1.2) / 2)
    assert rows[MONAI]["s / frame-wise"] is None
    assert rows[OURS]["network's share"].median == pytest.approx(0.8)


@pytest.mark.parametrize(("network_s", "met"), [(8.6, "yes"), (8.4, "no")])
def test_all_but_the_network_may_take_15_percent(network_s, met):
    recurrence, cyclic, other = cine_bars(cine(network_s))
    assert (other["measured"], other["met"]) == (pytest.approx(1 - network_s / 10), met)
    assert (recurrence["met"], cyclic["met"]) == ("yes", "no")


def test_memory_is_compared_with_the_limit_and_with_the_fewest_windows():
    def row(asked, own, peak):
        return {"asked MB": asked, "own / fewest windows'": own, "peak / asked": peak}

    rows = [row(None, 1.0, None), row(None, 1.06, None), row(700, None, 0.9), row(700, None, 0.99)]
    windows, limited = memory_bars(rows)
    assert (windows["measured"], windows["met"], windows["of"]) == (1.06, "no", "2/2")
    assert (limited["measured"], limited["met"], limited["of"]) == (0.99, "yes", "2/2")


@pytest.mark.gpu
def test_on_a_gpu_its_memory_is_measured():
    assert all(row["GPU MB"] > 0 for row in predict.run(TOY)["cine"])
