"""A model file predicts what its run predicts, names neither subjects nor folders, and its card has what is known."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch

from tests.cli.stops import run_armed, signalled
from tests.errors import error_of
from tests.processes import exit_code
from unet4d import load_model, read_image, segment
from unet4d.inference.export import export
from unet4d.inference.postprocessing_steps import Step, find_steps, write_steps
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from unet4d.models.folds import load_models
from unet4d.models.model_file import checkpoint_sha256, read_model_file, write_model_file

STEPS = [Step("largest_component", "myocardium")]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, with post-processing and with names of this machine in its settings."""
    copy = shutil.copytree(trained, tmp_path / "secret place" / "run")
    for name in (BEST, LAST):
        content = load_checkpoint(copy / name)
        content["config"]["data"] |= {"cache_dir": "/secret place/cache", "val_subjects": ["phantom001", "secret name"]}
        content["config"]["train"] |= {"init_from": "/secret place/before/run", "mlflow": "secret project"}
        content["task"]["held_out"] = ["phantom001", "secret name"]
        torch.save(content, copy / name)
    write_steps(copy, STEPS, [copy / BEST], {})
    return copy


def test_a_file_predicts_as_its_run_with_the_same_post_processing(run, tmp_path, study, command):
    study(tmp_path / "study.nii.gz", frames=2)
    file = tmp_path / "heart.unet4d"
    assert command("export", run, "--out", file).code == 0
    assert all(map(torch.equal, load_model(file).network.parameters(), load_model(run).network.parameters()))
    labels = []
    for model, out in ((run, "by_run"), (file, "by_file")):
        done = command("predict", model, "-i", tmp_path / "study.nii.gz", "-o", tmp_path / out, "--device", "cpu")
        assert done.code == 0, done.error
        assert f"post-processing from {model}" in done.told
        assert "largest_component of myocardium" in done.told
        labels.append((tmp_path / out / "study.nii.gz").read_bytes())
    assert labels[0] == labels[1]
    made = json.loads((tmp_path / "by_file" / ".unet4d" / "cases" / "study.json").read_text())["made"]
    assert made["models"] == [checkpoint_sha256(file / "model")]
    continued = command("predict", file, "-i", tmp_path / "study.nii.gz", "-o", tmp_path / "by_file", "--continue")
    assert "nothing left to segment" in continued.told


def test_the_same_export_gives_the_same_bytes_and_names_no_subject_and_no_folder(run, tmp_path):
    one, two = (export(run, tmp_path / name).read_bytes() for name in ("one.unet4d", "two.unet4d"))
    assert one == two
    assert b"secret" not in one
    assert b"phantom001" not in one
    assert str(tmp_path).encode() not in one
    model = load_model(tmp_path / "one.unet4d")
    assert (model.task.held_out, model.config.data.val_subjects, model.config.train.init_from) == ((), None, "run")
    export(tmp_path / "one.unet4d", tmp_path / "again.unet4d")
    again = read_model_file(tmp_path / "again.unet4d")
    assert again.networks == read_model_file(tmp_path / "one.unet4d").networks
    assert again.card["postprocessing"] == [STEPS[0].as_dict()]


def test_what_nobody_stated_is_not_stated_and_what_was_stated_is_shown(run, tmp_path, command):
    file, licence = tmp_path / "heart.unet4d", tmp_path / "LICENCE"
    assert command("export", run, "--out", file).code == 0
    told = command("info", file).told
    for row in ("model", "intended use", "licence", "training data"):
        assert f"{row:<15}" in told
    assert told.count("not stated") == 4
    licence.write_text("Free for research\nin hospitals")
    words = [
        "--name",
        "cine heart",
        "--intended_use",
        "research only",
        "--training_data",
        "phantoms",
        "--licence",
        licence,
    ]
    assert command("export", run, "--out", file, *words).code == 0
    told = command("info", file).told
    for text in ("cine heart", "research only", "phantoms", "Free for research (the first of 2 lines; --json has all)"):
        assert text in told
    assert "beating heart phantom: 2 subjects, 2 studies, 8 frames, 8 of them labelled; validated on 1 subject" in told
    assert "largest_component of myocardium" in told
    assert "right ventricle, myocardium, left ventricle" in told
    facts = json.loads(command("info", file, "--json").told)
    assert facts["licence"] == licence.read_text()
    assert facts["card"]["labels"] == {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    assert facts["networks"]["model"]["model"]["weights"] == sum(
        w.numel() for w in load_model(run).network.parameters()
    )
    assert "to predict with" in command("info", file / "model").told


def test_a_file_that_is_exported_again_keeps_what_was_stated_and_recorded(run, tmp_path):
    (tmp_path / "LICENCE").write_text("Free for research")
    stated = {"name": "cine heart", "intended_use": "research only", "training_data": "phantoms"}
    first = export(run, tmp_path / "one.unet4d", **stated, licence=tmp_path / "LICENCE")
    one, two = (read_model_file(path) for path in (first, export(first, tmp_path / "two.unet4d")))
    assert (two.card, two.licence) == (one.card, one.licence)
    (tmp_path / "LICENCE").write_text("Free for all")
    three = read_model_file(
        export(first / "model", tmp_path / "three.unet4d", name="other", licence=tmp_path / "LICENCE", half=True)
    )
    assert three.card == one.card | {"name": "other"}
    assert three.licence == "Free for all"


def test_folds_go_into_one_file_by_their_last_checkpoints(trained, tmp_path, study):
    folds = tmp_path / "folds"
    for fold in range(3):
        content = load_checkpoint(trained / LAST)
        content["config"]["fold"] = fold
        content["network"]["head.bias"] += fold
        (folds / f"fold_{fold}").mkdir(parents=True)
        torch.save(content, folds / f"fold_{fold}" / LAST)
        torch.save(content | {"training": {}}, folds / f"fold_{fold}" / BEST)
    file = export(folds, tmp_path / "heart.unet4d")
    models, before = load_models([file]), load_models([folds])
    assert [model.path.name for model in models] == ["fold_0", "fold_1", "fold_2"]
    study(tmp_path / "study.nii.gz", frames=2)
    image = read_image(tmp_path / "study.nii.gz")
    assert (segment(models, image) == segment(before, image)).all()
    assert read_model_file(file).card["networks"]["fold_2"]["checkpoint"] == LAST
    assert find_steps(file / "fold_0", {}) == ([], file)


def test_half_precision_halves_the_file(model_file, tmp_path):
    whole, half = (export(model_file(), tmp_path / f"{half}.unet4d", half=half) for half in (False, True))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    for ours, wanted in zip(load_model(half).network.parameters(), load_model(whole).network.parameters(), strict=True):
        assert torch.equal(ours, wanted.half().float())
    assert read_model_file(half).card["networks"]["model"]["trained_on"] is None


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\xff\xff", "no text in UTF-8"), (b"a" * (10**6 + 1), "longer than")]
)
def test_a_licence_that_is_no_text_is_refused(model_file, tmp_path, content, says):
    (tmp_path / "LICENCE").write_bytes(content)
    line = error_of(lambda path: export(model_file(), tmp_path / "out.unet4d", licence=path), tmp_path / "LICENCE")
    assert says in line
    assert not (tmp_path / "out.unet4d").exists()


