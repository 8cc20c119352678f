"""The benchmark's tables at toy sizes, and the arithmetic of their figures."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

from bench import core, networks
from bench.__main__ import print_table
from bench.bars import core_bars
from bench.measure import Spread, interleaved, spread
from bench.networks import Grid, candidates, counted_bytes
from bench.recurrence import DEFAULT, FRAMEWISE

SMALL = Grid((8, 8, 8))
TOY = replace(
    core.ON_CPU,
    channels=(2, 4),
    widths=(2, 4),
    cine=Grid((8, 8, 4), (1.5, 1.5, 10.0)),
    cine_frames=2,
    timed=((2, SMALL),),
    counted=(SMALL,),
    line=(2, 4),
    budget_s=0.0,
)


def test_every_table_is_filled_printed_and_written(monkeypatch, capsys):
    monkeypatch.setattr(networks, "counted_bytes", lambda c, grid, frames: 10**8 + 10**7 * frames)  # counting is slow
    tables = core.run(TOY)
    assert [row["frames in 40 GB"] for row in tables["memory"]] == [3990] * len(tables["memory"])
    assert list(tables) == ["recurrence", "time", "memory", "bars"]
    compared = (
        len({row["precision"] for row in tables["memory"]}) + 3
    )  # the published in each, ours with three schedules
    rows = {name: len(table) for name, table in tables.items()}
    assert rows == {"recurrence": 5, "time": compared, "memory": compared, "bars": 8}
    for table in tables.values():
        print_table(table)
        assert len({tuple(row) for row in table}) == 1
    assert f"{FRAMEWISE} " in capsys.readouterr().out
    json.dumps(tables, allow_nan=False)


@pytest.mark.parametrize("place", [0, -1], ids=["published", "leanest"])
def test_counted_memory_grows_with_the_frames(place):
    candidate = candidates("fp32", (2, 4), (2, 4))[place]
    few, many = (counted_bytes(candidate, SMALL, frames) for frames in (1, 3))
    assert many >= few + 2 * SMALL.voxels * 5  # image and label at least


def test_the_published_network_is_given_a_grid_it_can_halve():
    published, ours = candidates("fp32", (2, 4, 8), (2, 4, 8))[:2]
    thin = Grid((8, 8, 3), (1.5, 1.5, 10.0))
    assert (published.padded(thin), ours.padded(thin)) == ((8, 8, 4), (8, 8, 3))


def test_the_line_of_memory_is_split_into_weights_voxels_and_frames(monkeypatch):
    monkeypatch.setattr(networks, "count_weights", lambda candidate, grid: 100)
    monkeypatch.setattr(networks, "counted_bytes", lambda c, grid, frames: 1600 + 512 * 7 + 512 * 3 * frames)
    (row,) = networks.memory_table(candidates("fp32", (2, 4), (2, 4))[:1], (SMALL,), (10, 30))
    assert (row["million weights"], row["B per voxel"], row["B per voxel and frame"]) == (0.0001, 7, 3)
    assert row["frames in 40 GB"] == int((40e9 - 1600 - 512 * 7) / (512 * 3))


def test_a_candidate_is_compared_with_the_baseline_of_the_same_round(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    naps = {"one": 0.01, "two": 0.02}
    rounds = interleaved({name: (lambda s=s: now.append(now.pop() + s)) for name, s in naps.items()}, rounds=3)
    assert [len(times) for times in rounds.values()] == [3, 3]
    assert rounds.ratio("two", "one").median == pytest.approx(2)
    assert rounds.ratio("two", "three") is None


def test_a_candidate_that_does_not_fit_has_no_rounds():
    def large():
        raise torch.OutOfMemoryError

    assert list(interleaved({"large": large, "small": lambda: None}, rounds=2)) == ["small"]


def test_a_spread_is_a_median_and_its_quartiles():
    assert spread([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert spread([7]) == Spread(7, 7, 7)
    assert str(Spread(1.0, 0.9, 1.25)) == "1.00 (0.90-1.25)"


def ratio(value: float) -> Spread:
    return Spread(value, value - 0.1, value + 0.1)


def example_tables() -> dict[str, list[dict]]:
    def of_network(name, training, plain, prediction):
        return {
            "grid": "a patch",
            "network": name,
            "training / published": None if training is None else ratio(training),
            "training / plain": ratio(plain),
            "prediction / published": None if prediction is None else ratio(prediction),
        }

    def memory(grid, name, precision, frames):
        counted = {"B per voxel and frame": 70.0, "B per voxel": 1100.0, "frames in 40 GB": frames}
        return {"grid": grid, "network": name, "precision": precision} | counted

    return {
        "recurrence": [{"network": DEFAULT, "recurrence share of inference time": 0.3}],
        "time": [
            of_network("plain", 0.25, 1.0, 0.2),
            of_network("plain", 0.2, 1.0, 0.1),
            of_network("leanest", 0.4, 1.5, None),
            of_network("leanest", 0.625, 2.5, None),
        ],
        "memory": [
            memory("a", "published", "fp32", 10),
            memory("a", "published", "bf16", 20),
            memory("a", "leanest", "bf16", 600),
            memory("b", "leanest", "bf16", 9),
        ],
    }


def test_a_bar_is_compared_with_the_worst_of_its_rows():
    rows = core_bars(example_tables())
    assert [(row["measured"], row["met"]) for row in rows] == [
        (0.3, "no"),
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
    tables = example_tables()
    for row in tables["time"]:
        row["training / published"] = None
    row = core_bars(tables)[5]
    assert (row["measured"], row["of"], row["met"]) == (None, "0/2", "no")
