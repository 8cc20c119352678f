"""`unet4d predict` over many studies: what comes in, what is left, what is shared."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.predictions import contents, json_of, rows_of
from tests.processes import run_ranks
from unet4d.datasets.find_studies import expand_input_lists
from unet4d.datasets.nifti_studies import open_nifti_source
from unet4d.errors import InputError, ReportedByOtherRank
from unet4d.inference.batch.job_split import JobShard
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.batch.summary_tables import SummaryTables
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.predict import predict
from unet4d.inference.prepare import prepare_study

FP32 = InferenceOptions(precision="fp32")


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The names of the studies that are read to be computed, as they come."""
    names: list[str] = []

    def prepared(models, study, options, budget):
        names.append(study.name)
        return prepare_study(models, study, options, budget)

    monkeypatch.setattr("unet4d.inference.batch.run.prepare_study", prepared)
    return names


# What is left ----------------------------------------------------------------------------------------------------


def test_continue_leaves_what_is_complete_and_makes_what_is_not(command, model_file, studies, tmp_path, computed):
    out = tmp_path / "out"
    words = ["predict", model_file(), "-i", studies, "-o", out, "--precision", "fp32", "--continue"]
    assert command(*words).code == 0
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    (out / "s1.nii.gz").write_bytes(before["s1.nii.gz"][:-20] + b"x" * 20)  # as long, and another
    (out / "s2.nii.gz").unlink()
    (out / ".unet4d" / "cases" / "s3.json").write_text("{")
    computed.clear()
    done = command(*words)
    assert done.told.splitlines()[0] == ("2 of 5 studies are complete and of the same models and settings: skipped")
    assert done.told.splitlines()[-1] == f"3 label maps and volumes.csv: {out}"
    assert computed == ["s1", "s2", "s3"]
    assert contents(out) == before
    assert {path.name for path in times if path.stat().st_mtime_ns == times[path]} == {"s0.nii.gz", "s4.nii.gz"}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (["--overlap", "0.1"], True),
        (["--mirror_axes", "0"], True),
        (["--time", "cyclic"], True),
        (["--precision", "bf16"], True),
        (["--format", "nifti", "seq.nrrd"], True),
        (["--probabilities"], True),
        (["--time", "open"], False),  # as it was run
        (["--max_memory", "8GB"], False),
        (["--sw_batch_size", "3"], False),
        (["--device", "cpu"], False),
    ],
)
def test_another_setting_has_all_made_again_another_memory_does_not(
    command, model_file, study, tmp_path, computed, change, again
):
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4), frames=2)
    words = ["predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out"]
    assert command(*words, "--precision", "fp32").code == 0
    computed.clear()
    assert command(*words, "--precision", "fp32", "--continue", *change).code == 0
    assert computed == ["heart"] * again


def test_another_model_or_input_has_it_made_again_a_moved_model_does_not(model_file, study, tmp_path, computed):
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4), frames=2)
    model, out = model_file(), tmp_path / "out"
    given = [tmp_path / "heart.nii.gz"]
    predict(model, given, out)
    computed.clear()
    moved = model.rename(tmp_path / "moved.pt")
    assert predict(moved, given, out, leave_complete=True) == []
    assert predict(model_file(lstm_channels=0), given, out, leave_complete=True) == [out / "heart.nii.gz"]
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4), frames=2, seed=9)
    assert predict(model, given, out, leave_complete=True) == [out / "heart.nii.gz"]
    assert computed == ["heart", "heart"]


def test_a_frame_duration_corrected_in_dataset_json_has_its_case_made_again(
    model_file, own_phantom, tmp_path, computed
):
    """Pins curves that stayed on the old times."""
    model, out, file = model_file(channel_names=("image",)), tmp_path / "out", own_phantom / "dataset.json"
    about = json_of(file)
    case = about["training"][0]["case"]
    predict(model, [own_phantom], out, cases=[case])
    computed.clear()
    about["training"][0]["frame_duration_s"] = 0.5
    file.write_text(json.dumps(about))
    assert predict(model, [own_phantom], out, cases=[case], leave_complete=True) == [out / f"{case}.nii.gz"]
    assert predict(model, [own_phantom], out, cases=[case], leave_complete=True) == []
    assert computed == [case]
    assert {row["time_s"] for row in rows_of(out)} >= {"0.0", "0.5"}


