"""Curves over references beside those over predictions: closed forms, hand-drawn answers, and what the report shows of them."""

from __future__ import annotations

import csv
import json
import re

import jsonschema
import numpy as np
import pytest

from data.phantom.dce import FLIP_DEG, REPETITION_MS
from data.phantom.make import make
from data.phantom.uptake import Tissue, signal
from tests.builders import change_dataset, skip_drawing, write_dataset_json, write_study
from unet4d.errors import InputError
from unet4d.evaluation.compare import compare
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES
from unet4d.evaluation.curve_comparison import COMPARED_CURVES, FLOW_CSV, FLOW_VOLUMES_CSV, INTENSITY_CSV, UPTAKE_CSV
from unet4d.evaluation.evaluate import evaluate
from unet4d.evaluation.signal_curves import NO_CURVES, CurveOptions, recorded_options
from unet4d.metrics.signal_curves import measure_uptake
from unet4d.report.pages.curves import curve_measure_tables
from unet4d.report.pictures.render import save_picture
from unet4d.report.report import report
from unet4d.system.documents import load_schema
from unet4d.system.files import read_json

SPEED_MM_S = np.array([0.0, 300, 500, -100])
SIGNAL = np.array([100.0, 100, 300, 200])
BOTH = CurveOptions(("intensity", "flow"))
COMPARED_FILES = {table.file for table in COMPARED_CURVES.values()}


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def numbers(rows, column):
    return [float(row[column]) if row[column] else None for row in rows]


@pytest.fixture
def tube(tmp_path):
    """Write a tube of 4 x 4 voxels of 2 x 2 mm, with blood along Z, and a signal that rises; the prediction has a row less or more.

    Frames 0 to 2 are labelled in "some"; outside of the tube nothing moves, and the signal is 10.
    """
    label = np.zeros((4, 9, 9, 6), np.uint8)
    label[:, 2:6, 2:6] = 1
    velocity = np.where(label, SPEED_MM_S[:, None, None, None], 0).astype(np.float32)
    still = np.where(label, SIGNAL[:, None, None, None], 10).astype(np.float32)
    for case in ("all", "some"):
        write_study(tmp_path / f"data/images/{case}_0.nii.gz", still, seconds=0.5)
        write_study(tmp_path / f"data/images/{case}_1.nii.gz", velocity, seconds=0.5)
        write_study(tmp_path / f"data/labels/{case}.nii.gz", label, seconds=0.5)
        for name, stop in (("wide", 7), ("narrow", 5)):
            found = np.zeros_like(label)
            found[:, 2:stop, 2:6] = 1
            write_study(tmp_path / f"{name}/{case}.nii.gz", found, seconds=0.5)
    cases = [
        {"case": case, "image": [f"images/{case}_{c}.nii.gz" for c in (0, 1)], "frame_duration_s": 0.5, **more}
        for case, more in (("all", {}), ("some", {"labelled_frames": [0, 1, 2]}))
    ]
    about = {"channel_names": {"0": "series", "1": "through"}, "channel_kinds": {"1": "velocity Z"}, "time": "open"}
    write_dataset_json(tmp_path / "data", cases, {"background": 0, "tube": 1}, velocity_unit="mm/s", **about)
    return tmp_path


