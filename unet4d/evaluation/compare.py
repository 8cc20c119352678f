"""`unet4d compare`: two methods on the same studies, subject by subject: the difference, and whether it is more than chance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES, Key, values_of
from unet4d.evaluation.results import EvaluationResults, read_evaluation
from unet4d.evaluation.tables import METRICS_CSV, TEMPORAL_CSV, align_columns, format_interval
from unet4d.metrics.statistics import INTERVALS, holm, interval95, signed_rank
from unet4d.system.csv_file import csv_text
from unet4d.system.files import check_writable, write_json, write_text
from unet4d.system.signals import check_stop
from unet4d.system.text import count, format_number
from unet4d.system.version import VERSION

COMPARISON_JSON, COMPARISON_CSV = "comparison.json", "comparison.csv"
ALL_CLASSES = "mean over classes"
SIGNIFICANCE_LEVEL = 0.05
COMPARISON_NOTE = (
    "Each subject counts once: the mean over its labelled frames and cases where the quantity is defined in both A and B. "
    "Difference: B minus A. p: Wilcoxon signed-rank test, two-sided, exact. p_holm: corrected by Holm for all tests of this table. "
    "effect: matched-pairs rank-biserial correlation, 1 where B is larger in every subject, -1 where A is. A method is called "
    f"better where p_holm is below {SIGNIFICANCE_LEVEL}; else no difference is shown, which does not show that there is none."
)


@dataclass(frozen=True)
class Comparison:
    """One quantity of one class in A and B, over subjects.

    Attributes:
        metric: name of the quantity.
        class_name: of the class.
        n: subjects; 0 where the quantity is defined nowhere in both, of which there are then no means.
        left_out: values, of frames or cases, that are defined in one of A and B alone.
        mean_a: mean over subjects.
        mean_b: the same.
        mean_difference: B minus A.
        ci95: interval of that, by bootstrap over subjects.
        median_difference: B minus A.
        p: of the Wilcoxon signed-rank test; None where there is none.
        p_holm: corrected for all tests of the comparison.
        effect: matched-pairs rank-biserial correlation.
        verdict: in words.
    """

    metric: str
    class_name: str
    n: int
    left_out: int
    mean_a: float | None
    mean_b: float | None
    mean_difference: float | None
    ci95: list[float] | None
    median_difference: float | None
    p: float | None
    p_holm: float | None
    effect: float | None
    verdict: str


def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    quantities: Sequence[str] | None = None,
    shared_only: bool = False,
) -> dict[str, Any]:
    """Compare two evaluations of the same references; print a table, and write comparison.json and comparison.csv.

    Args:
        a: folder that `evaluate` wrote.
        b: another.
        out_dir: made where it is missing; left out, nothing is written.
        quantities: compare in these alone, some of QUANTITIES: fewer tests need a smaller correction.
        shared_only: compare the cases that both have, and say which are left out.

    Returns:
        What comparison.json holds.

    Raises:
        InputError: no evaluation; other cases, unless `shared_only`; other references, frames, classes, tolerance or time.
    """
    names = _chosen(quantities)
    if out_dir is not None:
        check_writable(out_dir)
    first, second = read_evaluation(Path(a)), read_evaluation(Path(b))
    only_a = [case for case in first.cases if case not in second.cases]
    only_b = [case for case in second.cases if case not in first.cases]
    shared = [case for case in first.cases if case in second.cases]
    _check_cases(first, second, only_a, only_b, shared, shared_only)
    first, second = first.of_cases(shared), second.of_cases(shared)
    _check_same_references(first, second)
    compared = _corrected([one for name in names for one in _compared(name, first, second)])
    found = {
        "version": VERSION,
        "a": str(a),
        "b": str(b),
        "cases": len(shared),
        "subjects": len({row["subject"] for row in first.tables[METRICS_CSV]}),
        "only_a": only_a,
        "only_b": only_b,
        "tolerance_mm": first.summary["tolerance_mm"],
        "about": COMPARISON_NOTE,
        "intervals": INTERVALS,
        "tests": sum(one.p is not None for one in compared),
        "smallest_p_holm": _smallest_p_holm(compared),
        "compared": [asdict(one) for one in compared],
    }
    if out_dir is not None:
        write_text(Path(out_dir) / COMPARISON_CSV, csv_text(_csv_rows(compared)))
        write_json(Path(out_dir) / COMPARISON_JSON, found)
    print(format_comparison(found))
    if out_dir is not None:
        print(f"\n{Path(out_dir) / COMPARISON_CSV}\n{Path(out_dir) / COMPARISON_JSON}")
    return found


def _smallest_p_holm(compared: Sequence[Comparison]) -> float | None:
    """The least that a corrected p can be, of a difference that goes the same way in every subject; None without a test."""
    tested = [one.n for one in compared if one.p is not None]
    return min(1.0, len(tested) * 2 * 0.5 ** max(tested)) if tested else None


def format_comparison(found: Mapping[str, Any]) -> str:
    """A comparison for a terminal: a line a quantity and class."""
    rows = []
    for one in found["compared"]:
        digits = COMPARISON_QUANTITIES[one["metric"]].digits
        rows.append([
            f"{one['metric']}: {one['class_name']}", str(one["n"]), str(one["left_out"]),
            *(format_number(one[key], digits) for key in ("mean_a", "mean_b")), _signed(one["mean_difference"], digits),
            format_interval(one["ci95"], digits), format_number(one["effect"], 2), _p(one["p"]), _p(one["p_holm"]),
        ])  # fmt: skip
    head = ["", "n", "left out", "A", "B", "B - A", "95 % CI", "effect", "p", "p Holm"]
    first, *others = align_columns(head, rows)
    verdicts = [f"{line}  {one['verdict']}" for line, one in zip(others, found["compared"], strict=True)]
    lines = [
        f"A: {found['a']}\nB: {found['b']}",
        f"{count(found['cases'], 'case')} of {count(found['subjects'], 'subject')}; {found['tests']} "
        f"test{'s' * (found['tests'] != 1)}",
    ]
    for name, left in (("A", found["only_a"]), ("B", found["only_b"])):
        if left:
            lines.append(f"left out, in {name} alone: {', '.join(left)}")
    least = found["smallest_p_holm"]
    if least is not None and least >= SIGNIFICANCE_LEVEL:
        lines.append(
            f"so few subjects for so many tests that no corrected p can be below {SIGNIFICANCE_LEVEL} (the least is {least:.2f}): "
            "name what you set out to compare, --metrics dice"
        )
    if not verdicts:
        return "\n".join([*lines, "", "nothing that was asked for is defined in both A and B"])
    return "\n".join([*lines, "", first, *verdicts, "", found["about"].replace(". ", ".\n")])


def _chosen(quantities: Sequence[str] | None) -> list[str]:
    unknown = [name for name in quantities or () if name not in COMPARISON_QUANTITIES]
    if unknown or (quantities is not None and not quantities):
        came = f"metrics {', '.join(unknown)} came" if unknown else "no metric came"
        raise InputError(f"{came}; wanted some of {', '.join(COMPARISON_QUANTITIES)}")
    return [name for name in COMPARISON_QUANTITIES if quantities is None or name in quantities]


def _check_cases(
    a: EvaluationResults,
    b: EvaluationResults,
    only_a: list[str],
    only_b: list[str],
    shared: list[str],
    shared_only: bool,
) -> None:
    if not shared:
        raise InputError(f"{a.folder} and {b.folder} have no case in common; wanted evaluations of the same studies")
    if (only_a or only_b) and not shared_only:
        apart = [f"{w.folder} alone has {', '.join(names)}" for w, names in ((a, only_a), (b, only_b)) if names]
        raise InputError(
            f"{'; '.join(apart)}; wanted the same cases; predict what is missing, or compare the {len(shared)} shared ones "
            "with --shared_only"
        )


def _check_same_references(a: EvaluationResults, b: EvaluationResults) -> None:
    """Raises InputError unless both scored the same frames and classes against the same volumes, by the same tolerance and time."""
    tolerances = [one.summary["tolerance_mm"] for one in (a, b)]
    if tolerances[0] != tolerances[1]:
        raise InputError(
            f"{a.folder} has tolerance_mm {tolerances[0]}, {b.folder} {tolerances[1]}; wanted the same; evaluate one again"
        )
    drawn = []
    for one in (a, b):
        rows = one.tables[METRICS_CSV]
        drawn.append({_key(row): (row["subject"], one.number(row, "reference_ml")) for row in rows})
    for key in [*drawn[0], *drawn[1]]:
        if not all(key in of_one for of_one in drawn) or drawn[0][key] != drawn[1][key]:
            case, frame, name = key
            raise InputError(
                f"{a.folder} and {b.folder} differ in the reference of case {case}, frame {frame}, {name}; wanted evaluations "
                "against the same labels; evaluate both against one reference"
            )
    times = [{row["case"]: row["time"] for row in one.tables[TEMPORAL_CSV]} for one in (a, b)]
    for case, time in times[0].items():
        if times[1].get(case) != time:
            raise InputError(
                f"case {case} is {time} in {a.folder} and {times[1].get(case)} in {b.folder}; wanted the same; evaluate both "
                "against a dataset whose dataset.json says its time"
            )


def _key(row: Mapping[str, str]) -> Key:
    return row["case"], row["frame"], row["class"]


def _compared(name: str, a: EvaluationResults, b: EvaluationResults) -> list[Comparison]:
    """A quantity in every class where it is defined, and in the mean of those where it is in both; not corrected."""
    check_stop()
    quantity = COMPARISON_QUANTITIES[name]
    others = {key: value for key, _, value in values_of(b, quantity)}
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {}  # class to subject to pairs
    left_out: dict[str, int] = {}
    for key, subject, value in values_of(a, quantity):
        pair = (value, others.get(key, np.nan))
        defined = int(np.isfinite(pair).sum())
        if defined == 2:
            pairs.setdefault(key[2], {}).setdefault(subject, []).append(pair)
        elif defined:
            left_out[key[2]] = left_out.get(key[2], 0) + 1
    means = {of: {s: np.mean(values, axis=0) for s, values in whose.items()} for of, whose in pairs.items()}
    if quantity.over_classes and len(means) > 1:
        subjects = list(dict.fromkeys(s for whose in means.values() for s in whose))
        over = {s: np.mean([whose[s] for whose in means.values() if s in whose], axis=0) for s in subjects}
        means = {ALL_CLASSES: over, **means}
        left_out[ALL_CLASSES] = sum(left_out.values())
    means |= {
        of: {} for of in left_out if of not in means
    }  # a class that one method never finds is told, not passed by
    return [_one(name, of, whose, left_out.get(of, 0)) for of, whose in means.items()]


def _one(name: str, class_name: str, means: Mapping[str, np.ndarray], left_out: int) -> Comparison:
    """One quantity of one class; `means` has A's and B's of each subject."""
    if not means:
        nothing = (None,) * 8
        return Comparison(name, class_name, 0, left_out, *nothing, verdict="no test: nowhere defined in both A and B")
    values = np.array(list(means.values()))  # (subjects, 2)
    difference = values[:, 1] - values[:, 0]
    tested = signed_rank(difference)
    return Comparison(
        metric=name,
        class_name=class_name,
        n=len(values),
        left_out=left_out,
        mean_a=float(values[:, 0].mean()),
        mean_b=float(values[:, 1].mean()),
        mean_difference=float(difference.mean()),
        ci95=interval95(difference, list(means)),
        median_difference=float(np.median(difference)),
        p=tested.p,
        p_holm=None,
        effect=tested.effect,
        verdict=f"no test: {tested.note}" if tested.note else "",
    )


def _corrected(compared: Sequence[Comparison]) -> list[Comparison]:
    """The same with p corrected for all tests, and the verdict that follows."""
    found = []
    for one, p_holm in zip(compared, holm([one.p for one in compared]), strict=True):
        verdict = one.verdict
        if p_holm is not None and one.effect is not None:
            better = COMPARISON_QUANTITIES[one.metric].better
            more, word = (better * one.effect, "better") if better else (one.effect, "larger")
            verdict = f"{'B' if more > 0 else 'A'} {word}" if p_holm < SIGNIFICANCE_LEVEL else "no difference shown"
        found.append(Comparison(**{**vars(one), "p_holm": p_holm, "verdict": verdict}))
    return found


def _csv_rows(compared: Sequence[Comparison]) -> list[list[Any]]:
    """A row a quantity and class; the interval in two columns, the class in one named as elsewhere."""
    names = [field.name for field in fields(Comparison)]
    head = [{"class_name": "class"}.get(name, name) for name in names if name != "ci95"]
    rows: list[list[Any]] = [[*head, "ci95_lower", "ci95_upper"]]
    for one in compared:
        cells = ["" if value is None else value for name, value in vars(one).items() if name != "ci95"]
        lower, upper = one.ci95 or (None, None)
        rows.append([*cells, "" if lower is None else lower, "" if upper is None else upper])
    return rows


def _signed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
