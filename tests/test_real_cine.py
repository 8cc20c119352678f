"""Tests of the benchmark on real cine: folds, jobs that resume, and tables; the programs behind the arms are not run."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from experiments.real_cine import programs, run, scores, table
from experiments.real_cine.programs import Command, Program
from experiments.real_cine.protocol import (
    BASE,
    CLEAN,
    FOLDS,
    SUITES,
    Arm,
    Job,
    Suite,
    budget_seconds,
    held_out_cases,
    held_out_subjects,
    read_suite,
    select_jobs,
)
from unet4d.config import Config
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError, Unet4DError
from unet4d.evaluation.results import COLUMNS
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV
from unet4d.images.image4d import read_image, read_label, write_image
from unet4d.inference.postprocessing_steps import Step
from unet4d.models.checkpoint import LAST
from unet4d.system import lock
from unet4d.system.files import read_json, write_json


def dataset_of(names, tmp_path):
    cases = tuple(Case(f"{name}_{i}", name, (tmp_path / "x.nii.gz",)) for name in names for i in range(2))
    return Dataset(tmp_path, "test", ("mri",), (("background", 0), ("heart", 1)), "cyclic", cases)


def test_every_patient_is_held_out_once_with_all_cases_whatever_their_order(tmp_path):
    names = [f"patient{i:03d}" for i in range(14)]
    dataset, reverse = dataset_of(names, tmp_path), dataset_of(names[::-1], tmp_path)
    folds = [held_out_subjects(dataset, fold) for fold in range(FOLDS)]
    assert [len(fold) for fold in folds] == [7, 7]
    assert sorted([*folds[0], *folds[1]]) == names
    assert folds == [held_out_subjects(reverse, fold) for fold in range(FOLDS)]
    assert len(held_out_cases(dataset, 0)) == 14


@pytest.mark.parametrize("name", SUITES)
def test_the_suites_are_complete(name):
    suite = read_suite(name)
    names = [arm.name for arm in suite.arms]
    assert {suite.compared_with, *(arm.compared_with or suite.compared_with for arm in suite.arms)} <= set(names)
    assert budget_seconds(suite.budget) > 0
    assert {arm.program for arm in suite.arms} <= set(programs.PROGRAMS)
    assert set(suite.tested) <= {name for group in scores.GROUPS.values() for name in group}
    base = yaml.safe_load(BASE.read_text(encoding="utf-8"))
    for arm in suite.arms:
        makes_label_maps = [other.name for other in suite.arms if other.program != "postprocessing"]
        trains = [other.name for other in suite.arms if other.network_of is None]
        assert arm.network_of in (None, *(makes_label_maps if arm.program == "postprocessing" else trains))
        assert all(Step(*step).class_name for step in arm.steps)
        settings = {section: dict(values) for section, values in base.items()}
        for option, value in arm.options.items():
            section, name = option.split(".")
            settings.setdefault(section, {})[name] = value
        assert Config.from_dict(settings) != Config()


def test_jobs_are_listed_arm_by_arm_and_seed_by_seed():
    suite = read_suite("arms")
    jobs = [(job.arm.name, job.seed, job.fold) for job in select_jobs(suite, ["clstm", "nnunet_2d"])]
    assert jobs[:2] == [("nnunet_2d", 0, 0), ("nnunet_2d", 0, 1)]
    assert jobs[2:] == [("clstm", 0, 0), ("clstm", 0, 1), ("clstm", 1, 0), ("clstm", 1, 1)]
    assert [job.budget for job in select_jobs(suite, ["clstm"], fold=1, seed=1, budget="30s")] == ["30s"]
    with pytest.raises(InputError, match="arm 'lstm'"):
        select_jobs(suite, ["lstm"])
    with pytest.raises(InputError, match="fold 2"):
        select_jobs(suite, fold=2)


@pytest.mark.parametrize(
    ("budget", "seconds"), [("30m", 1800), ("90s", 90), ("1h30m", 5400), ("30", None), ("m", None), ("", None)]
)
def test_a_budget_is_read(budget, seconds):
    if seconds is None:
        with pytest.raises(InputError, match="budget"):
            budget_seconds(budget)
    else:
        assert budget_seconds(budget) == seconds


def test_a_training_gets_the_patients_of_its_fold_and_its_budget_and_is_resumed(phantom, tmp_path, monkeypatch):
    job = Job("arms", Arm("clstm", options={"model.deep_supervision": True}), 1, 3, "30m")
    before = programs.PROGRAMS["unet4d"].preprocess(job, phantom, tmp_path).words
    command = programs.PROGRAMS["unet4d"].train(job, phantom, tmp_path)
    for name, value in command.environment.items():  # links to the files
        monkeypatch.setenv(name, value)
    words = command.words
    given = dict(zip(words[4::2], words[5::2], strict=False))
    training = read_dataset(given["--dataset"])
    assert sorted([*training.subjects, *held_out_subjects(read_dataset(phantom), 1)]) == list(
        read_dataset(phantom).subjects
    )
    assert given["--data.val_subjects"] == "[]"
    assert (given["--train.time_budget"], given["--train.budget_clock"], given["--seed"]) == ("30m", "cpu", "3")
    assert given["--model.deep_supervision"] == "true"
    assert words[-1] != "--resume"
    first = dict(zip(before[4::2], before[5::2], strict=False))
    assert {name: value for name, value in first.items() if given.get(name) != value} == {
        "--out": str(job.folder(tmp_path) / "preprocessed"), "--train.epochs": "1", "--train.steps_per_epoch": "1",
    }  # fmt: skip
    assert given.keys() - first.keys() == {"--train.time_budget", "--train.budget_clock"}
    (job.folder(tmp_path) / programs.TRAINED).mkdir(parents=True)
    (job.folder(tmp_path) / programs.TRAINED / LAST).touch()
    assert programs.PROGRAMS["unet4d"].train(job, phantom, tmp_path).words[-1] == "--resume"


def test_the_seconds_of_a_training_are_those_of_all_its_starts(tmp_path):
    job = Job("arms", Arm("clstm"), 0, 0, "30m")
    summary = {"steps": {"done": 7}, "time_budget": {"spent_seconds": 1799.5}}
    write_json(job.folder(tmp_path) / programs.TRAINED / "summary.json", summary)
    assert programs.PROGRAMS["unet4d"].trained(job, tmp_path) == {"steps": 7, "cpu_s": 1799.5}


def test_a_training_on_few_patients_has_the_first_of_those_of_its_fold(phantom, tmp_path, monkeypatch):
    one, both = (Job("few_patients", Arm("any", patients=patients), 1, 0, "30m") for patients in (1, None))
    sets = []
    for job in (one, both):
        command = programs.PROGRAMS["unet4d"].train(job, phantom, tmp_path)
        monkeypatch.setenv(*next(iter(command.environment.items())))
        sets.append(read_dataset(command.words[command.words.index("--dataset") + 1]).subjects)
    assert len(sets[1]) > 1
    assert list(sets[0]) == sorted(sets[1])[:1]


COUNT = "import sys; open(sys.argv[1], 'a').write('x')"
PREDICT = """
import json, sys
json.dump({'studies': 1, 'frames': 4, 'cpu_s': 2.0}, open(sys.argv[1], 'w'))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Return a job of a program that counts its trainings in a file and fails in its first predictions."""
    outcomes = iter("1" + "0" * 9)
    program = Program(
        lambda job, dataset, work, out, facts: Command([sys.executable, "-c", PREDICT, str(facts), next(outcomes)]),
        lambda job, dataset, work: Command([sys.executable, "-c", COUNT, str(tmp_path / "trainings")]),
        preprocess=lambda job, dataset, work: Command([sys.executable, "-c", COUNT, str(tmp_path / "preprocessed")]),
        trained=lambda job, work: {"steps": 7, "cpu_s": 1.0},
    )
    monkeypatch.setitem(programs.PROGRAMS, "fake", program)
    monkeypatch.setattr(run, "evaluate", lambda *words: Command(["true"]))
    return Job("arms", Arm("fake", "fake"), 0, 0, "1s")


def test_a_job_that_was_cut_off_continues_with_the_step_it_was_in(fake, phantom, tmp_path):
    with pytest.raises(Unet4DError, match="fake fold 0 seed 0"):
        run.run_jobs([fake], phantom, tmp_path, CLEAN)
    assert run.run_job(fake, phantom, tmp_path, CLEAN) == "finished"
    assert (tmp_path / "trainings").read_text() == (tmp_path / "preprocessed").read_text() == "x"
    record = read_json(fake.folder(tmp_path) / CLEAN / run.RECORD)
    assert (record["train"]["steps"], record["train"]["attempts"], record["predict"]["attempts"]) == (7, 1, 2)
    assert record["cases"] == [case.name for case in held_out_cases(read_dataset(phantom), 0)]
    assert record["train"]["process"]["cpu_s"] >= 0
    assert run.run_job(fake, phantom, tmp_path, CLEAN) == "finished before"


def test_an_arm_predicts_with_the_network_of_another_one(phantom, tmp_path):
    arm = Arm("whole", network_of="plain", predict={"priming_frames": 100})
    job = Job("ablations", arm, 0, 0, "1s")
    assert run.run_job(job, phantom, tmp_path, CLEAN) == "plain is not done yet"
    plain = tmp_path / "ablations" / "plain" / "fold_0_seed_0"
    (plain / "trained").mkdir(parents=True)
    for name, content in (
        ("train.json", {"attempts": 1}),
        ("preprocess.json", {}),
        ("trained/checkpoint_last.pt", {}),
        ("trained/summary.json", {"steps": {"done": 7}, "time_budget": {"spent_seconds": 1.5}}),
    ):
        write_json(plain / name, content)
    assert programs.borrow_network(job, tmp_path, CLEAN)
    assert programs.borrow_network(job, tmp_path, CLEAN), "a job may continue"
    own = job.folder(tmp_path)
    assert read_json(own / "train.json") == {"attempts": 1}
    assert programs.PROGRAMS["unet4d"].trained(job, tmp_path) == {"steps": 7, "cpu_s": 1.5}
    words = programs.PROGRAMS["unet4d"].predict(job, phantom, tmp_path, own / "out", own / "facts.json").words
    at = words.index("--priming_frames")
    assert words[at + 1] == "100"
    assert str(own / "trained" / "checkpoint_last.pt") in words
    assert words[words.index("--temporal_smoothing") + 1] == "0", (
        "an arm is the network alone, unless it says otherwise"
    )
    job = replace(job, arm=replace(arm, predict={"temporal_smoothing": None}))
    words = programs.PROGRAMS["unet4d"].predict(job, phantom, tmp_path, own / "out", own / "facts.json").words
    assert "--temporal_smoothing" not in words, "null is the default of predict"
    job = replace(job, arm=replace(arm, predict={"mirror_axes": [0, 1]}))
    words = programs.PROGRAMS["unet4d"].predict(job, phantom, tmp_path, own / "out", own / "facts.json").words
    at = words.index("--mirror_axes")
    assert words[at + 1 : at + 3] == ["0", "1"], "the command takes a list as several words"


def test_the_label_maps_of_another_arm_are_post_processed(phantom, tmp_path, monkeypatch):
    """Whichever program made them: an island of each frame goes, and its time is added to that of the prediction."""
    case = held_out_cases(read_dataset(phantom), 0)[0]
    label = read_label(case.label)
    with_island = label.copy()
    with_island[:, :2, 0, 0] = 1
    arm = Arm("cleaned", "postprocessing", network_of="plain", steps=[["largest_component", "right ventricle"]])
    assert label[:, :2, 0, 0].max() == 0
    job = Job("ablations", arm, 0, 0, "1s")
    assert run.run_job(job, phantom, tmp_path, CLEAN) == "plain is not done yet"
    plain = tmp_path / "ablations" / "plain" / "fold_0_seed_0" / CLEAN
    write_image(plain / "predicted" / f"{case.name}.nii.gz", with_island, like=read_image(case.images[0]))
    write_json(plain / "facts.json", {"studies": 1, "frames": 4, "cpu_s": 2.0})
    write_json(plain / run.RECORD, {})
    monkeypatch.setattr(run, "evaluate", lambda *words: Command(["true"]))
    assert run.run_job(job, phantom, tmp_path, CLEAN) == "finished"
    own = job.folder(tmp_path) / CLEAN
    cleaned = read_label(own / "predicted" / f"{case.name}.nii.gz", like=read_image(case.images[0]))
    assert (cleaned == 1).sum() <= (label == 1).sum()
    assert cleaned[:, :2, 0, 0].max() == 0
    np.testing.assert_array_equal(cleaned[label != 1], label[label != 1])
    facts = read_json(own / run.RECORD)["predict"]
    assert (facts["studies"], facts["frames"]) == (1, 4)
    assert facts["cpu_s"] >= 2


def test_a_copy_of_the_studies_is_scored_with_what_was_trained_and_never_trained_on(
    fake, phantom, tmp_path, monkeypatch
):
    assert run.run_job(fake, phantom, tmp_path, "spoiled") == "not trained yet"
    with pytest.raises(subprocess.CalledProcessError):
        run.run_job(fake, phantom, tmp_path, CLEAN)
    monkeypatch.setitem(programs.PROGRAMS, "fake", programs.PROGRAMS["fake"]._replace(train=lambda *job: None))
    assert run.run_job(fake, phantom, tmp_path, "spoiled") == "finished"
    assert (tmp_path / "trainings").read_text() == "x"


def test_a_job_of_another_runner_is_passed_over(fake, phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOCK_PATIENCE_S", 0.0)
    fake.folder(tmp_path).mkdir(parents=True)
    with lock.exclusive_lock(fake.folder(tmp_path) / "lock"):
        assert run.run_job(fake, phantom, tmp_path, CLEAN) == "another runner works on it"
    assert not (tmp_path / "trainings").exists()


ARMS = [Arm("a", seeds=[0]), Arm("b", seeds=[0, 1]), Arm("c", quantities=["dice", "hd95_mm"])]
SUITE = Suite("arms", "1s", "b", ["dice", "roughness"], ARMS)


def write_job(work, arm, seed, fold, dice, hd95="2.0", roughness="0.02"):
    """Write the scores of a finished job; `dice`: subject to the values of its two classes in one frame."""
    folder = work / "arms" / arm / f"fold_{fold}_seed_{seed}" / CLEAN
    rows = {name: [] for name in COLUMNS}
    for subject, values in dice.items():
        for name, value in zip(("right ventricle", "left ventricle"), values, strict=True):
            key = {"case": subject, "subject": subject, "frame": 0, "class": name, "time": "cyclic"}
            rows[METRICS_CSV].append(key | {"dice": value, "hd95_mm": hd95})
            rows[TEMPORAL_CSV].append(key | {"roughness": roughness})
            rows[MEASURES_CSV].append(key | {"reference_ef_percent": 60, "matched_ef_percent": 57.5})
    (folder / "scores").mkdir(parents=True)
    for name, columns in COLUMNS.items():
        head = list(dict.fromkeys([*columns, *(column for row in rows[name] for column in row)]))
        for column in ("frame_to_frame_dice", "matched_edv_ml", "reference_edv_ml", "matched_esv_ml", "reference_esv_ml",
                       "matched_sv_ml", "reference_sv_ml", "matched_mass_g"):  # fmt: skip
            head += [column] * (column not in head)
        with open(folder / "scores" / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, head, restval="")
            writer.writeheader()
            writer.writerows(rows[name])
    summary = {
        "per_case": dict.fromkeys(dice),
        "tolerance_mm": 2.0,
        "classes": {"right ventricle": {}, "left ventricle": {}},
    }
    write_json(folder / "scores" / "summary.json", summary)
    predicted = {"studies": len(dice), "frames": 10 * len(dice), "cpu_s": 20.0 * len(dice)}
    about = {
        "arm": arm,
        "fold": fold,
        "seed": seed,
        "budget": "1s",
        "commit": "abc",
        "date": "2026-11-30",
        "options": {},
    }
    trained = {"process": {"cpu_s": 1.0}, "cpu_s": 60.0, "steps": 100}
    hardware = {"hardware": {"cpu": "a processor", "cores": 2}}
    write_json(folder / run.RECORD, about | hardware | {"train": trained, "predict": predicted})


def summary_of(suite, work, kept=None):
    """Return the contents of the table's JSON file; nothing is kept unless a folder is given."""
    return table.summarize(suite, scores.finished_jobs(suite, work, CLEAN, kept or work), CLEAN)


