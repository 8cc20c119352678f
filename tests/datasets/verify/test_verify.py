"""`unet4d verify`: what is printed, as text and as JSON, the exit code, and what plan and train make of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.phantom.make import make
from tests.acdc import ACDC, needs_acdc
from tests.datasets.verify.planting import blank, case, change_dataset, duration, image, label, put, rewrite, to_test
from unet4d.datasets.verify import run_checks
from unet4d.datasets.verify.run_checks import FINGERPRINT_FILE
from unet4d.errors import InputError
from unet4d.phantom import write_phantom
from unet4d.system import digests

TABLE = ("severity", "kind", "case", "file", "message")


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count written files as old at once."""
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)


@pytest.fixture
def damaged(own_phantom: Path) -> Path:
    """Two errors in one study, one in another, and a warning in the third."""
    rewrite(own_phantom / label(2), put(7))
    rewrite(own_phantom / image(2), put(np.nan), dtype=np.float32)
    (own_phantom / label(1)).unlink()
    duration(3, 1.0, 0)(own_phantom)
    return own_phantom


def test_clean_data_end_with_0_and_a_fingerprint(command, own_phantom):
    done = command("verify", own_phantom)
    assert (done.code, done.error) == (0, "")
    lines = done.told.splitlines()
    assert lines[-1] == f"3 studies: nothing is wrong; fingerprint: {own_phantom / '.unet4d-cache' / FINGERPRINT_FILE}"
    assert "studies          3 of 3 subjects" in lines
    assert "size             40 x 36 x 5" in lines
    assert "labelled frames  4 per study" in lines
    again = command("verify", own_phantom / "dataset.json").told.splitlines()
    assert again[:-1] == lines[:-1]
    assert again[-1].startswith("3 studies (3 as known): nothing is wrong")


def test_all_faults_are_listed_at_once_errors_first_and_the_exit_code_is_2(command, damaged):
    done = command("verify", damaged)
    assert done.code == 2
    assert done.line.startswith(f"unet4d: {damaged}: got 3 errors")
    lines = done.told.splitlines()
    heads = [line.split(":")[0] for line in lines if line.startswith(("error", "warning"))]
    assert heads == ["error missing-file", "error not-finite", "error label-value", "warning frame-duration"]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "dataset.json:", f"{image(2)}:", f"{label(2)}:", f"{image(3)}:",
    ]  # fmt: skip
    assert "3 errors, 1 warning; fingerprint" in lines[-1]


def test_json_says_the_same_and_nothing_else(command, damaged):
    told = command("verify", damaged).told
    done = command("verify", damaged, "--json")
    assert done.code == 2
    answer = json.loads(done.told)
    assert (answer["errors"], answer["warnings"]) == (3, 1)
    assert [tuple(fault) for fault in answer["faults"]] == [TABLE] * 4
    assert all(f"  {fault['message']}\n" in told for fault in answer["faults"])
    assert [(fault["severity"], fault["file"]) for fault in answer["faults"]] == [
        ("error", label(1)), ("error", image(2)), ("error", label(2)), ("warning", image(3)),
    ]  # fmt: skip
    assert [study["case"] for study in answer["fingerprint"]["studies"]] == ["phantom001", "phantom002", "phantom003"]


def test_warnings_alone_end_with_0(command, own_phantom):
    rewrite(own_phantom / image(2), blank(1))
    done = command("verify", own_phantom)
    assert (done.code, done.error) == (0, "")
    assert f"  {image(2)}: frame 1 holds one single value" in done.told
    assert "0 errors, 1 warning" in done.told
    assert json.loads(command("verify", own_phantom, "--json").told)["warnings"] == 1


def test_out_names_a_further_file_for_the_fingerprint(command, own_phantom, tmp_path):
    assert command("verify", own_phantom, "--out", tmp_path / "f.json").code == 0
    fingerprint = json.loads((tmp_path / "f.json").read_text())
    assert fingerprint.pop("schema")["name"] == "fingerprint"
    assert fingerprint == json.loads(command("verify", own_phantom, "--json").told)["fingerprint"]
    assert (own_phantom / ".unet4d-cache" / FINGERPRINT_FILE).is_file()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_dataset_json_that_cannot_be_understood_is_one_fault(command, own_phantom, options):
    change_dataset(own_phantom, lambda entry: entry.update(lables=entry.pop("labels")))
    done = command("verify", own_phantom, *options)
    assert done.code == 2
    assert "got 1 error" in done.line
    assert "dataset.json: unknown key 'lables' (near: labels" in done.told
    if options:
        answer = json.loads(done.told)
        assert [(fault["kind"], fault["file"]) for fault in answer["faults"]] == [("dataset-json", "dataset.json")]
        assert answer["fingerprint"]["studies"] == []


