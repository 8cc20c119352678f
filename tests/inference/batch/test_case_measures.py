"""measures.csv and the line of each case, against values worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.builders import change_dataset
from tests.predictions import json_of, rows_of
from unet4d.inference.batch.case_measures import describe_case, measure_case
from unet4d.inference.batch.job_split import JobShard
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.options import InferenceOptions
from unet4d.inference.predict import predict
from unet4d.metrics.cardiac_structures import find_roles

CLASSES = ["RV", "MLV", "LVC", "LA", "scar"]
ROLES = find_roles(CLASSES)
CURVES = {
    "RV": [100.0, 50.0, 60.0, 90.0], "MLV": [100.0, 90.0, 95.0, 105.0], "LVC": [120.0, 48.0, 60.0, 100.0],
    "LA": [30.0, 60.0, 50.0, 20.0], "scar": [1.0, 2.0, 3.0, 2.0],
}  # fmt: skip
RECORD = {
    "case": "a", "frames": 4, "frame_duration_s": 0.25, "entry": {"time": "cyclic"}, "volumes_ml": CURVES,
    "vitals": {"height_cm": 180.0, "weight_kg": 80.0}, "flags": ["RV: one.", "LVC: two."],
    "flag_keys": ["jump:RV", "not_closed:LVC"],
}  # fmt: skip
"""A heart that beats once per second, of a body of 2 square metres."""


def test_a_row_by_hand():
    """Strokes of 50 and 72 mL, 60 times per minute; the mass is that of 100 mL, in the frame where LVC is largest."""
    row = measure_case(RECORD, CLASSES, ROLES)
    assert (row["case"], row["frames"], row["heart_rate_bpm"], row["bsa_m2"]) == ("a", 4, 60, 2)
    assert (row["height_cm"], row["weight_kg"]) == (180, 80)
    left = {name: row[f"lv_{name}"] for name in ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "ed_frame", "es_frame")}
    assert left == {"edv_ml": 120, "esv_ml": 48, "sv_ml": 72, "ef_percent": 60, "ed_frame": 0, "es_frame": 1}
    assert (row["lv_cardiac_output_l_per_min"], row["lv_cardiac_output_l_per_min_per_m2"]) == pytest.approx(
        (4.32, 2.16)
    )
    assert (row["rv_sv_ml"], row["rv_ef_percent"], row["rv_cardiac_output_l_per_min"]) == (50, 50, pytest.approx(3))
    assert (row["lv_edv_ml_per_m2"], row["lv_esv_ml_per_m2"], row["lv_sv_ml_per_m2"]) == (60, 24, 36)
    assert (row["lv_mass_g"], row["lv_mass_g_per_m2"]) == (105, 52.5)
    assert (row["la_max_ml"], row["la_min_ml"], row["la_max_ml_per_m2"]) == (60, 20, 30)
    assert (row["scar_max_ml"], row["scar_min_ml"]) == (3, 1)
    assert not [name for name in row if name.startswith("la_e") or name.endswith("percent_per_m2")]
    assert row["flags"] == "jump:RV;not_closed:LVC"


def test_what_is_unknown_is_blank_and_the_columns_stay():
    full = measure_case(RECORD, CLASSES, ROLES)
    plain = measure_case(RECORD | {"vitals": {}, "frame_duration_s": None, "flag_keys": []}, CLASSES, ROLES)
    assert list(plain) == list(full) == list(measure_case({}, CLASSES, ROLES))
    unknown = {name for name in full if full[name] is not None and plain[name] is None}
    assert unknown == {"heart_rate_bpm", "height_cm", "weight_kg", "bsa_m2", "flags"} | {
        name for name in full if "output" in name or name.endswith("_per_m2")
    }
    open_one = measure_case(RECORD | {"entry": {"time": "open"}}, CLASSES, ROLES)
    assert (open_one["heart_rate_bpm"], open_one["lv_edv_ml"]) == (None, 120)
    one = measure_case(RECORD | {"frames": 1, "volumes_ml": {n: c[:1] for n, c in CURVES.items()}}, CLASSES, ROLES)
    assert (one["lv_edv_ml"], one["lv_ef_percent"], one["lv_mass_g"], one["la_max_ml"]) == (None, None, 105, 30)


def test_the_cycle_of_another_organ_is_no_heart_beat():
    assert "heart_rate_bpm" not in measure_case(RECORD, ["LA", "scar"], find_roles(["LA", "scar"]))


def test_a_given_heart_rate_comes_before_the_cycle():
    row = measure_case(RECORD | {"vitals": {"heart_rate_bpm": 80.0}}, CLASSES, ROLES)
    assert (row["heart_rate_bpm"], row["lv_cardiac_output_l_per_min"]) == (80, pytest.approx(5.76))


def test_a_heart_rate_unlike_the_cycle_is_flagged():
    """The cycle of the record takes a second."""
    flagged = [
        measure_case(RECORD | {"flag_keys": [], "vitals": {"heart_rate_bpm": rate}}, CLASSES, ROLES)["flags"]
        for rate in (50.0, 150.0)
    ]
    assert flagged == [None, "heart_rate"]


def test_a_line_has_the_units():
    assert describe_case(RECORD, CLASSES, ROLES) == (
        "a: RV EDV 100 mL (50/m2), ESV 50 mL (25/m2), SV 50 mL (25/m2), EF 50.0 %, CO 3 L/min (1.5/m2); "
        "MLV mass 105 g (52.5/m2); LVC EDV 120 mL (60/m2), ESV 48 mL (24/m2), SV 72 mL (36/m2), EF 60.0 %, "
        "CO 4.32 L/min (2.16/m2); "
        "LA max 60 mL (30/m2), min 20 mL (10/m2); scar max 3 mL (1.5/m2), min 1 mL (0.5/m2); flags jump:RV, not_closed:LVC"
    )
    assert describe_case(RECORD | {"vitals": {}, "flag_keys": []}, ["scar"], {}) == "a: scar max 3 mL, min 1 mL"


def table(out: Path) -> dict[str, dict[str, str]]:
    return {row["case"]: row for row in csv.DictReader((out / "measures.csv").open())}


def test_predict_writes_a_row_per_case_in_parts_and_anew_where_the_body_changed(
    model_file, own_phantom, tmp_path, monkeypatch
):
    """Two jobs share a folder; then a height is added: no study is segmented again, and its row is indexed."""
    root, out, model = own_phantom, tmp_path / "out", model_file(cyclic=True)
    options = InferenceOptions(precision="fp32", overlap=0.0)
    for part in range(2):
        predict(model, [root], out, options, shard=JobShard(2, part))
    rows = table(out)
    assert list(rows) == ["phantom001", "phantom002", "phantom003"]
    curve = [
        float(row["volume_ml"])
        for row in rows_of(out)
        if (row["case"], row["class"]) == ("phantom001", "left ventricle")
    ]
    assert float(rows["phantom001"]["lv_edv_ml"]) == pytest.approx(max(curve), abs=1e-3)
    assert rows["phantom001"]["lv_edv_ml_per_m2"] == ""
    assert json_of(out / "prediction.json")["roles"]["myocardium"] == "myocardium"

    def body(about: dict) -> None:
        about["training"][0] |= {"height_cm": 180, "weight_kg": 80, "heart_rate_bpm": 50}

    change_dataset(root, body)
    monkeypatch.setattr("unet4d.inference.batch.run.segment_study", None)
    assert predict(model, [root], out, options, leave_complete=True) == []
    one = table(out)["phantom001"]
    assert (float(one["bsa_m2"]), float(one["heart_rate_bpm"])) == (2, 50)
    assert float(one["lv_edv_ml_per_m2"]) == pytest.approx(float(one["lv_edv_ml"]) / 2, abs=1e-3)
    assert table(out)["phantom002"]["bsa_m2"] == ""


def test_conditions_are_recorded_and_two_calls_with_different_ones_warned_of(model_file, study, tmp_path, caplog):
    study(tmp_path / "heart.nii.gz")
    run = tmp_path / "run"
    run.mkdir()
    model_file().rename(run / "checkpoint_last.pt")
    (run / "summary.json").write_text(json.dumps({"seconds": 90.5, "steps": {"done": 10, "of": 10}}))
    options = InferenceOptions(mirror_axes=(0,), overlap=0.0)
    predict(run, [tmp_path / "heart.nii.gz"], tmp_path / "out", options)
    assert "different options" not in caplog.text
    assert json_of(tmp_path / "out/prediction.json")["cases"]["heart"]["conditions"] == {
        "runs": [str(run.resolve())], "checkpoint": "last", "models": 1, "mirror_axes": [0], "overlap": 0.0, "cyclic_shifts": 1,
        "priming_frames": 12, "temporal_smoothing": "by the cycle", "postprocessing": [], "training_seconds": 90.5,
        "training_steps": 10,
    }  # fmt: skip
    (run / "summary.json").unlink()
    predict(run, [tmp_path / "heart.nii.gz"], tmp_path / "out", InferenceOptions(overlap=0.0))
    found = json_of(tmp_path / "out/prediction.json")["cases"]["heart"]["conditions"]
    assert (found["training_seconds"], found["mirror_axes"]) == (None, [])
    study(tmp_path / "other.nii.gz")
    assert "different options" not in caplog.text
    predict(run, [tmp_path / "other.nii.gz"], tmp_path / "out", options)
    assert "different options: mirroring (0; none)" in caplog.text


def test_a_class_that_is_no_structure_stays_none_for_whom_reads_the_folder(tmp_path):
    folder = PredictionFolder(tmp_path, {"background": 0, "LV": 1, "RV": 2}, roles={"LV": "other"})
    folder.tables.write(always=True)
    assert json_of(tmp_path / "prediction.json")["roles"] == {"LV": "other", "RV": "right ventricle"}
    assert "LV_max_ml" in (tmp_path / "measures.csv").read_text()
