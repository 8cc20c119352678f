"""Two evaluations compared: pairs by subject, known answers, and how a misfit is refused."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.builders import write_dataset_json, write_study
from unet4d.errors import InputError
from unet4d.evaluation.compare import COMPARISON_CSV, COMPARISON_JSON, compare, format_comparison
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES
from unet4d.evaluation.evaluate import evaluate
from unet4d.evaluation.results import CURVE_COLUMNS
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, SUMMARY_JSON, TEMPORAL_CSV
from unet4d.system.csv_file import csv_text

NAMES = [f"s{i}" for i in range(8)]
Cases = dict[str, tuple[str, Sequence[float]]]
Row = dict[str, object]


@pytest.fixture
def scores(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of evaluations: from case to its subject and the Dice of its frames, of one class named LV."""

    def write(
        name: str,
        cases: Cases,
        hd95: Sequence[object] | None = None,
        tolerance: float = 2.0,
        time: str = "cyclic",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        summary = {"per_case": {case: {} for case in cases}, "tolerance_mm": tolerance}
        (folder / SUMMARY_JSON).write_text(json.dumps(summary))
        frames = [(case, subject, t, dice) for case, (subject, found) in cases.items() for t, dice in enumerate(found)]
        far = hd95 or [5.0] * len(frames)
        head = [
            "case",
            "subject",
            "frame",
            "class",
            "dice",
            "hd95_mm",
            "asd_mm",
            "nsd",
            "reference_ml",
            "prediction_ml",
        ]
        table = [[c, s, t, "LV", d, h, 1.0, 0.5, 100.0, 90.0] for (c, s, t, d), h in zip(frames, far, strict=True)]
        (folder / METRICS_CSV).write_text(csv_text([head, *table]))
        head = ["case", "subject", "class", "reference_ef_percent", "matched_ef_percent", "reference_mass_g"]
        (folder / MEASURES_CSV).write_text(csv_text([head]))
        head = ["case", "subject", "class", "time", "roughness", "flicker_components", "closure"]
        (folder / TEMPORAL_CSV).write_text(
            csv_text([head, *([c, s, "LV", time, 0.1, 0, 0.0] for c, (s, _) in cases.items())])
        )
        return folder

    return write


def one_case_per_subject(dice: Sequence[float]) -> Cases:
    return {name: (name, [value]) for name, value in zip(NAMES, dice, strict=False)}


def row(found: dict, metric: str = "dice", name: str = "LV") -> dict:
    (one,) = (entry for entry in found["compared"] if (entry["metric"], entry["class_name"]) == (metric, name))
    return one


def test_a_method_that_is_better_in_every_subject(scores, tmp_path: Path):
    a, b = np.linspace(0.7, 0.8, 8), np.linspace(0.7, 0.8, 8) + np.linspace(0.01, 0.08, 8)
    found = compare(
        scores("a", one_case_per_subject(a)),
        scores("b", one_case_per_subject(b)),
        tmp_path / "out",
        quantities=["dice"],
    )
    one = row(found)
    assert (one["n"], one["left_out"], one["effect"], one["verdict"]) == (8, 0, 1, "B better")
    assert one["p"] == pytest.approx(2 / 2**8)
    assert one["p"] == pytest.approx(stats.wilcoxon(b, a, method="exact").pvalue)
    assert (one["mean_a"], one["mean_b"], one["mean_difference"]) == pytest.approx((0.75, 0.795, 0.045))
    assert one["median_difference"] == pytest.approx(0.045)
    low, high = one["ci95"]
    assert 0.01 < low < 0.045 < high < 0.08
    assert found == json.loads((tmp_path / "out" / COMPARISON_JSON).read_text())
    (line,) = csv.DictReader((tmp_path / "out" / COMPARISON_CSV).read_text().splitlines())
    assert (line["metric"], line["class"], line["verdict"], line["effect"]) == ("dice", "LV", "B better", "1.0")
    assert float(line["ci95_lower"]) == pytest.approx(low)
    shown = format_comparison(found)
    assert "+0.045" in shown
    assert "B better" in shown


@pytest.mark.parametrize(("metric", "verdict"), [("dice", "A better"), ("hd95_mm", "B better")])
def test_the_better_direction_depends_on_the_quantity(scores, metric: str, verdict: str):
    """B is smaller in both."""
    cases, fewer = one_case_per_subject([0.9] * 8), one_case_per_subject([0.8] * 8)
    far = [9.0 + i for i in range(8)]
    found = compare(scores("a", cases, far), scores("b", fewer, [x - 1 - x / 10 for x in far]), quantities=[metric])
    assert (row(found, metric)["effect"], row(found, metric)["verdict"]) == (-1, verdict)


def test_swapping_the_methods_turns_the_sign_and_nothing_else(scores):
    rng = np.random.default_rng(0)
    a, b = (scores(name, one_case_per_subject(rng.uniform(0.5, 0.9, 8))) for name in "ab")
    there, back = row(compare(a, b)), row(compare(b, a))
    assert there["p"] == back["p"]
    for key in ("mean_difference", "median_difference", "effect"):
        assert there[key] == pytest.approx(-back[key])
    assert there["ci95"] == pytest.approx([-x for x in reversed(back["ci95"])], abs=0.01)
    assert there["p"] == pytest.approx(
        stats.wilcoxon(
            [float(r["dice"]) for r in csv.DictReader((a / METRICS_CSV).read_text().splitlines())],
            [float(r["dice"]) for r in csv.DictReader((b / METRICS_CSV).read_text().splitlines())],
            method="exact",
        ).pvalue
    )


def test_a_subject_counts_once_however_many_cases_and_frames_it_has(scores):
    """s0 has four values, B 0.1 better in each; the seven others one, B 0.1 worse: the mean over subjects is -0.075."""
    a = {"s0_1": ("s0", [0.5, 0.6]), "s0_2": ("s0", [0.7, 0.4])} | {n: (n, [0.8]) for n in NAMES[1:]}
    b = {"s0_1": ("s0", [0.6, 0.7]), "s0_2": ("s0", [0.8, 0.5])} | {n: (n, [0.7]) for n in NAMES[1:]}
    found = compare(scores("a", a), scores("b", b))
    assert (found["cases"], found["subjects"], row(found)["n"]) == (9, 8, 8)
    assert row(found)["mean_difference"] == pytest.approx(-0.075)
    assert row(found)["mean_a"] == pytest.approx((0.55 + 7 * 0.8) / 8)


def test_values_missing_in_one_method_are_left_out_of_both_and_counted(scores):
    """Frame 1 has no distance in B: A's 50 mm there is no advantage of B's."""
    cases = {"s0": ("s0", [0.9, 0.9]), **{n: (n, [0.9]) for n in NAMES[1:3]}}
    found = compare(scores("a", cases, [5.0, 50.0, 6.0, 7.0]), scores("b", cases, [4.0, "", "", 7.0]))
    one = row(found, "hd95_mm")
    assert (one["n"], one["left_out"], one["mean_a"], one["mean_b"]) == (2, 2, 6, 5.5)
    assert (one["p"], one["p_holm"], one["ci95"]) == (None, None, None)
    assert one["verdict"] == "no test: too few differences that are not zero (1; 6 are needed)"
    assert row(found)["verdict"] == "no test: all differences are zero"


def test_a_class_that_one_method_never_finds_is_listed(scores, tmp_path: Path):
    cases = one_case_per_subject([0.8] * 8)
    found = compare(scores("a", cases), scores("b", cases, [""] * 8), tmp_path / "out", quantities=["hd95_mm"])
    one = row(found, "hd95_mm")
    assert (one["n"], one["left_out"], one["mean_a"], one["mean_difference"], one["p_holm"]) == (0, 8, None, None, None)
    assert one["verdict"] == "no test: nowhere defined in both A and B"
    assert re.search(r"hd95_mm: LV +0 +8 +- +- +- +- +- +- +-  no test: nowhere", format_comparison(found))
    assert (tmp_path / "out" / COMPARISON_CSV).read_text().splitlines()[1].startswith("hd95_mm,LV,0,8,,,,")


def test_the_more_tests_the_larger_the_correction(scores):
    """All eight differ by one sign in Dice and in HD95: p = 1 / 128 each."""
    a = scores("a", one_case_per_subject([0.8] * 8), [9.0 + i for i in range(8)])
    b = scores("b", one_case_per_subject([0.8 + i / 100 for i in range(1, 9)]), [8.0 + i for i in range(8)])
    alone, both = compare(a, b, quantities=["dice"]), compare(a, b, quantities=["hd95_mm", "dice"])
    assert (alone["tests"], row(alone)["p_holm"]) == (1, pytest.approx(1 / 128))
    assert (both["tests"], row(both)["p_holm"], row(both, "hd95_mm")["p_holm"]) == (2, *[pytest.approx(2 / 128)] * 2)
    assert [one["metric"] for one in both["compared"]] == ["dice", "hd95_mm"]


def test_too_many_tests_for_few_subjects_are_reported(scores):
    """Six that all differ by one sign: p = 2 / 64, enough for one test, and for two no longer."""
    a = scores("a", one_case_per_subject([0.8] * 6), [9.0 + i for i in range(6)])
    b = scores("b", one_case_per_subject([0.8 + i / 100 for i in range(1, 7)]), [8.0 + i for i in range(6)])
    alone = compare(a, b, quantities=["dice"])
    assert (row(alone)["verdict"], alone["smallest_p_holm"]) == ("B better", pytest.approx(2 / 64))
    assert "too few subjects" not in format_comparison(alone)
    both = compare(a, b, quantities=["dice", "hd95_mm"])
    assert (row(both)["verdict"], both["smallest_p_holm"]) == ("no difference shown", pytest.approx(4 / 64))
    assert "no corrected p can be below 0.05 (the least is 0.06); name the metrics" in format_comparison(both)


def test_chance_is_no_difference_shown(scores):
    rng = np.random.default_rng(3)
    found = compare(*(scores(name, one_case_per_subject(rng.uniform(0.7, 0.8, 8))) for name in "ab"))
    assert row(found)["p"] > 0.05
    assert row(found)["verdict"] == "no difference shown"


def test_other_cases_are_refused_and_named_unless_the_shared_ones_are_asked_for(scores, tmp_path: Path):
    a = scores("a", one_case_per_subject(np.linspace(0.7, 0.8, 8)))
    b = scores("b", {**one_case_per_subject(np.linspace(0.8, 0.9, 7)), "x": ("x", [0.1])})
    with pytest.raises(InputError, match=r"a has s7; .*b has x; expected the same cases.*--shared_only"):
        compare(a, b, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = compare(a, b, shared_only=True)
    assert (found["cases"], found["only_a"], found["only_b"], row(found)["n"]) == (7, ["s7"], ["x"], 7)
    assert row(found)["mean_b"] == pytest.approx(0.85)
    shown = format_comparison(found)
    assert "left out, only in A: s7\n" in shown
    assert "left out, only in B: x\n" in shown
    fewer = scores("fewer", one_case_per_subject([0.8] * 7))
    for first, second in ((a, fewer), (fewer, a)):
        with pytest.raises(InputError, match=r"/a has s7; expected the same cases"):
            compare(first, second)
    with pytest.raises(InputError, match="no case in common"):
        compare(a, scores("c", {"y": ("y", [0.5])}), shared_only=True)


def test_other_references_are_refused(scores):
    a = scores("a", one_case_per_subject([0.8] * 8))
    other = scores("b", one_case_per_subject([0.8] * 8))
    (other / METRICS_CSV).write_text((other / METRICS_CSV).read_text().replace("100.0", "101.0", 1))
    with pytest.raises(InputError, match=r"differ in the reference of case s0, frame 0, LV"):
        compare(a, other)
    more = one_case_per_subject([0.8] * 8) | {"s3": ("s3", [0.8, 0.8])}
    with pytest.raises(InputError, match=r"differ in the reference of case s3, frame 1, LV"):
        compare(a, scores("c", more))
    with pytest.raises(InputError, match=r"differ in the reference of case s5"):
        compare(a, scores("d", one_case_per_subject([0.8] * 8) | {"s5": ("another", [0.8])}))
    with pytest.raises(InputError, match=r"tolerance_mm 2\.0.* 3\.0; expected the same"):
        compare(a, scores("e", one_case_per_subject([0.8] * 8), tolerance=3.0))


def test_an_open_series_is_not_compared_with_a_cyclic_one(scores):
    """Their pairs, second differences and neighbors are not the same ones, whatever the label maps."""
    with pytest.raises(InputError, match=r"case s0 is cyclic in \S+ and open in \S+; expected the same"):
        compare(scores("a", one_case_per_subject([0.8] * 8)), scores("b", one_case_per_subject([0.8] * 8), time="open"))


def test_a_folder_without_an_evaluation_is_refused(scores, tmp_path: Path):
    a = scores("a", one_case_per_subject([0.8] * 8))
    with pytest.raises(InputError, match=r"nowhere/summary\.json is missing; give the --out folder"):
        compare(a, tmp_path / "nowhere")
    (tmp_path / "x.yaml").write_text("")
    with pytest.raises(InputError, match=r"x\.yaml is a file, expected a folder with summary\.json"):
        compare(tmp_path / "x.yaml", a)
    damaged = scores("b", one_case_per_subject([0.8] * 8))
    text = (damaged / METRICS_CSV).read_text()
    (damaged / METRICS_CSV).write_text(text.replace("nsd", "other", 1))
    with pytest.raises(InputError, match=r"metrics\.csv has no column nsd"):
        compare(a, damaged)
    (damaged / METRICS_CSV).write_text(text.replace("0.8", "much", 1))
    with pytest.raises(InputError, match=r"metrics\.csv: dice of case s0 is 'much', expected a number"):
        compare(a, damaged)
    (damaged / TEMPORAL_CSV).unlink()
    with pytest.raises(InputError, match=r"temporal\.csv is missing"):
        compare(a, damaged)
    (damaged / SUMMARY_JSON).write_text('{"per_case": {}}')
    (damaged / TEMPORAL_CSV).write_text("")
    with pytest.raises(InputError, match=r"summary\.json is no summary"):
        compare(a, damaged)


def test_few_subjects_are_reported_once_without_test_and_effect(scores):
    """Five subjects cannot be tested, whatever they show; all of one sign happens by chance."""
    five = [scores(name, one_case_per_subject([value] * 5)) for name, value in (("a", 0.7), ("b", 0.8))]
    found = compare(*five, quantities=["dice", "hd95_mm"])
    assert (found["tests"], row(found)["effect"], row(found)["p"]) == (0, None, None)
    shown = format_comparison(found)
    assert shown.count("no test and no effect with 5 subjects: both need 6 that differ") == 1
    assert "no test:" not in shown
    one = [scores(name, one_case_per_subject([value])) for name, value in (("c", 0.7), ("d", 0.8))]
    found = row(compare(*one, quantities=["dice"]))
    assert (found["n"], found["effect"], found["ci95"], found["p"]) == (1, None, None, None)
    assert found["mean_difference"] == pytest.approx(0.1)


CONDITIONS = {
    "cases": 8, "runs": [["runs/a"]], "checkpoint": ["best"], "models": [1], "mirror_axes": [[]], "cyclic_shifts": [1],
    "overlap": [0.5], "postprocessing": [[]], "training_seconds": 1800.0,
}  # fmt: skip
STEP = {"operation": "largest_component", "class": "LV"}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, []),
        ({"runs": [["runs/b"]]}, []),
        ({"postprocessing": [[STEP]]}, []),  # of one training: that is what is compared
        ({"runs": [["runs/b"]], "training_seconds": 2000.0}, []),
        (
            {"runs": [["runs/b"]], "postprocessing": [[STEP]]},
            ["more than the training: post-processing (A: none; B: largest_component: LV)"],
        ),
        (
            {"postprocessing": [[STEP]], "mirror_axes": [[0, 1]]},
            ["more than one thing: mirroring (A: none; B: 0, 1), post-processing"],
        ),
        (
            {"runs": [["runs/b"]], "checkpoint": ["last"], "models": [5], "training_seconds": 9000.0},
            ["the checkpoint (A: best; B: last), the number of models (A: 1; B: 5), training time (A: 30.0 min; B: 150.0 min)"],
        ),
        (None, ["nothing records how B was made"]),
    ],
)  # fmt: skip
def test_conditions_that_differ_beside_what_is_compared_are_warned_of(scores, other: dict | None, words: list[str]):
    folders = [scores(name, one_case_per_subject([0.8] * 8)) for name in "ab"]
    for folder, conditions in zip(folders, (CONDITIONS, {} if other is None else CONDITIONS | other), strict=True):
        summary = json.loads((folder / SUMMARY_JSON).read_text())
        (folder / SUMMARY_JSON).write_text(json.dumps(summary | {"conditions": conditions}))
    found = compare(*folders, quantities=["dice"])
    assert len(found["warnings"]) == len(words)
    assert all(word in text for word, text in zip(words, found["warnings"], strict=True))
    assert format_comparison(found).count("warning: ") == len(words)


