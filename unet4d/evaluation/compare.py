"""Comparison of two methods on the same studies, subject by subject: differences, Wilcoxon tests, verdicts (`unet4d compare`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.evaluation.comparison_metrics import COMPARISON_QUANTITIES, ComparisonQuantity, RowKey
from unet4d.evaluation.conditions import condition_warnings
from unet4d.evaluation.results import CURVE_COLUMNS, EvaluationResults, read_evaluation
from unet4d.evaluation.tables import METRICS_CSV, TEMPORAL_CSV, align_columns, format_range
from unet4d.metrics.statistics import FEWEST_DIFFERENCES, INTERVALS, holm, interval95, signed_rank
from unet4d.system.csv_file import Table
from unet4d.system.documents import document, write_document
from unet4d.system.environment import VERSION
from unet4d.system.files import PathLike, check_writable, write_text
from unet4d.system.signals import check_stop
from unet4d.system.text import count, format_number

COMPARISON_JSON, COMPARISON_CSV = "comparison.json", "comparison.csv"
COMPARISON = Table(
    COMPARISON_CSV,
    "quantity and class",
    {
        "metric": "name of the quantity",
        "class": "name of the class, or mean over classes",
        "n": "number of subjects",
        "left_out": "values that are defined in only one of A and B",
        "mean_a": "mean over subjects of A, in the unit of the quantity",
        "mean_b": "the same of B",
        "mean_difference": "B minus A",
        "median_difference": "B minus A",
        "p": "Wilcoxon signed-rank test, two-sided, exact",
        "p_holm": "p corrected by Holm for all tests of the table",
        "effect": "matched-pairs rank-biserial correlation, -1 to 1",
        "verdict": "which method is better, or why there is no test",
        "ci95_lower": "lower end of the 95 % interval of the mean difference",
        "ci95_upper": "its upper end",
    },
)
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
        class_name: name of the class.
        n: number of subjects; 0 where the quantity is nowhere defined in both, and the means are None.
        left_out: number of values, of frames or cases, that are defined in only one of A and B.
        mean_a: mean over subjects.
        mean_b: the same of B.
        mean_difference: B minus A.
        ci95: its interval, by bootstrap over subjects.
        median_difference: B minus A.
        p: of the Wilcoxon signed-rank test; None without a test.
        p_holm: corrected for all tests of the comparison.
        effect: matched-pairs rank-biserial correlation.
        verdict: which method is better, or why there is no test.
    """

    metric: str
    class_name: str
    n: int
    left_out: int
    mean_a: float | None = None
    mean_b: float | None = None
    mean_difference: float | None = None
    ci95: list[float] | None = None
    median_difference: float | None = None
    p: float | None = None
    p_holm: float | None = None
    effect: float | None = None
    verdict: str = "no test: nowhere defined in both A and B"


def compare(
    a: PathLike,
    b: PathLike,
    out_dir: PathLike | None = None,
    *,
    quantities: Sequence[str] | None = None,
    shared_only: bool = False,
) -> dict[str, Any]:
    """Compare two evaluations of the same references, and write comparison.json and comparison.csv.

    Args:
        a: folder that `evaluate` wrote.
        b: another one.
        out_dir: created where it is missing; None writes nothing.
        quantities: some of COMPARISON_QUANTITIES; None compares all. Fewer tests need a smaller correction.
        shared_only: compare the cases that both have, and list the others.

    Returns:
        The contents of comparison.json.

    Raises:
        InputError: no evaluation; other cases, unless `shared_only`; other references, frames, classes, tolerance or time.
    """
    names = _check_quantities(quantities)
    if out_dir is not None:
        check_writable(out_dir)
    first, second = (read_evaluation(Path(path), optional=tuple(CURVE_COLUMNS)) for path in (a, b))
    shared, only_a, only_b = _shared_cases(first, second, shared_only)
    first, second = first.select(shared), second.select(shared)
    _check_same_references(first, second)
    tables = first.tables.keys() & second.tables.keys()  # those of curves where both have them
    names = [name for name in names if COMPARISON_QUANTITIES[name].file in tables]
    _check_same_curves(first, second, names)
    compared = _decide([c for name in names for c in _compare_quantity(name, first, second)])
    tested = [comparison.n for comparison in compared if comparison.p is not None]
    summary = {
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
        "conditions_a": first.summary.get("conditions", {}),
        "conditions_b": second.summary.get("conditions", {}),
        "warnings": condition_warnings(first.summary.get("conditions", {}), second.summary.get("conditions", {})),
        "tests": len(tested),
        # where the difference has one sign in every subject
        "smallest_p_holm": min(1.0, len(tested) * 2 * 0.5 ** max(tested)) if tested else None,
        "compared": [asdict(comparison) for comparison in compared],
    }
    if out_dir is not None:
        table, record = Path(out_dir) / COMPARISON_CSV, Path(out_dir) / COMPARISON_JSON
        write_text(table, COMPARISON.text(_csv_rows(compared)))
        write_document(record, "comparison", summary)
    return document("comparison", summary)


