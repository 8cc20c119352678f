"""Commands that judge and show what was segmented."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import Command, layout_options


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        type=str,
        required=True,
        help="dataset folder (its labelled frames count), or folder of label maps",
    )
    parser.add_argument("--prediction", type=str, required=True, help="folder of <case>.nii.gz, anybody's")
    parser.add_argument(
        "--out", type=str, required=True, help="folder for metrics.csv, measures.csv, temporal.csv, summary.json, ..."
    )
    parser.add_argument(
        "--cases", type=str, nargs="+", help="score these only; default: every reference, none may be missing"
    )
    parser.add_argument(
        "--predicted_only",
        action="store_true",
        help="score the references that have a prediction, and count the others",
    )
    parser.add_argument(
        "--tolerance_mm",
        type=float,
        default=2.0,
        help="surfaces this near count as the same for the surface Dice (NSD)",
    )


def _evaluate(options: Namespace) -> None:
    from unet4d.evaluation.evaluate import evaluate

    o = options
    evaluate(
        o.reference, o.prediction, o.out, cases=o.cases, predicted_only=o.predicted_only, tolerance_mm=o.tolerance_mm
    )


def _compare_options(parser: ArgumentParser) -> None:
    parser.add_argument("a", type=str, help="--out folder of unet4d evaluate")
    parser.add_argument("b", type=str, help="another, of the same studies")
    parser.add_argument("--out", type=str, help="folder for comparison.json and comparison.csv; default: print only")
    parser.add_argument(
        "--metrics",
        type=str,
        nargs="+",
        help="compare in these only, such as dice ef_error_percent; default: all there are",
    )
    parser.add_argument(
        "--shared_only", action="store_true", help="compare the cases that both have, and say which are left out"
    )


def _compare(options: Namespace) -> None:
    from pathlib import Path

    from unet4d.evaluation.compare import COMPARISON_CSV, COMPARISON_JSON, compare, format_comparison

    o = options
    summary = compare(o.a, o.b, o.out, quantities=o.metrics, shared_only=o.shared_only)
    print(format_comparison(summary))
    if o.out is not None:
        print("", Path(o.out) / COMPARISON_CSV, Path(o.out) / COMPARISON_JSON, sep="\n")


def _report_options(parser: ArgumentParser) -> None:
    parser.add_argument("--image", type=str, required=True, help="study, folder of studies, or dataset folder")
    parser.add_argument("--prediction", type=str, required=True, help="folder of label maps")
    parser.add_argument("--out", type=str, required=True, help="folder for index.html, <case>.html and pictures")
    parser.add_argument("--evaluation", type=str, help="--out folder of unet4d evaluate, to show the scores too")
    layout_options(parser)


def _report(options: Namespace) -> None:
    from unet4d.datasets.convert.layout_options import LayoutOptions
    from unet4d.report.report import report

    o = options
    said = LayoutOptions(pattern=o.pattern, keep_patient_ids=o.keep_patient_ids)
    page = report(o.image, o.prediction, o.out, evaluation=o.evaluation, layout=o.layout, options=said)
    print(f"report: {page}")


EVALUATE = Command(
    "score label maps against reference labels",
    "--reference DIR --prediction DIR --out DIR [--cases CASE ... | --predicted_only] [--tolerance_mm MM]",
    "  unet4d evaluate --reference heart --prediction predicted --out scores\n"
    "  unet4d evaluate --reference heart --prediction predicted --out scores --cases phantom001 phantom002",
    _evaluate_options,
    _evaluate,
)

COMPARE = Command(
    "two methods on the same studies, paired: differences, Wilcoxon test, effect",
    "A B [--out DIR] [--metrics METRIC ...] [--shared_only]",
    "  unet4d compare scores_twin scores_recurrent --out comparison\n"
    "  unet4d compare scores_twin scores_recurrent --metrics dice ef_error_percent roughness",
    _compare_options,
    _compare,
)

REPORT = Command(
    "an HTML page a study with a 4D viewer, measures and flags, and an index",
    "--image INPUT --prediction DIR --out DIR [--evaluation DIR] [options]",
    "  unet4d report --image heart --prediction predicted --evaluation scores --out page",
    _report_options,
    _report,
)