def test_the_table_averages_seeds_then_patients_and_tests_what_was_planned(tmp_path):
    subjects = [f"p{i}" for i in range(6)]
    write_job(tmp_path, "a", 0, 0, {s: (0.5 + i / 100, 0.7) for i, s in enumerate(subjects)}, roughness="0.04")
    write_job(tmp_path, "b", 0, 0, dict.fromkeys(subjects, (0.8, 0.8)))
    write_job(tmp_path, "b", 1, 0, dict.fromkeys(subjects, (0.6, 1.0)))
    write_job(tmp_path, "c", 0, 0, dict.fromkeys(subjects[:3], (0.5, 0.5)), hd95="")
    summary = summary_of(SUITE, tmp_path)
    b, c = summary["arms"]["b"], summary["arms"]["c"]
    assert b["scores"]["dice"][table.ALL_CLASSES]["mean"] == pytest.approx(0.8)
    assert b["scores"]["dice"]["right ventricle"] == {
        "mean": pytest.approx(0.7),
        "ci95": pytest.approx([0.7, 0.7]),
        "n": 6,
    }
    assert b["scores"]["ef_error_percent"]["left ventricle"]["mean"] == 2.5
    assert table.ALL_CLASSES not in b["scores"]["ef_error_percent"]
    assert (b["prediction_cpu_s_per_study"], b["prediction_cpu_s_per_frame"], b["jobs_missing"]) == (20, 2, 2)
    assert set(c["scores"]) == {"dice", "hd95_mm"}
    assert c["hd95_undefined"] == 6
    tests = {(test["arm"], test["of"]): test for test in summary["tests"]}
    assert set(tests) == {("a", "dice"), ("a", "roughness"), ("c", "dice")}
    against_a = tests["a", "dice"]
    assert against_a["difference"] == pytest.approx(0.8 - (0.525 + 0.7) / 2)
    assert (against_a["n"], against_a["p"], against_a["p_holm"]) == (6, 0.03125, 0.09375)  # three are planned
    assert tests["a", "roughness"]["difference"] == pytest.approx(-0.02)
    assert (tests["c", "dice"]["n"], tests["c", "dice"]["p"], tests["c", "dice"]["left_out"]) == (3, None, 6)


