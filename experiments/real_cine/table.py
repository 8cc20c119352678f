"""The tables of the protocol: every arm's scores, cost and planned tests, from the records and scores of its finished jobs.

    python -m experiments.real_cine.table [WORK] [--suite ablations] [--view spoiled] [--out experiments/results/real_cine]

Jobs that WORK lacks are those that the folder of the results keeps, see scores.py; without WORK the tables are made of these alone.
A patient counts once: a value is averaged over the seeds of an arm, then over the patient's frames, then over classes where a mean
over classes is wanted. Intervals and tests are those of `unet4d compare`: bootstrap over patients, Wilcoxon signed-rank test over
patients on the rows that both arms have, Holm-corrected over all planned tests of the suite, also those not made yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.real_cine.protocol import CLEAN, SUITES, Arm, Suite, read_suite, select_jobs
from experiments.real_cine.scores import GROUPS, RESULTS, JobScores, Rows, finished_jobs, keep, mean_rows
from unet4d.errors import InputError
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES
from unet4d.metrics.statistics import holm, interval95, signed_rank
from unet4d.system.files import write_json, write_text
from unet4d.system.text import format_number

ALL_CLASSES = "mean over classes"
WITHOUT_MEAN = GROUPS["Errors at the labelled frames"]
"""Quantities of which a mean over classes means nothing."""


def subject_means(rows: Rows, class_name: str = ALL_CLASSES) -> dict[str, float]:
    """Return the mean of each subject: over its frames, then over the classes that it has."""
    values: dict[str, dict[str, list[float]]] = {}
    for (_, _, name), (subject, value) in rows.items():
        if class_name in (ALL_CLASSES, name):
            values.setdefault(subject, {}).setdefault(name, []).append(value)
    return {subject: fmean(map(fmean, classes.values())) for subject, classes in values.items()}


def compare_arms(a: Rows, b: Rows) -> dict[str, Any]:
    """Compare two arms, subject by subject, on the rows that both have, in the mean over classes; differences are b minus a."""
    shared = a.keys() & b.keys()
    of_a, of_b = (subject_means({key: rows[key] for key in sorted(shared)}) for rows in (a, b))
    differences = [of_b[subject] - of_a[subject] for subject in of_a]
    tested = signed_rank(differences)
    return {
        "n": len(differences), "a": _mean(of_a), "b": _mean(of_b), "difference": fmean(differences) if differences else None,
        "ci95": interval95(differences, list(of_a)), "p": tested.p, "effect": tested.effect, "left_out": len(a.keys() ^ b.keys()),
    }  # fmt: skip


def run_tests(planned: Sequence[tuple[str, str, str]], rows: Mapping[str, Mapping[str, Rows]]) -> list[dict[str, Any]]:
    """Return the planned tests of which both arms are there; one that is missing, or without a p, counts for Holm as p = 1.

    Args:
        planned: arm, the arm that it is tested against, and what is compared of them.
        rows: by arm and by what is compared.
    """
    tests = [
        {"arm": arm, "against": other, "of": of} | compare_arms(rows[arm][of], rows[other][of])
        for arm, other, of in planned
        if {arm, other} <= rows.keys()
    ]
    known = [1.0 if test["p"] is None else test["p"] for test in tests]
    for test, p_holm in zip(tests, holm(known + [1.0] * (len(planned) - len(tests))), strict=False):
        test["p_holm"] = None if test["p"] is None else p_holm
    return tests


def describe_rows(rows: Rows, class_name: str = ALL_CLASSES) -> dict[str, Any] | None:
    """Return mean, interval and number of subjects; None without any."""
    means = subject_means(rows, class_name)
    ci95 = interval95(list(means.values()), list(means))
    return {"mean": _mean(means), "ci95": ci95, "n": len(means)} if means else None


def summarize(suite: Suite, jobs: Mapping[str, Sequence[JobScores]], view: str) -> dict[str, Any]:
    """Return the contents of the JSON file: arms with scores and cost, and the planned tests.

    Args:
        suite: its arms and tests.
        jobs: the finished ones by arm.
        view: of the studies that were scored.
    """
    arms, rows = {}, {}
    for arm in suite.arms:
        if done := jobs.get(arm.name):
            names = [name for group in GROUPS.values() for name in group if _is_scored(arm, name)]
            rows[arm.name] = {name: mean_rows(done, name) for name in names}
            arms[arm.name] = _summarize_arm([job.record for job in done], rows[arm.name])
            arms[arm.name]["jobs_missing"] = len(select_jobs(suite, [arm.name])) - len(done)
    planned = [
        (arm.name, suite.against[arm.name], quantity)
        for arm in suite.arms
        for quantity in suite.tested
        if arm.name in suite.against and _is_scored(arm, quantity)
    ]
    tests = run_tests(planned, rows)
    return {"suite": suite.name, "view": view, "arms": arms, "tests": tests, "planned_tests": len(planned)}


def _is_scored(arm: Arm, quantity: str) -> bool:
    return arm.quantities is None or quantity in arm.quantities


def _summarize_arm(records: Sequence[Mapping[str, Any]], rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Return one arm's cost, provenance and scores: quantity to class to mean, interval and number of subjects."""
    classes = list(dict.fromkeys(name for _, _, name in rows["dice"]))
    scores: dict[str, Any] = {}
    for name, of_quantity in rows.items():
        whole = () if name in WITHOUT_MEAN else (ALL_CLASSES,)
        scores[name] = {}
        for class_name in (*whole, *classes):
            if found := describe_rows(of_quantity, class_name):
                scores[name][class_name] = found
    predicted = [record["predict"] for record in records]
    studies, frames, used_s = (sum(one[key] for one in predicted) for key in ("studies", "frames", "cpu_s"))
    unmirrored = [one["unmirrored_cpu_s"] / one["studies"] for one in predicted if "unmirrored_cpu_s" in one]
    trained = [record["train"] for record in records if record["train"]]
    return {
        "scores": scores,
        "labelled_frames_times_classes": len(rows["dice"]),
        "hd95_undefined": len(rows["dice"]) - len(rows["hd95_mm"]),
        "jobs": [{key: record[key] for key in ("fold", "seed", "budget", "commit", "date")} for record in records],
        "hardware": sorted({f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores" for r in records}),
        "options": records[0]["options"],
        "training_cpu_s": _mean_of([one["cpu_s"] for one in trained if one["cpu_s"] is not None]),
        "steps": _mean_of([one["steps"] for one in trained]),
        "prediction_cpu_s_per_study": used_s / studies,
        "prediction_cpu_s_per_frame": used_s / frames,
        "unmirrored_cpu_s_per_study": _mean_of(unmirrored),
    }


def _mean(means: Mapping[str, float]) -> float | None:
    return _mean_of(list(means.values()))


def _mean_of(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables as markdown: one per group of quantities, the cost, the planned tests."""
    arms = summary["arms"]
    classes = next((list(arm["scores"]["dice"])[1:] for arm in arms.values()), [])
    parts = [f"Mean over patients with 95 % interval; in brackets {' / '.join(classes)}, where defined."]
    for title, names in GROUPS.items():
        cells = [[name, *(_cell(arm["scores"].get(q, {}), q) for q in names)] for name, arm in arms.items()]
        parts.append(markdown_table([title, *names], cells))
    cost = [
        [
            name, _patients(arm), str(len({job["seed"] for job in arm["jobs"]})), format_number(arm["steps"], 0),
            format_number(arm["training_cpu_s"] and arm["training_cpu_s"] / 60, 1),
            *(format_number(arm[f"prediction_cpu_s_per_{unit}"], 2) for unit in ("study", "frame")),
            format_number(arm["unmirrored_cpu_s_per_study"], 2), str(arm["hd95_undefined"]), str(arm["jobs_missing"]),
        ]
        for name, arm in arms.items()
    ]  # fmt: skip
    head = [
        "Cost", "patients", "seeds", "steps", "training, CPU min", "prediction, CPU s a study", "CPU s a frame",
        "not mirrored, CPU s a study", "HD95 undefined", "jobs missing",
    ]  # fmt: skip
    parts.append(markdown_table(head, cost))
    parts.append(markdown_tests(summary, _digits))
    jobs = [job for arm in arms.values() for job in arm["jobs"]]
    facts = [
        ("budget", {job["budget"] for job in jobs}),
        ("code", {job["commit"] for job in jobs}),
        ("date", {job["date"][:10] for job in jobs}),
        ("hardware", {one for arm in arms.values() for one in arm["hardware"]}),
    ]
    parts.append("; ".join(f"{name} {', '.join(sorted(values))}" for name, values in facts))
    return "\n\n".join(parts) + "\n"


def _patients(arm: Mapping[str, Any]) -> str:
    return str(next(iter(arm["scores"]["dice"].values()))["n"])


def _digits(quantity: str) -> int:
    return COMPARISON_QUANTITIES[quantity].digits


def _cell(scores: Mapping[str, Any], quantity: str) -> str:
    """Return "mean (lower to upper) [class / class]"."""
    if not scores:
        return ""
    digits, whole = _digits(quantity), scores.get(ALL_CLASSES)
    by_class = " / ".join(format_number(s["mean"], digits) for name, s in scores.items() if name != ALL_CLASSES)
    if whole is None:
        return by_class
    return f"{mean_and_interval(whole, digits)} [{by_class}]"


def mean_and_interval(scores: Mapping[str, Any], digits: int) -> str:
    """Return "mean (lower to upper)"."""
    return f"{format_number(scores['mean'], digits)} ({_interval(scores['ci95'], digits)})"


def _interval(ci95: Sequence[float] | None, digits: int) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.{digits}f} to {ci95[1]:.{digits}f}"


def _signed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"


def markdown_tests(summary: Mapping[str, Any], digits: Callable[[str], int]) -> str:
    """Return the tests as markdown, and how many of the planned ones could be made; `digits` gives the decimals of a quantity."""
    rows = [
        [
            f"{test['against']} minus {test['arm']}, {test['of']}", str(test["n"]),
            _signed(test["difference"], digits(test["of"])), _interval(test["ci95"], digits(test["of"])),
            format_number(test["p"], 4), format_number(test["p_holm"], 4),
        ]
        for test in summary["tests"]
    ]  # fmt: skip
    made = sum(test["p"] is not None for test in summary["tests"])
    count = f"{made} of {summary['planned_tests']} planned tests made."
    head = ["Planned tests", "patients", "difference", "95 % interval", "p", "p, Holm"]
    return f"{markdown_table(head, rows)}\n\n{count}" if rows else count


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Write NAME.json and NAME.md of a suite, with what is kept of its jobs, and print the table."""
    parser = argparse.ArgumentParser(description="tables of the benchmark on real cine")
    parser.add_argument(
        "work", type=Path, nargs="?", metavar="WORK", help="folder of the runs; without it, of what is kept"
    )
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--view", default=CLEAN)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    suite = read_suite(given.suite)
    try:
        jobs = finished_jobs(suite, given.work, given.view, given.out)
    except InputError as error:
        print(f"real_cine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    keep(suite, given.view, jobs, given.out)
    summary = summarize(suite, jobs, given.view)
    name = given.suite if given.view == CLEAN else f"{given.suite}_{given.view}"
    write_json(given.out / f"{name}.json", summary)
    write_text(given.out / f"{name}.md", text := markdown(summary))
    print(text)


if __name__ == "__main__":
    main()
