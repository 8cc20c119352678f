"""The command that chooses post-processing."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import DEVICE, Command, add


def _postprocess_options(parser: ArgumentParser) -> None:
    add(parser, "run", help="run folder, or folder of folds: each case by the fold that held it out")
    add(parser, "--dataset", help="dataset folder that the run was trained on", required=True)
    add(
        parser,
        "--predictions",
        help="--out folder of unet4d predict RUN --held_out --postprocess off; default: the cases are segmented here",
    )
    add(parser, "--device", help=DEVICE, default="auto")
    add(parser, "--dry_run", help="show what would be chosen, and record nothing", action="store_true")


def _check_postprocess(args: Namespace) -> None:
    from unet4d.inference.checks import check_postprocess

    check_postprocess(Path(args.run), args.dataset, args.predictions, args.device, args.dry_run)


def _postprocess(args: Namespace) -> None:
    from unet4d.inference.postprocess import postprocess

    postprocess(args.run, args.dataset, predictions=args.predictions, device=args.device, dry_run=args.dry_run)


POSTPROCESS = Command(
    "choose post-processing on the subjects that a run held out, and record it in the run",
    "RUN --dataset DIR [--predictions DIR] [--dry_run]",
    "  unet4d postprocess run --dataset heart                       (writes run/postprocessing.json)\n"
    "  unet4d postprocess folds --dataset heart --dry_run           (each case by the fold that held it out; writes nothing)\n"
    "  unet4d postprocess run --dataset heart --predictions predicted    (of unet4d predict run --held_out --postprocess off)",
    _postprocess_options,
    _postprocess,
    _check_postprocess,
)