def test_files_of_a_format_that_is_not_asked_for_any_more_go_with_the_answer_they_were_of(model_file, study, tmp_path):
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4), frames=3)
    out, given = tmp_path / "out", [tmp_path / "heart.nii.gz"]
    [path] = predict(model_file(), given, out, InferenceOptions(probabilities=True), formats=["seg.nrrd", "nifti"])
    assert path == out / "heart_seg"
    assert len(list(path.iterdir())) == 3
    (path / "corrected.seg.nrrd").write_text("of another program")
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4), frames=2)
    [path] = predict(model_file(), given, out, formats=["seg.nrrd"])
    assert sorted(one.name for one in path.iterdir()) == [
        "corrected.seg.nrrd", "heart_frame000.seg.nrrd", "heart_frame001.seg.nrrd",
    ]  # fmt: skip
    assert not (out / "heart.nii.gz").exists()
    assert not (out / "heart_probabilities").exists()


# What is shared --------------------------------------------------------------------------------------------------


def test_parts_make_together_what_one_makes(command, model_file, studies, tmp_path):
    words = ["predict", model_file(), "-i", studies, "--precision", "fp32"]
    assert command(*words, "-o", tmp_path / "whole").code == 0
    for part in range(6):
        done = command(*words, "-o", tmp_path / "out", "--num-parts", "6", "--part-id", part)
        assert (done.code, done.error) == (0, "")
        taken = "1 of 5 studies" if part < 5 else "0 of 5 studies, nothing to do"
        assert done.told.splitlines()[0] == f"part {part} of 6: {taken}"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert set(json_of(tmp_path / "out" / "prediction.json")["cases"]) == {f"s{seed}" for seed in range(5)}


