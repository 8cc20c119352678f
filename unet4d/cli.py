"""The command line: parse, dispatch. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from unet4d.config import Config, DataConfig, InferenceConfig, MemoryConfig, ModelConfig, TrainConfig
from unet4d.errors import InputError, Unet4DError
from unet4d.usage import check_config_files, reworded

set_parsing_settings(docstring_parse_attribute_docstrings=True)

DESCRIPTION = """Segment 4D MRI (3D + time) with a CLSTM-UNet: train on your own studies, get 4D label maps back.

Try it without data:
  unet4d phantom --out hearts --subjects 8 --frames 10 --labelled two
  unet4d phantom --out new --subjects 2 --frames 10 --seed 1
  unet4d train --dataset hearts --out run --train.epochs 5
  unet4d predict run -i new -o predicted
  unet4d evaluate --reference new --prediction predicted --out scores

Every command explains itself:  unet4d COMMAND --help"""

INTERRUPTED = 130
_OUT_OF_MEMORY = {
    "train": "let unet4d plan choose, or lower --train.batch_size, --data.frames, --data.patch_size or --inference.sw_batch_size",
    "predict": "use --device cpu, or another GPU",
}


_PATTERN = (
    r"regular expression that finds subject and frame in a name: '(?P<subject>.+)_frame(?P<frame>\d+)' (nnunet, frames)"
)
_SKIP_VERIFY = "do not look for faults of the dataset first, as unet4d verify does"
_WITH_IDS = "name studies by the patients' ids, which are left out otherwise (dicom)"


class _Command(NamedTuple):
    """One command: what it does, how it is called, the options it adds, and what runs it."""

    about: str
    usage: str
    examples: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines as they are."""


