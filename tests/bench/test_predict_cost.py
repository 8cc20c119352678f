"""The benchmark of prediction at toy sizes: that its candidates answer alike, that its clock and its memory count what they say."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

import bench.__main__ as bench_main
from bench import predict, predict_candidates, predict_large, predict_watch
from bench.measure import Rounds
from bench.predict import CYCLIC, MONAI, OURS, TWIN, Sizes, cine_bars, cine_table, parts_table
from bench.predict_candidates import Monai, Ours, monai_label, write_image, write_model, write_series
from bench.predict_child import Child, Done
from bench.predict_large import CUT, WHOLE, Large, check_room, large_bars, large_row, raised_table
from bench.predict_memory import MemorySizes, memory_bars
from bench.predict_stitching import HERE, MAIN_MEMORY, stitching_table
from bench.predict_watch import ANSWERING, NETWORK, PARTS, REST, Part, Watch, peak_mb, resident_mb
from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig
from unet4d.errors import InputError
from unet4d.inference.settings import USABLE, Settings
from unet4d.models.checkpoint import load_model

FORK = multiprocessing.get_context("fork")
CPU = torch.device("cpu")
SMALL = Large((20, 18, 8), 3, (8, 8, 8), 0.125, 2, room_bytes=4e8)
TOY = Sizes(
    (20, 18, 4),
    3,
    1.5,
    (8, 8, 4),
    0.25,
    (4, 8),
    rounds=1,
    memory=MemorySizes((16, 16, 8), (0.0, 0.5), (16, 24), 2, (8, 8, 8), (4, 8), room_bytes=4e8),
    small=SMALL,
)


@pytest.fixture
def written(tmp_path):
    """A study of 3 frames of 12 x 10 x 6 voxels and a bidirectional network with its own grid."""
    config = Config(
        DataConfig(patch_size=(8, 8, 4)), ModelConfig([4, 8], strides=[(2, 2, 1)]), inference=InferenceConfig(0.25)
    )
    write_series(tmp_path / "study.nii", (12, 10, 6), 3, (1.0, 1.0, 1.0))
    write_model(tmp_path / "model.pt", config, 3, (1.0, 1.0, 1.0))
    return tmp_path


def ours(folder, **settings) -> Ours:
    """On the study, in float32."""
    return Ours(
        folder / "model.pt", folder / "study.nii", folder / "out", Settings("open", precision="fp32", **settings)
    )


def test_monai_finds_what_ours_writes(written):
    one = ours(written)
    one.ready()()
    label = np.moveaxis(np.asarray(nib.load(one.written).dataobj), 3, 0)
    write_image(one.model, one.study, written / "image.npy")
    image = torch.from_numpy(np.load(written / "image.npy"))
    assert len(np.unique(label)) > 1
    assert np.array_equal(monai_label(load_model(one.model), image, False, "fp32").numpy(), label)
    assert not np.array_equal(monai_label(load_model(one.model), image, True, "fp32").numpy(), label)


def test_every_table_is_filled_printed_and_written(capsys):
    assert "predict" in bench_main.PARTS
    tables = predict.run(TOY, "fork")
    assert list(tables) == ["cine", "parts", "memory", "large", "bars"]
    assert {MONAI, OURS, CYCLIC, TWIN} <= {row["prediction"] for row in tables["cine"]}
    assert sum(row["share"].median for row in tables["parts"]) == pytest.approx(1)
    few, many, *growing = tables["memory"]
    assert few["windows"] < many["windows"]
    assert growing[0]["windows"] < growing[1]["windows"]
    assert [row["segmented"] for row in tables["large"]] == [CUT, WHOLE]
    assert tables["large"][0]["voxels that differ"] == 0
    for table in tables.values():
        bench_main.print_table(table)
        assert len({tuple(row) for row in table}) == 1
    json.dumps(tables, allow_nan=False)
    assert "share of the time that is not the network's" in capsys.readouterr().out


def test_the_large_study_is_run_only_if_asked_for(capsys):
    assert "predict_large" not in bench_main.PARTS
    assert bench_main.main(["predict_larger"]) == 2
    assert "predict_large" in capsys.readouterr().err


def test_the_large_part_tells_the_large_study_the_small_one_and_its_parts(capsys):
    tables = predict_large.run(SMALL, SMALL, "fork")
    assert [row["segmented"] for row in tables["large"]] == [CUT, CUT, WHOLE]
    assert {row["part"] for row in tables["parts"]} == {*(name for name, *_ in PARTS), REST}
    assert [row["met"] for row in tables["bars"]] == ["yes", "yes"]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(SystemExit, match=r"needs .* GB under .* are free; set TMPDIR"):
        check_room(tmp_path, replace(SMALL, frames=10**12))
    check_room(tmp_path, SMALL)


def test_the_memory_asked_for_leaves_the_room_beside_what_the_process_held_before(written, monkeypatch):
    """Of it a fifth is not counted on."""
    monkeypatch.setattr(predict_candidates, "resident_mb", lambda: 400.0)
    monkeypatch.setattr(predict_candidates, "resident_bytes", lambda: 400_000_000)
    done = replace(ours(written), room_bytes=1.5e9).ready()()
    assert done.idle_mb == 400
    assert USABLE * done.asked_mb - done.idle_mb == pytest.approx(1500)
    assert done.peak_over_asked == done.peak_mb / done.asked_mb
    assert ours(written).ready()().asked_mb is None


@pytest.fixture
def used(monkeypatch):
    """A clock and a peak of memory that the test alone moves."""
    now = SimpleNamespace(seconds=0.0, mb=500.0)
    monkeypatch.setattr(predict_watch, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(predict_watch, "peak_mb", lambda: now.mb)

    def use(seconds: float = 0.0, mb: float = 0.0) -> None:
        now.seconds, now.mb = now.seconds + seconds, now.mb + mb

    return use


def test_each_part_is_counted_without_the_parts_within(used):
    """Outer 2 s and 7 MB, within it twice 5 s and 100 MB of another; before it 3 s and 40 MB outside all parts."""
    watch = Watch()
    inner = watch._watched("stitching", lambda: used(5, 100))

    def nested():
        used(2, 7)
        inner()
        inner()

    outer = watch._watched("writing", nested)
    with watch.on():
        used(3, 40)
        outer()
    found = {name: (part.calls, part.seconds, part.raised_mb) for name, part in watch.parts.items() if part.calls}
    assert found == {"writing": (1, 2, 7), "stitching": (2, 10, 200), REST: (1, 3, 40)}
    assert watch.seconds == 15


def test_memory_is_what_the_system_says_of_this_process(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2000000 kB\nVmRSS:\t  1000000 kB\n")
    assert predict_watch._of_status("VmHWM", tmp_path / "status") == 2048
    assert predict_watch._of_status("VmRSS", tmp_path / "status") == 1024
    assert predict_watch._of_status("VmRSS", tmp_path / "none") == 0
    if os.path.exists("/proc/self/status"):
        assert peak_mb() > 10
        assert resident_mb() > 10


def test_what_is_watched_is_as_before_afterwards(written):
    import unet4d.inference.batch.run as batch
    from unet4d.inference.sliding_window import WindowPredictor

    before = (batch.prepare, batch.answer, WindowPredictor.logits)
    done = ours(written).ready()()
    assert (batch.prepare, batch.answer, WindowPredictor.logits) == before
    called = {name for name, part in done.parts.items() if part.calls}
    assert called == {*(name for name, *_ in PARTS), REST}
    assert done.windows == done.parts["cutting windows"].calls > 1


class _Twice:
    """Work that can be done twice."""

    def ready(self):
        turns = iter([Done(), Done()])

        def run():
            try:
                return next(turns)
            except StopIteration:
                raise InputError("one too many") from None

        return run


def test_a_child_does_the_work_as_often_as_it_is_asked_and_tells_what_went_wrong():
    with Child(_Twice(), FORK) as child:
        assert child() == child() == Done()
        with pytest.raises(InputError, match="one too many"):
            child()
        assert len(child.done) == 2
    assert not child.process.is_alive()


def made_up(seconds: dict[str, float]) -> Done:
    """A prediction of these parts."""
    parts = {name: Part() for name in (*(name for name, *_ in PARTS), REST)}
    return Done(parts | {name: Part(s) for name, s in seconds.items()}, 4, peak_mb=600.0, idle_mb=400.0)


def test_ratios_are_those_of_the_same_round_and_answering_leaves_files_out():
    """8 s of the network and 1 s each of reading and stitching: 9 s of answering against MONAI's 6 and 9 s."""
    done = made_up({NETWORK: 8.0, "reading": 1.0, "stitching": 1.0})
    work = {name: Ours(*[None] * 3, Settings("open")) for name in (OURS, CYCLIC, TWIN)}
    work[MONAI] = Monai(None, None, False, "fp32")
    rounds = Rounds({OURS: [10.0, 10.0], CYCLIC: [15.0, 12.0], TWIN: [8.0, 10.0], MONAI: [6.0, 9.0]})
    told = {name: [Done(), Done()] if name == MONAI else [done, done] for name in work}
    rows = {row["prediction"]: row for row in cine_table(rounds, told, work)}
    assert rows[OURS]["s / MONAI's"].median == pytest.approx((10 / 6 + 10 / 9) / 2)
    assert rows[OURS]["answering / MONAI's"].median == pytest.approx((9 / 6 + 9 / 9) / 2)
    assert rows[OURS]["s / twin's"].median == pytest.approx(1.125)
    assert rows[CYCLIC]["s / twin's"].median == pytest.approx((15 / 8 + 1.2) / 2)
    assert rows[MONAI]["s / twin's"] is None
    assert rows[MONAI]["answering / MONAI's"] is None
    assert not {"reading", "preparing", "writing", REST} & set(ANSWERING)