def test_an_arm_is_tested_against_the_arm_that_it_names(tmp_path):
    subjects = [f"p{i}" for i in range(3)]
    for name in "abc":
        write_job(tmp_path, name, 0, 0, dict.fromkeys(subjects, (0.5, 0.5)))
    suite = replace(SUITE, arms=[replace(arm, compared_with="a" if arm.name == "c" else None) for arm in SUITE.arms])
    tests = {(test["arm"], test["against"]) for test in summary_of(suite, tmp_path)["tests"]}
    assert tests == {("a", "b"), ("c", "a")}


def test_a_table_is_made_anew_of_what_is_kept_and_of_new_jobs(tmp_path):
    """Without the runs it is the same to the digit; what is undefined stays so; an arm that has changed counts no more."""
    subjects = [f"p{i}" for i in range(6)]
    kept, later = tmp_path / "kept", tmp_path / "later"
    write_job(tmp_path, "b", 0, 0, {s: (0.8 + i / 70, 0.8) for i, s in enumerate(subjects)})
    write_job(tmp_path, "b", 1, 0, dict.fromkeys(subjects, (0.6, 1 / 3)))
    write_job(tmp_path, "c", 0, 0, dict.fromkeys(subjects[:3], (0.5, 0.5)), hd95="")
    first = summary_of(SUITE, tmp_path)
    scores.keep(SUITE, CLEAN, scores.finished_jobs(SUITE, tmp_path, CLEAN, kept), kept)
    assert summary_of(SUITE, None, kept) == first
    assert first["arms"]["c"]["hd95_undefined"] == 6
    write_job(later, "a", 0, 0, {s: (0.5 + i / 100, 0.7) for i, s in enumerate(subjects)}, roughness="0.04")
    write_job(later, "b", 1, 0, dict.fromkeys(subjects, (0.9, 0.9)))
    both = summary_of(SUITE, later, kept)
    assert {test["arm"] for test in both["tests"]} == {"a", "c"}
    assert both["arms"]["b"]["scores"]["dice"]["left ventricle"]["mean"] == pytest.approx(0.85), "a job run again"
    changed = replace(SUITE, arms=[*SUITE.arms[:2], replace(SUITE.arms[2], options={"model.deep_supervision": True})])
    assert set(summary_of(changed, None, kept)["arms"]) == {"b"}
    with pytest.raises(InputError, match="no finished job of arms"):
        summary_of(SUITE, None, tmp_path / "nothing")