def test_programs_that_record_no_run_are_two_trainings(scores):
    folders = [scores(name, one_case_per_subject([0.8] * 8)) for name in "ab"]
    for folder, seconds in zip(folders, (600.0, 3600.0), strict=True):
        summary = json.loads((folder / SUMMARY_JSON).read_text())
        (folder / SUMMARY_JSON).write_text(
            json.dumps(summary | {"conditions": {"cases": 8, "training_seconds": seconds}})
        )
    [warning] = compare(*folders, quantities=["dice"])["warnings"]
    assert "more than the training: training time (A: 10.0 min; B: 60.0 min)" in warning


def test_without_any_recorded_condition_nothing_is_warned_of(scores):
    folders = [scores(name, one_case_per_subject([0.8] * 8)) for name in "ab"]
    assert compare(*folders, quantities=["dice"])["warnings"] == []


def test_metrics_defined_nowhere_are_reported(scores):
    found = compare(
        scores("a", one_case_per_subject([0.8] * 8)),
        scores("b", one_case_per_subject([0.8] * 8)),
        quantities=["mass_error_g"],
    )
    assert (found["compared"], found["tests"]) == ([], 0)
    assert format_comparison(found).endswith("\nnone of these metrics is defined in both A and B")


@pytest.mark.parametrize("names", [["dise"], []])
def test_an_unknown_metric_is_refused(scores, names):
    a = scores("a", one_case_per_subject([0.8] * 8))
    with pytest.raises(InputError, match=r"got metrics .*expected some of dice, nsd"):
        compare(a, a, quantities=names)


