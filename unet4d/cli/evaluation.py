"""Commands that score segmentations and show them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import Command, add, chosen_curves, curve_options, json_option, layout_options
from unet4d.system.files import json_text

logger = logging.getLogger(__name__)


def _evaluate_options(parser: ArgumentParser) -> None:
    add(
        parser, "--reference", help="dataset folder (its labelled frames count), or folder of label maps", required=True
    )
    add(parser, "--prediction", help="folder of <case>.nii.gz, from any program", required=True)
    add(
        parser,
        "--out",
        help="folder for metrics.csv, measures_compared.csv, temporal.csv, summary.json, ...",
        required=True,
    )
    add(parser, "--cases", help="score these only; default: every reference", nargs="+")
    add(
        parser,
        "--predicted_only",
        help="score the references that have a prediction, and count the others",
        action="store_true",
    )
    add(
        parser,
        "--tolerance_mm",
        help="distance in mm up to which two surfaces count as the same, for the surface Dice (NSD)",
        type=float,
        default=2.0,
    )
    curve_options(parser, "those that predict recorded, where the reference is a dataset")
    json_option(parser)


def _evaluate(args: Namespace) -> None:
    from unet4d.evaluation.evaluate import evaluate, log_summary

    choice = {"cases": args.cases, "predicted_only": args.predicted_only, "curves": chosen_curves(args)}
    show = _print_json if args.json else log_summary
    evaluate(args.reference, args.prediction, args.out, tolerance_mm=args.tolerance_mm, show=show, **choice)


def _print_json(summary: Mapping[str, Any]) -> None:
    print(json_text(summary).rstrip())


def _compare_options(parser: ArgumentParser) -> None:
    add(parser, "a", help="--out folder of unet4d evaluate")
    add(parser, "b", help="--out folder of another evaluation, of the same studies")
    add(parser, "--out", help="folder for comparison.json and comparison.csv; default: print only")
    add(parser, "--metrics", help="compare in these only, such as dice ef_error_percent; default: all", nargs="+")
    add(parser, "--shared_only", help="compare the cases that both have, and list the others", action="store_true")
    json_option(parser)


def _compare(args: Namespace) -> None:
    from unet4d.evaluation.compare import COMPARISON_CSV, COMPARISON_JSON, compare, format_comparison

    summary = compare(args.a, args.b, args.out, quantities=args.metrics, shared_only=args.shared_only)
    print(json_text(summary).rstrip() if args.json else format_comparison(summary))
    if args.out is not None:
        logger.info(f"\n{Path(args.out) / COMPARISON_CSV}\n{Path(args.out) / COMPARISON_JSON}")


def _report_options(parser: ArgumentParser) -> None:
    add(parser, "--image", help="study, folder of studies, or dataset folder", required=True)
    add(parser, "--prediction", help="folder of label maps", required=True)
    add(parser, "--out", help="folder for index.html, <case>.html and pictures", required=True)
    add(parser, "--evaluation", help="--out folder of unet4d evaluate, to show the scores too")
    curve_options(parser, "those that predict recorded")
    layout_options(parser)


def _report(args: Namespace) -> None:
    from unet4d.datasets.convert.layout_options import LayoutOptions
    from unet4d.report.report import report

    layout = LayoutOptions(pattern=args.pattern, keep_patient_ids=args.keep_patient_ids)
    more = {"layout": args.layout, "options": layout, "curves": chosen_curves(args)}
    page = report(args.image, args.prediction, args.out, evaluation=args.evaluation, **more)
    logger.info(f"report: {page}")


EVALUATE = Command(
    "score label maps against reference labels",
    "--reference DIR --prediction DIR --out DIR [--cases CASE ... | --predicted_only] [--tolerance_mm MM] [options]",
    "  unet4d evaluate --reference heart --prediction predicted --out scores\n"
    "  unet4d evaluate --reference heart --prediction predicted --out scores --cases phantom001 phantom002",
    _evaluate_options,
    _evaluate,
)

COMPARE = Command(
    "compare two methods on the same studies, paired: differences, Wilcoxon test, effect",
    "A B [--out DIR] [--metrics METRIC ...] [--shared_only] [--json]",
    "  unet4d compare scores_framewise scores_recurrent --out comparison\n"
    "  unet4d compare scores_framewise scores_recurrent --metrics dice ef_error_percent roughness",
    _compare_options,
    _compare,
    prints_result=True,
)

REPORT = Command(
    "write an HTML page per study, with a 4D viewer, measures and flags, and an index",
    "--image INPUT --prediction DIR --out DIR [--evaluation DIR] [options]",
    "  unet4d report --image heart --prediction predicted --evaluation scores --out page",
    _report_options,
    _report,
)
