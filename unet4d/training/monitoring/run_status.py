"""The status of a run, of a folder of folds and of a checkpoint, read from their files, also while they are being written."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from unet4d.config import Config, ResolvedConfig
from unet4d.errors import InputError
from unet4d.evaluation.fold_summary import summarize_folds
from unet4d.images.time_axis import time_axis
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_outline
from unet4d.models.folds import FOLDS_FILE, folds_in
from unet4d.models.model_file import read_model_file
from unet4d.models.task import Task
from unet4d.system.files import read_json
from unet4d.training.monitoring.log_lines import flatten_dict, log_lines, log_totals
from unet4d.training.monitoring.summary import SUMMARY


def run_status(run: Path) -> dict[str, Any]:
    """Return what a run's folder tells, in plain values; None for what is missing.

    Returns:
        `state`: that of summary.json, else "unfinished"; `checkpoints`: by file name, with a `fault` if damaged; `model` and
        `settings`: of the first whole one; `next_command`: predicts, or continues the training; `summary`: summary.json.

    Raises:
        InputError: summary.json is damaged. Other errors: it is JSON, and not what `train` wrote.
    """
    summary, totals = _read_json(run / SUMMARY), log_totals(log_lines(run))
    paths = [path for name in (BEST, LAST, PREVIOUS) if (path := run / name).is_file()]
    checkpoints = {path.name: _status_or_fault(path) for path in paths}
    whole = next((status for status in checkpoints.values() if "model" in status), {})
    state, epochs = summary.get("state", "unfinished"), summary.get("epochs") or {}
    resume = _train_command(summary.get("dataset"), run, "--resume")
    return {
        "run": str(run),
        "state": state,
        **{name: summary.get(name) for name in ("reason", "dataset", "fold", "held_out", "time_budget")},
        "epochs": {"done": totals.pop("epochs_done"), "of": epochs.get("of")},
        **totals,
        "checkpoints": {
            name: {key: status[key] for key in ("epoch", "step", "fault") if key in status}
            for name, status in checkpoints.items()
        },
        "model": whole.get("model"),
        "settings": whole.get("settings", {}),
        "summary": summary or None,
        "next_command": _predict_command(run) if state == "finished" else resume,
    }


def folds_status(out: Path) -> dict[str, Any]:
    """Return the status of every fold that was begun, by number, and their last Dice; None without any."""
    runs = {number: run_status(run) for number, run in folds_in(out).items()}
    planned = _read_json(out / FOLDS_FILE).get("folds")
    scores = {number: {key: run["last"][key] for key in ("mean_foreground_dice", "dice")}
              for number, run in runs.items() if run["last"]}  # fmt: skip
    same_classes = len({tuple(score["dice"]) for score in scores.values()}) == 1
    states = {run["state"] for run in runs.values()} | ({"unfinished"} if len(runs) < (planned or 1) else set())
    state = "running" if "running" in states else "finished" if states == {"finished"} else "unfinished"
    dataset = next((run["dataset"] for run in runs.values()), None)
    resume = _train_command(dataset, out, "--fold", "all", "--resume")
    return {
        "folds": str(out),
        "state": state,
        "of": planned,
        "runs": {str(number): run for number, run in runs.items()},
        "last": summarize_folds(scores) if same_classes else None,
        "next_command": _predict_command(out) if state == "finished" else resume,
    }


def checkpoint_status(path: Path) -> dict[str, Any]:
    """Return what a checkpoint is; `epoch` and `step` are None in one to predict with, `settings` those that are no defaults.

    Raises:
        InputError: it is damaged, or none.
    """
    content, defaults = load_outline(path), flatten_dict(Config().as_dict())
    config, task = ResolvedConfig.from_dict(content["config"]), Task.from_dict(content["task"])
    settings = flatten_dict(config.as_dict())
    return {
        "checkpoint": str(path),
        **{name: content["training"].get(name) for name in ("epoch", "step")},
        "fold": config.fold,
        "held_out": list(task.held_out),
        "model": {
            "kind": config.model.kind,
            "weights": sum(math.prod(shape) for shape in content["network"].values()),
            "labels": task.labels,
            **({"regions": task.as_dict()["regions"]} if task.regions else {}),
            "channel_names": list(task.channel_names),
            "time": time_axis(task.cyclic),
        },
        "settings": {name: value for name, value in settings.items() if value != defaults.get(name)},
        "next_command": _predict_command(path),
    }


def model_file_status(path: Path) -> dict[str, Any]:
    """Return the model card of a model file, the text of its licence, and what each of its networks is.

    Raises:
        InputError: it is damaged, or was changed.
    """
    content = read_model_file(path)
    return {
        "model_file": str(path),
        "card": content.card,
        "licence": content.licence,
        "networks": {name: checkpoint_status(path / name) for name in content.networks},
        "next_command": _predict_command(path),
    }


def _status_or_fault(path: Path) -> dict[str, Any]:
    try:
        return checkpoint_status(path)
    except InputError as error:
        return {"fault": str(error)}


def _predict_command(model: Path) -> str:
    return shlex.join(["unet4d", "predict", str(model), "-i", "STUDIES", "-o", "PREDICTED"])


def _train_command(dataset: str | None, out: Path, *options: str) -> str:
    return shlex.join(["unet4d", "train", "--dataset", dataset or "DATASET", "--out", str(out), *options])


def _read_json(path: Path) -> Any:
    return read_json(path) if path.is_file() else {}