def test_a_file_of_one_fold_twice_is_refused(model_file, tmp_path):
    model = load_model(model_file())
    for name in ("fold_0", "fold_1"):
        (tmp_path / "folds" / name).mkdir(parents=True)
        save_checkpoint(tmp_path / "folds" / name / LAST, model.config, model.task, model.network, {})
    assert "held out fold 0, expected fold 1" in error_of(
        lambda path: export(path, tmp_path / "out.unet4d"), tmp_path / "folds"
    )


def test_a_card_with_a_step_for_an_unknown_class_ends_a_prediction_before_any_study(run, tmp_path, study):
    file = export(run, tmp_path / "heart.unet4d")
    content = read_model_file(file)
    steps = [{"operation": "largest_component", "class": "kidney"}]
    write_model_file(file, content._replace(card=content.card | {"postprocessing": steps}))
    study(tmp_path / "study.nii.gz", frames=2)
    told = error_of(predict, file, [tmp_path / "study.nii.gz"], tmp_path / "out", device="cpu")
    assert f"{file}: got largest_component of 'kidney', expected a class among right ventricle" in told
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    [path] = predict(file, [tmp_path / "study.nii.gz"], tmp_path / "out", device="cpu", postprocess="off")
    assert path.is_file()


@pytest.mark.parametrize(
    ("format", "at"),
    [
        ("onnx", ("os.replace", 2)),
        pytest.param("onnx", ("unet4d.system.files.remove_partial", 1), marks=pytest.mark.slow),
        pytest.param("openvino", ("openvino.save_model", 2), marks=pytest.mark.slow),
        pytest.param("bundle", ("os.replace", 3), marks=pytest.mark.slow),
        pytest.param("unet4d", ("os.replace", 1), marks=pytest.mark.slow),
    ],
)
def test_an_export_that_was_killed_is_finished_by_the_next_one(model_file, tmp_path, format, at):
    """Killed in a new place, and over an older export."""
    for package in {"onnx": ["onnx"], "openvino": ["onnx", "openvino"]}.get(format, []):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'unet4d[{format}]'")
    model, out, whole = model_file(), tmp_path / "killed.unet4d", tmp_path / "whole.unet4d"

    def files(path):
        return {str(file.relative_to(path)): file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}

    export(model, whole, format=format)
    for _ in ("new", "older"):
        kill = signalled(*at, signal.SIGKILL)
        assert exit_code(run_armed, kill, "export", model, "--out", out, "--format", format) == -signal.SIGKILL
        assert len(list(tmp_path.glob("*.partial.*"))) == (format == "unet4d")
        export(model, out, format=format)
        assert files(out) == files(whole)
        assert not list(tmp_path.glob("*.partial.*"))


@pytest.mark.parametrize("format", ["onnx", "bundle"])
def test_a_folder_of_something_else_is_not_written_to(model_file, tmp_path, format):
    pytest.importorskip("onnx", reason="onnx is missing: pip install 'unet4d[onnx]'")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/run.py").write_text("mine")
    assert "something else" in error_of(export, model_file(), tmp_path / "own", format=format)
    assert [path.read_text() for path in (tmp_path / "own").iterdir()] == ["mine"]


def test_steps_for_a_class_that_the_model_lacks_are_not_exported(run, tmp_path):
    write_steps(run, [Step("largest_component", "kidney")], [run / BEST], {})
    assert "'kidney', expected a class among right ventricle" in error_of(export, run, tmp_path / "out.unet4d")
