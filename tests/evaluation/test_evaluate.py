"""Evaluation of folders of label maps: which studies are scored, the tables, and errors for misfits."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.builders import edit_dataset, write_dataset_json, write_study
from unet4d.errors import InputError
from unet4d.evaluation.evaluate import evaluate


def beating(frames: int = 3) -> np.ndarray:
    """Return a label: class 1 a square of 4 x 4 in two slices. Class 3: one column, absent from frame 1."""
    label = np.zeros((frames, 10, 9, 4), np.uint8)
    label[:, 3:7, 3:7, 1:3] = 1
    label[:, 8, 7, 1] = 3
    label[1, 8, 7, 1] = 0
    return label


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Write two cases of one subject.

    Frames 0 and 2 of `a` are labelled, and frame 1 of its label file is zero; `b` has one 3D file.
    """
    root, label = tmp_path / "dataset", beating()
    for name in "ab":
        write_study(root / f"images/{name}.nii.gz", label.astype(np.float32))
    sparse = label.copy()
    sparse[1] = 0
    write_study(root / "labels/a.nii.gz", sparse)
    write_study(root / "labels/b_1.nii.gz", label[1:2])
    a = {"case": "a", "subject": "s", "labelled_frames": [0, 2]}
    b = {"case": "b", "subject": "s", "label": {"1": "labels/b_1.nii.gz"}}
    return write_dataset_json(root, (a, b), {"background": 0, "chamber": 1, "valve": 3})


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Write both cases with class 1 one voxel off along X; `b` lacks class 3 nowhere that it should have it."""
    moved = beating()
    moved[moved == 1] = 0
    moved[:, 4:8, 3:7, 1:3] = 1
    for name in "ab":
        write_study(tmp_path / f"predictions/{name}.nii.gz", moved)
    (tmp_path / "predictions/prediction.json").write_text('{"labels": {"background": 0, "one": 1, "three": 3}}')
    return tmp_path / "predictions"


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_scores_the_labelled_frames_of_a_dataset(dataset: Path, predictions: Path, tmp_path: Path, capsys):
    summary = evaluate(dataset, predictions, tmp_path / "out")
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["cases"], summary["subjects"], summary["frames"], summary["labelled_frames"]) == (2, 1, 6, 3)
    chamber, valve = summary["classes"]["chamber"], summary["classes"]["valve"]
    # 3 of 4 rows overlap; the face of the square moved by one voxel of 2 mm, and in two slices of it all voxels are surface
    assert chamber["dice"] == {"mean": 0.75, "median": 0.75, "std": 0.0, "n": 3}
    assert chamber["hd95_mm"]["mean"] == pytest.approx(2.0)
    assert chamber["volume_error_ml"] == {"bias": 0.0, "mean_absolute": 0.0, "n": 3}
    # frame 1 of b has no valve, in neither
    assert (valve["dice"]["n"], valve["n_both_empty"], valve["n_one_empty"]) == (2, 1, 0)
    assert summary["mean_foreground_dice"] == pytest.approx((0.75 + 1) / 2)
    assert summary["per_case"]["b"]["mean_foreground_dice"] == 0.75
    shown = capsys.readouterr().out
    assert "chamber" in shown
    assert re.search(r"chamber +0\.750  3  ", shown)


def test_tables_hold_labelled_frames_and_all_frames(dataset: Path, predictions: Path, tmp_path: Path):
    evaluate(dataset, predictions, tmp_path / "out")
    measured = rows(tmp_path / "out/metrics.csv")
    assert [(row["case"], row["frame"], row["class"]) for row in measured] == [
        (case, frame, name) for case, frame in (("a", "0"), ("a", "2"), ("b", "1")) for name in ("chamber", "valve")
    ]
    assert measured[0] == {
        "case": "a", "subject": "s", "frame": "0", "class": "chamber", "value": "1", "dice": "0.75", "hd95_mm": "2.0",
        "asd_mm": "0.5", "nsd": "1.0", "reference_ml": "1.28", "prediction_ml": "1.28", "tp": "24", "fp": "8", "fn": "8",
    }  # fmt: skip
    assert (measured[-1]["dice"], measured[-1]["hd95_mm"], measured[-1]["tp"]) == ("", "", "0")
    volumes = rows(tmp_path / "out/volumes_compared.csv")
    assert len(volumes) == 2 * 3 * 2
    chamber = [row for row in volumes if row["case"] == "a" and row["class"] == "chamber"]
    assert [row["time_s"] for row in chamber] == ["0.0", "0.05", "0.1"]
    assert [row["reference_ml"] for row in chamber] == ["1.28", "", "1.28"]  # frame 1 is unlabelled
    assert [row["prediction_ml"] for row in chamber] == ["1.28"] * 3


def test_a_class_in_one_of_both_is_dice_zero_and_no_distance(dataset: Path, predictions: Path, tmp_path: Path):
    extra = beating()
    extra[1, 8, 7, 1] = 3
    extra[0, 8, 7, 1] = 0
    write_study(predictions / "a.nii.gz", extra)
    write_study(predictions / "b.nii.gz", extra)
    valve = evaluate(dataset, predictions, tmp_path / "out")["classes"]["valve"]
    assert valve["dice"]["mean"] == pytest.approx(1 / 3)  # a0: missed, a2: found, b1: invented
    assert (valve["dice"]["n"], valve["hd95_mm"]["n"]) == (3, 1)
    assert (valve["n_one_empty"], valve["n_both_empty"]) == (2, 0)
    assert valve["volume_error_ml"]["bias"] == pytest.approx(0, abs=1e-12)
    assert valve["volume_error_ml"]["mean_absolute"] == pytest.approx(2 / 3 * 0.04)


def test_a_folder_of_a_datasets_labels_is_scored_as_that_dataset(
    dataset: Path, predictions: Path, tmp_path: Path, capsys
):
    """Frame 1 of a's label file is zero because it is unlabelled: counting it would give Dice 0."""
    found = evaluate(dataset / "labels", predictions, tmp_path / "out")
    printed = capsys.readouterr().out
    assert found["labelled_frames"] == 3
    assert found["classes"] == evaluate(dataset, predictions, tmp_path / "again")["classes"]
    assert str(dataset) in printed.splitlines()[0]
    assert "only its labelled frames" in printed


