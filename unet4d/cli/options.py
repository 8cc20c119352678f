"""The definition of a command, and options that several commands share."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig, RecomputeConfig, TrainConfig
from unet4d.datasets.convert import LAYOUT_NAMES
from unet4d.errors import InputError

if TYPE_CHECKING:
    from unet4d.evaluation.signal_curves import CurveOptions

set_parsing_settings(docstring_parse_attribute_docstrings=True)

PATTERN = (
    r"regular expression that finds subject and frame in a name: '(?P<subject>.+)_frame(?P<frame>\d+)' (nnunet, frames)"
)
SKIP_VERIFY = "do not look for faults of the dataset first, as unet4d verify does"
WITH_IDS = "name studies by the patients' ids, which are left out otherwise (dicom)"
TIME = "cyclic: the last frame leads into the first; open: it does not; default: as"
DEVICE = "device that computes: auto (a GPU where there is one), cpu, cuda, cuda:N or mps"


def add(parser: ArgumentParser, *names: str, help: str, **more: Any) -> None:
    """Add an option: a text, unless `more`, the arguments of `add_argument`, says otherwise."""
    if not more.keys() & {"type", "choices", "action"}:
        more["type"] = str
    parser.add_argument(*names, help=help, **more)


def json_option(parser: ArgumentParser) -> None:
    """Add the option to print the result as JSON; logs and progress bars are then on stderr."""
    add(parser, "--json", help="print one JSON document on stdout, and all else on stderr", action="store_true")


def nothing_to_check(options: Namespace) -> None:
    """Check nothing: the check of a command that imports nothing heavy before it has checked its paths itself."""


class Command(NamedTuple):
    """One command.

    Attributes:
        about: its purpose.
        usage: its arguments in short.
        examples: calls of it.
        options: adds its options to a parser.
        run: runs it.
        check: checks paths and values, so that a mistake is reported before `run` imports torch, which takes seconds.
        prints_result: whether its result is printed, so that output that is lost is a failure; the others write files.
        when_gpu_is_full: what to do where the GPU is out of memory.
        values_by_name: options with values such as '{a: 1, b: 2}'.
    """

    about: str
    usage: str
    examples: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]
    check: Callable[[Any], None] = nothing_to_check
    prints_result: bool = False
    when_gpu_is_full: str = "use another GPU"
    values_by_name: tuple[str, ...] = ()


def settings(parser: ArgumentParser) -> None:
    """Add the settings of a run."""
    add(parser, "--config", help="YAML file with any of the settings below; the command line wins, then the last file")
    add(parser, "--print_config", help="print all settings as YAML, for a --config file, and end", action="store_true")
    add(
        parser,
        "--fold",
        help="fold with the subjects for validation, from 0; all: train every fold, one after the other",
        type=int | Literal["all"],
        default=0,
    )
    add(parser, "--seed", help="seed of everything random", type=int, default=0)
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument("--model", type=ModelConfig, default=ModelConfig())
    parser.add_argument("--train", type=TrainConfig, default=TrainConfig())
    parser.add_argument("--inference", type=InferenceConfig, default=InferenceConfig())
    parser.add_argument("--recompute", type=RecomputeConfig, default=RecomputeConfig())
    for action in parser._actions:
        if action.help == "Path to a configuration file.":  # a file for one section, which --config replaces
            action.help = SUPPRESS


def configured(options: Namespace) -> Config:
    """Return the configuration that was parsed."""
    sections = {name: vars(getattr(options, name)) for name in ("data", "model", "train", "inference", "recompute")}
    return Config.from_dict({**sections, "fold": 0 if options.fold == "all" else options.fold, "seed": options.seed})


def layout_options(parser: ArgumentParser) -> None:
    """Add the options for inputs in another layout than ours."""
    add(
        parser,
        "--layout",
        help="layout of the inputs, as of unet4d convert",
        choices=["auto", *LAYOUT_NAMES],
        default="auto",
    )
    add(parser, "--pattern", help=PATTERN)
    add(parser, "--keep_patient_ids", help=WITH_IDS, action="store_true")


def curve_options(parser: ArgumentParser, default: str | None = None) -> None:
    """Add the options of curves beside volumes; `default` is the text on what is measured without them; None: nothing."""
    add(
        parser,
        "--curves",
        help="measure over the voxels of each class, too: intensity (mean and median of each channel, uptake of contrast agent), "
        f"flow (velocity, and flow through cross-sections); default: {default or 'none'}",
        choices=["intensity", "flow"],
        nargs="*" if default else "+",
        default=None if default else [],
    )
    add(
        parser,
        "--baseline_frames",
        help="for uptake, number of frames before the contrast agent arrives; default: found for each class",
        type=int,
    )
    add(
        parser,
        "--velocity_unit",
        help="for flow, unit of the velocity channels; default: that of dataset.json",
        choices=["mm/s", "cm/s", "m/s"],
    )


def chosen_curves(args: Namespace) -> CurveOptions | None:
    """Return the curves that were asked for; None where the command decides."""
    from unet4d.evaluation.signal_curves import CurveOptions

    if args.curves is None:
        if given := [name for name in ("baseline_frames", "velocity_unit") if getattr(args, name) is not None]:
            raise InputError(f"got --{given[0]} without --curves, expected both; add --curves intensity, or flow")
        return None
    return CurveOptions(tuple(args.curves), args.baseline_frames, args.velocity_unit)