def test_flow_of_reference_and_prediction_is_velocity_times_area(tube):
    summary = evaluate(tube / "data", tube / "wide", tube / "out", curves=BOTH)
    jsonschema.validate(summary, load_schema("evaluation"))
    rows = rows_of(tube / "out" / FLOW_CSV)
    true = SPEED_MM_S * 16 * 4 / 1000  # 16 voxels of 4 mm2, in mL/s
    for case in ("all", "some"):
        own = [row for row in rows if row["case"] == case]
        assert numbers(own, "prediction_flow_ml_per_s") == pytest.approx(list(true))  # what was added stands still
        assert numbers(own, "prediction_mean_speed_cm_per_s") == pytest.approx(list(np.abs(SPEED_MM_S) / 10 * 16 / 20))
    whole, partly = (numbers([r for r in rows if r["case"] == c], "reference_flow_ml_per_s") for c in ("all", "some"))
    assert whole == pytest.approx(list(true))
    assert partly[:3] == pytest.approx(list(true[:3]))
    assert partly[3] is None
    volumes = {row["case"]: row for row in rows_of(tube / "out" / FLOW_VOLUMES_CSV)}
    assert float(volumes["all"]["reference_net_ml"]) == pytest.approx(true.sum() * 0.5)
    assert volumes["some"]["reference_net_ml"] == ""
    (flow,) = [one for one in summary["curves"] if one["quantity"] == "flow_ml_per_s"]
    assert (flow["n"], flow["n_undefined"], flow["class"]) == (7, 0, "tube")
    assert flow["bias"] == pytest.approx(0, abs=1e-9)
    (speed,) = [one for one in summary["curves"] if one["quantity"] == "mean_speed_cm_per_s"]
    assert speed["bias"] == pytest.approx(-0.2 * (2 * 80 + 10) / 7)


def test_uptake_is_compared_at_the_frames_of_the_reference(tube):
    summary = evaluate(tube / "data", tube / "wide", tube / "out", curves=BOTH)
    whole, partly = rows_of(tube / "out" / UPTAKE_CSV)
    assert (whole["case"], whole["channel"], whole["reference_peak_enhancement_percent"]) == ("all", "series", "200.0")
    assert (partly["reference_wash_out_percent_per_s"], partly["reference_peak_frame"]) == ("", "2")
    diluted = (4 * SIGNAL + 10) / 5  # 4 of 5 voxels are of the tube
    expected = measure_uptake(diluted, 0.5)
    assert float(whole["prediction_peak_enhancement_percent"]) == pytest.approx(expected.peak_enhancement_percent)
    assert float(partly["prediction_wash_out_percent_per_s"]) == pytest.approx(expected.wash_out_percent_per_s)
    assert partly["matched_wash_out_percent_per_s"] == ""
    (peak,) = [one for one in summary["curves"] if one["quantity"] == "peak_enhancement_percent"]
    assert (peak["n"], peak["channel"], peak["reference"]) == (2, "series", pytest.approx(200))
    means = numbers(rows_of(tube / "out" / INTENSITY_CSV), "prediction_mean")
    assert means == pytest.approx([*diluted, *diluted], rel=1e-6)


def test_curves_are_those_that_predict_recorded_and_none_without(tube):
    evaluate(tube / "data", tube / "wide", tube / "out")
    assert not [table.file for table in COMPARED_CURVES.values() if (tube / "out" / table.file).exists()]
    entry = {"curves": {"kinds": ["intensity"], "baseline_frames": 1}}
    about = {"labels": {"background": 0, "tube": 1}, "version": "1", "cases": {"all": entry, "some": {}}}
    (tube / "wide/prediction.json").write_text(json.dumps(about))
    evaluate(tube / "data", tube / "wide", tube / "out")
    assert {row["case"] for row in rows_of(tube / "out" / UPTAKE_CSV)} == {"all"}
    assert rows_of(tube / "out" / UPTAKE_CSV)[0]["reference_arrival_frame"] == "0"
    assert not (tube / "out" / FLOW_CSV).exists()
    evaluate(tube / "data", tube / "wide", tube / "out", curves=NO_CURVES)
    assert not (tube / "out" / UPTAKE_CSV).exists(), "a table of an earlier evaluation would be taken for this one's"