def test_what_is_kept_of_an_arm_counts_only_with_the_arm_that_made_its_network(tmp_path):
    """Neither beside a network of other options nor beside one that was trained anew."""
    suite = replace(SUITE, arms=[Arm("b"), Arm("c", network_of="b")])
    kept, later = tmp_path / "kept", tmp_path / "later"
    for name in "bc":
        write_job(tmp_path, name, 0, 0, dict.fromkeys(["p0", "p1"], (0.5, 0.5)))
    scores.keep(suite, CLEAN, scores.finished_jobs(suite, tmp_path, CLEAN, kept), kept)
    assert set(scores.finished_jobs(suite, None, CLEAN, kept)) == {"b", "c"}
    write_job(later, "b", 0, 0, dict.fromkeys(["p0", "p1"], (0.9, 0.9)))
    assert set(scores.finished_jobs(suite, later, CLEAN, kept)) == {"b"}
    changed = replace(suite, arms=[Arm("b", options={"model.deep_supervision": True}), suite.arms[1]])
    with pytest.raises(InputError, match="no finished job of arms"):
        scores.finished_jobs(changed, None, CLEAN, kept)


def test_planned_tests_that_are_not_made_yet_are_corrected_for():
    rows = {
        arm: {"dice": {(str(i), "0", "RV"): (str(i), i + b) for i in range(6)}} for arm, b in (("a", 0.0), ("b", 1.0))
    }
    planned = [("a", "b", "dice"), ("c", "b", "dice"), ("d", "b", "dice"), ("e", "a", "dice")]
    (found,) = table.run_tests(planned, rows)
    assert (found["p"], found["p_holm"]) == (0.03125, 0.125)
    assert table.markdown_tests({"tests": [found], "planned_tests": 4}, lambda of: 1).endswith(
        "1 of 4 planned tests made."
    )


