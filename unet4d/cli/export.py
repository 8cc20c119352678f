"""The command that hands a trained network on: as a model file, as graphs for other runtimes, or as a MONAI bundle."""

from __future__ import annotations

import logging

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import Command, add
from unet4d.models.model_file import NOT_STATED
from unet4d.system.byte_sizes import describe_bytes

logger = logging.getLogger(__name__)


def _export_options(parser: ArgumentParser) -> None:
    add(parser, "run", help="run folder (its best checkpoint is taken), folder of folds, checkpoint or model file")
    add(
        parser,
        "--out",
        help="the file to hand on, NAME.unet4d, or a folder; an older one there is replaced",
        required=True,
    )
    add(
        parser,
        "--format",
        help="unet4d: a model file for unet4d; onnx, openvino: a folder of graphs of one network, with run.py; bundle: a folder "
        "that MONAI runs",
        choices=["unet4d", "onnx", "openvino", "bundle"],
        default="unet4d",
    )
    add(parser, "--name", help="name of the model", default=NOT_STATED)
    add(parser, "--intended_use", help="what the model is for, and what it is not for", default=NOT_STATED)
    add(
        parser,
        "--training_data",
        help="description of the data it was trained on; numbers of subjects, studies and frames come from the run",
        default=NOT_STATED,
    )
    add(parser, "--licence", help="text file with the licence of the weights; default: not stated")
    add(parser, "--half", help="weights in half precision, in half of the bytes", action="store_true")


def _check_export(args: Namespace) -> None:
    from unet4d.inference.export import check_export

    check_export(args.run, args.out, args.licence, args.format, args.half)


def _export(args: Namespace) -> None:
    from unet4d.inference.export import export

    path = export(
        args.run,
        args.out,
        format=args.format,
        name=args.name,
        intended_use=args.intended_use,
        training_data=args.training_data,
        licence=args.licence,
        half=args.half,
    )
    if path.is_dir():
        how = f"{path / 'docs/README.md'}" if args.format == "bundle" else f"python {path / 'run.py'} --help"
        logger.info(f"written: {path}; {how} describes how to run it")
    else:
        logger.info(f"written: {path}, {describe_bytes(path.stat().st_size)}; unet4d info {path} prints its model card")


EXPORT = Command(
    "write a trained network, or all folds, as one file to hand on, or as graphs for other runtimes",
    "RUN --out NAME.unet4d [--intended_use TEXT] [--licence FILE] [options]",
    "  unet4d export run --out heart.unet4d\n"
    "  unet4d export folds --out heart.unet4d --half                 (all folds; half of the bytes)\n"
    "  unet4d export run --out heart.unet4d --name 'cine heart' --intended_use 'research, short-axis cine' --licence LICENCE\n"
    "  unet4d export run --out heart_onnx --format onnx              (graphs, model.json and a runner without torch)\n"
    "  unet4d export run --out heart_bundle --format bundle          (a MONAI bundle)\n"
    "  unet4d info heart.unet4d                                      (its model card)\n"
    "  unet4d predict heart.unet4d -i studies_folder -o predicted",
    _export_options,
    _export,
    _check_export,
)
