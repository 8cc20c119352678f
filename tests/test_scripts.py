"""Tests of the scripts beside the package: arithmetic of experiments, folders of the demo, ratios of the benchmark."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.measure import interleaved
from experiments import propagation
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.propagate import PROPAGATION
from unet4d.errors import InputError
from unet4d.models.checkpoint import load_model


@pytest.mark.parametrize(
    "name", [file.stem for file in sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))]
)
def test_every_experiment_can_be_imported(name, script):
    """A name that moved in the package would be found hours into a run, or not before the next one."""
    assert script(name).__doc__


def test_an_experiment_on_propagation_continues_where_it_was_killed(phantom, tmp_path):
    """Studies that were measured before are read, in the order of the dataset; with all of them no frame is registered."""
    names = [case.name for case in read_dataset(phantom).training]
    for n, name in enumerate(names):
        rows = {"dice": [{"case": name, "n": n}], "confidence": [], "drawings": [{"case": name}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    found = propagation.measure(phantom, tmp_path)
    assert [row["n"] for row in found["dice"]] == [0, 1, 2]
    assert [row["case"] for row in found["drawings"]] == names
    assert not found["confidence"]


def test_an_experiment_on_propagation_reads_the_table_that_propagate_writes(tmp_path, monkeypatch):
    """A propagation without a fault: its label maps are the true ones."""

    def carried(dataset, out):
        shutil.copytree(tmp_path / "all", out)
        rows = [("phantom001", t, "propagated", "myocardium", 0.5 + t / 10) for t in (1, 2)]
        (out / PROPAGATION.file).write_text(PROPAGATION.text(rows))
        assert [case.labelled_frames for case in read_dataset(dataset).training] == [(0,)]
        return out

    monkeypatch.setattr(propagation, "propagate", carried)
    rows = propagation.measure_phantoms(tmp_path, subjects=1, frames=3, drawn=(0,))
    assert [(row["frame"], row["dice"], row["confidence"]) for row in rows] == [(1, 1, 0.6), (2, 1, 0.7)]


def test_scores_are_averaged_by_kind_of_frame(script, tmp_path):
    rows = [("a", 0, "0.9"), ("a", 1, "0.3"), ("a", 1, "0.5"), ("b", 1, "0.7"), ("b", 0, "0.2"), ("b", 2, "")]
    with open(tmp_path / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("case", "frame", "dice"), *rows])
    (tmp_path / "subjects.json").write_text(
        json.dumps({"a": {"ambiguous_frames": [1]}, "b": {"ambiguous_frames": [0]}})
    )
    found = script("recurrence").by_kind_of_frame(tmp_path / "metrics.csv", tmp_path / "subjects.json")
    assert found == {"spoiled frames": {"dice": 0.3333, "n": 3}, "other frames": {"dice": 0.8, "n": 2}}


def test_the_demo_clears_its_own_folder_and_no_other(script, tmp_path):
    clear = script("demo")._clear
    foreign, own = tmp_path / "foreign", tmp_path / "own"
    (foreign / "train").mkdir(parents=True)
    (foreign / "mine.txt").touch()
    with pytest.raises(InputError, match="no earlier demo"):
        clear(foreign)
    assert (foreign / "mine.txt").exists()
    clear(own)
    (own / "train").mkdir()
    clear(own)
    assert own.is_dir()
    assert not (own / "train").exists()


JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="5">
<testcase classname="tests.test_a" name="test_one" time="0.25"/>
<testcase classname="tests.test_a" name="test_two[x]" time="7.06"><failure message="no">no</failure></testcase>
<testcase classname="tests.test_a" name="test_two[x]" time="0.5"><error message="teardown">no</error></testcase>
<testcase classname="tests.test_b" name="test_three" time="0"><skipped message="no browser"/></testcase>
<testcase classname="tests.test_b" name="test_four" time="1"><properties/></testcase>
</testsuite></testsuites>"""


