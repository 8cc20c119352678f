"""The ends of `unet4d predict`: killed, stopped, out of memory; and its memory on the way."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.predictions import check_whole, json_of, rows_of
from tests.processes import exit_code, exit_codes
from unet4d.datasets.find_studies import find_studies
from unet4d.errors import Unet4DError
from unet4d.inference.batch import run
from unet4d.inference.batch.job_split import JobShard
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.predict import predict
from unet4d.inference.prepare import prepare_study
from unet4d.inference.segment import SegmentationResult

FP32 = InferenceOptions(precision="fp32")


# How it ends -----------------------------------------------------------------------------------------------------


def test_what_is_large_is_held_alone(studies):
    """Beside another study lies only what takes a tenth of the memory: copies of an image while it is read, an answer while it is
    written."""
    [study] = [one for one in find_studies([studies], ["cine MRI"]) if one.name == "s1"]
    copies = 8 * 4 * 18 * 15 * 5 * 3
    segmented = run._SegmentedStudy(
        SegmentationResult(np.zeros(1000, np.uint8), np.zeros(1000, np.float32)), None, "open", [], {}
    )
    cases = (10 * copies, True, True), (10 * copies - 10, False, True), (50000, False, True), (49990, False, False)
    for memory, ahead, behind in cases:
        one = run.BatchPredictor(PredictionFolder(studies, {}), InferenceOptions(), MemoryBudget(memory), {}, False)
        assert (one._may_read_ahead(run.StudyJob(study, [], {})), one._may_write_behind(segmented)) == (ahead, behind)


def test_a_study_of_which_only_the_files_are_known_is_judged_by_their_size(studies):
    [study] = [one for one in find_studies([studies], ["cine MRI"]) if one.name == "s1"]
    size = (studies / "s1.nii.gz").stat().st_size
    assert run._reading_bytes(replace(study, stream=None)) == 64 * size


def _predict(model: Path, given: Path, out: Path, share: JobShard | None = None) -> None:
    predict(
        model,
        [given],
        out,
        FP32,
        device="cpu",
        formats=["nifti", "seq.nrrd", "seg.nrrd"],
        leave_complete=True,
        shard=share,
    )


def _predict_and_count(counted: Path, *given) -> None:
    """Predict, and write down how many events there were."""
    events = _at_event(None)
    _predict(*given)
    counted.write_text(str(next(events)), encoding="utf-8")


def _predict_until(number: int, *given) -> None:
    """Predict, and be killed at an event."""
    _at_event(number)
    _predict(*given)


def _at_event(number: int | None) -> Iterator[int]:
    """Have this process kill itself at the `number`-th event, before it or in the middle of it; return what counts them.

    Events are renames, syncs, the removal of a file, and half of a text that is written.
    """
    events = itertools.count(1)

    def killing(usual: Callable[..., Any], half: bool = False) -> Callable[..., Any]:
        def struck(*given: Any, **named: Any) -> Any:
            if next(events) == number:
                if half:
                    usual(given[0], given[1][: len(given[1]) // 2], **named)
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(*given, **named)

        return struck

    os.replace, os.fsync, os.unlink = killing(os.replace), killing(os.fsync), killing(os.unlink)
    Path.write_text = killing(Path.write_text, half=True)
    return events


def test_a_kill_at_any_event_leaves_whole_files_and_continue_finishes(model_file, study, tmp_path):
    """SIGKILL at events that are spread over all of the work, the writing of files and tables included."""
    model, given, out = model_file(), tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        study(given / f"s{seed}.nii.gz", seed=seed)
    assert exit_code(_predict_and_count, tmp_path / "count", model, given, tmp_path / "whole") == 0
    events = int((tmp_path / "count").read_text())
    assert events > 30
    for number in range(1, events // 2, max(1, events // 10)):
        killed = tmp_path / "killed"
        assert exit_code(_predict_until, number, model, given, killed) == -signal.SIGKILL
        check_whole(killed)
        shutil.rmtree(killed, ignore_errors=True)
    complete = [0]
    for number in (4, 11, 17, 23):
        assert exit_code(_predict_until, number, model, given, out) in (-signal.SIGKILL, 0)
        check_whole(out)
        complete.append(len(list(out.glob(".unet4d/cases/*.json"))))
    assert complete == sorted(complete)  # what was complete was left: it went forward
    assert exit_code(_predict, model, given, out) == 0
    check_whole(out)
    wanted, came = files_of(tmp_path / "whole"), files_of(out)
    about, other = json.loads(wanted.pop("prediction.json")), json.loads(came.pop("prediction.json"))
    assert about["cases"].keys() == other["cases"].keys()
    assert came == wanted


def files_of(folder: Path) -> dict[str, bytes]:
    """All that is not hidden, by its path."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def test_two_processes_at_once_lose_none_of_each_others_rows(model_file, studies, tmp_path):
    given = model_file(), studies, tmp_path / "out"
    assert exit_codes([(_predict, (*given, JobShard(2, part))) for part in range(2)]) == [0, 0]
    assert {row["case"] for row in rows_of(tmp_path / "out")} == {f"s{seed}" for seed in range(5)}
    assert len(json_of(tmp_path / "out" / "prediction.json")["cases"]) == 5


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (MemoryError("Unable to allocate 9.3 TiB; and more"), "Unable to allocate 9.3 TiB"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                "419430400 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "can't allocate memory: you tried to allocate 419430400 bytes",
        ),
    ],
)
def test_what_is_out_of_main_memory_is_told_of_its_study_alone(
    command, model_file, studies, tmp_path, monkeypatch, refusal, words
):
    def full(models, study, options, budget):
        if study.name == "s3":
            raise refusal
        return prepare_study(models, study, options, budget)

    monkeypatch.setattr("unet4d.inference.batch.run.prepare_study", full)
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert done.code == 1
    assert "1 of 5 studies could not be segmented" in done.line
    assert f"s3: the main memory is too small ({words}); set --max_memory" in done.line
    assert Unet4DError.exit_code == 1
