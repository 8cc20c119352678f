"""Commands that plan, train and describe runs."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from unet4d.cli.options import DEVICE, SKIP_VERIFY, Command, add, configured, json_option, settings
from unet4d.system.documents import document_text

logger = logging.getLogger(__name__)


def _plan_options(parser: ArgumentParser) -> None:
    add(parser, "dataset", help="dataset folder, with dataset.json")
    add(
        parser,
        "--gpu_memory",
        help="the GPU's size in GB, such as 24, 40 or 80; auto: the free memory of the GPU here now",
        default="auto",
    )
    add(parser, "--gpus", help="how many GPUs of this size train together; they share the batch", type=int, default=1)
    add(parser, "--out", help="the YAML file; an older plan there is replaced", default="plan.yaml")
    add(parser, "--skip_verify", help=SKIP_VERIFY, action="store_true")
    json_option(parser)
    settings(parser)


def _check_plan(args: Namespace) -> None:
    config = configured(args)

    from unet4d.planning.checks import check_plan

    check_plan(args.dataset, Path(args.out), args.gpu_memory, args.gpus, config.train.init_from)


def _plan(args: Namespace) -> None:
    config = configured(args)

    from unet4d.planning.explain import plan_values
    from unet4d.planning.plan import plan

    made = plan(args.dataset, args.out, config, args.gpu_memory, args.skip_verify, args.gpus)
    program = "unet4d" if args.gpus == 1 else f"torchrun --nproc-per-node {args.gpus} -m unet4d"
    print(document_text("plan", plan_values(made)).rstrip() if args.json else made.text)
    logger.info(
        f"written: {made.path}; train with it: {program} train --dataset {args.dataset} --out RUN --config {made.path}"
    )


def _train_options(parser: ArgumentParser) -> None:
    add(parser, "--dataset", help="dataset folder, with dataset.json", required=True)
    add(
        parser,
        "--out",
        help="the run's folder: checkpoints, config.yaml, log, TensorBoard; of all folds, the folder of fold_0, fold_1, ...",
        required=True,
    )
    add(parser, "--device", help=DEVICE, default="auto")
    add(
        parser,
        "--resume",
        help="continue from the last checkpoint in --out; with --fold all, skip the finished folds and train the others",
        action="store_true",
    )
    add(parser, "--skip_verify", help=SKIP_VERIFY, action="store_true")
    add(
        parser,
        "--postprocess",
        help="auto: at the end, choose post-processing on the held-out subjects, as unet4d postprocess does",
        choices=["auto", "off"],
        default="auto",
    )
    settings(parser)


def _check_train(args: Namespace) -> None:
    config = configured(args)

    from unet4d.training.checks import check_cross_validation, check_train

    check = check_cross_validation if args.fold == "all" else check_train
    check(args.dataset, Path(args.out), config, args.device, args.resume)


def _train(args: Namespace) -> None:
    config = configured(args)

    from unet4d.system.distributed import init_distributed
    from unet4d.training.cross_validation import ALL, cross_validate
    from unet4d.training.train import train

    with init_distributed() as ranks:
        if not args.resume:
            from unet4d.planning.plan import plan_run

            config = plan_run(args.dataset, config, args.device, ranks)
        if args.fold == ALL:
            cross_validate(args.dataset, args.out, config, args.device, args.resume, args.skip_verify, ranks)
        else:
            path = train(args.dataset, args.out, config, args.device, args.resume, args.skip_verify, ranks)
            if ranks.is_first:
                logger.info(f"best model: {path}")
    if args.postprocess == "auto" and ranks.is_first:
        from unet4d.inference.postprocess import postprocess_trained

        postprocess_trained(args.out, args.dataset, args.device)


def _info_options(parser: ArgumentParser) -> None:
    add(
        parser,
        "run",
        help="run folder, folder of folds (fold_0, fold_1, ...), checkpoint or model file; without it, the versions installed here",
        nargs="?",
    )
    json_option(parser)


def _info(args: Namespace) -> None:
    from unet4d.training.monitoring.info import info

    facts, lines = info(args.run)
    print(document_text("info", facts).rstrip() if args.json else "\n".join(lines))


PLAN = Command(
    "choose the settings of a training that fits a GPU, with the reasons",
    "DATASET --gpu_memory 24|40|80|auto [--gpus N] [--out plan.yaml] [--config FILE] [--json] [options]",
    "  unet4d plan heart --gpu_memory 24                                         (writes plan.yaml)\n"
    "  unet4d plan heart --gpu_memory auto --out mine.yaml                       (the free memory of the GPU here)\n"
    "  unet4d plan heart --gpu_memory 40 --data.frames 12 --train.batch_size 1   (given settings are kept)\n"
    "  unet4d plan heart --gpu_memory 40 --gpus 4                                (a batch for four of them together)\n"
    "  unet4d train --dataset heart --out run --config mine.yaml                 (trains as planned)",
    _plan_options,
    _plan,
    _check_plan,
)

TRAIN = Command(
    "train a network on a dataset",
    "--dataset DIR --out RUN [--config FILE] [options]",
    "  unet4d train --dataset heart --out run\n"
    "  unet4d train --dataset heart --out run --config mine.yaml --train.epochs 50   (the later one wins)\n"
    "  unet4d train --dataset heart --out framewise --model.lstm_channels 0          (no recurrence: the baseline)\n"
    "  unet4d train --dataset heart --out run --resume                               (continue after a stop)\n"
    "  unet4d train --dataset heart --out folds --fold all                           (folds/fold_0, folds/fold_1, ...)",
    _train_options,
    _train,
    _check_train,
    when_gpu_is_full="let unet4d plan choose, or lower --train.batch_size, --data.frames, --data.patch_size or "
    "--inference.sw_batch_size",
)

INFO = Command(
    "describe a run, its status and how to continue it; without a run, list the installed versions",
    "[RUN] [--json]",
    "  unet4d info run                         (also while it is being trained)\n"
    "  unet4d info run/checkpoint_best.pt\n"
    "  unet4d info                             (the versions, for a report of a fault)\n"
    "  unet4d info folds                       (of train --fold all: one line per fold, mean and deviation)",
    _info_options,
    _info,
    prints_result=True,
)
