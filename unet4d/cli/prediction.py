"""Commands that segment studies, and choose what is done to label maps afterwards."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import DEVICE, TIME, Command, add, chosen_curves, curve_options, layout_options
from unet4d.images.time_axis import TIME_AXES
from unet4d.system.text import count

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from unet4d.inference.options import InferenceOptions


def _predict_options(parser: ArgumentParser) -> None:
    add(
        parser,
        "model",
        help="run folder (its best checkpoint is taken), checkpoint or model file; several, or a folder of folds, are an ensemble: "
        "the mean of their probabilities, at as many times the work",
        nargs="+",
    )
    add(
        parser,
        "-i",
        "--input",
        help="NIfTI files, folders of them, dataset folders, what unet4d convert reads, or lists (.txt) of such, one per line",
        nargs="+",
        required=True,
    )
    add(
        parser,
        "-o",
        "--out",
        help="folder for <case>.nii.gz, volumes.csv, measures.csv, prediction.json, labels.txt; several calls may share one",
        required=True,
    )
    add(parser, "--device", help=DEVICE, default="auto")
    add(
        parser,
        "--backend",
        help="what computes the network; onnxruntime and openvino: its encoder and decoder, on the CPU",
        choices=["torch", "onnxruntime", "openvino"],
        default="torch",
    )
    add(
        parser,
        "--cases",
        help="names of the cases of dataset folders to segment; default: their test cases, or all if there are none",
        nargs="+",
    )
    add(
        parser,
        "--held_out",
        help="of dataset folders: the cases that the model's run was validated on; with a folder of folds all training cases, each "
        "by the one network that did not see it",
        action="store_true",
    )
    add(
        parser,
        "--time",
        help=f"{TIME} the dataset or the model",
        choices=TIME_AXES,
    )
    layout_options(parser)
    _batch_options(parser)
    _output_options(parser)
    inference_options(parser)


def _batch_options(parser: ArgumentParser) -> None:
    """Add the options that select studies."""
    add(
        parser,
        "--continue",
        help="skip the cases in --out that are complete and of the same inputs, models, settings and version",
        dest="leave_complete",
        action="store_true",
    )
    add(
        parser,
        "--num_parts",
        help="split the studies into this many jobs; default: as many as the Slurm array has, else 1",
        type=int,
    )
    add(
        parser,
        "--part_id",
        help="part of this job, from 0, every n-th study; default: the job's place in the Slurm array",
        type=int,
    )


def _output_options(parser: ArgumentParser) -> None:
    """Add the options of the output."""
    add(
        parser,
        "--format",
        help="one or more: <case>.nii.gz; <case>.seq.nrrd, a sequence for 3D Slicer; <case>_seg/, one segmentation per frame; of "
        "DICOM studies also <case>_seg.dcm, a segmentation of all frames; <case>_seg_frames/, one per frame; <case>_sr.dcm, a "
        "report of measurements; <case>_sc/, pictures",
        choices=["nifti", "seq.nrrd", "seg.nrrd", "dicom-seg", "dicom-seg-frames", "dicom-sr", "dicom-sc"],
        nargs="+",
        default=["nifti"],
    )
    add(
        parser,
        "--probabilities",
        help="write each class's probability, too, as <case>_probabilities/; 4 bytes a voxel, frame and class in memory, and on "
        "disk before compression",
        action="store_true",
    )
    add(
        parser,
        "--postprocess",
        help="auto: what unet4d postprocess recorded in the run for this checkpoint, if anything",
        choices=["auto", "off"],
        default="auto",
    )
    add(
        parser,
        "--key_file",
        help="CSV file for the patients behind the names of cases, outside of --out; default: written nowhere (dicom)",
    )
    add(
        parser,
        "--dicom_terms",
        help="CSV file of codes for classes in DICOM, columns class, code, scheme, meaning; default: SNOMED CT where the class is "
        "known",
    )
    curve_options(parser)


def inference_options(parser: ArgumentParser, scratch: str = "--out") -> None:
    """Add the options of the computation; `scratch` is the default of --scratch_dir in its help."""
    add(parser, "--overlap", help="share of a window its neighbor covers; default: the model's", type=float)
    add(parser, "--sw_batch_size", help="windows computed at once; default: the model's", type=int)
    add(
        parser,
        "--mirror_axes",
        help="mirror along these axes, too (0: X, 1: Y, 2: Z), and take the mean; twice the work for each axis; default: "
        "the model's; named without axes: none",
        type=int,
        nargs="*",
    )
    add(
        parser,
        "--cyclic_shifts",
        help="of a cyclic study, average the results from n different first frames, at n times the work",
        type=int,
        default=1,
    )
    add(
        parser,
        "--priming_frames",
        help="of a cyclic study, frames before the first, and after the last backward, that recurrence runs over to warm up; "
        "default: that of the model",
        type=int,
    )
    add(
        parser,
        "--temporal_smoothing",
        help="width, in frames, of the filter that smooths the network's output over time; 0: none; default: that of the model, "
        "else 0.08 of a cyclic study's frames",
        type=float,
    )
    add(
        parser,
        "--precision",
        help="arithmetic of the network",
        choices=["auto", "bf16", "fp16", "tf32", "fp32"],
        default="auto",
    )
    add(
        parser,
        "--max_memory",
        help="main memory to stay within: 8GB, 8000MB, 8GiB, or 8 for 8 GB; less makes large studies slower; default: what is free",
    )
    add(parser, "--scratch_dir", help=f"folder for studies that do not fit into memory; default: {scratch}")


def inference_options_of(args: Namespace) -> InferenceOptions:
    """Return the options of the computation that were given."""
    from unet4d.inference.options import InferenceOptions
    from unet4d.system.byte_sizes import bytes_of

    return InferenceOptions(
        time=args.time,
        overlap=args.overlap,
        sw_batch_size=args.sw_batch_size,
        mirror_axes=None if args.mirror_axes is None else tuple(args.mirror_axes),
        cyclic_shifts=args.cyclic_shifts,
        priming_frames=args.priming_frames,
        temporal_smoothing=args.temporal_smoothing,
        max_memory_bytes=None if args.max_memory is None else bytes_of(args.max_memory, "--max_memory"),
        precision=args.precision,
        probabilities=getattr(args, "probabilities", False),
        scratch_dir=None if args.scratch_dir is None else Path(args.scratch_dir),
    )


def _check_predict(args: Namespace) -> None:
    from unet4d.datasets.convert.layout_options import LayoutOptions
    from unet4d.inference.batch.job_split import choose_shard
    from unet4d.inference.checks import check_predict
    from unet4d.models.backends import check_backend
    from unet4d.report.dicom.terms import read_terms

    inference_options_of(args)
    check_backend(args.backend, args.device, args.precision)
    chosen_curves(args)
    LayoutOptions(pattern=args.pattern, keep_patient_ids=args.keep_patient_ids)
    choose_shard(args.num_parts, args.part_id, os.environ)
    check_predict(
        args.model, args.input, args.out, args.device, args.cases, args.held_out, args.scratch_dir, args.key_file
    )
    if args.dicom_terms is not None:
        read_terms(Path(args.dicom_terms))


def _predict(args: Namespace) -> None:
    from unet4d.datasets.convert.layout_options import LayoutOptions
    from unet4d.evaluation.signal_curves import NO_CURVES
    from unet4d.inference.batch.job_split import choose_shard
    from unet4d.inference.predict import predict
    from unet4d.system.distributed import init_distributed

    shard = choose_shard(args.num_parts, args.part_id, os.environ)
    with init_distributed() as ranks:
        written = predict(
            args.model,
            args.input,
            args.out,
            inference_options_of(args),
            device=args.device,
            backend=args.backend,
            cases=args.cases,
            held_out=args.held_out,
            layout=args.layout,
            convert_options=LayoutOptions(pattern=args.pattern, keep_patient_ids=args.keep_patient_ids),
            formats=args.format,
            postprocess=args.postprocess,
            key_file=args.key_file,
            dicom_terms=args.dicom_terms,
            curves=chosen_curves(args) or NO_CURVES,
            leave_complete=args.leave_complete,
            shard=shard,
            ranks=ranks,
        )
        if ranks.is_first and args.leave_complete and not written:
            logger.info(f"nothing left to segment: {args.out}")
        elif ranks.is_first:
            logger.info(f"{count(len(written), 'label map')} and volumes.csv: {args.out}")


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


PREDICT = Command(
    "segment studies with a trained network",
    "RUN_OR_MODEL [RUN_OR_MODEL ...] -i INPUT [INPUT ...] -o DIR [options]",
    "  unet4d predict run -i study.nii.gz -o predicted\n"
    "  unet4d predict run -i studies_folder -o predicted\n"
    "  unet4d predict run -i dataset_folder -o predicted --held_out                  (the subjects that the run validated on)\n"
    "  unet4d predict run/checkpoint_last.pt -i dataset_folder -o predicted --device cuda:1\n"
    "  unet4d predict folds -i studies_folder -o predicted                           (all folds together, n times the work)\n"
    "  unet4d predict folds -i dataset_folder -o predicted --held_out                (each case by the fold that held it out)\n"
    "  unet4d predict run another_run -i study.nii.gz -o predicted                   (their mean)\n"
    "  unet4d predict run -i studies.txt -o predicted --continue                     (complete cases are skipped)\n"
    "  unet4d predict run -i studies_folder -o predicted --num_parts 10 --part_id 3   (one of ten jobs)\n"
    "  unet4d predict run -i studies_folder -o predicted --format nifti seg.nrrd     (for 3D Slicer, too)\n"
    "  unet4d predict run -i dicom_folder -o predicted --format nifti dicom-seg dicom-sr    (for a PACS, too)",
    _predict_options,
    _predict,
    _check_predict,
    when_gpu_is_full="use --device cpu, or another GPU",
)

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
