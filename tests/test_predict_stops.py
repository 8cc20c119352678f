"""How `unet4d predict` ends: killed, stopped, out of memory; and what is held on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.predictions import check_whole, json_of, rows_of
from tests.processes import PATIENCE_S, exit_code
from unet4d.data.studies import find_studies
from unet4d.errors import Unet4DError
from unet4d.predict import predict
from unet4d.prediction import batch
from unet4d.prediction.folder import PredictionFolder
from unet4d.prediction.shares import Share
from unet4d.segmentation import Answer, Settings, answer, prepare

FP32 = Settings(precision="fp32")


# How it ends -----------------------------------------------------------------------------------------------------


def test_what_is_large_is_held_alone(studies):
    """Beside another study lies only what takes a tenth of the memory: copies of an image while it is read, an answer while it is
    written."""
    [study] = [one for one in find_studies([studies], ["cine MRI"]) if one.name == "s1"]
    copies = 8 * 4 * 18 * 15 * 5 * 3
    answered = batch._Computed(Answer(np.zeros(1000, np.uint8), np.zeros(1000, np.float32)), None, "open", [], {})
    cases = (10 * copies, True, True), (10 * copies - 10, False, True), (50000, False, True), (49990, False, False)
    for memory, ahead, behind in cases:
        one = batch.Batch(PredictionFolder(studies, {}), Settings(memory_bytes=memory), {}, False)
        assert (one._may_be_ahead(batch.Job(study, [], {})), one._may_be_behind(answered)) == (ahead, behind)


def test_a_study_of_which_only_the_files_are_known_is_judged_by_their_size(studies):
    [study] = [one for one in find_studies([studies], ["cine MRI"]) if one.name == "s1"]
    size = (studies / "s1.nii.gz").stat().st_size
    assert batch._reading_bytes(replace(study, stream=None)) == 64 * size


def _predict(model: Path, given: Path, out: Path, share: Share | None = None) -> None:
    predict(
        model,
        [given],
        out,
        FP32,
        device="cpu",
        formats=["nifti", "seq.nrrd", "seg.nrrd"],
        leave_complete=True,
        share=share,
    )


def test_a_kill_at_any_moment_leaves_whole_files_and_continue_finishes(model_file, study, tmp_path):
    """SIGKILL, again and again, at moments drawn over the time that the work takes, the writing of files and tables included."""
    model, given, out = model_file(), tmp_path / "in", tmp_path / "out"
    for seed in range(6):
        study(given / f"s{seed}.nii.gz", seed=seed)
    began = time.monotonic()
    assert exit_code(_predict, model, given, tmp_path / "whole") == 0
    whole_s = time.monotonic() - began
    draw, killed, complete = random.Random(0), 0, [0]
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=_predict, args=(model, given, out))
        process.start()
        process.join(draw.uniform(0.1, 0.6) * whole_s)
        if process.is_alive():
            killed += 1
        else:  # the machine was busier before, or less is left to do
            whole_s /= 2
        process.kill()
        process.join()
        check_whole(out)
        complete.append(len(list(out.glob(".unet4d/cases/*.json"))))
    assert killed > 2
    assert exit_code(_predict, model, given, out) == 0
    check_whole(out)
    assert complete[-1] > 0  # what was complete was left: it went forward
    wanted, came = files_of(tmp_path / "whole"), files_of(out)
    for told in ("prediction.json", "summary.json"):
        about, other = json.loads(wanted.pop(told)), json.loads(came.pop(told))
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
    jobs = [
        multiprocessing.get_context("fork").Process(target=_predict, args=(*given, Share(2, part))) for part in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE_S)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert {row["case"] for row in rows_of(tmp_path / "out")} == {f"s{seed}" for seed in range(5)}
    assert len(json_of(tmp_path / "out" / "prediction.json")["cases"]) == 5


def test_sigterm_ends_at_once_and_what_is_written_is_whole(command, model_file, studies, tmp_path, monkeypatch):
    def terminated(models, prepared, settings, *more):
        if prepared.like.source.name == "s2.nii.gz":
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(models, prepared, settings, *more)

    monkeypatch.setattr("unet4d.prediction.batch.answer", terminated)
    before = signal.getsignal(signal.SIGTERM)
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert (done.code, done.line) == (
        75,
        "unet4d: stopped by SIGTERM; what is written is whole; run again with --continue",
    )
    assert {row["case"] for row in rows_of(tmp_path / "out")} == {"s0", "s1"}
    assert signal.getsignal(signal.SIGTERM) == before
    check_whole(tmp_path / "out")


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
    def full(models, study, settings):
        if study.name == "s3":
            raise refusal
        return prepare(models, study, settings)

    monkeypatch.setattr("unet4d.prediction.batch.prepare", full)
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert done.code == 1
    assert "1 of 5 studies could not be segmented" in done.line
    assert f"s3: the main memory is too small ({words}); set --memory" in done.line
    assert Unet4DError.exit_code == 1
