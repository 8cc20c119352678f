"""`--json`: one document on stdout that its schema describes, all else on stderr, and the same exit code."""

from __future__ import annotations

import json
import shutil

import jsonschema
import numpy as np
import pytest

from tests.builders import write_study
from unet4d.evaluation.compare import COMPARISON_JSON
from unet4d.evaluation.tables import SUMMARY_JSON
from unet4d.system.documents import load_schema
from unet4d.system.files import read_json


def parsed(done, name):
    """Return the document on stdout, once it is found to be alone and of its schema."""
    found = json.loads(done.told)
    assert found["schema"] == {"name": name, "version": 1}
    jsonschema.validate(found, load_schema(name))
    return found


@pytest.fixture
def scored(tmp_path):
    """Return folders of two references and of their label maps, which lack a row of voxels."""
    for kind, size in (("truth", 6), ("found", 5)):
        for name in "ab":
            label = np.zeros((3, 9, 5, 2), np.uint8)
            label[:, :size, 0, 0] = 1
            write_study(tmp_path / kind / f"{name}.nii.gz", label, seconds=1.0)
    return tmp_path


def evaluated(folder, *more):
    return [
        "evaluate",
        "--reference",
        folder / "truth",
        "--prediction",
        folder / "found",
        "--out",
        folder / "out",
        *more,
    ]


def test_info_of_versions_and_of_a_run(command, trained):
    assert parsed(command("info", "--json"), "info")["versions"]["torch"]
    found = parsed(command("info", trained, "--json"), "info")
    assert (found["state"], found["summary"]["schema"]["name"]) == ("finished", "run")


def test_verify_prints_the_faults_and_ends_with_2(command, own_phantom):
    assert parsed(command("verify", own_phantom, "--json"), "verification")["errors"] == 0
    (own_phantom / "labels" / "phantom001.nii.gz").write_bytes(b"no image")
    done = command("verify", own_phantom, "--json", "--out", own_phantom.parent / "fingerprint.json")
    assert done.code == 2
    assert parsed(done, "verification")["faults"][0]["kind"] == "unreadable"
    jsonschema.validate(read_json(own_phantom.parent / "fingerprint.json"), load_schema("fingerprint"))


def test_plan_prints_what_it_writes(command, phantom, tmp_path):
    given = {
        "model.channels": "[4, 8]", "model.lstm_channels": 0, "model.direction": "forward", "data.patch_size": "[16, 16, 4]",
        "data.frames": 2, "train.batch_size": 1, "recompute.chunk_frames": 0, "recompute.lstm": "gates",
    }  # fmt: skip
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    done = command("plan", phantom, "--gpu_memory", 24, "--out", tmp_path / "plan.yaml", "--json", *options)
    found = parsed(done, "plan")
    assert done.code == 0
    assert found["settings"]["data"]["patch_size"] == [16, 16, 4]
    assert found["peak_bytes"] <= found["budget_bytes"]
    assert found["reasons"]["data.patch_size"].startswith("as given")
    assert str(tmp_path / "plan.yaml") in done.error


def test_evaluate_prints_the_summary_it_writes(command, scored):
    done = command(*evaluated(scored, "--json"))
    assert done.code == 0
    assert parsed(done, "evaluation") == read_json(scored / "out" / SUMMARY_JSON)
    assert "summary.json" in done.error


def test_evaluate_prints_it_where_a_study_failed_and_ends_with_2(command, scored):
    (scored / "found" / "b.nii.gz").write_bytes(b"no image")
    done = command(*evaluated(scored, "--json"))
    assert done.code == 2
    found = parsed(done, "evaluation")
    assert (list(found["failed"]), found["cases"]) == (["b"], 1)
    assert "b" in done.error


def test_compare_prints_the_comparison_it_writes(command, scored):
    command(*evaluated(scored))
    done = command("compare", scored / "out", scored / "out", "--out", scored / "compared", "--json")
    assert done.code == 0
    assert parsed(done, "comparison") == read_json(scored / "compared" / COMPARISON_JSON)
    assert COMPARISON_JSON in done.error


def test_without_json_the_table_is_on_stdout(command, scored):
    done = command(*evaluated(scored))
    assert "mean over classes" in done.told
    assert done.error == ""


@pytest.mark.parametrize("name", ["info", "verify", "plan", "compare"])
def test_a_mistake_is_one_line_on_stderr_and_no_document(name, command, tmp_path):
    more = {"plan": ["--gpu_memory", 24], "compare": [tmp_path / "other"]}.get(name, [])
    done = command(name, tmp_path / "missing", *more, "--json")
    assert (done.code, done.told) == (2, "")
    assert "missing" in done.line


def test_results_of_another_version_are_refused(command, scored):
    command(*evaluated(scored))
    shutil.copytree(scored / "out", scored / "newer")
    newer = read_json(scored / "newer" / SUMMARY_JSON) | {"schema": {"name": "evaluation", "version": 2}}
    (scored / "newer" / SUMMARY_JSON).write_text(json.dumps(newer))
    done = command("compare", scored / "newer", scored / "out")
    assert done.code == 2
    assert "got the schema" in done.line