def test_a_folder_of_labels_on_its_own_counts_every_frame(predictions: Path, tmp_path: Path):
    for name in "ab":
        write_study(tmp_path / f"truth/{name}.nii.gz", beating(), seconds=None)
    (tmp_path / "dataset.json").write_text('{"labels": {"a": 1}, "numTraining": 3}')  # of another project
    found = evaluate(tmp_path / "truth", predictions, tmp_path / "out")
    assert found["labelled_frames"] == 6
    assert {name: entry["value"] for name, entry in found["classes"].items()} == {"one": 1, "three": 3}
    assert {row["time_s"] for row in rows(tmp_path / "out/volumes_compared.csv")} == {""}
    (predictions / "prediction.json").unlink()
    assert list(evaluate(tmp_path / "truth", predictions, tmp_path / "out")["classes"]) == ["class 1", "class 3"]


def test_predictions_missing_or_left_over(dataset: Path, predictions: Path, tmp_path: Path, capsys):
    (predictions / "b.nii.gz").rename(predictions / "zebra.nii.gz")
    with pytest.raises(InputError, match=r"no prediction for 1 of 2 references: b;"):
        evaluate(dataset, predictions, tmp_path / "out")
    assert evaluate(dataset, predictions, tmp_path / "out", cases=["a"])["cases"] == 1
    with pytest.raises(InputError, match=r"no_such_case"):
        evaluate(dataset, predictions, tmp_path / "out", cases=["no_such_case"])
    write_study(predictions / "b.nii.gz", beating())
    capsys.readouterr()
    assert evaluate(dataset, predictions, tmp_path / "out")["not_scored"] == ["zebra"]
    assert "1 prediction matches no reference and is not scored: zebra" in capsys.readouterr().err


