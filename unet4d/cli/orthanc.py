"""The command that answers the series of an Orthanc server."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import DEVICE, TIME, Command, add
from unet4d.cli.prediction import inference_options, inference_options_of
from unet4d.errors import InputError, Unet4DError
from unet4d.images.time_axis import TIME_AXES
from unet4d.system.text import count, shorten_list

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from unet4d.inference.orthanc.client import OrthancClient
    from unet4d.inference.orthanc.worker import WorkerOptions

USER, PASSWORD, LOGIN_FILE = "UNET4D_ORTHANC_USER", "UNET4D_ORTHANC_PASSWORD", "UNET4D_ORTHANC_LOGIN_FILE"
"""Environment variables with the login, or with the file that holds it."""
ONCE_PATIENCE_S = 300.0
"""Longest wait of --once for a server that is away."""
_LEAST = {"settle_s": 0.0, "poll_s": 0.1, "timeout_s": 1.0, "patience_s": 0.0, "max_age_days": 0.0}


def _options(parser: ArgumentParser) -> None:
    add(
        parser,
        "run",
        help="run folder or checkpoint file, several are an ensemble; for the rules that name no model",
        nargs="*",
    )
    add(
        parser,
        "--url",
        help="address of the server, such as https://pacs.example.org:8042. Its changes are followed; results are stored in the "
        "study of their series, and its own routing sends them on. The record of each series lies in its metadata there, so "
        'that the worker can be killed, started twice or moved; this needs "CheckRevisions": true in the server\'s settings',
        required=True,
    )
    add(
        parser,
        "--rules",
        help="YAML file: which series are segmented, and by which model; default: every series of modality MR",
    )
    add(parser, "--once", help="answer what is there and whole, and end; for cron and Slurm", action="store_true")
    add(
        parser,
        "--dry_run",
        help="show what would be done with each series, and why; write nothing",
        action="store_true",
    )
    add(
        parser, "--status", help="show the queue, the last results and the failures; write nothing", action="store_true"
    )
    add(
        parser,
        "--format",
        help="results: dicom-seg, a segmentation; dicom-seg-frames, one per frame; dicom-sr, a report with the measures; dicom-sc, "
        "pictures for any viewer",
        choices=["dicom-seg", "dicom-seg-frames", "dicom-sr", "dicom-sc"],
        nargs="+",
        default=["dicom-seg", "dicom-sr", "dicom-sc"],
    )
    add(
        parser,
        "--login_file",
        help=f"file with a line user:password; default: {LOGIN_FILE} names it, or {USER} and {PASSWORD} hold both",
    )
    add(
        parser,
        "--ca_file",
        help="certificates (PEM) of the authorities that may sign the server's; default: the system's",
    )
    add(
        parser,
        "--log_identifiers",
        help="print PatientID, SeriesDescription and SeriesInstanceUID; else Orthanc's own names are printed, and such values are "
        "removed from messages",
        action="store_true",
    )
    _time_options(parser)
    add(parser, "--device", help=DEVICE, default="auto")
    add(
        parser,
        "--postprocess",
        help="auto: the steps that unet4d postprocess recorded in the run",
        choices=["auto", "off"],
        default="auto",
    )
    add(
        parser,
        "--dicom_terms",
        help="CSV file of codes for classes in DICOM, columns class, code, scheme, meaning; default: SNOMED CT",
    )
    add(
        parser,
        "--time",
        help=f"{TIME} the headers or the model",
        choices=TIME_AXES,
    )
    inference_options(parser, "the system's for temporary files, as for each series while it is segmented")


def _time_options(parser: ArgumentParser) -> None:
    """Add the options of waits, tries and the record."""
    add(
        parser,
        "--settle_s",
        help="a series is whole if no image arrived for this many seconds, and the server calls it stable (its StableAge)",
        type=float,
        default=60.0,
    )
    add(parser, "--poll_s", help="seconds between two looks at the server's changes", type=float, default=5.0)
    add(parser, "--max_age_days", help="ignore series without a new image in this many days; default: none", type=float)
    add(parser, "--attempts", help="tries of a series before its failure is recorded", type=int, default=3)
    add(
        parser,
        "--retry_s",
        help="seconds to the second try; four times as many to each further one",
        type=float,
        default=60.0,
    )
    add(parser, "--retry_failed", help="try series again that were recorded as failed", action="store_true")
    add(
        parser,
        "--lease_s",
        help="seconds after which another worker may take the series of one that was killed; renewed while it lives",
        type=float,
        default=120.0,
    )
    add(
        parser,
        "--patience_s",
        help=f"longest wait for a server that is away; default: for ever, with --once {ONCE_PATIENCE_S:.0f}",
        type=float,
    )
    add(parser, "--timeout_s", help="longest wait for the server's next bytes", type=float, default=60.0)
    add(
        parser,
        "--state_key",
        help="number of the metadata of series that holds the record, 1024 to 65535; of its own for each set of rules",
        type=int,
        default=4242,
    )


def _login(args: Namespace) -> tuple[str, str] | None:
    """Return user and password from a file or the environment."""
    from unet4d.system.regular_files import open_regular

    file = args.login_file or os.environ.get(LOGIN_FILE)
    if not file:
        user, password = os.environ.get(USER), os.environ.get(PASSWORD)
        if bool(user) != bool(password):
            raise InputError(f"got one of {USER} and {PASSWORD}, expected both or none; set the other")
        return (user, password) if user and password else None
    try:
        with open_regular(Path(file)) as stream:
            user, colon, password = stream.read().decode("utf-8").strip().partition(":")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'}); give a text file"
        ) from error
    if not (user and colon and password) or "\n" in password:
        raise InputError(f"{file} holds no login, expected one line user:password; correct it")
    return user, password


def _client(args: Namespace) -> OrthancClient:
    """Return the client of the server; nothing is sent yet."""
    from unet4d.inference.orthanc.client import OrthancClient

    login = _login(args)
    return OrthancClient(args.url, login, Path(args.ca_file) if args.ca_file else None, args.timeout_s)


def _worker_options(args: Namespace) -> WorkerOptions:
    from unet4d.inference.orthanc.claims import ClaimOptions
    from unet4d.inference.orthanc.worker import WorkerOptions

    for name, least in _LEAST.items():
        if (value := getattr(args, name)) is not None and not value >= least:
            raise InputError(f"--{name} is {value}, expected {least:g} or more; correct it")
    if args.once + args.dry_run + args.status > 1:
        raise InputError("got several of --once, --dry_run and --status, expected one of them; leave the others out")
    claims = ClaimOptions(
        key=args.state_key,
        lease_s=args.lease_s,
        attempts=args.attempts,
        retry_s=args.retry_s,
        retry_failed=args.retry_failed,
    )
    return WorkerOptions(
        claims=claims,
        settle_s=args.settle_s,
        poll_s=args.poll_s,
        patience_s=ONCE_PATIENCE_S if args.once and args.patience_s is None else args.patience_s,
        max_age_days=args.max_age_days,
        once=args.once,
        log_identifiers=args.log_identifiers,
        scratch_dir=None if args.scratch_dir is None else Path(args.scratch_dir),
    )


def _check(args: Namespace) -> None:
    from unet4d.inference.orthanc.rules import read_rules
    from unet4d.models.folds import check_model_files
    from unet4d.report.dicom.terms import read_terms
    from unet4d.system.environment import check_device_name
    from unet4d.system.files import check_writable

    _client(args)
    _worker_options(args)
    inference_options_of(args)
    check_device_name(args.device)
    for rule in read_rules(Path(args.rules) if args.rules else None, [Path(name) for name in args.run]):
        check_model_files(rule.models)
    if args.dicom_terms is not None:
        read_terms(Path(args.dicom_terms))
    if args.scratch_dir is not None:
        check_writable(args.scratch_dir)


def _run(args: Namespace) -> None:
    from unet4d.inference.orthanc.orthanc import orthanc

    client = _client(args)
    if client.sends_password_in_the_clear:
        logger.warning("the password is sent to another machine without encryption; use https in --url")
    outcome = orthanc(
        args.run,
        client,
        args.rules,
        _worker_options(args),
        inference_options_of(args),
        device=args.device,
        formats=args.format,
        postprocess=args.postprocess,
        dicom_terms=args.dicom_terms,
        show="plan" if args.dry_run else "status" if args.status else None,
    )
    if not args.dry_run and not args.status:
        logger.info(f"{count(len(outcome.answered), 'answer')}, {len(outcome.left)} left for later: {client.url}")
    if outcome.failed:
        failed = [f"{name}: {reason}" for name, reason in outcome.failed.items()]
        raise Unet4DError(f"{len(failed)} could not be answered: {shorten_list(failed, separator='; ')}")


ORTHANC = Command(
    "answer the series of an Orthanc server: segment what arrives, and send the results back",
    "[RUN ...] --url URL [--rules FILE] [options]",
    "  unet4d orthanc run --url http://localhost:8042 --dry_run               (what would be done with each series, and why)\n"
    "  unet4d orthanc run --url http://localhost:8042                         (every MR series, until a signal comes)\n"
    "  unet4d orthanc --url http://localhost:8042 --rules rules.yaml          (the rules name the models)\n"
    "  unet4d orthanc run --url http://localhost:8042 --once                  (what is there now: cron, Slurm)\n"
    "  unet4d orthanc run --url http://localhost:8042 --status                (queue, last results, failures)\n"
    "  unet4d orthanc run --url https://pacs.example.org --ca_file hospital.pem --login_file login.txt",
    _options,
    _run,
    _check,
    when_gpu_is_full="use --device cpu, or another GPU",
)