class _Parser(ArgumentParser):
    """Ends on wrong usage with one line on stderr and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings]
        raise InputError(f"{reworded(str(message), options)}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; ends the process with 0, 1 (failure), 2 (usage, input) or 130 (interrupted)."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; gives the exit code. What a user can cause ends in one line on stderr."""
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except Unet4DError as error:
        return _told(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _told("interrupted; whatever is written is whole", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if _is_out_of_memory(error):
            advice = _OUT_OF_MEMORY.get(arguments[0], "use another GPU")
            return _told(f"the GPU is out of memory ({_first_line(error)}); {advice}", 1)
        raise
    return 0


def _dispatch(arguments: Sequence[str]) -> None:
    # MONAI asks for a user's name when it is imported; in a container a uid may have none.
    os.environ.setdefault("USER", "unet4d")
    try:
        command, options = _parsed(arguments)
    except SystemExit:  # --help and the like have said all
        return
    _COMMANDS[command].run(options)


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _first_line(error: Exception) -> str:
    return str(error).split(". ")[0]


def _told(message: str, code: int) -> int:
    print(f"unet4d: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parsed(arguments: Sequence[str]) -> tuple[str, Namespace]:
    """The command and its options; only the chosen command's parser is built."""
    names = ", ".join(_COMMANDS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    if arguments[0] == "--version":
        from unet4d import __version__

        print(f"unet4d {__version__}")
        sys.exit(0)
    name = arguments[0]
    if name not in _COMMANDS:
        raise InputError(f"{name!r} is not a command; wanted one of {names}; see unet4d --help")
    command = _COMMANDS[name]
    parser = _Parser(
        prog=f"unet4d {name}",
        usage=f"unet4d {name} {command.usage}",
        description=f"{command.about[0].upper()}{command.about[1:]}.\n\n{command.examples}",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    command.options(parser)
    given = list(arguments[1:])
    if name in ("train", "plan"):
        given = _files_first(given)
        check_config_files(given)
    return name, parser.parse_args(given)


def _files_first(given: list[str]) -> list[str]:
    """The --config files before all else, so that the command line wins; a resumed run begins with its own settings."""
    files, others = [], []
    words = iter(given)
    for word in words:
        if word == "--config":
            files += [word, *itertools.islice(words, 1)]
        elif word.startswith("--config="):
            files.append(word)
        else:
            others.append(word)
    if "--resume" in others:
        runs = [run for option, run in itertools.pairwise(others) if option == "--out"]
        runs += [word.removeprefix("--out=") for word in others if word.startswith("--out=")]
        own = [os.path.join(run, "config.yaml") for run in runs[-1:]]
        files = [word for file in own if os.path.isfile(file) for word in ("--config", file)] + files
    return files + others


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {command.about}" for name, command in _COMMANDS.items())
    return f"usage: unet4d COMMAND [options]\n\n{DESCRIPTION}\n\ncommands:\n{rows}\n\n  --version  print the version"


def _phantom_options(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=str, required=True, help="folder to write the dataset to; a new or empty one")
    parser.add_argument("--subjects", type=int, required=True, help="number of subjects, one study each")
    parser.add_argument("--frames", type=int, required=True, help="frames of each study, such as one heart beat")
    parser.add_argument(
        "--kind",
        choices=["cine", "flow", "dce"],
        default="cine",
        help="a beating heart; 4D flow of the great vessels; contrast uptake of the kidneys, with a T1 map",
    )
    parser.add_argument(
        "--labelled",
        choices=["all", "two"],
        default="all",
        help="label every frame, or two only, such as end-diastole and end-systole",
    )
    parser.add_argument(
        "--ambiguous",
        type=float,
        default=0.0,
        help="cine: share of frames whose own image does not suffice, 0 to below 0.5",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same studies")


def _phantom(options: Namespace) -> None:
    from unet4d.data.phantom import write_phantom

    o = options
    path = write_phantom(
        o.out, o.subjects, o.frames, labelled=o.labelled, ambiguous=o.ambiguous, seed=o.seed, kind=o.kind
    )
    print(f"{o.subjects} studies of {o.frames} frames: {path}")


def _train_options(parser: ArgumentParser) -> None:
    parser.add_argument("--dataset", type=str, required=True, help="dataset folder, with dataset.json")
    parser.add_argument(
        "--out", type=str, required=True, help="the run's folder: checkpoints, config.yaml, log, TensorBoard"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--skip_verify", action="store_true", help=_SKIP_VERIFY)
    _settings(parser)


def _settings(parser: ArgumentParser) -> None:
    """What a configuration holds."""
    parser.add_argument(
        "--config", action=ActionConfigFile, help="YAML file with any of the settings below; those given after it win"
    )
    parser.add_argument("--fold", type=int, default=0, help="fold whose subjects are held out for validation, from 0")
    parser.add_argument("--seed", type=int, default=0, help="the one seed everything random hangs on")
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument("--model", type=ModelConfig, default=ModelConfig())
    parser.add_argument("--train", type=TrainConfig, default=TrainConfig())
    parser.add_argument("--inference", type=InferenceConfig, default=InferenceConfig())
    parser.add_argument("--memory", type=MemoryConfig, default=MemoryConfig())


def _configured(options: Namespace) -> Config:
    sections = {name: vars(getattr(options, name)) for name in ("data", "model", "train", "inference", "memory")}
    return Config.from_dict({**sections, "fold": options.fold, "seed": options.seed})


def _train(options: Namespace) -> None:
    config = _configured(options)

    from unet4d.train import train

    path = train(options.dataset, options.out, config, options.device, options.resume, options.skip_verify)
    print(f"best model: {path}")


def _predict_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=str, help="run folder (its best checkpoint is taken) or checkpoint file")
    parser.add_argument(
        "-i",
        "--input",
        type=str,
        nargs="+",
        required=True,
        help="NIfTI files, folders of them, dataset folders, or what unet4d convert reads",
    )
    parser.add_argument(
        "-o", "--out", type=str, required=True, help="folder for <case>.nii.gz, volumes.csv, prediction.json"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--cases",
        type=str,
        nargs="+",
        help="of dataset folders: these; default: their test cases, or all if there are none",
    )
    parser.add_argument(
        "--held_out", action="store_true", help="of dataset folders: the cases that the model's run was validated on"
    )
    parser.add_argument("--time", choices=["cyclic", "open"], help="default: as the dataset or the model says")
    parser.add_argument(
        "--kind",
        choices=["auto", "acdc", "nnunet", "frames", "sequence", "dicom"],
        default="auto",
        help="layout of the inputs, as of unet4d convert",
    )
    parser.add_argument("--pattern", type=str, help=_PATTERN)
    parser.add_argument("--with_ids", action="store_true", help=_WITH_IDS)
    parser.add_argument("--overlap", type=float, help="share of a window its neighbour covers; default: the model's")
    parser.add_argument("--sw_batch_size", type=int, help="windows computed at once; default: the model's")
    parser.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp16", "tf32", "fp32"],
        default="auto",
        help="arithmetic of the network",
    )


def _predict(options: Namespace) -> None:
    from unet4d.data.convert import Options
    from unet4d.predict import predict

    o = options
    written = predict(
        o.model,
        o.input,
        o.out,
        device=o.device,
        time=o.time,
        overlap=o.overlap,
        sw_batch_size=o.sw_batch_size,
        precision=o.precision,
        cases=o.cases,
        held_out=o.held_out,
        kind=o.kind,
        options=Options(pattern=o.pattern, with_ids=o.with_ids),
    )
    print(f"{len(written)} label map{'s' * (len(written) > 1)} and volumes.csv: {o.out}")


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        type=str,
        required=True,
        help="dataset folder (its labelled frames count), or folder of label maps",
    )
    parser.add_argument("--prediction", type=str, required=True, help="folder of <case>.nii.gz, anybody's")
    parser.add_argument(
        "--out", type=str, required=True, help="folder for metrics.csv, volumes_compared.csv, summary.json"
    )
    parser.add_argument(
        "--cases", type=str, nargs="+", help="score these only; default: every reference, none may be missing"
    )
    parser.add_argument(
        "--predicted_only",
        action="store_true",
        help="score the references that have a prediction, and count the others",
    )


def _evaluate(options: Namespace) -> None:
    from unet4d.evaluate import evaluate

    o = options
    evaluate(o.reference, o.prediction, o.out, cases=o.cases, predicted_only=o.predicted_only)


def _report_options(parser: ArgumentParser) -> None:
    parser.add_argument("--image", type=str, required=True, help="study, folder of studies, or dataset folder")
    parser.add_argument("--prediction", type=str, required=True, help="folder of label maps")
    parser.add_argument("--out", type=str, required=True, help="folder for index.html and pictures")
    parser.add_argument("--evaluation", type=str, help="--out folder of unet4d evaluate, to show the scores too")


def _report(options: Namespace) -> None:
    from unet4d.report import report

    page = report(options.image, options.prediction, options.out, evaluation=options.evaluation)
    print(f"report: {page}")


def _convert_options(parser: ArgumentParser) -> None:
    parser.add_argument("kind", type=str, help="acdc, nnunet, frames, sequence or dicom")
    parser.add_argument("source", type=str, help="the folder (or file) to read; nothing in it is changed")
    parser.add_argument("--out", type=str, required=True, help="folder to write the dataset to; a new or empty one")
    parser.add_argument("--pattern", type=str, help=_PATTERN)
    parser.add_argument(
        "--labels",
        type=dict[str, int],
        help="values of classes by name, '{left ventricle: 1}', where the files do not say",
    )
    parser.add_argument(
        "--time",
        choices=["cyclic", "open"],
        help="cyclic: the last frame leads into the first; open: it does not; default: as the source says",
    )
    parser.add_argument(
        "--frame_duration_s", type=float, help="seconds from frame to frame, where the files do not say"
    )
    parser.add_argument(
        "--channels",
        type=dict[str, str],
        help="name of each channel and what it holds, signal or velocity X, '{magnitude: signal, vx: velocity X}'",
    )
    parser.add_argument("--with_ids", action="store_true", help=_WITH_IDS)
    parser.add_argument("--name", type=str, help="of the dataset; default: the source's")


def _convert(options: Namespace) -> None:
    from unet4d.convert import convert
    from unet4d.data.convert import Options

    o = options
    said = Options(o.pattern, o.labels, o.time, o.frame_duration_s, o.with_ids, o.channels)
    convert(o.kind, o.source, o.out, said, name=o.name)


def _verify_options(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", type=str, help="dataset folder, with dataset.json; exit code 2 where it has errors")
    parser.add_argument("--json", action="store_true", help="print one JSON object: faults and fingerprint")
    parser.add_argument(
        "--out", type=str, help="a JSON file for the fingerprint, beside the one that is kept for plan and train"
    )


def _verify(options: Namespace) -> None:
    from unet4d.verify import verify

    verify(options.dataset, options.out, options.json)


def _plan_options(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", type=str, help="dataset folder, with dataset.json")
    parser.add_argument(
        "--gpu-memory",
        "--gpu_memory",
        type=str,
        default="auto",
        help="the GPU's size in GB, such as 24, 40 or 80; auto: what is free of the GPU here now",
    )
    parser.add_argument("--out", type=str, default="plan.yaml", help="the YAML file; an older plan there is replaced")
    parser.add_argument("--skip_verify", action="store_true", help=_SKIP_VERIFY)
    _settings(parser)


def _plan(options: Namespace) -> None:
    config = _configured(options)

    from unet4d.plan import plan

    made = plan(options.dataset, options.out, config, options.gpu_memory, options.skip_verify)
    print(made.text)
    print(
        f"written: {made.path}; train with it: unet4d train --dataset {options.dataset} --out RUN --config {made.path}"
    )


_COMMANDS = {
    "phantom": _Command(
        "make a dataset with exact labels, to try everything on: beating hearts, 4D flow, contrast uptake",
        "--out DIR --subjects N --frames T [options]",
        "  unet4d phantom --out heart --subjects 8 --frames 10\n"
        "  unet4d phantom --out sparse --subjects 8 --frames 10 --labelled two --ambiguous 0.2\n"
        "  unet4d phantom --out vessels --subjects 8 --frames 20 --kind flow",
        _phantom_options,
        _phantom,
    ),
    "convert": _Command(
        "make a dataset of what scanners, 3D Slicer, challenges and nnU-Net leave",
        "KIND SOURCE --out DIR [options]",
        "  unet4d convert acdc database --out acdc               (patientNNN/patientNNN_4d.nii.gz and _frameXX_gt.nii.gz)\n"
        "  unet4d convert nnunet Dataset027_ACDC --out acdc      (imagesTr, labelsTr; --pattern joins the frames of a subject)\n"
        "  unet4d convert frames slicer --out airway             (folders of 3D .nrrd, .seg.nrrd or .nii.gz, one a frame)\n"
        "  unet4d convert sequence slicer --out airway           (3D Slicer's .seq.nrrd)\n"
        "  unet4d convert dicom scans --out cine --time cyclic   (cine and dynamic series, single-frame or enhanced)",
        _convert_options,
        _convert,
    ),
    "verify": _Command(
        "find every fault of a dataset in one pass, and say what its studies are like",
        "DATASET [--json] [--out FILE]",
        "  unet4d verify heart\n"
        "  unet4d verify heart --json                (for programs: faults and fingerprint on stdout)\n"
        "  unet4d verify heart --out heart.json      (the fingerprint as a file of its own)",
        _verify_options,
        _verify,
    ),
    "plan": _Command(
        "choose the settings of a training that fits a GPU, and say why",
        "DATASET --gpu-memory 24|40|80|auto [--out plan.yaml] [--config FILE] [options]",
        "  unet4d plan heart --gpu-memory 24                                         (writes plan.yaml)\n"
        "  unet4d plan heart --gpu-memory auto --out mine.yaml                       (what is free of the GPU here)\n"
        "  unet4d plan heart --gpu-memory 40 --data.frames 12 --train.batch_size 1   (what is set is kept)\n"
        "  unet4d train --dataset heart --out run --config mine.yaml                 (what was planned, as it is)",
        _plan_options,
        _plan,
    ),
    "train": _Command(
        "train a network on a dataset",
        "--dataset DIR --out RUN [--config FILE] [options]",
        "  unet4d train --dataset heart --out run\n"
        "  unet4d train --dataset heart --out run --config mine.yaml --train.epochs 50   (the later one wins)\n"
        "  unet4d train --dataset heart --out twin --model.lstm_channels 0               (no recurrence: the baseline)\n"
        "  unet4d train --dataset heart --out run --config run/config.yaml --resume      (go on after a stop)",
        _train_options,
        _train,
    ),
    "predict": _Command(
        "segment studies with a trained network",
        "RUN_OR_MODEL -i INPUT [INPUT ...] -o DIR [options]",
        "  unet4d predict run -i study.nii.gz -o predicted\n"
        "  unet4d predict run -i studies_folder -o predicted\n"
        "  unet4d predict run -i dataset_folder -o predicted --held_out                  (whom the run validated on)\n"
        "  unet4d predict run/checkpoint_last.pt -i dataset_folder -o predicted --device cuda:1",
        _predict_options,
        _predict,
    ),
    "evaluate": _Command(
        "score label maps against reference labels",
        "--reference DIR --prediction DIR --out DIR [--cases CASE ... | --predicted_only]",
        "  unet4d evaluate --reference heart --prediction predicted --out scores\n"
        "  unet4d evaluate --reference heart --prediction predicted --out scores --cases phantom001 phantom002",
        _evaluate_options,
        _evaluate,
    ),
    "report": _Command(
        "one HTML page with pictures, volume curves and scores",
        "--image INPUT --prediction DIR --out DIR [--evaluation DIR]",
        "  unet4d report --image heart --prediction predicted --evaluation scores --out page",
        _report_options,
        _report,
    ),
}