def test_predicted_only_counts_the_other_references(dataset: Path, predictions: Path, tmp_path: Path, capsys):
    assert evaluate(dataset, predictions, tmp_path / "out", predicted_only=True)["without_prediction"] == []
    assert "without a prediction" not in capsys.readouterr().out
    (predictions / "b.nii.gz").rename(predictions / "zebra.nii.gz")
    summary = evaluate(dataset, predictions, tmp_path / "out", predicted_only=True)
    assert (summary["cases"], list(summary["per_case"]), summary["without_prediction"]) == (1, ["a"], ["b"])
    assert json.loads((tmp_path / "out/summary.json").read_text())["without_prediction"] == ["b"]
    printed = capsys.readouterr()
    assert "left out, without a prediction: 1 of 2 references\n" in printed.out
    assert "zebra" in printed.err
    with pytest.raises(InputError, match="cases and predicted_only, expected one of them"):
        evaluate(dataset, predictions, tmp_path / "out", ["a"], predicted_only=True)
    (predictions / "a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"has a prediction for none of the 2 references \(a, \.\.\.\)"):
        evaluate(dataset, predictions, tmp_path / "out", predicted_only=True)


def with_folds(predictions: Path, **folds: object) -> None:
    """Record in prediction.json the fold that held each case out."""
    about = json.loads((predictions / "prediction.json").read_text())
    about["cases"] = {name: {} if fold is None else {"fold": fold} for name, fold in folds.items()}
    (predictions / "prediction.json").write_text(json.dumps(about))


def test_each_fold_has_its_mean_and_over_folds_each_counts_once(
    dataset: Path, predictions: Path, tmp_path: Path, capsys
):
    """Case c is a copy of a: fold 2 has two cases of the same scores, fold 0 has b, without a valve in either."""
    with edit_dataset(dataset) as about:
        about["training"].append(about["training"][0] | {"case": "c"})
    (predictions / "c.nii.gz").write_bytes((predictions / "a.nii.gz").read_bytes())
    with_folds(predictions, a=2, b=0, c=2)
    folds = evaluate(dataset, predictions, tmp_path / "out")["folds"]
    assert folds["cases"] == {"0": ["b"], "2": ["a", "c"]}
    assert folds["fold"]["2"]["mean_foreground_dice"] == pytest.approx((0.75 + 1) / 2)
    assert folds["fold"]["0"] == {
        "mean_foreground_dice": 0.75,
        "dice": {"chamber": 0.75, "valve": None},
        "hd95_mm": {"chamber": pytest.approx(2.0), "valve": None},
    }
    over = folds["over"]
    assert over["mean_foreground_dice"]["mean"] == pytest.approx((0.875 + 0.75) / 2)  # not weighted by cases
    assert over["mean_foreground_dice"]["std"] == pytest.approx(0.125 / 2**0.5)
    assert over["dice"]["valve"] == {"mean": 1.0, "median": 1.0, "std": None, "n": 1}
    shown = capsys.readouterr().out
    assert "fold 0             0.750          0.750              -\n" in shown
    assert "all folds  0.812 +- 0.088  0.750 +- 0.000     1.000 +- -\n" in shown
    assert "no fold" not in shown


def test_the_conditions_of_predictions_are_gathered(dataset: Path, predictions: Path, tmp_path: Path):
    assert evaluate(dataset, predictions, tmp_path / "plain")["conditions"] == {}
    about = json.loads((predictions / "prediction.json").read_text())
    known = {"runs": ["r/fold_0"], "checkpoint": "best", "models": 1, "mirror_axes": [0], "postprocessing": []}
    other = known | {"runs": ["r/fold_1"], "training_seconds": 30.0}
    cases = {"a": known | {"training_seconds": 20.0}, "b": other, "gone": {"checkpoint": "last"}}
    about["cases"] = {name: {"conditions": conditions} for name, conditions in cases.items()}
    (predictions / "prediction.json").write_text(json.dumps(about))
    assert evaluate(dataset, predictions, tmp_path / "out")["conditions"] == {
        "cases": 2, "runs": [["r/fold_0"], ["r/fold_1"]], "checkpoint": ["best"], "models": [1], "mirror_axes": [[0]],
        "postprocessing": [[]], "temporal_smoothing": [0], "training_seconds": 25.0,
    }  # fmt: skip


def test_roles_are_those_of_the_dataset_else_of_prediction_json(
    dataset: Path, predictions: Path, tmp_path: Path, capsys
):
    assert evaluate(dataset, predictions, tmp_path / "out")["roles"] == {}, "a chamber and a valve by their names"
    about = {"labels": {"background": 0, "chamber": 1, "valve": 3}}
    (predictions / "prediction.json").write_text(json.dumps(about | {"roles": {"chamber": "left ventricle"}}))
    summary = evaluate(dataset, predictions, tmp_path / "out")
    assert (summary["roles"], list(summary["heart"])) == ({"chamber": "left ventricle"}, ["chamber"])
    assert [row["role"] for row in rows(tmp_path / "out/measures_compared.csv")] == ["left ventricle"] * 2
    assert "structures of a heart: chamber as left ventricle; valve as none" in capsys.readouterr().out
    with edit_dataset(dataset) as entry:
        entry["roles"] = {"chamber": "left atrium"}
    summary = evaluate(dataset, predictions, tmp_path / "out")
    assert (summary["roles"], summary["heart"]) == ({"chamber": "left atrium"}, {})
    with edit_dataset(dataset) as entry:
        del entry["roles"]
    (predictions / "prediction.json").write_text(json.dumps(about | {"roles": {"chamber": "heart"}}))
    with pytest.raises(InputError, match=r'prediction\.json: "roles" has \'heart\'.* for chamber, expected one of'):
        evaluate(dataset, predictions, tmp_path / "out")


def test_cases_without_a_fold_are_counted_and_in_no_folds_mean(
    dataset: Path, predictions: Path, tmp_path: Path, capsys
):
    (predictions / "b.nii.gz").rename(predictions / "c.nii.gz")
    with edit_dataset(dataset) as about:
        about["training"] += [about["training"][0] | {"case": name} for name in "cd"]
    (predictions / "d.nii.gz").write_bytes((predictions / "a.nii.gz").read_bytes())
    with_folds(predictions, a=0, b=3, c=1, d=None)  # b has no label map any more
    folds = evaluate(dataset, predictions, tmp_path / "out", predicted_only=True)["folds"]
    assert (folds["cases"], folds["without_fold"]) == ({"0": ["a"], "1": ["c"]}, ["d"])
    assert "cases held out by no fold, in none of these: 1\n" in capsys.readouterr().out


@pytest.mark.parametrize("folds", [{}, {"a": 1, "b": 1}, {"a": None, "b": None}, {"a": 1, "b": None}])
def test_one_fold_has_no_summary_of_folds(dataset: Path, predictions: Path, tmp_path: Path, capsys, folds):
    plain = evaluate(dataset, predictions, tmp_path / "plain")
    with_folds(predictions, **folds)
    assert evaluate(dataset, predictions, tmp_path / "out") == plain
    assert "all folds" not in capsys.readouterr().out


@pytest.mark.parametrize("fold", ["1", -1, True, 1.0])
def test_a_fold_that_is_no_number_is_refused(dataset: Path, predictions: Path, tmp_path: Path, fold):
    with_folds(predictions, a=fold)
    with pytest.raises(InputError, match=r'prediction\.json: case a: "fold" is .*, expected a number from 0'):
        evaluate(dataset, predictions, tmp_path / "out")


@pytest.mark.parametrize("table", ["volumes", "measures"])
def test_the_tables_that_predict_wrote_are_left_alone(dataset: Path, predictions: Path, table: str):
    (predictions / f"{table}.csv").write_text("case\n")
    evaluate(dataset, predictions, predictions)
    assert (predictions / f"{table}.csv").read_text() == "case\n"
    assert (predictions / f"{table}_compared.csv").is_file()


def test_a_suffix_in_capitals_is_one_too(dataset: Path, predictions: Path, tmp_path: Path):
    (predictions / "b.nii.gz").rename(predictions / "b.NII.GZ")
    assert evaluate(dataset, predictions, tmp_path / "out")["cases"] == 2


def shifted_affine() -> np.ndarray:
    affine = np.diag([2.0, 2.0, 10.0, 1.0])
    affine[0, 3] = 5
    return affine


def damage_frames(file: Path) -> None:
    write_study(file, beating(4))


def damage_grid(file: Path) -> None:
    write_study(file, beating()[:, 1:])


def damage_affine(file: Path) -> None:
    write_study(file, beating(), affine=shifted_affine())


def damage_value(file: Path) -> None:
    write_study(file, beating() * 2)


def damage_bytes(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_frames, r"\(4, 10, 9, 4\).*\(3, 10, 9, 4\)"),
        (damage_grid, r"\(3, 9, 9, 4\).*\(3, 10, 9, 4\)"),
        (damage_affine, r"affine"),
        (damage_value, r"label value 2.*\[0, 1, 3\]"),
        (damage_bytes, r"truncated"),
    ],
)
def test_a_prediction_that_does_not_fit_is_listed_and_the_others_are_scored(
    dataset: Path, predictions: Path, tmp_path: Path, damage, words: str
):
    damage(predictions / "b.nii.gz")
    with pytest.raises(InputError, match=words) as caught:
        evaluate(dataset, predictions, tmp_path / "out")
    assert str(predictions / "b.nii.gz") in str(caught.value)
    assert "\n" not in str(caught.value)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(summary["failed"]) == ["b"]
    assert "b" not in summary["per_case"]
    assert summary["per_case"]


