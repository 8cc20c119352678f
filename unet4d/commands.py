"""The commands: what each does, its options, and the verb it calls. Nothing heavy is imported before one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings

from unet4d.config import Config, DataConfig, InferenceConfig, MemoryConfig, ModelConfig, TrainConfig

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_PATTERN = (
    r"regular expression that finds subject and frame in a name: '(?P<subject>.+)_frame(?P<frame>\d+)' (nnunet, frames)"
)
_SKIP_VERIFY = "do not look for faults of the dataset first, as unet4d verify does"
_WITH_IDS = "name studies by the patients' ids, which are left out otherwise (dicom)"


class Command(NamedTuple):
    """One command: what it does, how it is called, the options it adds, and what runs it."""

    about: str
    usage: str
    examples: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]


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
        "--out",
        type=str,
        required=True,
        help="the run's folder: checkpoints, config.yaml, log, TensorBoard; of all folds, the folder of fold_0, fold_1, ...",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in --out; of all folds, leave the finished ones and begin the others, too",
    )
    parser.add_argument("--skip_verify", action="store_true", help=_SKIP_VERIFY)
    _settings(parser)


def _settings(parser: ArgumentParser) -> None:
    """What a configuration holds."""
    parser.add_argument(
        "--config", action=ActionConfigFile, help="YAML file with any of the settings below; those given after it win"
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
    parser.add_argument("--memory", type=MemoryConfig, default=MemoryConfig())


def _configured(options: Namespace) -> Config:
    sections = {name: vars(getattr(options, name)) for name in ("data", "model", "train", "inference", "memory")}
    return Config.from_dict({**sections, "fold": 0 if options.fold == "all" else options.fold, "seed": options.seed})


def _train(options: Namespace) -> None:
    config = _configured(options)

    from unet4d.cross_validation import ALL, cross_validate
    from unet4d.ranks import joined
    from unet4d.train import train

    o = options
    with joined() as ranks:
        if o.fold == ALL:
            cross_validate(o.dataset, o.out, config, o.device, o.resume, o.skip_verify, ranks)
            return
        path = train(o.dataset, o.out, config, o.device, o.resume, o.skip_verify, ranks)
        if ranks.is_first:
            print(f"best model: {path}")


def _predict_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=str,
        nargs="+",
        help="run folder (its best checkpoint is taken) or checkpoint file; several, or a folder of folds, answer together: the "
        "mean of their probabilities, at as many times the work",
    )
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
        "--held_out",
        action="store_true",
        help="of dataset folders: the cases that the model's run was validated on; with a folder of folds all training cases, each "
        "by the one network that did not see it",
    )
    parser.add_argument("--time", choices=["cyclic", "open"], help="default: as the dataset or the model says")
    _layout_options(parser)
    parser.add_argument("--overlap", type=float, help="share of a window its neighbour covers; default: the model's")
    parser.add_argument("--sw_batch_size", type=int, help="windows computed at once; default: the model's")
    parser.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp16", "tf32", "fp32"],
        default="auto",
        help="arithmetic of the network",
    )


def _layout_options(parser: ArgumentParser) -> None:
    """What is said of inputs that may lie in another layout than ours."""
    parser.add_argument(
        "--kind",
        choices=["auto", "acdc", "nnunet", "frames", "sequence", "dicom"],
        default="auto",
        help="layout of the inputs, as of unet4d convert",
    )
    parser.add_argument("--pattern", type=str, help=_PATTERN)
    parser.add_argument("--with_ids", action="store_true", help=_WITH_IDS)


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
    _layout_options(parser)


def _report(options: Namespace) -> None:
    from unet4d.data.convert import Options
    from unet4d.report import report

    o = options
    said = Options(pattern=o.pattern, with_ids=o.with_ids)
    page = report(o.image, o.prediction, o.out, evaluation=o.evaluation, kind=o.kind, options=said)
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


def _info_options(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="run folder, folder of folds (fold_0, fold_1, ...) or checkpoint file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _info(options: Namespace) -> None:
    from unet4d.info import info

    info(options.run, options.json)


def _plan_options(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", type=str, help="dataset folder, with dataset.json")
    parser.add_argument(
        "--gpu-memory",
        "--gpu_memory",
        type=str,
        default="auto",
        help="the GPU's size in GB, such as 24, 40 or 80; auto: what is free of the GPU here now",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, help="how many GPUs of this size train together; they share the batch"
    )
    parser.add_argument("--out", type=str, default="plan.yaml", help="the YAML file; an older plan there is replaced")
    parser.add_argument("--skip_verify", action="store_true", help=_SKIP_VERIFY)
    _settings(parser)


def _plan(options: Namespace) -> None:
    config = _configured(options)

    from unet4d.plan import plan

    o = options
    made = plan(o.dataset, o.out, config, o.gpu_memory, o.skip_verify, o.gpus)
    program = "unet4d" if o.gpus == 1 else f"torchrun --nproc-per-node {o.gpus} -m unet4d"
    print(made.text)
    print(f"written: {made.path}; train with it: {program} train --dataset {o.dataset} --out RUN --config {made.path}")


COMMANDS = {
    "phantom": Command(
        "make a dataset with exact labels, to try everything on: beating hearts, 4D flow, contrast uptake",
        "--out DIR --subjects N --frames T [options]",
        "  unet4d phantom --out heart --subjects 8 --frames 10\n"
        "  unet4d phantom --out sparse --subjects 8 --frames 10 --labelled two --ambiguous 0.2\n"
        "  unet4d phantom --out vessels --subjects 8 --frames 20 --kind flow",
        _phantom_options,
        _phantom,
    ),
    "convert": Command(
        "make a dataset of what scanners, 3D Slicer, challenges and nnU-Net leave",
        "KIND SOURCE --out DIR [options]",
        "  unet4d convert acdc database --out acdc               (patientNNN/patientNNN_4d.nii.gz and _frameXX_gt.nii.gz)\n"
        "  unet4d convert nnunet Dataset027_ACDC --out acdc      (imagesTr, labelsTr; --pattern joins the frames of a subject)\n"
        "  unet4d convert frames slicer --out airway             (folders of 3D .nrrd, .seg.nrrd or .nii.gz, one a frame)\n"
        "  unet4d convert sequence slicer --out airway           (3D Slicer's .seq.nrrd)\n"
        "  unet4d convert dicom scans --out cine --labels '{left ventricle: 1}'   (cine, dynamic series; DICOM names no class)",
        _convert_options,
        _convert,
    ),
    "verify": Command(
        "find every fault of a dataset in one pass, and say what its studies are like",
        "DATASET [--json] [--out FILE]",
        "  unet4d verify heart\n"
        "  unet4d verify heart --json                (for programs: faults and fingerprint on stdout)\n"
        "  unet4d verify heart --out heart.json      (the fingerprint as a file of its own)",
        _verify_options,
        _verify,
    ),
    "plan": Command(
        "choose the settings of a training that fits a GPU, and say why",
        "DATASET --gpu-memory 24|40|80|auto [--gpus N] [--out plan.yaml] [--config FILE] [options]",
        "  unet4d plan heart --gpu-memory 24                                         (writes plan.yaml)\n"
        "  unet4d plan heart --gpu-memory auto --out mine.yaml                       (what is free of the GPU here)\n"
        "  unet4d plan heart --gpu-memory 40 --data.frames 12 --train.batch_size 1   (what is set is kept)\n"
        "  unet4d plan heart --gpu-memory 40 --gpus 4                                (a batch for four of them together)\n"
        "  unet4d train --dataset heart --out run --config mine.yaml                 (what was planned, as it is)",
        _plan_options,
        _plan,
    ),
    "train": Command(
        "train a network on a dataset",
        "--dataset DIR --out RUN [--config FILE] [options]",
        "  unet4d train --dataset heart --out run\n"
        "  unet4d train --dataset heart --out run --config mine.yaml --train.epochs 50   (the later one wins)\n"
        "  unet4d train --dataset heart --out twin --model.lstm_channels 0               (no recurrence: the baseline)\n"
        "  unet4d train --dataset heart --out run --resume                               (go on after a stop)\n"
        "  unet4d train --dataset heart --out folds --fold all                           (folds/fold_0, folds/fold_1, ...)",
        _train_options,
        _train,
    ),
    "info": Command(
        "say what a run is, how it stands and how to go on",
        "RUN [--json]",
        "  unet4d info run                         (also while it is being trained)\n"
        "  unet4d info run/checkpoint_best.pt\n"
        "  unet4d info folds                       (what train --fold all made: a line a fold, mean and deviation)",
        _info_options,
        _info,
    ),
    "predict": Command(
        "segment studies with a trained network",
        "RUN_OR_MODEL [RUN_OR_MODEL ...] -i INPUT [INPUT ...] -o DIR [options]",
        "  unet4d predict run -i study.nii.gz -o predicted\n"
        "  unet4d predict run -i studies_folder -o predicted\n"
        "  unet4d predict run -i dataset_folder -o predicted --held_out                  (whom the run validated on)\n"
        "  unet4d predict run/checkpoint_last.pt -i dataset_folder -o predicted --device cuda:1\n"
        "  unet4d predict folds -i studies_folder -o predicted                           (all folds together, n times the work)\n"
        "  unet4d predict folds -i dataset_folder -o predicted --held_out                (each case by the fold that held it out)\n"
        "  unet4d predict run another_run -i study.nii.gz -o predicted                   (their mean)",
        _predict_options,
        _predict,
    ),
    "evaluate": Command(
        "score label maps against reference labels",
        "--reference DIR --prediction DIR --out DIR [--cases CASE ... | --predicted_only]",
        "  unet4d evaluate --reference heart --prediction predicted --out scores\n"
        "  unet4d evaluate --reference heart --prediction predicted --out scores --cases phantom001 phantom002",
        _evaluate_options,
        _evaluate,
    ),
    "report": Command(
        "one HTML page with pictures, volume curves and scores",
        "--image INPUT --prediction DIR --out DIR [--evaluation DIR] [options]",
        "  unet4d report --image heart --prediction predicted --evaluation scores --out page",
        _report_options,
        _report,
    ),
}