def test_only_rows_that_both_arms_have_are_compared():
    a = {("x", "0", "RV"): ("x", 1.0), ("x", "1", "RV"): ("x", 9.0), ("y", "0", "RV"): ("y", 5.0)}
    b = {("x", "0", "RV"): ("x", 3.0), ("y", "0", "RV"): ("y", 4.0), ("y", "1", "RV"): ("y", 0.0)}
    found = table.compare_arms(a, b)
    assert (found["n"], found["a"], found["b"], found["difference"], found["left_out"]) == (2, 3.0, 3.5, 0.5, 2)
    assert table.compare_arms({}, b)["difference"] is None


def test_the_tables_are_printed(tmp_path):
    subjects = [f"p{i}" for i in range(3)]
    write_job(tmp_path, "b", 0, 0, dict.fromkeys(subjects, (0.75, 0.85)))
    write_job(tmp_path, "c", 0, 1, dict.fromkeys(subjects, (0.5, 0.5)))
    text = table.markdown(summary_of(SUITE, tmp_path))
    assert "| b | 0.800 (0.800 to 0.800) [0.750 / 0.850] |" in text
    assert "| c | 0.500 (0.500 to 0.500) [0.500 / 0.500] |" in text
    assert "| b | 3 | 1 | 100 | 1.0 | 20.00 | 2.00 | - | 0 | 3 |" in text
    assert "| b minus c, dice | 3 | +0.300 | 0.300 to 0.300 | - | - |" in text
    assert "0 of 3 planned tests made." in text
    assert text.endswith("budget 1s; code abc; date 2026-11-30; hardware a processor, 2 cores\n")
