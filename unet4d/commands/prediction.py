"""Commands that segment studies."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from unet4d.commands.command import DEVICE, Command, layout_options


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
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
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
    layout_options(parser)
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


PREDICT = Command(
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
)
