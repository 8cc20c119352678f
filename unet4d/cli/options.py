"""What a command is, and the options that several share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig, RecomputeConfig, TrainConfig

set_parsing_settings(docstring_parse_attribute_docstrings=True)

PATTERN = (
    r"regular expression that finds subject and frame in a name: '(?P<subject>.+)_frame(?P<frame>\d+)' (nnunet, frames)"
)
SKIP_VERIFY = "do not look for faults of the dataset first, as unet4d verify does"
WITH_IDS = "name studies by the patients' ids, which are left out otherwise (dicom)"
DEVICE = "auto, cpu, cuda or cuda:N"


def nothing_to_check(options: Namespace) -> None:
    """Check nothing: the check of a command that imports nothing heavy before it has checked its paths itself."""


class Command(NamedTuple):
    """One command.

    Attributes:
        about: what it does.
        usage: how it is called.
        examples: calls of it.
        options: adds its options to a parser.
        run: runs it.
        check: checks paths and values, so that a mistake is reported before `run` imports torch, which takes seconds.
    """

    about: str
    usage: str
    examples: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]
    check: Callable[[Any], None] = nothing_to_check


def settings(parser: ArgumentParser) -> None:
    """What a configuration holds."""
    parser.add_argument(
        "--config", type=str, help="YAML file with any of the settings below; the command line wins, then the last file"
    )
    parser.add_argument(
        "--fold",
        type=int | Literal["all"],
        default=0,
        help="fold whose subjects are held out for validation, from 0; all: train every fold, one after the other",
    )
    parser.add_argument("--seed", type=int, default=0, help="the one seed everything random hangs on")
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument("--model", type=ModelConfig, default=ModelConfig())
    parser.add_argument("--train", type=TrainConfig, default=TrainConfig())
    parser.add_argument("--inference", type=InferenceConfig, default=InferenceConfig())
    parser.add_argument("--recompute", type=RecomputeConfig, default=RecomputeConfig())


def configured(options: Namespace) -> Config:
    """The configuration that `settings` parsed."""
    sections = {name: vars(getattr(options, name)) for name in ("data", "model", "train", "inference", "recompute")}
    return Config.from_dict({**sections, "fold": 0 if options.fold == "all" else options.fold, "seed": options.seed})


def layout_options(parser: ArgumentParser) -> None:
    """What is said of inputs that may lie in another layout than ours."""
    parser.add_argument(
        "--layout",
        choices=["auto", "acdc", "nnunet", "frames", "sequence", "dicom"],
        default="auto",
        help="layout of the inputs, as of unet4d convert",
    )
    parser.add_argument("--pattern", type=str, help=PATTERN)
    parser.add_argument("--keep_patient_ids", action="store_true", help=WITH_IDS)