@pytest.mark.parametrize(("network", "met"), [(86.0, "yes"), (84.0, "no")])
def test_all_but_the_network_may_take_15_percent(network, met):
    parts = parts_table([made_up({NETWORK: network, REST: 100 - network})])
    rows = [
        {"prediction": OURS, "s / twin's": None},
        {"prediction": CYCLIC, "s / twin's": None},
    ]
    recurrence, cyclic, around = cine_bars(rows, parts)
    assert (around["measured"], around["met"]) == (pytest.approx(1 - network / 100), met)
    assert (recurrence["met"], cyclic["met"]) == ("no", "no")  # not measured


def test_memory_is_held_against_what_was_asked_and_against_the_fewest_windows():
    def row(asked, own, peak):
        return {"asked MB": asked, "own / fewest windows'": own, "peak / asked": peak}

    rows = [row(None, 1.0, None), row(None, 1.06, None), row(700, None, 0.9), row(700, None, 0.99)]
    windows, growth = memory_bars(rows)
    assert (windows["measured"], windows["met"], windows["of"]) == (1.06, "no", "2/2")
    assert (growth["measured"], growth["met"], growth["of"]) == (0.99, "yes", "2/2")


def test_a_label_that_cutting_changed_misses_the_bar():
    rows = [large_row(SMALL, CUT, replace(made_up({}), asked_mb=500.0), 1, 3), large_row(SMALL, WHOLE, made_up({}))]
    memory, labels = large_bars(rows)
    assert (memory["measured"], memory["met"]) == (1.2, "no")
    assert (labels["measured"], labels["met"]) == (1, "no")
    assert len(raised_table(made_up({}))) == len(PARTS) + 1


def test_the_place_where_logits_are_stitched_changes_no_logits(written):
    write_image(written / "model.pt", written / "study.nii", written / "image.npy")
    rows = stitching_table(written / "model.pt", written / "image.npy", CPU, 0.0)
    assert [row["stitched"] for row in rows][:2] == [HERE, MAIN_MEMORY]
    assert rows[0][next(key for key in rows[0] if key.startswith("s /"))].median == 1


@pytest.mark.gpu
def test_on_a_gpu_both_places_are_timed_and_its_memory_is_told():
    tables = predict.run(TOY)
    assert {row["stitched"] for row in tables["stitching"]} == {HERE, MAIN_MEMORY}
    assert all(row["GPU MB"] > 0 for row in tables["cine"])
