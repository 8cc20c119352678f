"""`unet4d train --fold all`: every fold of a cross-validation, one after the other, and their summary.

OUT/fold_0, OUT/fold_1, ...   runs like any other
OUT/folds.json                folds, seed, and the subjects that each fold holds out
OUT/config.yaml               the settings that were given, for --resume
OUT/summary.json              Dice of each fold's last validation, mean and deviation over folds
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from unet4d.config import Config
from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.subject_folds import describe_fewer_folds, split_folds
from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError
from unet4d.evaluation.fold_summary import format_folds, summarize_folds
from unet4d.models.folds import FOLDS_FILE, fold_folder, folds_in
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.documents import write_document
from unet4d.system.environment import VERSION
from unet4d.system.files import read_json, write_text
from unet4d.system.progress_bar import RESULT
from unet4d.system.signals import stop_requested, stop_signals
from unet4d.system.text import count, short_repr
from unet4d.training.checks import check_cross_validation
from unet4d.training.monitoring.log_lines import last_score, log_lines
from unet4d.training.monitoring.summary import CONFIG, SUMMARY
from unet4d.training.train import train

logger = logging.getLogger(__name__)

ALL = "all"


@stop_signals("nothing is lost; run again with --resume")
def cross_validate(
    dataset: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: Config,
    device: str = "auto",
    resume: bool = False,
    skip_verify: bool = False,
    ranks: ProcessGroup = ALONE,
) -> dict[str, Any]:
    """Train every fold under `out_dir` with `train`; print and write their summary.

    After a fold that fails the next one is trained, unless the input is wrong or a signal asked to stop. With several ranks a
    failed fold ends all, because they may no longer be at the same step.

    Args:
        dataset: folder with dataset.json.
        out_dir: a new folder, unless resuming.
        config: of all folds; its `fold` is not used.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        resume: skip finished folds, continue those that are begun, and begin the others.
        skip_verify: do not verify the dataset first.
        ranks: the processes that train together.

    Returns:
        The summary, as in summary.json.

    Raises:
        InputError: the dataset, the configuration or the folder is not usable; the folder holds other folds.
        Unet4DError: at least one fold failed, after all others were trained.
    """
    out = Path(out_dir)

    def prepare() -> tuple[list[list[str]], list[int], list[int]]:
        check_cross_validation(dataset, out, config, device, resume)
        return _record_folds(Path(dataset), out, config, resume)

    subjects_of_folds, begun, done = ranks.broadcast_from_rank0(prepare)
    failed: dict[int, str] = {}
    counted = replace(config, data=replace(config.data, folds=len(subjects_of_folds)))
    for fold, subjects in enumerate(subjects_of_folds):
        status = "finished before" if fold in done else f"holding {', '.join(subjects)} out"
        if ranks.is_first:
            logger.info(f"fold {fold} of {len(subjects_of_folds)}: {status}")
        if fold in done:
            continue
        try:
            run = fold_folder(out, fold)
            train(dataset, run, replace(counted, fold=fold), device, fold in begun, skip_verify, ranks)
        except (InputError, ReportedByOtherRank):
            raise
        except Unet4DError as error:
            if ranks.size > 1:
                raise
            failed[fold] = str(error)
            logger.error(f"fold {fold} failed: {error}")
        # A signal that came after the last step of a fold stopped nothing yet.
        if ranks.any(stop_requested() is not None) and fold + 1 < len(subjects_of_folds):
            with ranks.raise_on_all_ranks():
                raise Stopped(f"stopped by a signal after fold {fold}; nothing is lost; continue with --resume")
    summary = ranks.broadcast_from_rank0(lambda: _finish_summary(out, config, len(subjects_of_folds), failed))
    if failed:
        listed = "; ".join(f"fold {fold}: {reason}" for fold, reason in failed.items())
        raise Unet4DError(
            f"{len(failed)} of {count(len(subjects_of_folds), 'fold')} failed, the others are in {out}; continue with --resume: "
            f"{listed}"
        )
    return summary


def _record_folds(
    dataset: Path, out: Path, config: Config, resume: bool
) -> tuple[list[list[str]], list[int], list[int]]:
    """Write the folds that are to be trained; return the subjects of each, the begun folds and the finished ones.

    Raises:
        InputError: the folder holds other folds, or, without `resume`, any; with `resume`, none.
    """
    read = open_dataset(dataset)
    subjects_of_folds = split_folds(read, config.data.folds, config.seed)
    if fewer := describe_fewer_folds(read, config.data.folds):
        logger.info(fewer)
    record = {
        "folds": len(subjects_of_folds),
        "seed": config.seed,
        "held_out": {fold_folder(out, fold).name: subjects for fold, subjects in enumerate(subjects_of_folds)},
    }
    begun = folds_in(out)
    if begun:
        _check_same_folds(out, list(begun), record)
    if begun and not resume:
        raise InputError(f"{out} already holds folds; choose a new --out, or add --resume to continue them")
    if resume and not begun and not (out / FOLDS_FILE).is_file():
        raise InputError(f"got --resume, and {out} holds no folds; leave --resume out, or give the folder of the folds")
    write_document(out / FOLDS_FILE, "folds", record)
    asked = config.as_dict() | {"fold": ALL}
    if not begun:  # else --resume takes the settings that the folds were trained with
        write_text(out / CONFIG, yaml.safe_dump(asked, sort_keys=False))
    # A finished fold with other settings is left to `train`, which reports how they differ.
    is_same = _holds_settings(out / CONFIG, asked)
    finished = [fold for fold, run in begun.items() if is_same and _is_finished(run, subjects_of_folds[fold])]
    return subjects_of_folds, list(begun), finished


def _check_same_folds(out: Path, begun: Sequence[int], record: dict[str, Any]) -> None:
    """Refuse a folder that was begun with other folds; raise an InputError that names the first difference."""
    beyond = [fold for fold in begun if fold >= record["folds"]]
    if beyond:
        raise InputError(
            f"{out} holds fold {beyond[0]}, and data.folds is {record['folds']}; give the number that they were begun with, or "
            "another --out"
        )
    before = read_json(out / FOLDS_FILE) if (out / FOLDS_FILE).is_file() else record
    before = before if isinstance(before, dict) else {}
    for name, now in record.items():
        was = before.get(name)
        if was == now:
            continue
        if name == "held_out" and isinstance(was, dict):
            name = min(fold for fold in {*was, *now} if was.get(fold) != now.get(fold))
            was, now = was.get(name), now.get(name)
        raise InputError(
            f"{out} holds other folds: {name} is {short_repr(now)} and was {short_repr(was)} ({out / FOLDS_FILE}); give the "
            "dataset and the settings that they were begun with, or another --out"
        )


def _holds_settings(file: Path, settings: dict[str, Any]) -> bool:
    """Return whether a file holds exactly these settings."""
    try:
        return file.is_file() and yaml.safe_load(file.read_text("utf-8")) == settings
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False


def _is_finished(run: Path, subjects: Sequence[str]) -> bool:
    """Return whether the summary of a run says finished, with these subjects held out."""
    summary = read_json(run / SUMMARY) if (run / SUMMARY).is_file() else None
    return isinstance(summary, dict) and (summary.get("state"), summary.get("held_out")) == ("finished", list(subjects))


def _finish_summary(out: Path, config: Config, folds: int, failed: dict[int, str]) -> dict[str, Any]:
    """Write, print and return the summary of the folds that have a score."""
    lines = {fold: last_score(log_lines(run)) for fold, run in folds_in(out).items() if fold not in failed}
    scored = {fold: line for fold, line in lines.items() if line is not None}
    summary: dict[str, Any] = {
        "version": VERSION,
        "seed": config.seed,
        "folds": folds,
        "failed": {str(fold): reason for fold, reason in failed.items()},
        "epoch": {str(fold): line["epoch"] for fold, line in scored.items()},
    }
    if scored:
        scores = {
            fold: {name: line[name] for name in ("mean_foreground_dice", "dice")} for fold, line in scored.items()
        }
        summary |= summarize_folds(scores)
        logger.log(RESULT, f"\nlast validation of each fold\n{format_folds(summary)}")
    logger.info(f"\n{out / SUMMARY}   this summary")
    return write_document(out / SUMMARY, "cross-validation", summary)