def test_two_methods_are_compared_by_the_errors_of_their_curves(tube):
    for name in ("wide", "narrow"):
        evaluate(tube / "data", tube / name, tube / f"{name}_scores", curves=BOTH)
    found = compare(
        tube / "wide_scores", tube / "narrow_scores", quantities=["flow_error_ml_per_s", "time_to_peak_error_s"]
    )
    flow, time = found["compared"]
    true = SPEED_MM_S * 16 * 4 / 1000
    lacking = np.abs(true) / 4  # a quarter of the tube
    assert (flow["mean_a"], flow["mean_b"]) == (
        pytest.approx(0),
        pytest.approx((lacking.mean() + lacking[:3].mean()) / 2),
    )
    assert (time["metric"], time["mean_difference"]) == ("time_to_peak_error_s", 0)
    evaluate(tube / "data", tube / "narrow", tube / "other", curves=CurveOptions(("flow",), velocity_unit="cm/s"))
    with pytest.raises(InputError, match=r"differ in reference_flow_ml_per_s of case all.*--velocity_unit"):
        compare(tube / "wide_scores", tube / "other")


def test_curves_that_one_method_lacks_or_measured_otherwise_are_in_no_comparison_of_dice(tube):
    for name, curves in (
        ("with", BOTH),
        ("without", NO_CURVES),
        ("other", CurveOptions(("flow",), velocity_unit="cm/s")),
    ):
        evaluate(tube / "data", tube / "wide", tube / name, curves=curves)
    for a, b in (("with", "without"), ("without", "with")):
        compared = compare(tube / a, tube / b)["compared"]
        assert not [one for one in compared if COMPARISON_QUANTITIES[one["metric"]].file in COMPARED_FILES]
    assert compare(tube / "with", tube / "other", quantities=["dice"])["compared"]
    assert not compare(tube / "with", tube / "other", quantities=["time_to_peak_error_s"])["compared"]


@pytest.mark.parametrize(("seconds", "cells"), [(None, ["-"] * 3), (0.5, ["0.5", "2400", "-2200"])])
def test_the_page_has_the_uptake_of_a_study_without_a_frame_duration_too(seconds, cells):
    curves = {"mean": [100.0, 100.0, 1300.0, 200.0], "median": [1.0] * 4}
    about = {"frame_duration_s": seconds, "channel_kinds": {"series": "signal"}, "entry": {"time": "open"}}
    records = {
        "prediction": about
        | {"intensity": {"tube": {"series": curves}, "flat": {"series": curves | {"mean": [None] * 4}}}}
    }
    (table,) = curve_measure_tables("a", records, {"tube": 1, "flat": 2})
    assert table.rows == [["tube", "series", "1", "2", "1200", *cells]]


def test_classes_that_were_not_drawn_have_no_reference(tube):
    change_dataset(tube / "data", lambda about: about["training"][1].update(annotated_labels=[2]))
    change_dataset(tube / "data", lambda about: about["labels"].update(other=2))
    write_study(tube / "data/labels/some.nii.gz", np.full((4, 9, 9, 6), 2, np.uint8), seconds=0.5)
    evaluate(tube / "data", tube / "wide", tube / "out", curves=BOTH)
    rows = [row for row in rows_of(tube / "out" / INTENSITY_CSV) if row["class"] == "tube"]
    assert {row["case"] for row in rows if row["reference_mean"]} == {"all"}
    assert {row["case"] for row in rows if row["prediction_mean"]} == {"all", "some"}


def test_curves_need_images_and_flow_needs_velocities(tube, command):
    words = ["evaluate", "--prediction", tube / "wide", "--out", tube / "out", "--curves", "flow"]
    done = command(*words, "--reference", tube / "data/labels" / ".." / ".." / "narrow")
    assert (done.code, "references without images" in done.line) == (2, True)
    change_dataset(tube / "data", lambda about: about.pop("channel_kinds"))
    done = command(*words, "--reference", tube / "data")
    assert (done.code, "no channel is a velocity" in done.line) == (2, True)
    done = command(*words[:-2], "--reference", tube / "data", "--baseline_frames", "2")
    assert (done.code, "--baseline_frames without --curves" in done.line) == (2, True)


@pytest.mark.parametrize(
    "entry", [None, [], "flow", {}, {"kinds": 3}, {"kinds": [[]]}, {"kinds": ["strain"]}, {"kinds": ["flow"]}]
)
def test_a_damaged_record_of_curves_asks_for_none(entry):
    assert recorded_options(entry, ("signal",), "cm/s").kinds == ()