def format_comparison(summary: Mapping[str, Any]) -> str:
    """Return the contents of comparison.json for a terminal: one line per quantity and class."""
    rows = []
    for entry in summary["compared"]:
        digits = COMPARISON_QUANTITIES[entry["metric"]].digits
        signed = "-" if entry["mean_difference"] is None else f"{entry['mean_difference']:+.{digits}f}"
        rows.append([
            f"{entry['metric']}: {entry['class_name']}", str(entry["n"]), str(entry["left_out"]),
            format_number(entry["mean_a"], digits), format_number(entry["mean_b"], digits), signed,
            format_range(entry["ci95"], digits), format_number(entry["effect"], 2), _format_p(entry["p"]),
            _format_p(entry["p_holm"]),
        ])  # fmt: skip
    head, *others = align_columns(["", "n", "left out", "A", "B", "B - A", "95 % CI", "effect", "p", "p Holm"], rows)
    too_few = summary["subjects"] < FEWEST_DIFFERENCES
    verdicts = [
        line if too_few else f"{line}  {entry['verdict']}"
        for line, entry in zip(others, summary["compared"], strict=True)
    ]
    lines = [
        f"A: {summary['a']}\nB: {summary['b']}",
        f"{count(summary['cases'], 'case')} of {count(summary['subjects'], 'subject')}; {count(summary['tests'], 'test')}",
    ]
    for name, cases in (("A", summary["only_a"]), ("B", summary["only_b"])):
        if cases:
            lines.append(f"left out, only in {name}: {', '.join(cases)}")
    lines += [f"warning: {text}" for text in summary["warnings"]]
    if too_few:
        subjects = count(summary["subjects"], "subject")
        lines.append(f"no test and no effect with {subjects}: both need {FEWEST_DIFFERENCES} that differ")
    least = summary["smallest_p_holm"]
    if least is not None and least >= SIGNIFICANCE_LEVEL:
        lines.append(
            f"too few subjects for this many tests: no corrected p can be below {SIGNIFICANCE_LEVEL} (the least is {least:.2f}); "
            "name the metrics to compare, such as --metrics dice"
        )
    if not verdicts:
        return "\n".join([*lines, "", "none of these metrics is defined in both A and B"])
    return "\n".join([*lines, "", head, *verdicts, "", summary["about"].replace(". ", ".\n")])


def _check_quantities(quantities: Sequence[str] | None) -> list[str]:
    """Return the quantities to compare, in the order of printing; raise InputError for an unknown one, or none."""
    unknown = [name for name in quantities or () if name not in COMPARISON_QUANTITIES]
    if unknown or (quantities is not None and not quantities):
        raise InputError(
            f"got metrics {', '.join(unknown) or 'none'}, expected some of {', '.join(COMPARISON_QUANTITIES)}; leave --metrics "
            "out for all"
        )
    return [name for name in COMPARISON_QUANTITIES if quantities is None or name in quantities]


def _shared_cases(
    a: EvaluationResults, b: EvaluationResults, shared_only: bool
) -> tuple[list[str], list[str], list[str]]:
    """Return the cases of both, of A only and of B only; raise InputError where they may not be compared."""
    shared = [case for case in a.cases if case in b.cases]
    only_a, only_b = ([case for case in results.cases if case not in shared] for results in (a, b))
    if not shared:
        raise InputError(f"{a.folder} and {b.folder} have no case in common, expected evaluations of the same studies")
    if (only_a or only_b) and not shared_only:
        apart = [f"only {x.folder} has {', '.join(cases)}" for x, cases in ((a, only_a), (b, only_b)) if cases]
        raise InputError(
            f"{'; '.join(apart)}; expected the same cases; predict what is missing, or compare the {len(shared)} shared ones "
            "with --shared_only"
        )
    return shared, only_a, only_b


def _check_same_references(a: EvaluationResults, b: EvaluationResults) -> None:
    """Raise InputError unless both scored the same frames and classes against the same volumes, by the same tolerance and time."""
    if a.summary["tolerance_mm"] != b.summary["tolerance_mm"]:
        raise InputError(
            f"{a.folder} has tolerance_mm {a.summary['tolerance_mm']}, {b.folder} {b.summary['tolerance_mm']}; expected the same; "
            "evaluate one again"
        )
    volumes = ComparisonQuantity(METRICS_CSV, ("reference_ml",), 0, 0)
    in_a, in_b = ({key: (subject, ml) for key, subject, ml in volumes.values(results)} for results in (a, b))
    for key in [*in_a, *in_b]:
        if in_a.get(key) != in_b.get(key):
            case, frame, name = key
            raise InputError(
                f"{a.folder} and {b.folder} differ in the reference of case {case}, frame {frame}, {name}; expected the same "
                "labels; evaluate both against one reference"
            )
    times = [{row["case"]: row["time"] for row in results.tables[TEMPORAL_CSV]} for results in (a, b)]
    for case, time in times[0].items():
        if times[1].get(case) != time:
            raise InputError(
                f"case {case} is {time} in {a.folder} and {times[1].get(case)} in {b.folder}; expected the same; evaluate both "
                "against a dataset with its time in dataset.json"
            )


