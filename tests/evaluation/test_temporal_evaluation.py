"""Cardiac and temporal measures of evaluate: against answers read off drawings, and by the stated conventions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.builders import write_dataset_json, write_study
from unet4d.errors import InputError
from unet4d.evaluation.cardiac_function import score_cardiac_function
from unet4d.evaluation.evaluate import evaluate

VOXEL_ML = 0.04  # 2 x 2 x 10 mm
LABELS = {"background": 0, "LV": 1, "myocardium": 2, "liver": 3}
TRUE = [12, 10, 6, 4, 8, 11]  # voxels of LV; ED 0, ES 3; the largest rise is from 4 to 8
FOUND = [12, 13, 7, 6, 5, 10]  # ED 1, ES 4


def heart(voxels: list[int], muscle: int = 9, speck: int | None = None) -> np.ndarray:
    """Return a label map: LV fills rows of a block, the myocardium a row beside it; frame `speck` has a separate voxel of LV."""
    label = np.zeros((len(voxels), 20, 6, 2), np.uint8)
    for t, count in enumerate(voxels):
        label[t, :count, 0, 0] = 1
        label[t, : muscle + (count == max(voxels)), 2, 0] = 2
        if t == speck:
            label[t, 19, 5, 1] = 1
    return label


def write_case(
    tmp_path: Path, truth: np.ndarray, found: np.ndarray, seconds: float | None = 0.1, **entry: object
) -> Path:
    """Write a dataset of one case "a" and its prediction; `entry` goes into dataset.json, `labelled_frames` into the case."""
    write_study(tmp_path / "set/images/a.nii.gz", truth.astype(np.float32), seconds=seconds)
    write_study(tmp_path / "set/labels/a.nii.gz", truth, seconds=seconds)
    write_study(tmp_path / "found/a.nii.gz", found, seconds=seconds)
    case = {"case": "a"} | {key: entry.pop(key) for key in ("labelled_frames",) if key in entry}
    return write_dataset_json(tmp_path / "set", [case], **({"labels": LABELS} | entry))


def rows(path: Path) -> dict[str, dict[str, str]]:
    """Return class to its row, of a table with one case."""
    return {row["class"]: row for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}


def numbers(row: dict[str, str], prefix: str, *names: str) -> list[float | None]:
    return [float(row[f"{prefix}_{name}"]) if row[f"{prefix}_{name}"] else None for name in names]


def test_a_fully_labelled_cyclic_heart(tmp_path: Path, capsys):
    root = write_case(tmp_path, heart(TRUE), heart(FOUND), time="cyclic")
    summary = evaluate(root, tmp_path / "found", tmp_path / "out")
    table = rows(tmp_path / "out/measures_compared.csv")
    assert list(table) == ["LV", "myocardium"]  # a liver has no cycle
    lv, muscle = table["LV"], table["myocardium"]
    assert (lv["role"], lv["time"], lv["frame_duration_s"], lv["labelled_frames"]) == (
        "left ventricle",
        "cyclic",
        "0.1",
        "6",
    )
    names = (
        "ed_frame",
        "es_frame",
        "edv_ml",
        "esv_ml",
        "sv_ml",
        "ef_percent",
        "peak_filling_ml_per_s",
        "time_to_peak_filling_s",
    )
    assert numbers(lv, "reference", *names) == pytest.approx(
        [0, 3, 0.48, 0.16, 0.32, 100 * 8 / 12, 1.6, 0.05], rel=1e-5
    )
    # own: from 5 to 10 voxels
    assert numbers(lv, "prediction", *names) == pytest.approx(
        [1, 4, 0.52, 0.2, 0.32, 100 * 8 / 13, 2.0, 0.05], rel=1e-5
    )
    # at the reference's frames 0 and 3: 12 and 6 voxels
    assert numbers(lv, "matched", *names[2:6]) == pytest.approx([0.48, 0.24, 0.24, 50.0])
    # at end-diastole the row has 10 voxels; at the prediction's own, too, which is another frame, where the reference has 9
    assert numbers(muscle, "reference", "mass_g", "ed_frame", "edv_ml", "ef_percent") == [0.42, 0, None, None]
    assert numbers(muscle, "matched", "mass_g") == [pytest.approx(9 * 0.04 * 1.05)]
    assert numbers(muscle, "prediction", "mass_g", "ed_frame") == [0.42, 1]

    ef = summary["heart"]["LV"]["at_reference_frames"]["ef_percent"]
    assert (ef["n"], ef["bias"], ef["mean_absolute"]) == (1, pytest.approx(50 - 200 / 3), pytest.approx(200 / 3 - 50))
    own = summary["heart"]["LV"]["own_frames"]
    assert own["ef_percent"]["bias"] == pytest.approx(800 / 13 - 200 / 3)
    assert own["peak_filling_ml_per_s"]["bias"] == pytest.approx(0.4)
    assert (own["ed_frame"]["bias"], own["es_frame"]["bias"]) == (1, 1)
    assert list(summary["heart"]) == ["LV", "myocardium"]
    assert list(summary["heart"]["myocardium"]["at_reference_frames"]) == ["mass_g"]
    shown = capsys.readouterr().out
    assert "LV: EF % " in shown
    assert "myocardium: mass g" in shown


def test_over_time_by_hand(tmp_path: Path):
    root = write_case(tmp_path, heart(TRUE), heart(FOUND, speck=2), time="cyclic")
    summary = evaluate(root, tmp_path / "found", tmp_path / "out")
    lv = rows(tmp_path / "out/temporal.csv")["LV"]
    assert (lv["time"], lv["frames"], lv["flicker_components"], lv["flicker_voxels"]) == ("cyclic", "6", "1.0", "1.0")
    curve = np.array([12, 13, 8, 6, 5, 10.0])  # with the speck
    bend = np.roll(curve, -1) - 2 * curve + np.roll(curve, 1)
    assert float(lv["roughness"]) == pytest.approx(np.sqrt(np.mean(bend**2)) / 9, abs=1e-6)
    assert float(lv["closure"]) == pytest.approx(0)  # 2 across the seam, 2.8 inside
    # columns from the same end: the smaller lies in the larger
    pairs = np.array([2 * 12 / 25, 2 * 7 / 21, 2 * 6 / 14, 2 * 5 / 11, 2 * 5 / 15, 2 * 10 / 22])
    drawn = np.array([2 * 10 / 22, 2 * 6 / 16, 2 * 4 / 10, 2 * 4 / 12, 2 * 8 / 19, 2 * 11 / 23])
    assert float(lv["frame_to_frame_dice"]) == pytest.approx(pairs.mean(), abs=1e-6)
    assert float(lv["frame_to_frame_excess"]) == pytest.approx((pairs - drawn).mean(), abs=1e-6)
    found = summary["classes"]["LV"]["temporal"]
    assert found["flicker_voxels"] == {"mean": 1.0, "median": 1.0, "std": None, "n": 1, "ci95": None}
    assert summary["classes"]["liver"]["temporal"]["roughness"]["n"] == 0  # nowhere
    assert rows(tmp_path / "out/temporal.csv")["liver"]["closure"] == ""


def test_two_labelled_frames_of_many(tmp_path: Path):
    """Extremes are the labelled ones, whatever was found elsewhere; no rate, no roughness of an unlabelled reference."""
    root = write_case(tmp_path, heart(TRUE), heart(FOUND), labelled_frames=[0, 3])
    summary = evaluate(root, tmp_path / "found", tmp_path / "out")
    lv, over = rows(tmp_path / "out/measures_compared.csv")["LV"], rows(tmp_path / "out/temporal.csv")["LV"]
    assert numbers(lv, "reference", "ed_frame", "es_frame", "peak_filling_ml_per_s") == [0, 3, None]
    assert numbers(lv, "matched", "ef_percent") == [50]
    assert float(lv["prediction_peak_filling_ml_per_s"]) == pytest.approx(2.0)
    assert [over[name] for name in ("time", "reference_roughness", "frame_to_frame_excess", "closure")] == [
        "open",
        "",
        "",
        "",
    ]
    assert float(over["roughness"]) > 0
    assert "peak_filling_ml_per_s" not in summary["heart"]["LV"]["own_frames"]


def test_a_wrapped_frame_counts_the_shorter_way_round(tmp_path: Path):
    """The reference is fullest in frame 0, the prediction in frame 5 of 6: one frame early, and not five late."""
    found = heart([11, 10, 6, 4, 8, 12])
    for time, expected in (("cyclic", -1), ("open", 5)):
        root = write_case(tmp_path, heart(TRUE), found, time=time)
        summary = evaluate(root, tmp_path / "found", tmp_path / time)
        assert summary["heart"]["LV"]["own_frames"]["ed_frame"]["bias"] == expected


def test_time_comes_from_the_dataset_else_from_the_prediction_else_is_open(tmp_path: Path):
    def time() -> str:
        evaluate(root, tmp_path / "found", tmp_path / "out")
        return rows(tmp_path / "out/temporal.csv")["LV"]["time"]

    root = write_case(tmp_path, heart(TRUE), heart(FOUND))
    assert time() == "open"
    record = tmp_path / "found/prediction.json"
    record.write_text(json.dumps({"labels": LABELS, "cases": {"a": {"time": "cyclic"}}}))
    assert time() == "cyclic"
    write_case(tmp_path, heart(TRUE), heart(FOUND), time="open")
    assert time() == "open"
    record.write_text(json.dumps({"labels": LABELS, "cases": {"a": {"time": "round"}}}))
    with pytest.raises(InputError, match=r'case a: "time" is \'round\', expected cyclic or open'):
        time()


def test_a_study_of_one_frame_and_one_without_frame_duration(tmp_path: Path):
    root = write_case(tmp_path, heart([5]), heart([4]))
    evaluate(root, tmp_path / "found", tmp_path / "out")
    table = rows(tmp_path / "out/measures_compared.csv")
    assert numbers(table["LV"], "reference", "ed_frame", "edv_ml", "ef_percent") == [None] * 3
    assert numbers(table["LV"], "prediction", "ed_frame", "edv_ml", "ef_percent") == [None] * 3
    assert numbers(table["myocardium"], "reference", "mass_g") == [0.42]
    over = rows(tmp_path / "out/temporal.csv")["LV"]
    assert {over[name] for name in over if name not in ("case", "subject", "class", "time", "frames")} == {""}
    root = write_case(tmp_path, heart(TRUE), heart(FOUND), seconds=None)
    evaluate(root, tmp_path / "found", tmp_path / "out")
    table = rows(tmp_path / "out/measures_compared.csv")
    assert numbers(table["LV"], "reference", "edv_ml", "peak_filling_ml_per_s", "time_to_peak_filling_s") == [
        0.48,
        None,
        None,
    ]


def test_an_empty_prediction_has_no_fraction_and_is_counted(tmp_path: Path, capsys):
    root = write_case(tmp_path, heart(TRUE), np.zeros_like(heart(TRUE)))
    summary = evaluate(root, tmp_path / "found", tmp_path / "out")
    measured = summary["heart"]["LV"]["at_reference_frames"]
    assert measured["edv_ml"]["bias"] == pytest.approx(-0.48)
    assert (measured["ef_percent"]["n"], measured["ef_percent"]["n_undefined"], measured["ef_percent"]["bias"]) == (
        0,
        1,
        None,
    )
    assert "0 (1 undefined)" in capsys.readouterr().out
    lv = summary["classes"]["LV"]
    assert (lv["dice"]["mean"], lv["nsd"]["mean"], lv["hd95_mm"]["n"], lv["asd_mm"]["n"]) == (0, 0, 0, 0)


def test_without_its_cavity_a_myocardium_has_the_mean_mass():
    frames = np.array([10.0, np.nan, 20.0])
    (found,) = score_cardiac_function(
        {"myocardium": frames}, {"myocardium": np.array([1.0, 2.0, 6.0])}, 0.1, cyclic=False
    )
    masses = tuple(found[f"{part}_mass_g"] for part in ("reference", "matched", "prediction"))
    assert masses == pytest.approx((15 * 1.05, 3.5 * 1.05, 3 * 1.05))


def test_bland_altman_agreement_and_intervals_over_subjects(tmp_path: Path):
    """Three cases with an LV that is 1, 2 and 3 voxels too large in each frame."""
    case = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    cases = [{"case": name, "subject": name, **case} for name in "bcd"]
    root = write_case(tmp_path, heart(TRUE), heart(TRUE), training=cases)
    for more, name in enumerate("bcd", 1):
        write_study(tmp_path / f"found/{name}.nii.gz", heart([v + more for v in TRUE]), seconds=0.1)
    (tmp_path / "found/a.nii.gz").unlink()
    summary = evaluate(root, tmp_path / "found", tmp_path / "out")
    agreement = summary["classes"]["LV"]["volume_agreement_ml"]
    errors = np.repeat([1, 2, 3], 6) * VOXEL_ML
    assert (agreement["n"], agreement["bias"]) == (18, pytest.approx(0.08))
    assert agreement["upper"] == pytest.approx(0.08 + 1.96 * errors.std(ddof=1))
    assert agreement["ci95"] == pytest.approx([0.04, 0.12])  # all of one subject, which 1 in 27 resamples is
    low, high = summary["classes"]["LV"]["ci95"]["dice"]
    assert low < summary["classes"]["LV"]["dice"]["mean"] < high
    assert (
        summary["mean_foreground_dice_ci95"][0]
        <= summary["mean_foreground_dice"]
        <= summary["mean_foreground_dice_ci95"][1]
    )


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_the_tolerance_is_a_distance_and_recorded(tmp_path: Path, tolerance: float):
    root = write_case(tmp_path, heart(TRUE), heart(FOUND))
    with pytest.raises(InputError, match="expected a distance in mm"):
        evaluate(root, tmp_path / "found", tmp_path / "out", tolerance_mm=tolerance)
    wide = evaluate(root, tmp_path / "found", tmp_path / "out", tolerance_mm=40.0)
    assert (wide["tolerance_mm"], wide["classes"]["LV"]["nsd"]["mean"]) == (40, 1)
    assert evaluate(root, tmp_path / "found", tmp_path / "out")["classes"]["LV"]["nsd"]["mean"] < 1