def test_a_record_of_curves_is_read_back():
    asked = CurveOptions(("intensity", "flow"), 3)
    read = recorded_options(asked.as_dict("cm/s"), ("signal", "velocity Z"), None)
    assert read == CurveOptions(("intensity", "flow"), 3, "cm/s")
    assert recorded_options({"kinds": ["flow"], "velocity_unit": ["m/s"]}, ("velocity X",), None).kinds == ()


def study_of(page):
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.S)[1])


def test_the_report_shows_the_curves_of_both_and_their_measures(tube, monkeypatch):
    skip_drawing(monkeypatch, "unet4d.report.report")
    black = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr("unet4d.report.report.draw_thumbnail", lambda *given: black)
    monkeypatch.setattr("unet4d.report.report.write_animation", lambda path, *given, **more: save_picture(path, black))
    evaluate(tube / "data", tube / "wide", tube / "scores", curves=BOTH)
    report(tube / "data", tube / "wide", tube / "page", tube / "scores", curves=BOTH)
    index = (tube / "page/index.html").read_text()
    assert "tube: peak enhancement % of series" in index
    assert "tube: flow mL/s" in index
    page = (tube / "page/some.html").read_text()
    volumes, enhancement, flow = study_of(page)["curves"]
    assert [one["axis"] for one in (volumes, enhancement, flow)] == ["volume (mL)", "enhancement (%)", "flow (mL/s)"]
    assert flow["values"] == [pytest.approx(list(SPEED_MM_S * 0.064))]
    assert flow["reference"] == [[*(pytest.approx(v) for v in SPEED_MM_S[:3] * 0.064), None]]
    assert enhancement["reference"][0][:3] == [0, 0, 200]
    assert page.count('<figure class="curve-picture">') == 3
    assert "tube (reference)" in page
    assert all(f'id="{name}"' in page for name in ("curve", "curve1", "curve2", "curve2-legend"))
    report(tube / "data", tube / "wide", tube / "plain")
    assert len(study_of((tube / "plain/some.html").read_text())["curves"]) == 1


@pytest.mark.slow
def test_phantoms_have_the_closed_forms_of_uptake_and_flow_in_the_tables(tmp_path):
    """A prediction that equals the reference has its curves, and both are what the phantoms were made with."""
    for kind, shape in (("flow", (60, 66, 30)), ("dce", (66, 44, 14))):
        make(kind, tmp_path / kind, 1, 8, shape=shape)
        truth = read_json(tmp_path / kind / "truth/subjects.json")["phantom001"]
        curves = CurveOptions(("flow" if kind == "flow" else "intensity",))
        evaluate(tmp_path / kind, tmp_path / kind / "labels", tmp_path / "out", curves=curves)
        if kind == "flow":
            for name, true in truth["flow_ml_s"].items():
                own = [row for row in rows_of(tmp_path / "out" / FLOW_CSV) if row["class"] == name]
                if own:
                    found = numbers(own, "reference_flow_ml_per_s")
                    assert found == pytest.approx(true, rel=0.1, abs=0.03 * max(true))
                    assert numbers(own, "prediction_flow_ml_per_s") == found
        else:
            tissue = Tissue(**truth["tissues"]["renal cortex"])
            enhanced = signal(tissue, np.array(truth["concentration_mm"]["renal cortex"]), REPETITION_MS, FLIP_DEG)
            (row,) = (
                row
                for row in rows_of(tmp_path / "out" / UPTAKE_CSV)
                if (row["class"], row["channel"]) == ("renal cortex", "contrast series")
            )
            wanted = measure_uptake(enhanced, truth["frame_duration_s"])
            assert float(row["reference_time_to_peak_s"]) == pytest.approx(wanted.time_to_peak_s)
            assert float(row["reference_peak_enhancement_percent"]) == pytest.approx(
                wanted.peak_enhancement_percent, rel=0.2
            )
            assert row["matched_peak_enhancement_percent"] == row["reference_peak_enhancement_percent"]
