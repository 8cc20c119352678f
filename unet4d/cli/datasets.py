"""Commands that make, convert and check datasets."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import PATTERN, WITH_IDS, Command, add, json_option
from unet4d.datasets.convert import LAYOUT_NAMES
from unet4d.images.time_axis import TIME_AXES
from unet4d.system.text import count

logger = logging.getLogger(__name__)


def _phantom_options(parser: ArgumentParser) -> None:
    add(parser, "--out", help="folder to write the dataset to; a new or empty one", required=True)
    add(parser, "--subjects", help="number of subjects, one study each", type=int, required=True)
    add(parser, "--frames", help="frames of each study, such as one heart beat", type=int, required=True)
    add(
        parser,
        "--labelled",
        help="label every frame, or two only, such as end-diastole and end-systole",
        choices=["all", "two"],
        default="all",
    )
    add(parser, "--ambiguous", help="fraction of frames that hide the heart, 0 to below 0.5", type=float, default=0.0)
    add(parser, "--seed", help="the same seed gives the same studies", type=int, default=0)


def _check_phantom(args: Namespace) -> None:
    from unet4d.datasets.writer import check_fillable

    check_fillable(Path(args.out))


def _phantom(args: Namespace) -> None:
    from unet4d.phantom import write_phantom

    path = write_phantom(
        args.out, args.subjects, args.frames, labelled=args.labelled, ambiguous=args.ambiguous, seed=args.seed
    )
    logger.info(f"{count(args.subjects, 'study', 'studies')} of {count(args.frames, 'frame')}: {path}")


def _convert_options(parser: ArgumentParser) -> None:
    add(parser, "layout", help=" or ".join([", ".join(LAYOUT_NAMES[:-1]), LAYOUT_NAMES[-1]]))
    add(parser, "source", help="the folder (or file) to read; nothing in it is changed")
    add(parser, "--out", help="folder to write the dataset to; a new or empty one", required=True)
    add(parser, "--pattern", help=PATTERN)
    add(
        parser,
        "--labels",
        help="values of classes by name, '{left ventricle: 1}', where it is not in the files",
        type=dict[str, int],
    )
    add(
        parser,
        "--segments",
        help="class of a segment or ROI by its name, '{LV endo: left ventricle, scratch: }'; an empty one is left out (dicom)",
        type=dict[str, str | None],
    )
    add(
        parser,
        "--time",
        help="cyclic: the last frame leads into the first; open: it does not; default: that of the source",
        choices=TIME_AXES,
    )
    add(parser, "--frame_duration_s", help="seconds from frame to frame, where it is not in the files", type=float)
    add(
        parser,
        "--frame_durations",
        help="CSV file with the columns case and frame_duration_s, one row per case; it has precedence over the files",
    )
    add(
        parser,
        "--subject_per_case",
        help="each case is a subject of its own, also where names say that several are frames of one (nnunet)",
        action="store_true",
    )
    add(
        parser,
        "--key_file",
        help="CSV file for the patients behind the names of cases, outside of the dataset; default: written nowhere (dicom)",
    )
    add(
        parser,
        "--channels",
        help="name of each channel and what it holds, signal or velocity X, '{magnitude: signal, vx: velocity X}'",
        type=dict[str, str],
    )
    add(parser, "--keep_patient_ids", help=WITH_IDS, action="store_true")
    add(parser, "--name", help="name of the dataset; default: the source's")


def _convert(args: Namespace) -> None:
    from unet4d.datasets.convert.convert import convert
    from unet4d.datasets.convert.frame_durations import read_durations
    from unet4d.datasets.convert.layout_options import LayoutOptions

    durations = None if args.frame_durations is None else read_durations(args.frame_durations)
    layout = LayoutOptions(
        args.pattern,
        args.labels,
        args.time,
        args.frame_duration_s,
        args.keep_patient_ids,
        args.channels,
        durations,
        args.subject_per_case,
        args.segments and {name: given or "" for name, given in args.segments.items()},
    )
    convert(args.layout, args.source, args.out, layout, name=args.name, key_file=args.key_file)


def _verify_options(parser: ArgumentParser) -> None:
    add(parser, "dataset", help="dataset folder, with dataset.json; exit code 2 where it has errors")
    json_option(parser)
    add(parser, "--out", help="a JSON file for the fingerprint, beside the one that is kept for plan and train")
    add(
        parser,
        "--cross_frames",
        help="compare the drawn frames of each study, too: one carried to the next by registration (needs the extra registration)",
        action="store_true",
    )


def _check_verify(args: Namespace) -> None:
    from unet4d.datasets.verify.checks import check_verify

    check_verify(args.dataset, args.out, args.cross_frames)


def _verify(args: Namespace) -> None:
    from unet4d.datasets.verify.verify import check_no_errors, format_verification, verification_json, verify

    found = verify(args.dataset, args.out, args.cross_frames)
    print(verification_json(found, args.dataset).rstrip() if args.json else format_verification(found))
    check_no_errors(found, args.dataset)


def _propagate_options(parser: ArgumentParser) -> None:
    add(parser, "dataset", help="dataset folder, with one drawn frame or more in each study; nothing in it is changed")
    add(
        parser,
        "--out",
        help="folder to write the new dataset to: a new one, or that of an earlier call, which is continued",
        required=True,
    )
    add(
        parser,
        "--min_confidence",
        help="a frame gets a label where the mean confidence of its classes is this or more, 0 to 1",
        type=float,
        default=0.5,
    )
    add(
        parser,
        "--weight",
        help="weight in training of a propagated frame of confidence 1, 0 to 1; a drawn frame has 1",
        type=float,
        default=1.0,
    )
    add(parser, "--jobs", help="number of processes, one study each", type=int, default=1)


def _check_propagate(args: Namespace) -> None:
    from unet4d.datasets.propagation.checks import PropagationOptions, check_propagate

    check_propagate(args.dataset, args.out, PropagationOptions(args.min_confidence, args.weight), args.jobs)


def _propagate(args: Namespace) -> None:
    from unet4d.datasets.propagation.checks import PropagationOptions
    from unet4d.datasets.propagation.propagate import propagate

    propagate(args.dataset, args.out, PropagationOptions(args.min_confidence, args.weight), args.jobs)


PHANTOM = Command(
    "make a dataset with exact labels, to try everything on: beating hearts",
    "--out DIR --subjects N --frames T [options]",
    "  unet4d phantom --out heart --subjects 8 --frames 10\n"
    "  unet4d phantom --out sparse --subjects 8 --frames 10 --labelled two --ambiguous 0.2",
    _phantom_options,
    _phantom,
    _check_phantom,
)

CONVERT = Command(
    "make a dataset of files of scanners, 3D Slicer, challenges and nnU-Net",
    "LAYOUT SOURCE --out DIR [options]",
    "  unet4d convert acdc database --out acdc               (patientNNN/patientNNN_4d.nii.gz and _frameXX_gt.nii.gz)\n"
    "  unet4d convert nnunet Dataset027_ACDC --out acdc      (imagesTr, labelsTr; --pattern joins the frames of a subject)\n"
    "  unet4d convert frames slicer --out airway             (folders of 3D .nrrd, .seg.nrrd or .nii.gz, one per frame)\n"
    "  unet4d convert sequence slicer --out airway           (3D Slicer's .seq.nrrd)\n"
    "  unet4d convert dicom scans --out cine --labels '{left ventricle: 1}'   (cine, dynamic series; DICOM names no class)",
    _convert_options,
    _convert,
    values_by_name=("--labels", "--segments", "--channels"),
)

VERIFY = Command(
    "check a dataset in one pass: report the faults of all files, and describe its studies",
    "DATASET [--json] [--out FILE] [--cross_frames]",
    "  unet4d verify heart\n"
    "  unet4d verify heart --json                (for programs: faults and fingerprint on stdout)\n"
    "  unet4d verify heart --out heart.json      (the fingerprint as a file of its own)\n"
    "  unet4d verify heart --cross_frames        (drawn frames that contradict one another, too)",
    _verify_options,
    _verify,
    _check_verify,
    prints_result=True,
)

PROPAGATE = Command(
    "carry labels from the drawn frames of each study to all others, by registration",
    "DATASET --out DIR [options]",
    "  unet4d propagate heart --out heart_all                (needs pip install 'unet4d[registration]')\n"
    "  unet4d propagate heart --out heart_all                (again, after frames of heart_all were corrected)\n"
    "  unet4d propagate heart --out heart_all --jobs 8 --min_confidence 0.8",
    _propagate_options,
    _propagate,
    _check_propagate,
)