def test_the_jobs_of_a_slurm_array_share_by_themselves(command, model_file, studies, tmp_path, monkeypatch):
    for name, value in (("COUNT", 2), ("ID", 8), ("MIN", 7), ("MAX", 8), ("STEP", 1)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert done.told.splitlines()[0] == "part 1 of 2 by the Slurm array: 2 of 5 studies"
    assert [line.split("\t")[1] for line in done.told.splitlines() if line.startswith("done")] == ["s1", "s3"]


def test_names_that_are_doubled_are_told_to_every_part(command, model_file, study, tmp_path):
    for folder in ("a", "b"):
        study(tmp_path / folder / "heart.nii.gz")
    done = command(
        "predict",
        model_file(),
        "-i",
        tmp_path / "a",
        tmp_path / "b",
        "-o",
        tmp_path / "out",
        "--num_parts",
        9,
        "--part_id",
        8,
    )
    assert done.code == 2
    assert "several inputs are named heart" in done.line


def _predicted(ranks, model: Path, given: Path, out: Path) -> list[str]:
    return [path.name for path in predict(model, [given], out, FP32, device="cpu", ranks=ranks)]


def test_processes_share_the_studies(model_file, studies, tmp_path):
    model = model_file()
    predict(model, [studies], tmp_path / "whole", FP32)
    written = run_ranks(2, _predicted, model, studies, tmp_path / "out")
    assert written == [["s0.nii.gz", "s2.nii.gz", "s4.nii.gz", "s1.nii.gz", "s3.nii.gz"]] * 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_fails_in_one_process_is_told_by_the_first(model_file, studies, tmp_path):
    (studies / "s1.nii.gz").write_bytes(b"")
    ended = run_ranks(2, _predicted, model_file(), studies, tmp_path / "out", fails=True)
    assert [type(end) for end in ended] == [InputError, ReportedByOtherRank]
    assert "1 of 5 studies could not be segmented, the other 4 are in " in str(ended[0])
    assert ended[1].exit_code == 2
    assert "s1" not in json_of(tmp_path / "out" / "prediction.json")["cases"]


def test_processes_of_one_machine_share_what_is_free(monkeypatch):
    monkeypatch.setattr("unet4d.inference.memory_budget.free_memory_bytes", lambda: 8e9)
    monkeypatch.setattr("unet4d.inference.memory_budget.resident_bytes", lambda: 10**9)
    assert MemoryBudget.of_process(None, 1).limit_bytes is None
    assert MemoryBudget.of_process(None, 4).limit_bytes == 3 * 10**9
    assert MemoryBudget.of_process(5, 4).limit_bytes == 5


def test_two_calls_at_once_lose_none_of_each_others_rows(model_file, studies, tmp_path):
    """Five, each with its own view of the same folder."""
    model = model_file()
    threads = [
        threading.Thread(
            target=predict,
            daemon=True,
            args=(model, [studies], tmp_path / "out", FP32),
            kwargs={"shard": JobShard(5, part)},
        )
        for part in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert {row["case"] for row in rows_of(tmp_path / "out")} == {f"s{seed}" for seed in range(5)}
    assert len(json_of(tmp_path / "out" / "prediction.json")["cases"]) == 5


def test_a_folder_that_another_job_begins_in_meanwhile_is_a_predictions(studies, tmp_path, monkeypatch):
    """Pins a job of an array that took the tables of one a moment ahead of it for files of another program."""
    out, labels = tmp_path / "out", {"background": 0, "heart": 1}
    usual, begun = os.path.lexists, []

    def raced(path) -> bool:
        if not begun and str(path).endswith("s0.nii.gz"):
            begun.append(True)
            PredictionFolder(out, labels).begin()
        return usual(path)

    monkeypatch.setattr("unet4d.inference.batch.output_folder.os.path.lexists", raced)
    PredictionFolder(out, labels).check(open_nifti_source(studies).studies)
    assert (out / "volumes.csv").is_file()


def test_without_a_lock_none_is_lost_either(model_file, study, tmp_path, monkeypatch):
    """A file system that locks nothing: a case that appears while the tables are written is in them in the end."""
    study(tmp_path / "a.nii.gz")
    model, out = model_file(), tmp_path / "out"
    predict(model, [tmp_path / "a.nii.gz"], out)
    record = json_of(out / ".unet4d" / "cases" / "a.json")
    usual, calls = SummaryTables._write_all, []

    def raced(self) -> None:
        usual(self)
        if not calls:
            calls.append(True)
            (out / ".unet4d" / "cases" / "b.json").write_text(json.dumps({**record, "case": "b"}))

    def refused(descriptor, operation):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr(SummaryTables, "_write_all", raced)
    folder = PredictionFolder(out, json_of(out / "prediction.json")["labels"])
    folder.tables.write(always=True)
    assert {row["case"] for row in rows_of(out)} == {"a", "b"}


@pytest.mark.usefixtures("partial_documents")
def test_the_tables_of_many_cases_are_not_written_with_each(tmp_path, monkeypatch):
    """Pins a cost that grew with the square of the number of cases: it is a small share of the time, and right in the end."""
    folder = PredictionFolder(tmp_path, {"background": 0, "one": 1})
    written, now_s = [], [0.0]
    usual = SummaryTables._write_all

    def counted(self) -> None:
        written.append(True)
        now_s[0] += 0.01
        usual(self)

    monkeypatch.setattr("unet4d.inference.batch.summary_tables.time", SimpleNamespace(monotonic=lambda: now_s[0]))

    monkeypatch.setattr(SummaryTables, "_write_all", counted)
    for n in range(300):
        folder.records.write(f"case{n}", {"made": {}, "entry": {}, "frames": 1, "volumes_ml": {"one": [1.5]}}, [])
        folder.tables.write()
        now_s[0] += 0.01
    assert 10 < len(written) < 20  # 20 times as long as writing them takes lies between two
    folder.finish()
    assert [row["case"] for row in rows_of(tmp_path)] == [f"case{n}" for n in range(300)]


@pytest.mark.usefixtures("partial_documents")
def test_tables_are_written_although_a_suspended_process_holds_their_lock(tmp_path, monkeypatch):
    """Pins a wait without end."""
    folder = PredictionFolder(tmp_path, {"background": 0, "one": 1})
    folder.tables.write(always=True)
    folder.records.write("one", {"made": {}, "entry": {}, "frames": 1, "volumes_ml": {"one": [1.5]}}, [])
    monkeypatch.setattr("unet4d.system.lock.LOCK_PATIENCE_S", 0.1)
    with open(tmp_path / ".unet4d" / "lock", "w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        folder.tables.write(always=True)
    assert [row["case"] for row in rows_of(tmp_path)] == ["one"]


# What comes in ---------------------------------------------------------------------------------------------------


def test_a_list_names_studies_datasets_and_folders(command, model_file, studies, own_phantom, study, tmp_path):
    study(tmp_path / "lists" / "near.nii.gz")
    (tmp_path / "lists" / "mine.txt").write_text(
        f"# the studies of May\n\nnear.nii.gz\n{studies / 's0.nii.gz'}\n../phantom/dataset.json\n"
    )
    done = command("predict", model_file(), "-i", tmp_path / "lists" / "mine.txt", "-o", tmp_path / "out")
    assert (done.code, done.error) == (0, "")
    cases = json_of(tmp_path / "out" / "prediction.json")["cases"]
    assert sorted(cases) == ["near", "phantom001", "phantom002", "phantom003", "s0"]


def test_a_list_saved_under_windows_is_one_too(studies, tmp_path):
    (studies / "mine.txt").write_bytes(b"\xef\xbb\xbfs0.nii.gz\r\ns1.nii.gz\r\n")
    assert expand_input_lists([studies / "mine.txt"]) == [studies / "s0.nii.gz", studies / "s1.nii.gz"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"# nothing\n", "mine.txt is empty; expected a list of inputs, one path per line"),
        (b"here.nii.gz\nthere.nii.gz\n", "line 2 of {}/mine.txt names {}/there.nii.gz, which is missing"),
        (b"\xff\xfe", "mine.txt cannot be read as a list of inputs"),
    ],
)
def test_a_list_with_a_mistake_is_told(command, model_file, study, tmp_path, content, words):
    study(tmp_path / "here.nii.gz")
    (tmp_path / "mine.txt").write_bytes(content)
    done = command("predict", model_file(), "-i", tmp_path / "mine.txt", "-o", tmp_path / "out")
    assert done.code == 2
    assert words.replace("{}", str(tmp_path)) in done.line


def test_one_frame_for_a_network_of_many_works_and_is_said(command, model_file, study, tmp_path):
    study(tmp_path / "flat.nii.gz", frames=1)
    words = ["-i", tmp_path / "flat.nii.gz", "-o", tmp_path / "out", "--time", "cyclic"]
    done = command("predict", model_file(), *words)
    assert done.code == 0
    assert done.line == (
        "flat has one frame, and the network was trained on clips of 8: it is segmented without others before and after"
    )
    assert command("predict", model_file(lstm_channels=0), *words).error == ""  # which sees each frame alone anyhow


@pytest.mark.parametrize("grown", [True, False])
def test_an_input_that_changes_while_it_is_read_is_reported_and_the_others_are_done(
    command, model_file, studies, tmp_path, monkeypatch, grown
):
    def changing(models, study, options, budget):
        made = prepare_study(models, study, options, budget)
        if study.name == "s2":
            with open(studies / "s2.nii.gz", "ab" if grown else "rb+") as file:
                file.write(b"more")
            os.utime(studies / "s2.nii.gz", ns=(0, 5))
        return made

    monkeypatch.setattr("unet4d.inference.batch.run.prepare_study", changing)
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert done.code == 2
    assert f"s2: {studies / 's2.nii.gz'} changed while it was read, expected a complete file" in done.line
    assert not (tmp_path / "out" / "s2.nii.gz").exists()
    assert len(json_of(tmp_path / "out" / "prediction.json")["cases"]) == 4


def test_a_file_that_is_still_being_written_is_told_so_and_not_as_damaged(
    command, model_file, study, tmp_path, monkeypatch
):
    study(tmp_path / "heart.nii.gz")
    whole = (tmp_path / "heart.nii.gz").read_bytes()
    (tmp_path / "heart.nii.gz").write_bytes(whole[:900])

    def growing(models, study, options, budget):
        try:
            return prepare_study(models, study, options, budget)
        finally:
            (tmp_path / "heart.nii.gz").write_bytes(whole[:1900])

    monkeypatch.setattr("unet4d.inference.batch.run.prepare_study", growing)
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert (done.code, "changed while it was read" in done.line) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--max_memory", "much"],
            "--max_memory is much, expected a size above 0",
        ),
        (["--max_memory", "0"], "--max_memory is 0, expected a size above 0"),
        (["--cyclic_shifts", "0"], "got cyclic_shifts 0, expected 1"),
        (["--mirror_axes", "3"], "got mirror_axes [3], expected axes among"),
        (["--num_parts", "2"], "got --num_parts without --part_id"),
        (["--format", "dicom"], "--format"),
    ],
)
def test_an_option_that_cannot_be_is_told(command, model_file, studies, tmp_path, options, words):
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert words in done.line