@pytest.mark.parametrize("roles", [{"left ventrikle": "left ventricle"}, {"left ventricle": "heart"}])
def test_roles_of_unknown_classes_or_structures_are_one_fault(command, own_phantom, roles):
    change_dataset(own_phantom, lambda about: about.update(roles=roles))
    done = command("verify", own_phantom)
    assert done.code == 2
    assert re.search(r'"roles" (names the class|has) .*expected', done.told + done.error)


def test_a_folder_that_is_no_dataset_is_reported_as_everywhere(command, tmp_path):
    done = command("verify", tmp_path)
    assert (done.code, done.told) == (2, "")
    assert "is an empty folder, expected a dataset folder" in done.line


def test_a_dataset_of_test_cases_alone_is_verified(command, own_phantom):
    change_dataset(own_phantom, lambda entry: [to_test(entry, 1), entry.update(training=[])])
    assert "1 study: nothing is wrong" in command("verify", own_phantom).told


def test_a_folder_that_cannot_be_written_to_is_verified(command, own_phantom, tmp_path, monkeypatch):
    monkeypatch.setattr("unet4d.datasets.dataset.os.access", lambda path, mode: Path(path) != own_phantom)
    done = command("verify", own_phantom, "--out", tmp_path / "f.json")
    assert done.code == 0
    assert done.told.endswith("nothing is wrong; the folder is read-only, --out FILE keeps the fingerprint\n")
    assert not (own_phantom / ".unet4d-cache").exists()
    assert (tmp_path / "f.json").is_file()


# Before plan and train ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "is_kept"), [(KeyError("bug"), False), (MemoryError(), False), (InputError("it is damaged"), True)]
)
def test_only_what_is_wrong_with_the_files_is_remembered(command, own_phantom, monkeypatch, error, is_kept):
    """Pins a passing fault of the machine that was kept as the fault of a study."""

    def failing(case, *given, usual=run_checks.check_image):
        if case.name == "phantom002":
            raise error
        return usual(case, *given)

    with monkeypatch.context() as patch:
        patch.setattr(run_checks, "check_image", failing)
        first = command("verify", own_phantom)
    assert first.code == 2
    assert "unreadable" in first.told
    assert command("verify", own_phantom).code == (2 if is_kept else 0)


def test_train_reports_the_first_errors_and_how_to_see_all(command, damaged, tiny_options, tmp_path):
    rewrite(damaged / label(3), put(9))
    done = command("train", "--dataset", damaged, "--out", tmp_path / "run", *tiny_options)
    assert done.code == 2
    assert done.line.startswith(f"unet4d: {damaged} has 4 errors: (1) ")
    assert done.line.endswith(f"; and 1 more; all of them: unet4d verify {damaged}")
    assert f"(1) {damaged / 'dataset.json'}: 1 file is missing: phantom001: {label(1)}; " in done.line
    assert f"(2) {damaged / image(2)}: 1 of 28800 voxels are NaN" in done.line
    assert not (tmp_path / "run").exists()


