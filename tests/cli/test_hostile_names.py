"""Names that are hostile to terminals, spreadsheets, encodings and matplotlib go through every command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.images.label_writers import LabelClass, write_color_table, write_label_descriptions, write_segmentation
from unet4d.models.task import Task
from unet4d.report.pages.index_page import IndexEntry, index_page
from unet4d.report.pages.score_tables import ScoreSection
from unet4d.report.pages.study import SegmentedStudy
from unet4d.report.pages.study_page import viewer_data
from unet4d.report.pages.template import PageTable
from unet4d.report.pictures.contour_sheet import draw_contour_sheet
from unet4d.report.pictures.curve_plot import draw_curves
from unet4d.report.viewer.embedding import embed_study
from unet4d.system.class_values import class_fault
from unet4d.system.csv_file import read_table

NAMES = ["not\udcffutf8", "=cmd", "a;=1", "t\tab", "n\nl", "esc\x1b[2J", "over\u202eride", "$x$"]
CLASSES = {"background": 0, "$\\frac{1}{0}$": 1, "_a^b {c} 100%": 2, "=1+1": 3}


def test_studies_of_hostile_names_are_predicted_scored_and_shown(command, model_file, study, tmp_path):
    for seed, name in enumerate(NAMES):
        study(tmp_path / "in" / f"{name}.nii", seed=seed, frames=2)
    model, out = model_file(CLASSES), tmp_path / "out"
    done = command("predict", model, "-i", tmp_path / "in", "-o", out)
    assert done.code == 0
    rows = [line.split("\t") for line in done.told.splitlines() if line.startswith("done\t")]
    assert len(rows) == len(NAMES)
    assert {len(row) for row in rows} == {4}
    assert all(cell.isprintable() for row in rows for cell in row)
    assert sorted(json.loads((out / "prediction.json").read_text())["cases"]) == sorted(NAMES)
    assert {row["case"] for row in read_table(out / "volumes.csv", ("case",), "again")} == set(NAMES)
    assert "\n=" not in (out / "volumes.csv").read_text()
    again = command("predict", model, "-i", tmp_path / "in", "-o", out, "--continue")
    assert (again.code, again.told.startswith(f"{len(NAMES)} of {len(NAMES)} studies are complete")) == (0, True)
    few = [NAMES[0], NAMES[1], NAMES[7]]
    for name in set(NAMES) - set(few):
        os.unlink(out / f"{name}.nii.gz")
    scores = tmp_path / "scores"
    assert command("evaluate", "--reference", out, "--prediction", out, "--out", scores).code == 0
    assert command("compare", scores, scores, "--out", tmp_path / "comparison").code == 0
    page = [
        "report",
        "--image",
        tmp_path / "in",
        "--prediction",
        out,
        "--out",
        tmp_path / "page",
        "--evaluation",
        scores,
    ]
    assert command(*page).code == 0
    assert "not%FFutf8.html" in (tmp_path / "page/index.html").read_text()
    assert b"not\xffutf8.html" in os.listdir(os.fsencode(tmp_path / "page"))


def test_a_study_with_a_name_too_long_for_its_outputs_fails_alone(command, model_file, study, tmp_path):
    for name in ("short", "y" * 251):
        study(tmp_path / "in" / f"{name}.nii", frames=2)
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 2
    assert "shorter names" in done.line
    assert (tmp_path / "out/short.nii.gz").exists()
    assert "y" * 251 not in json.loads((tmp_path / "out/prediction.json").read_text())["cases"]


def test_an_exception_that_nobody_expected_is_the_failure_of_one_study(
    command, model_file, studies, tmp_path, monkeypatch
):
    import unet4d.inference.batch.run as batch

    def failing(models, study, options, budget, prepare=batch.prepare_study):
        if study.name == "s2":
            raise KeyError("bug")
        return prepare(models, study, options, budget)

    monkeypatch.setattr(batch, "prepare_study", failing)
    done = command("predict", model_file(), "-i", studies, "-o", tmp_path / "out")
    assert done.code == 1
    assert "1 of 5 studies" in done.line
    assert "unexpected KeyError" in done.line
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


@pytest.mark.parametrize("name", ["$\\frac{1}{0}$", "$", "_hidden", "a\\$b$", "100% {x}", "\U0001f600", "L" * 900])
def test_class_names_are_drawn_as_they_are_and_never_as_mathematics(name):
    image = np.random.default_rng(0).random((2, 6, 6, 2), np.float32)
    label = (image > 0.5).astype(np.uint8)
    assert draw_contour_sheet(image, label, class_names={1: name}, title=name).ndim == 3
    assert draw_curves({name: np.array([1.0, 2.0])}, title=name).ndim == 3


def test_a_run_folder_that_is_not_utf8_is_refused_before_the_work(command, phantom, tiny_options, tmp_path):
    done = command("train", "--dataset", phantom, "--out", f"{tmp_path}/run\udcff", *tiny_options)
    assert (done.code, "UTF-8" in done.line) == (2, True)


YAML = {
    "nested": b"data: {held_out: " + b"[" * 3000 + b"]" * 3000 + b"}",
    "aliases": b"a: &a [x,x]\nb: &b [*a,*a]\ndata: {held_out: *b}",
    "tag": b"seed: !!python/object/apply:os.system ['echo hi']",
    "not UTF-8": b"train: {epochs: \xff}",
    "a list": b"[1, 2]",
    "a scalar": b"hello",
    "twice": b"seed: 1\nseed: 2",
    "digits": b"seed: " + b"9" * 5000,
    "null byte": b'data: {cache_dir: "a\\0b"}',
}


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_hostile_yaml_is_one_line(command, phantom, tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml")
    assert done.code == 2
    assert len(done.line) < 1000
    assert not (tmp_path / "run").exists()


SETTINGS = [
    ("seed", 2**64), ("seed", -1), ("data.patch_size", "[1000000000,1000000000,1000000000]"), ("data.num_workers", 10**9),
    ("train.learning_rate", ".inf"), ("train.learning_rate", ".nan"), ("train.epochs", 10**30), ("train.epochs", "1e30"),
    ("train.batch_size", 10**12), ("train.weight_decay", ".nan"), ("train.gradient_clip", ".inf"), ("train.ema_decay", ".nan"),
    ("data.in_plane_spacing_mm", ".inf"), ("data.foreground_fraction", ".nan"), ("model.lstm_channels", 10**8),
    ("model.channels", "[4,1000000000]"), ("inference.overlap", ".nan"), ("inference.sw_batch_size", 10**12),
    ("recompute.chunk_frames", 10**12), ("data.frames", "9" * 5000), ("data.patch_size", "[" * 3000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS, ids=[f"{name} {str(value)[:12]}" for name, value in SETTINGS])
def test_settings_out_of_all_bounds_are_one_line(command, phantom, tmp_path, name, value):
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", f"--{name}", value)
    assert done.code == 2
    assert name.split(".")[-1] in done.line or "nested" in done.line
    assert len(done.line) < 1000


LONG = "z" * 300


@pytest.mark.parametrize(
    "line",
    [
        "predict {model} -i {data}/images -o {tmp}/{long}",
        "predict {model} -i {tmp}/{long} -o {tmp}/o",
        "predict {tmp}/{long} -i {data}/images -o {tmp}/o",
        "train --dataset {data} --out {tmp}/{long}",
        "train --dataset {data} --out {tmp}/o --data.folds 3 --data.cache_dir {tmp}/{long}",
        "evaluate --reference {data} --prediction {data}/labels --out {tmp}/{long}",
        "evaluate --reference {tmp}/{long} --prediction {data}/labels --out {tmp}/o",
        "report --image {data} --prediction {data}/labels --out {tmp}/{long}",
        "verify {tmp}/{long}",
        "info {tmp}/{long}",
        "phantom --out {tmp}/{long} --subjects 1 --frames 2",
        "plan {data} --gpu-memory 24 --data.folds 3 --out {tmp}/{long}",
    ],
)
def test_a_path_that_no_file_system_takes_is_one_line(command, model_file, phantom, tmp_path, line):
    model = model_file() if "{model}" in line else Path()
    done = command(*line.format(model=model, data=phantom, tmp=tmp_path, long=LONG).split())
    assert done.code == 2
    assert "unet4d: " in done.line
    assert "report it" not in done.line


STEERING = "a\u202eb\x9b2J\u2066c"


def test_pages_show_escapes_for_what_steers_text():
    table = PageTable([STEERING], [[STEERING]])
    summary = ScoreSection(None, [table], [STEERING], lead=STEERING, facts=[(STEERING, STEERING)], notes=[STEERING])
    entry = IndexEntry(
        STEERING, "a.html", STEERING, "data:", [(STEERING, "#010203", STEERING)], [STEERING], None, STEERING
    )
    page = index_page(STEERING, [entry], {STEERING: STEERING}, summary)
    assert page.replace("\n", "").isprintable()
    assert page.count(r"a\u202eb\x9b2J\u2066c") >= 17


def test_the_data_of_the_scripts_show_escapes_for_what_steers_text():
    voxels = np.zeros((2, 4, 4, 2), np.float32)
    image, label = Image4D.from_array(voxels, np.eye(4), None), voxels.astype(np.uint8)
    study = SegmentedStudy(STEERING, image, label, {STEERING: 1}, None, np.zeros(2, bool), None, {}, None, {})
    data = json.dumps(viewer_data(study, embed_study(voxels, label, np.eye(4), (0, 1), 10**6)))
    assert data.count(r"a\\u202eb\\x9b2J\\u2066c") == 2


def test_files_for_viewers_show_escapes_for_what_steers_text(tmp_path):
    classes = [LabelClass(STEERING, 1, "#010203")]
    write_label_descriptions(tmp_path / "labels.txt", classes)
    write_color_table(tmp_path / "labels.ctbl", classes)
    write_segmentation(tmp_path / "a.seg.nrrd", np.ones((2, 2, 2), np.uint8), np.eye(4), classes)
    for path in tmp_path.iterdir():
        head = path.read_bytes().partition(b"\n\n")[0].decode()
        assert r"a\u202eb\x9b2J\u2066c" in head
        assert head.replace("\n", "").isprintable()


def test_the_names_of_a_dataset_are_those_that_its_models_take():
    for name in ["no\u200djoiner", "right\u200fleft", "\x9b2J", "a\u2028b", "\ud800", "é", "x" * 200, "x" * 201, " "]:
        labels = {"background": 0, name: 1}
        values = Task(labels, ("image",), cyclic=True).as_dict()
        if class_fault(labels.items()):
            with pytest.raises(InputError, match="labels"):
                Task.from_dict(values)
        else:
            assert Task.from_dict(values).labels == labels
