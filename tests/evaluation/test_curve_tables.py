"""Tables of `predict --curves`: what they hold is what the label map and the image give; none without being asked for."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from unet4d.errors import InputError
from unet4d.evaluation.curve_tables import CURVE_TABLES, curve_tables
from unet4d.evaluation.signal_curves import CurveOptions, measure_curves
from unet4d.images.image4d import read_image, read_label
from unet4d.system.files import read_json

FLOW = {
    "mean_speed_cm_per_s": [10.0, 20.0], "mean_velocity_x_cm_per_s": [None, None], "mean_velocity_y_cm_per_s": [None, None],
    "mean_velocity_z_cm_per_s": [9.0, -4.0], "flow_ml_per_s": [100.0, -20.0], "flow_sd_ml_per_s": [None, None], "sections": [1, 1],
}  # fmt: skip


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_intensity_is_that_of_the_voxels_of_the_label_map(command, model_file, study, tmp_path):
    study(tmp_path / "a.nii.gz", frames=3)
    model, out = model_file(), tmp_path / "out"
    done = command("predict", model, "-i", tmp_path / "a.nii.gz", "-o", out, "--curves", "intensity", "--time", "open")
    assert done.code == 0
    rows = rows_of((out / "intensity.csv").read_text())
    image, label = read_image(tmp_path / "a.nii.gz").array[0], read_label(out / "a.nii.gz")
    assert {row["case"] for row in rows} == {"a"}
    for row in rows:
        voxels = image[int(row["frame"])][label[int(row["frame"])] == int(row["value"])]
        assert bool(row["mean"]) == bool(len(voxels))
        if len(voxels):
            assert float(row["mean"]) == pytest.approx(voxels.mean(), abs=1e-4)
            assert float(row["median"]) == pytest.approx(np.median(voxels), abs=1e-4)
    assert len(rows) == 3 * len({row["class"] for row in rows})
    assert len(rows_of((out / "uptake.csv").read_text())) == len({row["class"] for row in rows})
    assert not (out / "flow.csv").exists()


def test_without_curves_there_is_no_table_and_continue_measures_them_later(command, model_file, study, tmp_path):
    study(tmp_path / "a.nii.gz", frames=2)
    words = ["predict", model_file(), "-i", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--continue"]
    assert command(*words).code == 0
    assert not [table.file for table in CURVE_TABLES if (tmp_path / "out" / table.file).exists()]
    assert "intensity" not in read_json(tmp_path / "out/.unet4d/cases/a.json")
    assert command(*words, "--curves", "intensity").code == 0
    assert (tmp_path / "out" / "intensity.csv").is_file()
    assert "skipped" in command(*words, "--curves", "intensity").told


def test_what_decides_the_values_is_compared_by_continue(command, model_file, study, tmp_path):
    study(tmp_path / "a.nii.gz", frames=3)
    words = ["predict", model_file(), "-i", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--continue"]
    words += ["--time", "open", "--curves", "intensity"]
    assert command(*words).code == 0
    assert "0 of 1" in command(*words, "--baseline_frames", "2").told
    arrivals = {row["arrival_frame"] for row in rows_of((tmp_path / "out/uptake.csv").read_text())}
    assert arrivals <= {"1", ""}
    assert "1 of 1" in command(*words, "--baseline_frames", "2").told
    in_cm, in_m = (CurveOptions(("flow",), velocity_unit=unit).outputs(["mm/s"]) for unit in ("cm/s", "m/s"))
    assert in_cm != in_m
    assert CurveOptions(("flow",)).outputs(["cm/s", "cm/s"]) == in_cm


def test_a_small_unit_loses_no_digits():
    frames = [np.full((1, 2, 2, 1), value, np.float32) for value in (1.25e-7, 2.5e-7)]
    label, options = np.ones((2, 2, 2, 1), np.uint8), CurveOptions(("intensity",))
    found = measure_curves(frames, label, {"lesion": 1}, {"ADC": "map"}, np.eye(4), options)
    record = {"entry": {"time": "open"}, "frame_duration_s": None, "channel_kinds": {"ADC": "map"}, **found}
    rows = rows_of(curve_tables({"a": record}, {"lesion": 1})["intensity.csv"])
    assert [float(row["mean"]) for row in rows] == pytest.approx([1.25e-7, 2.5e-7], rel=1e-6)
    assert [float(row["median"]) for row in rows] == pytest.approx([1.25e-7, 2.5e-7], rel=1e-6)


def test_flow_needs_velocities_and_their_unit(command, model_file, study, tmp_path):
    study(tmp_path / "a.nii.gz", frames=2)
    done = command("predict", model_file(), "-i", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--curves", "flow")
    assert done.code == 2
    assert "no channel is a velocity" in done.line
    options, kinds = CurveOptions(("flow",)), ("signal", "velocity Z")
    with pytest.raises(InputError, match="no unit of velocity for b, expected one of mm/s, cm/s, m/s"):
        options.check(kinds, {"a": "cm/s", "b": None})
    options.check(kinds, {"a": "cm/s"})
    CurveOptions(("flow",), velocity_unit="m/s").check(kinds, {"b": None})
    for wrong in ({"kinds": ("strain",)}, {"velocity_unit": "km/h"}, {"baseline_frames": 0}):
        with pytest.raises(InputError, match=r"got .* expected"):
            CurveOptions(**wrong)


def test_flow_has_a_row_per_frame_and_its_volumes_one_per_class():
    record = {"entry": {"time": "cyclic"}, "frame_duration_s": 0.1, "flow": {"aorta": FLOW}}
    found = curve_tables({"a": record}, {"aorta": 1, "vein": 2})
    assert set(found) == {"flow.csv", "flow_volumes.csv"}
    rows = rows_of(found["flow.csv"])
    assert [(row["frame"], row["time_s"], row["flow_ml_per_s"]) for row in rows] == [
        ("0", "0.0", "100.0"),
        ("1", "0.1", "-20.0"),
    ]
    assert rows[0]["mean_velocity_x_cm_per_s"] == rows[0]["flow_sd_ml_per_s"] == ""
    (volumes,) = rows_of(found["flow_volumes.csv"])
    assert [float(volumes[key]) for key in ("net_ml", "forward_ml", "backward_ml", "regurgitant_fraction_percent")] == [
        8,
        10,
        2,
        20,
    ]


def test_only_signals_of_open_studies_have_uptake():
    curves = {"mean": [100.0, 100.0, 300.0, 200.0], "median": [1.0, 2.0, 3.0, None]}
    record = {
        "entry": {"time": "open"}, "frame_duration_s": 2.0, "intensity": {"lesion": {"series": curves, "T1": curves}},
        "channel_kinds": {"series": "signal", "T1": "map"}, "baseline_frames": None,
    }  # fmt: skip
    found = curve_tables({"a": record}, {"lesion": 1})
    (uptake,) = rows_of(found["uptake.csv"])
    assert (uptake["channel"], uptake["arrival_frame"], uptake["peak_enhancement_percent"]) == ("series", "1", "200.0")
    assert (uptake["wash_in_percent_per_s"], uptake["wash_out_percent_per_s"]) == ("100.0", "-50.0")
    enhancement = [row["enhancement_percent"] for row in rows_of(found["intensity.csv"])]
    assert enhancement == ["0.0", "0.0", "200.0", "100.0", "", "", "", ""]
    assert "uptake.csv" not in curve_tables({"a": record | {"entry": {"time": "cyclic"}}}, {"lesion": 1})