def test_train_counts_warnings_on_one_line_and_goes_on(command, own_phantom, tiny_options, tmp_path):
    rewrite(own_phantom / image(2), blank(1))
    done = command("train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options)
    assert done.code == 0
    assert f"1 warning about {own_phantom}; see them: unet4d verify {own_phantom}" in done.error.splitlines()


@pytest.fixture
def plan_stops(monkeypatch) -> None:
    """`unet4d plan` ends as soon as it has its fingerprint, before it counts anything."""

    def stop(*given):
        raise InputError("stopped here")

    monkeypatch.setattr("unet4d.planning.plan.list_candidates", stop)


def planning(root: Path, folder: Path) -> list[object]:
    return ["plan", root, "--gpu-memory", "8", "--out", folder / "plan.yaml"]


def test_skip_verify_skips(command, own_phantom, tiny_options, tmp_path, plan_stops):
    case(1, frame_duration_s=77)(own_phantom)
    training = ["train", "--dataset", own_phantom, "--out", tmp_path / "run"]
    for words, code, end in ((planning(own_phantom, tmp_path), 2, "stopped here"), (training, 0, "")):
        skipped = command(*words, *tiny_options, "--skip_verify")
        assert skipped.code == code
        assert end in skipped.error
        assert "warning" not in skipped.error
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert "1 warning about" in command(*words, *tiny_options).error


def test_plan_refuses_what_train_would(command, damaged, tmp_path, plan_stops):
    done = command(*planning(damaged, tmp_path))
    assert (done.code, (tmp_path / "plan.yaml").exists()) == (2, False)
    assert "has 3 errors: (1) " in done.line


def test_train_after_plan_verifies_nothing_again(command, own_phantom, tiny_options, tmp_path, monkeypatch, plan_stops):
    assert "stopped here" in command(*planning(own_phantom, tmp_path), *tiny_options).line

    def refuse(*given):
        raise AssertionError("a study was verified again")

    monkeypatch.setattr("unet4d.datasets.verify.run_checks.check_image", refuse)
    monkeypatch.setattr("unet4d.pipeline.fingerprint.read_study_properties", refuse)
    assert "stopped here" in command(*planning(own_phantom, tmp_path), *tiny_options).line
    assert command("train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options).code == 0


def test_a_read_only_dataset_is_verified_into_the_run(command, own_phantom, tiny_options, tmp_path, monkeypatch):
    real = os.access
    monkeypatch.setattr(
        "unet4d.datasets.dataset.os.access", lambda path, mode: Path(path) != own_phantom and real(path, mode)
    )
    assert command("train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options).code == 0
    assert (tmp_path / "run" / "cache" / FINGERPRINT_FILE).is_file()
    assert not (own_phantom / ".unet4d-cache").exists()


def test_datasets_that_share_a_cache_are_each_verified_into_their_own_folder(
    command, own_phantom, tiny_options, tmp_path, plan_stops
):
    """Pins results of one name in the shared `data.cache_dir`, where each dataset's took the place of the other's."""
    shared = ("--data.cache_dir", tmp_path / "shared")
    other = shutil.copytree(own_phantom, tmp_path / "other")
    assert command("train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options, *shared).code == 0
    assert "stopped here" in command(*planning(other, tmp_path), *tiny_options, *shared).line
    assert not (tmp_path / "shared" / FINGERPRINT_FILE).exists()
    for root in (own_phantom, other):
        assert "3 studies (3 as known)" in command("verify", root).told


def test_a_taken_run_folder_is_refused_before_the_studies_are_read(command, own_phantom, trained, monkeypatch):
    (own_phantom / image(1)).unlink()
    done = command("train", "--dataset", own_phantom, "--out", trained)
    assert "already holds a run" in done.line


# Real data ---------------------------------------------------------------------------------------------------------


@needs_acdc
def test_real_cine_studies_have_no_true_frame_duration_and_nothing_else_is_wrong(command, tmp_path, monkeypatch):
    monkeypatch.setenv("UNET4D_ALLOW_LINKS_TO", str(ACDC))
    for name in ("images", "labels", "dataset.json"):
        (tmp_path / name).symlink_to(ACDC / name)
    done = command("verify", tmp_path, "--json")
    assert (done.code, done.error) == (0, "")
    answer = json.loads(done.told)
    cases = [entry["case"] for entry in json.loads((ACDC / "dataset.json").read_text())["training"]]
    assert [(fault["kind"], fault["case"]) for fault in answer["faults"]] == [("frame-duration", one) for one in cases]
    assert all("gives a frame duration of 1 with no unit" in fault["message"] for fault in answer["faults"])
    assert answer["fingerprint"]["summary"]["spacing_mm"]["median"][2] == 10.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cine", "flow", "dce"])
def test_nothing_is_found_in_many_phantoms(command, tmp_path, kind):
    shape = {"cine": (40, 40, 5), "flow": (32, 32, 8), "dce": (32, 24, 6)}[kind]
    for seed in range(6):
        for frames, ambiguous in ((10, 0.0), (10, 0.2), (20, 0.4)):
            out = tmp_path / f"{seed}_{frames}_{ambiguous}"
            if kind == "cine":
                write_phantom(out, 5, frames, "two", ambiguous, seed, shape)
            elif not ambiguous:
                make(kind, out, 5, frames, "two", seed, shape)
            else:
                continue
            assert json.loads(command("verify", out, "--json").told)["faults"] == []
