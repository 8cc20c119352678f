"""The benchmark's tables at toy sizes, and the arithmetic of what is read off them."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

from bench import core, largest, network
from bench.__main__ import print_table
from bench.bars import bars
from bench.candidates import Grid, candidates, counted_bytes
from bench.layer import PLAIN, saved_bytes
from bench.measure import Spread, interleaved, spread
from bench.plain import PlainConvLSTM
from bench.recurrence import DEFAULT, TWIN

SMALL = Grid((8, 8, 8))
TOY = replace(
    core.ON_CPU,
    channels=(2, 4),
    widths=(2, 4),
    cine=Grid((8, 8, 4), (1.5, 1.5, 10.0)),
    cine_frames=2,
    clips=((1, 3, 2, Grid((4, 4, 4))),),
    timed=((2, SMALL),),
    counted=SMALL,
    grids=(SMALL,),
    memory_gb=(40,),
    line=(2, 4),
    most_counted=4,
    budget_s=0.0,
)


def line_of(bytes_per_frame: int, offset: int, monkeypatch) -> None:
    """Make memory a line with steps: frames in pairs."""

    def counted(candidate, grid, frames, training=True):
        return offset + bytes_per_frame * (frames + frames % 2)

    monkeypatch.setattr(largest, "counted_bytes", counted)
    monkeypatch.setattr(network, "counted_bytes", counted)


def test_every_table_is_filled_printed_and_written(monkeypatch, capsys):
    line_of(10**7, 10**8, monkeypatch)  # counting is slow, and tested below
    tables = core.run(TOY)
    assert [row["frames"] for row in tables["largest"]] == [3990] * len(tables["largest"])
    assert list(tables) == ["recurrence", "layer", "network", "memory", "largest", "bars"]
    precisions = len({row["precision"] for row in tables["memory"]})
    compared = precisions + 4  # the published in each, with its last block, and ours in three settings
    rows = {name: len(table) for name, table in tables.items()}
    assert rows == {
        "recurrence": 4,
        "layer": 4,
        "network": compared - 1,
        "memory": compared,
        "largest": compared,
        "bars": 9,
    }
    for table in tables.values():
        print_table(table)
        assert len({tuple(row) for row in table}) == 1
    assert f"{TWIN} " in capsys.readouterr().out
    json.dumps(tables, allow_nan=False)


def test_what_plain_autograd_keeps_is_counted_by_hand():
    layer, x = PlainConvLSTM(1, 1, 1), torch.randn(1, 1, 1, 4, 1, 1, requires_grad=True)
    # Of one frame of 4 voxels: two joined channels, three sigmoids and two tanh, the zeros of the cell state.
    assert saved_bytes(layer, x, "fp32") == 4 * 4 * (2 + 3 + 2 + 1)


@pytest.mark.parametrize("place", [0, -1], ids=["published", "leanest"])
def test_counted_memory_grows_with_the_frames_and_is_less_for_a_prediction(place):
    candidate = candidates("fp32", (2, 4), (2, 4))[place]
    few, many = (counted_bytes(candidate, SMALL, frames) for frames in (1, 3))
    assert many >= few + 2 * SMALL.voxels * 5  # image and label at least
    assert counted_bytes(candidate, SMALL, 1, training=False) < few


def test_the_published_network_is_given_a_grid_it_can_halve():
    published, ours = candidates("fp32", (2, 4, 8), (2, 4, 8))[:3:2]
    thin = Grid((8, 8, 3), (1.5, 1.5, 10.0))
    assert (published.padded(thin), ours.padded(thin)) == ((8, 8, 4), (8, 8, 3))


@pytest.mark.parametrize(
    ("limit", "most", "wanted"),
    [(195, 30, (18, 18)), (195, 8, (19, 8)), (5, 30, (0, 1))],
    ids=["counted to the frame", "read off the line", "nothing fits"],
)
def test_the_largest_clip_is_counted_as_far_as_that_is_done_and_read_off_the_line_beyond(
    monkeypatch, limit, most, wanted
):
    line_of(10, 5, monkeypatch)
    assert largest.largest(None, SMALL, limit, (2, 4), most)[:2] == wanted


def test_the_line_of_memory_is_split_into_weights_voxels_and_frames(monkeypatch):
    monkeypatch.setattr(network, "weights", lambda candidate, grid: 100)
    monkeypatch.setattr(network, "counted_bytes", lambda c, grid, frames: 1600 + 512 * 7 + 512 * 3 * frames)
    (row,) = network.memory_table(candidates("fp32", (2, 4), (2, 4))[:1], SMALL, (10, 30))
    assert (row["weights and optimiser MB"], row["B per voxel"], row["B per voxel and frame"]) == (0.0016, 7, 3)


def test_a_candidate_is_compared_with_the_baseline_of_the_same_round(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    naps = {"one": 0.01, "two": 0.02}
    rounds = interleaved({name: (lambda s=s: now.append(now.pop() + s)) for name, s in naps.items()}, rounds=3)
    assert [len(times) for times in rounds.values()] == [3, 3]
    assert rounds.ratio("two", "one").median == pytest.approx(2)
    assert rounds.ratio("two", "three") is None


def test_what_does_not_fit_is_left_out_of_the_rounds():
    def large():
        raise torch.OutOfMemoryError

    assert list(interleaved({"large": large, "small": lambda: None}, rounds=2)) == ["small"]


def test_a_spread_is_a_median_and_its_quartiles():
    assert spread([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert spread([7]) == Spread(7, 7, 7)
    assert str(Spread(1.0, 0.9, 1.25)) == "1.00 (0.90-1.25)"


def ratio(value: float) -> Spread:
    return Spread(value, value - 0.1, value + 0.1)


def made_up() -> dict[str, list[dict]]:
    def layer(keeps, time, kept):
        return {"keeps": keeps, "forward and backward / plain": ratio(time), "kept / plain": kept}

    def of_network(name, training, plain, prediction):
        return {
            "grid": "a patch",
            "network": name,
            "training / published": None if training is None else ratio(training),
            "training / plain": ratio(plain),
            "prediction / published": None if prediction is None else ratio(prediction),
        }

    def most(grid, gb, name, precision, frames):
        return {"grid": grid, "GB": gb, "network": name, "precision": precision, "frames": frames}

    return {
        "recurrence": [{"network": DEFAULT, "recurrence share of inference time": 0.3}],
        "layer": [
            layer(PLAIN, 1.0, 1.0),
            layer("gates", 1.3, 1.2),
            layer("hidden", 0.9, 0.3),
            layer("borders", 1.0, 0.2),
        ],
        "network": [
            of_network("plain", 0.25, 1.0, 0.2),
            of_network("plain", 0.2, 1.0, 0.1),
            of_network("leanest", 0.4, 1.5, None),
            of_network("leanest", 0.625, 2.5, None),
        ],
        "memory": [{"network": "leanest", "B per voxel and frame": 70.0, "B per voxel": 1100.0}],
        "largest": [
            most("a", 24, "published", "fp32", 5),
            most("a", 40, "published", "fp32", 10),
            most("a", 40, "published", "bf16", 20),
            most("a", 40, "leanest", "bf16", 600),
            most("b", 40, "leanest", "bf16", 9),
        ],
    }


def test_a_bar_is_held_against_the_worst_of_its_rows():
    rows = bars(made_up())
    assert [(row["measured"], row["met"]) for row in rows] == [
        (0.3, "no"),
        (1.0, "yes"),
        (70.0, "yes"),
        (1100.0, "no"),
        (60.0, "yes"),
        (2.5, "no"),
        (4.0, "yes"),
        (1.6, "no"),
        (5.0, "yes"),
    ]
    assert rows[-2]["of"] == "2/2"


def test_what_could_not_be_measured_is_not_met():
    tables = made_up()
    for row in tables["network"]:
        row["training / published"] = None
    row = bars(tables)[6]
    assert (row["measured"], row["of"], row["met"]) == (None, "0/2", "no")