def _check_same_curves(a: EvaluationResults, b: EvaluationResults, names: Sequence[str]) -> None:
    """Raise InputError where the curves of a reference behind these quantities differ in more than their sign."""
    for name in names:
        quantity = COMPARISON_QUANTITIES[name]
        if quantity.file in CURVE_COLUMNS:
            of_reference = quantity._replace(columns=quantity.columns[1:], absolute=True)
            in_a, in_b = ({key: value for key, _, value in of_reference.values(x)} for x in (a, b))
            for key in (key for key in in_a if key in in_b and not np.isclose(in_a[key], in_b[key], equal_nan=True)):
                raise InputError(
                    f"{a.folder} and {b.folder} differ in {quantity.columns[1]} of case {key[0]}, expected the same for {name}; "
                    "evaluate both with the same --baseline_frames and --velocity_unit"
                )


def _compare_quantity(name: str, a: EvaluationResults, b: EvaluationResults) -> list[Comparison]:
    """Compare a quantity in every class, and in the mean over the classes where both methods have it; p is not corrected."""
    check_stop()
    quantity = COMPARISON_QUANTITIES[name]
    in_b: dict[RowKey, float] = {key: value for key, _, value in quantity.values(b)}
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {}  # class, subject
    left_out: Counter[str] = Counter()
    for key, subject, value in quantity.values(a):
        pair = (value, in_b.get(key, np.nan))
        defined = np.isfinite(pair).sum()
        if defined == 2:
            pairs.setdefault(key[2], {}).setdefault(subject, []).append(pair)
        elif defined:
            left_out[key[2]] += 1
    means = {c: {s: np.mean(values, axis=0) for s, values in of_class.items()} for c, of_class in pairs.items()}
    if quantity.over_classes and len(means) > 1:
        subjects = dict.fromkeys(s for of_class in means.values() for s in of_class)
        over = {s: np.mean([of_class[s] for of_class in means.values() if s in of_class], axis=0) for s in subjects}
        means = {ALL_CLASSES: over, **means}
        left_out[ALL_CLASSES] = left_out.total()
    means |= {c: {} for c in left_out if c not in means}  # a class that only one method finds
    return [_test(name, c, of_class, left_out[c]) for c, of_class in means.items()]


def _test(name: str, class_name: str, means: Mapping[str, np.ndarray], left_out: int) -> Comparison:
    """Test one quantity of one class; `means` has the values of A and B for each subject."""
    if not means:
        return Comparison(name, class_name, 0, left_out)
    values = np.array(list(means.values()))  # (subjects, 2)
    difference = values[:, 1] - values[:, 0]
    tested = signed_rank(difference)
    return Comparison(
        name,
        class_name,
        n=len(values),
        left_out=left_out,
        mean_a=float(values[:, 0].mean()),
        mean_b=float(values[:, 1].mean()),
        mean_difference=float(difference.mean()),
        ci95=interval95(difference, list(means)),
        median_difference=float(np.median(difference)),
        p=tested.p,
        effect=tested.effect,
        verdict=f"no test: {tested.note}" if tested.note else "",
    )


def _decide(compared: Sequence[Comparison]) -> list[Comparison]:
    """Correct p for all tests, and set the verdict that follows."""
    decided = []
    for comparison, p_holm in zip(compared, holm([comparison.p for comparison in compared]), strict=True):
        verdict = comparison.verdict
        if p_holm is not None and comparison.effect is not None:
            better = COMPARISON_QUANTITIES[comparison.metric].better
            more, word = (better * comparison.effect, "better") if better else (comparison.effect, "larger")
            verdict = f"{'B' if more > 0 else 'A'} {word}" if p_holm < SIGNIFICANCE_LEVEL else "no difference shown"
        decided.append(replace(comparison, p_holm=p_holm, verdict=verdict))
    return decided


def _csv_rows(compared: Sequence[Comparison]) -> list[list[Any]]:
    """Return one row per quantity and class; the interval takes two columns."""
    rows: list[list[Any]] = []
    for comparison in compared:
        lower, upper = comparison.ci95 or (None, None)
        values = vars(comparison) | {"class": comparison.class_name, "ci95_lower": lower, "ci95_upper": upper}
        cells = [values[name] for name in COMPARISON.columns]
        rows.append(["" if cell is None else cell for cell in cells])
    return rows


def _format_p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