def test_where_no_study_can_be_scored_nothing_is_written(dataset: Path, predictions: Path, tmp_path: Path):
    for file in predictions.glob("*.nii.gz"):
        damage_bytes(file)
    with pytest.raises(InputError, match="nothing was written"):
        evaluate(dataset, predictions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unexpected_exception_of_one_study_is_its_failure(
    dataset: Path, predictions: Path, tmp_path: Path, monkeypatch
):
    import importlib

    module = importlib.import_module("unet4d.evaluation.evaluate")

    def failing(one, *given, score=module.score_case, **more):
        if one.name == "b":
            raise KeyError("bug")
        return score(one, *given, **more)

    monkeypatch.setattr(module, "score_case", failing)
    with pytest.raises(InputError, match=r"b: unexpected KeyError"):
        evaluate(dataset, predictions, tmp_path / "out")
    assert (tmp_path / "out/metrics.csv").exists()


def test_folders_that_hold_nothing_to_score(dataset: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.nii"):
        evaluate(dataset, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match=r"no \.nii"):
        evaluate(tmp_path / "empty", dataset / "labels", tmp_path / "out")
    with pytest.raises(InputError, match=r"missing"):
        evaluate(dataset, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match=r"is one file"):
        evaluate(dataset / "labels/a.nii.gz", dataset / "labels", tmp_path / "out")


def test_two_files_of_one_name_are_ambiguous(dataset: Path, predictions: Path, tmp_path: Path):
    write_study(predictions / "a.nii", beating())
    with pytest.raises(InputError, match=r"a\.nii.*remove"):
        evaluate(dataset, predictions, tmp_path / "out")


def test_undefined_everywhere_is_null_and_blank_never_nan(tmp_path: Path):
    empty = np.zeros((1, 4, 4, 2), np.uint8)
    one = empty.copy()
    one[0, 1, 1, 1] = 1
    write_study(tmp_path / "truth/a.nii.gz", one)
    write_study(tmp_path / "found/a.nii.gz", empty)
    summary = evaluate(tmp_path / "truth", tmp_path / "found", tmp_path / "out")
    assert summary["classes"]["class 1"]["hd95_mm"] == {"mean": None, "median": None, "std": None, "n": 0}
    assert summary["mean_foreground_dice"] == 0.0
    for file in (tmp_path / "out").iterdir():
        assert "nan" not in file.read_text().lower()
