"""`unet4d train --fold all`, and what is done with its folds: ensembles, held-out cases, scores over folds."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import unet4d.training.cross_validation
from tests.builders import change_dataset
from tests.predictions import json_of
from unet4d import load_model, read_image, segment
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.subject_folds import split_folds
from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint
from unet4d.models.folds import folds_in, load_models
from unet4d.system.distributed import ProcessGroup
from unet4d.training.cross_validation import cross_validate
from unet4d.training.train import train


@pytest.fixture(scope="module")
def folds(phantom, tiny, tmp_path_factory) -> Path:
    """Train three folds of three subjects, two epochs each; not to be changed."""
    out = tmp_path_factory.mktemp("folds") / "out"
    cross_validate(phantom, out, tiny(), "cpu")
    return out


@pytest.fixture
def own_folds(folds, tmp_path) -> Path:
    """Return a copy that a test may change."""
    return shutil.copytree(folds, tmp_path / "folds")


@pytest.fixture
def trained_folds(monkeypatch) -> list[tuple[int, bool]]:
    """Replace `train` by a function that leaves a checkpoint; return its calls: fold and resume."""
    calls: list[tuple[int, bool]] = []

    def leave_a_checkpoint(dataset, out, config, device, resume, *others):
        calls.append((config.fold, resume))
        out.mkdir(parents=True, exist_ok=True)
        (out / LAST).touch()

    monkeypatch.setattr(unet4d.training.cross_validation, "train", leave_a_checkpoint)
    return calls


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / LAST)["network"]


# Training --------------------------------------------------------------------------------------------------------


def test_each_fold_is_an_ordinary_run_and_the_record_is_true(folds, phantom, tiny, tmp_path):
    held_out = split_folds(read_dataset(phantom), 3, 0)
    assert json_of(folds / "folds.json") == {
        "schema": {"name": "folds", "version": 1},
        "folds": 3, "seed": 0, "held_out": {f"fold_{k}": held_out[k] for k in range(3)},
    }  # fmt: skip
    for k, run in folds_in(folds).items():
        assert run == folds / f"fold_{k}"
        assert list(load_model(run).task.held_out) == held_out[k]
    train(phantom, tmp_path / "alone", tiny(fold=2), "cpu")
    alone, one_of_all = weights_of(tmp_path / "alone"), weights_of(folds / "fold_2")
    assert all(torch.equal(alone[name], one_of_all[name]) for name in alone)


def test_the_summary_has_the_last_score_of_each_fold_and_mean_and_deviation(folds):
    summary, last = json_of(folds / "summary.json"), []
    for k in range(3):
        lines = [json.loads(line) for line in (folds / f"fold_{k}" / "log.jsonl").read_text().splitlines()]
        last.append([line["mean_foreground_dice"] for line in lines if "mean_foreground_dice" in line][-1])
        assert summary["fold"][str(k)]["mean_foreground_dice"] == last[k]
    over = summary["over"]["mean_foreground_dice"]
    assert (over["n"], over["mean"], over["std"]) == (
        3,
        pytest.approx(np.mean(last)),
        pytest.approx(np.std(last, ddof=1)),
    )
    assert (summary["folds"], summary["seed"], summary["failed"]) == (3, 0, {})


def test_a_later_validation_is_scored_even_if_it_is_worse_and_its_weights_predict(own_folds, phantom, tiny):
    """A score that chose the weights on the subjects it scores is none."""
    log = own_folds / "fold_1" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    earlier = lines[0] | {"mean_foreground_dice": 0.99, "dice": dict.fromkeys(lines[1]["dice"], 0.99)}
    log.write_text("".join(json.dumps(line) + "\n" for line in (earlier, lines[1])))
    summary = cross_validate(phantom, own_folds, tiny(), "cpu", resume=True)
    assert summary["fold"]["1"]["mean_foreground_dice"] == lines[1]["mean_foreground_dice"]
    assert summary["epoch"]["1"] == 2
    assert [model.path.name for model in load_models([own_folds])] == [LAST] * 3
    assert load_models([own_folds / "fold_1"])[0].path.name == BEST


def test_the_command_trains_all_folds_and_prints_a_table(command, phantom, tiny_options, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(unet4d.training.cross_validation, "train", lambda *words: given.append(words))
    words = ["--dataset", phantom, "--out", tmp_path / "out", "--fold", "all", "--postprocess", "off", *tiny_options]
    done = command("train", *words)
    assert (done.code, done.error) == (0, "")
    assert [words[2].fold for words in given] == [0, 1, 2]
    assert [Path(words[1]).name for words in given] == ["fold_0", "fold_1", "fold_2"]
    assert "fold 1 of 3: holding phantom00" in done.told


def test_fewer_subjects_than_five_give_as_many_folds_and_that_is_printed(
    command, phantom, tiny_options, tmp_path, monkeypatch
):
    given = []
    monkeypatch.setattr(unet4d.training.cross_validation, "train", lambda *words: given.append(words))
    place = tiny_options.index("--data.folds")
    options = tiny_options[:place] + tiny_options[place + 2 :]
    done = command("train", "--dataset", phantom, "--out", tmp_path / "out", "--fold", "all", *options)
    assert done.code == 0
    assert done.told.count("3 labelled subjects: 3 folds instead of 5") == 1
    assert [(words[2].fold, words[2].data.folds) for words in given] == [(0, 3), (1, 3), (2, 3)]


def test_resume_begins_with_the_settings_of_the_folds_leaves_the_finished_and_begins_the_missing(
    command, phantom, own_folds, monkeypatch, trained_folds
):
    for k in range(3):
        (own_folds / f"fold_{k}" / "summary.json").write_text(
            json.dumps({"state": "finished", "held_out": json_of(own_folds / "folds.json")["held_out"][f"fold_{k}"]})
        )
    shutil.rmtree(own_folds / "fold_1")
    about = json_of(own_folds / "fold_2" / "summary.json") | {"state": "stopped"}
    (own_folds / "fold_2" / "summary.json").write_text(json.dumps(about))
    assert yaml.safe_load((own_folds / "config.yaml").read_text())["fold"] == "all"
    # neither --fold all nor a setting
    done = command("train", "--dataset", phantom, "--out", own_folds, "--resume", "--postprocess", "off")
    assert (done.code, done.error) == (0, "")
    assert trained_folds == [(1, False), (2, True)]
    assert "fold 0 of 3: finished before" in done.told


def test_a_finished_fold_with_other_settings_is_refused_by_train(phantom, own_folds, tiny):
    with pytest.raises(InputError, match=r"another configuration: train\.learning_rate is 0\.1 and was 0\.001"):
        cross_validate(phantom, own_folds, tiny(learning_rate=0.1), "cpu", resume=True)
    assert yaml.safe_load((own_folds / "config.yaml").read_text())["train"]["learning_rate"] == 0.001


def test_resuming_finished_folds_changes_none_of_them(phantom, own_folds, tiny):
    before = {run: (run / BEST).read_bytes() for run in folds_in(own_folds).values()}
    logs = {run: (run / "log.jsonl").read_bytes() for run in before}
    summary = json_of(own_folds / "summary.json")
    assert cross_validate(phantom, own_folds, tiny(), "cpu", resume=True) == summary
    assert {run: (run / BEST).read_bytes() for run in before} == before
    assert {run: (run / "log.jsonl").read_bytes() for run in before} == logs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, r"holds other folds: seed is 1 and was 0"),
        ({"folds": 2}, r"holds fold 2, and data\.folds is 2"),
        ({"subject": "another"}, r"holds other folds: fold_\d is \['\w+'\] and was \['phantom00\d'\]"),
        ({"resume": False}, r"already holds folds; choose a new --out, or add --resume"),
        ({"val_subjects": ["phantom001"]}, r"data\.val_subjects and all folds"),
    ],
)
def test_a_folder_of_other_folds_is_refused_with_the_difference(
    own_phantom, own_folds, tiny, trained_folds, change, words
):
    config = tiny(val_subjects=change.get("val_subjects"), seed=change.get("seed", 0))
    config.data.folds = change.get("folds", 3)
    if "subject" in change:
        change_dataset(own_phantom, lambda about: about["training"][0].update(subject=change["subject"]))
    with pytest.raises(InputError, match=words):
        cross_validate(own_phantom, own_folds, config, resume=change.get("resume", True))
    assert trained_folds == []


def test_a_single_run_is_no_folder_for_folds_and_an_empty_one_cannot_be_resumed(
    phantom, trained, tiny, tmp_path, trained_folds
):
    with pytest.raises(InputError, match="holds a single run"):
        cross_validate(phantom, trained, tiny(), resume=True)
    with pytest.raises(InputError, match=r"--resume, and .* holds no folds"):
        cross_validate(phantom, tmp_path / "new", tiny(), resume=True)
    assert trained_folds == []


def test_recorded_folds_that_are_not_begun_may_change(phantom, tiny, tmp_path, trained_folds):
    """A first fold that is refused leaves folds.json behind: another try may be with another seed."""
    (tmp_path / "folds.json").write_text('{"folds": 5, "seed": 7, "held_out": {}}')
    cross_validate(phantom, tmp_path, tiny())
    assert json_of(tmp_path / "folds.json")["seed"] == 0
    assert trained_folds == [(0, False), (1, False), (2, False)]


def test_one_failed_fold_is_reported_and_the_others_continue(command, phantom, tiny_options, tmp_path, monkeypatch):
    begun = []

    def failing(dataset, out, config, *others):
        begun.append(config.fold)
        if config.fold == 1:
            raise Unet4DError("the loss is no number")

    monkeypatch.setattr(unet4d.training.cross_validation, "train", failing)
    done = command("train", "--dataset", phantom, "--out", tmp_path / "out", "--fold", "all", *tiny_options)
    assert (done.code, begun) == (1, [0, 1, 2])
    told = done.error.splitlines()
    assert told[0] == "fold 1 failed: the loss is no number"
    assert "1 of 3 folds failed, the others are in" in told[-1]
    assert "continue with --resume: fold 1: the loss is no number" in told[-1]
    assert json_of(tmp_path / "out" / "summary.json")["failed"] == {"1": "the loss is no number"}


@pytest.mark.parametrize("error", [InputError("no"), Stopped("SIGTERM"), ReportedByOtherRank(1), KeyboardInterrupt()])
def test_other_errors_than_a_fold_s_own_end_all(phantom, tiny, tmp_path, monkeypatch, error):
    begun = []

    def ending(dataset, out, config, *others):
        begun.append(config.fold)
        raise error

    monkeypatch.setattr(unet4d.training.cross_validation, "train", ending)
    with pytest.raises(type(error)):
        cross_validate(phantom, tmp_path / "out", tiny())
    assert begun == [0]


def test_among_several_processes_a_failure_ends_all(phantom, tiny, tmp_path, monkeypatch):
    def failing(*given):
        raise Unet4DError("no")

    monkeypatch.setattr(unet4d.training.cross_validation, "train", failing)
    monkeypatch.setattr(ProcessGroup, "broadcast_from_rank0", lambda self, make: make())
    with pytest.raises(Unet4DError, match=r"^no$"):
        cross_validate(phantom, tmp_path / "out", tiny(), ranks=ProcessGroup(0, 2))


# Prediction ------------------------------------------------------------------------------------------------------


def test_a_folder_of_folds_answers_as_its_networks_together(command, folds, phantom, tmp_path):
    done = command("predict", folds, "-i", phantom, "-o", tmp_path / "out", "--cases", "phantom001", "--device", "cpu")
    assert (done.code, done.error) == (0, "")
    models = [load_model(folds / f"fold_{k}") for k in range(3)]
    wanted = segment(models, read_image(read_dataset(phantom).case("phantom001").images[0]), time="cyclic")
    came = np.asarray(nib.load(tmp_path / "out" / "phantom001.nii.gz").dataobj)
    np.testing.assert_array_equal(np.moveaxis(came, -1, 0), wanted)
    entry = json_of(tmp_path / "out" / "prediction.json")["cases"]["phantom001"]
    assert entry["models"] == [str(folds / f"fold_{k}" / LAST) for k in range(3)]
    assert not {"model", "fold"} & set(entry)


def test_each_case_is_segmented_by_the_network_that_did_not_see_it(command, folds, phantom, tmp_path):
    """Without folds.json: the folds of an array job are found by their folders."""
    alone = shutil.copytree(folds, tmp_path / "folds", ignore=shutil.ignore_patterns("*.json", "config.yaml"))
    done = command("predict", alone, "-i", phantom, "-o", tmp_path / "out", "--held_out", "--device", "cpu")
    assert (done.code, done.error) == (0, "")
    cases = json_of(tmp_path / "out" / "prediction.json")["cases"]
    held_out = split_folds(read_dataset(phantom), 3, 0)
    assert {cases[case.name]["fold"]: [case.subject] for case in read_dataset(phantom).training} == dict(
        enumerate(held_out)
    )
    for name, entry in cases.items():
        run = alone / f"fold_{entry['fold']}"
        assert entry["model"] == str(run / LAST)
        one = segment(load_model(run), read_image(read_dataset(phantom).case(name).images[0]), time="cyclic")
        came = np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(np.moveaxis(came, -1, 0), one)


def test_a_case_that_no_fold_or_two_held_out_is_named(command, folds, own_phantom, tmp_path):
    given = ["-i", own_phantom, "-o", tmp_path / "out", "--held_out"]
    done = command("predict", folds / "fold_0", folds / "fold_1", *given)
    [unseen] = split_folds(read_dataset(own_phantom), 3, 0)[2]
    assert done.code == 2
    assert f"case {unseen} (subject {unseen}) was held out by none of the 2 models" in done.line
    runs = [shutil.copytree(folds / "fold_2", tmp_path / "twice"), folds / "fold_2"]
    done = command("predict", folds / "fold_0", folds / "fold_1", *runs, *given)
    assert f"case {unseen} (subject {unseen}) was held out by {runs[0] / BEST} and {runs[1] / BEST}" in done.line
    change_dataset(own_phantom, lambda about: about["training"][0].update(case="new", subject="new"))
    assert "case new (subject new) was held out by none of the 3 models" in command("predict", folds, *given).line
    assert not (tmp_path / "out").exists()


def resave(run: Path, **changes: object) -> None:
    """Change settings of a run's last checkpoint, by their dotted names."""
    content = load_checkpoint(run / LAST)
    for name, value in changes.items():
        *sections, last = name.split("__")
        inner = content["config"]
        for section in sections:
            inner = inner[section]
        inner[last] = value
    torch.save(content, run / LAST)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: shutil.rmtree(out / "fold_1"), "lacks fold 1 of 3"),
        (lambda out: resave(out / "fold_1", seed=4), "are no folds of one training: got seed 4 and 0"),
        (lambda out: resave(out / "fold_1", train__epochs=9), "are no folds of one training: got train.epochs 9 and 2"),
        (lambda out: resave(out / "fold_1", fold=0), "held out fold 0, expected fold 1"),
        (lambda out: resave(out / "fold_1", data__val_subjects=["x"]), "held out named subjects, expected fold 1"),
        (lambda out: [path.unlink() for path in out.glob("fold_*/*.pt")], "holds neither checkpoint_best.pt nor"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(command, own_folds, phantom, tmp_path, spoil, words):
    spoil(own_folds)
    done = command("predict", own_folds, "-i", phantom, "-o", tmp_path / "out")
    assert done.code == 2
    assert words in done.line


def test_folds_may_differ_in_settings_of_a_machine(own_folds):
    resave(own_folds / "fold_1", data__num_workers=7, train__precision="bf16")
    assert len(unet4d.models.folds.load_models([own_folds])) == 3


# Scores ----------------------------------------------------------------------------------------------------------


def test_all_folds_are_scored_together_and_one_by_one(command, folds, phantom, tmp_path):
    predicted, scores = tmp_path / "predicted", tmp_path / "scores"
    command("predict", folds, "-i", phantom, "-o", predicted, "--held_out", "--device", "cpu")
    done = command("evaluate", "--reference", phantom, "--prediction", predicted, "--out", scores)
    assert (done.code, done.error) == (0, "")
    summary = json_of(scores / "summary.json")
    recorded = {name: case["fold"] for name, case in json_of(predicted / "prediction.json")["cases"].items()}
    assert summary["cases"] == 3
    assert summary["folds"]["cases"] == {
        str(fold): [name] for name, fold in sorted(recorded.items(), key=lambda p: p[1])
    }
    for name, fold in recorded.items():
        alone = command(
            "evaluate", "--reference", phantom, "--prediction", predicted, "--out", tmp_path / name, "--cases", name
        )
        assert "all folds" not in alone.told
        one = json_of(tmp_path / name / "summary.json")
        assert "folds" not in one
        assert summary["folds"]["fold"][str(fold)]["mean_foreground_dice"] == one["mean_foreground_dice"]
        assert summary["folds"]["fold"][str(fold)]["dice"] == {
            kind: entry["dice"]["mean"] for kind, entry in one["classes"].items()
        }
    means = [entry["mean_foreground_dice"] for entry in summary["folds"]["fold"].values()]
    over = summary["folds"]["over"]["mean_foreground_dice"]
    assert (over["mean"], over["std"]) == (pytest.approx(np.mean(means)), pytest.approx(np.std(means, ddof=1)))
    [line] = [line for line in done.told.splitlines() if line.startswith("all folds")]
    assert f"{over['mean']:.3f} +- {over['std']:.3f}" in line


def test_a_signal_that_comes_when_a_fold_is_done_stops_before_the_next(phantom, tiny, tmp_path, monkeypatch):
    """Pins one that was forgotten: the other folds were trained to their end."""
    begun = []

    def signalled(dataset, out, config, device, resume, skip_verify, ranks):
        begun.append(config.fold)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(unet4d.training.cross_validation, "train", signalled)
    with pytest.raises(Stopped, match="after fold 0"):
        cross_validate(phantom, tmp_path / "out", tiny(), "cpu")
    assert begun == [0]