def ventricle(path: Path, sizes: Sequence[int], muscle: int) -> None:
    """Write a left ventricle with the given number of voxels in each frame, and its myocardium."""
    label = np.zeros((len(sizes), 12, 6, 2), np.uint8)
    for t, size in enumerate(sizes):
        label[t, :size, 0, 0] = 1
        label[t, :muscle, 3, 0] = 2
    write_study(path, label, (5.0, 5.0, 40.0), seconds=None)


def test_from_label_maps_to_a_verdict(command, tmp_path: Path):
    """B follows the reference but for a voxel, A is a frame late: every quantity of all three tables comes through."""
    beat = [11, 9, 5, 4, 7, 10]
    for i, name in enumerate(NAMES):
        ventricle(tmp_path / f"set/labels/{name}.nii.gz", [size - i % 3 for size in beat], 8)
        ventricle(tmp_path / f"set/images/{name}.nii.gz", beat, 8)
        ventricle(tmp_path / f"late/{name}.nii.gz", [size - i % 2 for size in [10, 11, 9, 5, 4, 7]], 6)
        ventricle(tmp_path / f"near/{name}.nii.gz", [size - i % 3 + 1 for size in beat], 8)
    write_dataset_json(tmp_path / "set", NAMES, {"background": 0, "LV": 1, "myocardium": 2}, time="cyclic")
    for name in ("late", "near"):
        evaluate(tmp_path / "set", tmp_path / name, tmp_path / f"scores_{name}")
    done = command("compare", tmp_path / "scores_late", tmp_path / "scores_near", "--out", tmp_path / "out")
    assert (done.code, done.error) == (0, "")
    found = json.loads((tmp_path / "out" / COMPARISON_JSON).read_text())
    assert {one["metric"] for one in found["compared"]} == {
        name for name, quantity in COMPARISON_QUANTITIES.items() if quantity.file not in CURVE_COLUMNS
    }
    assert row(found, "dice", "mean over classes")["mean_a"] == pytest.approx(
        (row(found, "dice", "LV")["mean_a"] + row(found, "dice", "myocardium")["mean_a"]) / 2
    )
    # two voxels of 1 mL too few are 2.1 g
    mass = row(found, "mass_error_g", "myocardium")
    assert (mass["mean_a"], mass["mean_b"]) == pytest.approx((2.1, 0))
    few = command("compare", tmp_path / "scores_late", tmp_path / "scores_near", "--metrics", "mass_error_g", "nsd")
    assert "mass_error_g: myocardium" in few.told
    assert "dice" not in few.told