def test_runs_of_the_suite_are_counted_from_their_junit_files(script, tmp_path):
    test_runs = script("test_runs")
    (tmp_path / "run.xml").write_text(JUNIT)
    row = test_runs.counts(tmp_path / "run.xml")
    assert row == {
        "passed": 2, "failed": 2, "skipped": 1, "longest_s": 7.1, "longest_test": "tests.test_a::test_two[x]"
    }  # fmt: skip
    assert set(test_runs.counts(tmp_path / "none.xml").values()) == {0, ""}
    first, line, last = test_runs.table([{"run": 1} | row]).splitlines()
    assert first == "| run | passed | failed | skipped | longest_s | longest_test |"
    assert line.count("---") == first.count("|") - 1
    assert last == "| 1 | 2 | 2 | 1 | 7.1 | tests.test_a::test_two[x] |"


def test_a_child_of_the_test_runs_is_killed_with_its_children(script):
    source = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with script("test_runs").child([sys.executable, "-c", source], **pipes) as process:
        assert process.stdout.readline() == b"1\n"
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.read() == b""  # the grandchild held the other end
    process.stdin.close()
    process.stdout.close()


def test_a_benchmark_takes_turns_and_gives_the_median_of_the_ratios_of_a_round(monkeypatch):
    """The clock is ours: a slow round of both must not show, a slow run of one hardly."""
    now, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    lasts = {"base": iter([9, 1, 10, 1, 1, 1]), "twice": iter([9, 2, 20, 2, 2, 50])}

    def candidate(name):
        def run():
            order.append(name)
            now[0] += next(lasts[name])

        return run

    rounds = interleaved({name: candidate(name) for name in lasts}, rounds=5, budget_s=1000)
    assert rounds.ratio("twice", "base").median == 2
    assert order == ["base", "twice"] * 6


def test_a_released_checkpoint_has_half_the_bytes_and_predicts_as_the_trained_one(script, tmp_path, model_file):
    pretrained, trained = script("pretrained"), load_model(model_file())
    size = pretrained.release(tmp_path / "model.pt", tmp_path / "dist" / "released.unet4d")
    assert size - (pretrained.ROOT / "LICENSE").stat().st_size < 0.75 * (tmp_path / "model.pt").stat().st_size
    released = load_model(tmp_path / "dist" / "released.unet4d")
    assert (released.task, released.config) == (trained.task, trained.config)
    for ours, wanted in zip(released.network.parameters(), trained.network.parameters(), strict=True):
        assert torch.equal(ours, wanted.half().float())


def test_a_released_checkpoint_of_too_many_bytes_is_refused_and_removed(script, tmp_path, model_file, monkeypatch):
    pretrained = script("pretrained")
    monkeypatch.setattr(pretrained, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"released.unet4d has .*, expected 1 kB at most"):
        pretrained.release(model_file(), tmp_path / "released.unet4d")
    assert not (tmp_path / "released.unet4d").exists()


def test_partly_drawn_arms_are_compared_with_those_that_are_whole(script):
    dice = {"all": (0.8, 0.9), "half": (0.76, 0.92), "right": (0.5,), "left": (0.8,), "together": (0.55, 0.72)}
    classes = {"right": ("RV",), "left": ("LV",)}
    arms = {
        name: {"dice": dict(zip(classes.get(name, ("RV", "LV")), found, strict=True))} for name, found in dice.items()
    }
    found = script("partial_labels").summarize({"0": arms})
    assert (found["half"]["over all"], found["half"]["means, over all"]) == ([0.9882], 0.9882)
    assert found["together"]["over own network"] == [{"RV": 1.1, "LV": 0.9}]
    assert found["all"]["deviation of seeds"] is None
    alone = script("partial_labels").summarize({"0": {"all": arms["all"]}})
    assert alone["all"].keys() == {"dice", "mean", "deviation of seeds"}
