"""The status of a run, of a folder of folds and of a checkpoint, read from their files, also while they are being written."""

from __future__ import annotations

import datetime
import math
import shlex
from pathlib import Path
from typing import Any

import yaml

from unet4d.config import Config, ResolvedConfig
from unet4d.errors import InputError
from unet4d.evaluation.fold_summary import summarize_folds
from unet4d.images.time_axis import time_axis
from unet4d.inference.postprocessing_steps import describe_steps, read_steps
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, Task, load_outline
from unet4d.models.folds import FOLDS_FILE, folds_in
from unet4d.system.files import read_json
from unet4d.system.plain_yaml import compose_yaml, node_value
from unet4d.training.monitoring.log_lines import LOG, flatten_dict, log_lines, log_totals
from unet4d.training.monitoring.summary import CONFIG, SUMMARY

CHECKPOINTS = (BEST, LAST, PREVIOUS)
WHOLE = "whole"
"""The state of a checkpoint that can be loaded."""
LAST_LOSSES = 8
"""Epochs of which the loss is shown."""


def is_run(folder: Path) -> bool:
    """Return whether a training has begun in a folder."""
    return any((folder / name).is_file() for name in (CONFIG, *CHECKPOINTS))


def run_status(run: Path) -> dict[str, Any]:
    """Return all that a run's folder tells, in plain values; None for what is missing.

    Returns:
        `state`: that of summary.json, else "finished" or "unfinished"; `checkpoints`: by file name, see `checkpoint_status`;
        `settings`: those that differ from the defaults; `losses`: of the last epochs, by epoch; `next_command`: predicts, or
        continues the training; `summary`: summary.json; others by their names.

    Raises:
        InputError: config.yaml or summary.json is damaged.
    """
    summary, log = _read_dict(run / SUMMARY, "state", "versions", "hardware", "commit"), log_lines(run)
    known, totals = summary or {}, log_totals(log)
    checkpoints = {name: checkpoint_status(run / name) for name in CHECKPOINTS if (run / name).is_file()}
    whole = {name: status for name, status in checkpoints.items() if status["state"] == WHOLE}
    any_whole: dict[str, Any] = next(iter(whole.values()), {})
    model, config = any_whole.get("model"), _read_config(run / CONFIG) or any_whole.get("config", {})
    of = None if config.get("train.time_budget") else config.get("train.epochs")
    epochs = {"done": totals["epochs_done"], "of": of}
    state = known.get("state") or ("finished" if epochs["done"] == epochs["of"] else "unfinished")
    if state == "finished":
        command = _predict_command(run)
    elif whole.keys() & {LAST, PREVIOUS}:
        command = _train_command(known.get("dataset"), run, "--resume")
    else:
        command = _train_command(known.get("dataset"), "NEW_RUN", "--config", run / CONFIG)
    times = [path.stat().st_mtime for name in (*CHECKPOINTS, CONFIG, SUMMARY, LOG) if (path := run / name).is_file()]
    return {
        "run": str(run),
        "state": state,
        "reason": known.get("reason"),
        "last_written": datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds"),
        "dataset": known.get("dataset"),
        "model": model,
        "fold": config.get("fold"),
        "held_out": known.get("held_out", model and model["held_out"]),
        "epochs": epochs,
        "time_budget": known.get("time_budget"),
        **{name: totals[name] for name in ("seconds", "skipped_steps", "best", "last")},
        "losses": {str(line["epoch"]): line.get("loss") for line in log[-LAST_LOSSES:]},
        "checkpoints": {
            name: {key: status[key] for key in ("state", "bytes", "epoch", "step")}
            for name, status in checkpoints.items()
        },
        "settings": _changed_settings(config),
        "postprocessing": _postprocessing(run),
        "summary": summary,
        "next_command": command,
    }


def folds_status(out: Path) -> dict[str, Any]:
    """Return the status of every fold that was begun, by number, and their last Dice; None without any."""
    folds = {number: run_status(run) for number, run in folds_in(out).items()}
    last = {number: {key: run["last"][key] for key in ("mean_foreground_dice", "dice")}
            for number, run in folds.items() if run["last"]}  # fmt: skip
    planned = (_read_dict(out / FOLDS_FILE) or {}).get("folds")
    finished = len(folds) == (planned or len(folds)) and all(run["state"] == "finished" for run in folds.values())
    dataset = next((run["dataset"] for run in folds.values()), None)
    same_classes = len({tuple(scores["dice"]) for scores in last.values()}) == 1
    return {
        "folds": str(out),
        "of": planned,
        "runs": {str(number): run for number, run in folds.items()},
        "last": summarize_folds(last) if same_classes else None,
        "postprocessing": _postprocessing(out),
        "next_command": _predict_command(out)
        if finished
        else _train_command(dataset, out, "--fold", "all", "--resume"),
    }


def checkpoint_status(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds.

    Returns:
        `state`: "whole", or what is wrong with it; `bytes`; `epoch` and `step`: None in one to predict with; of a whole one also
        `config` by dotted names, `model` and `next_command`.
    """
    status: dict[str, Any] = {"state": WHOLE, "bytes": path.stat().st_size, "epoch": None, "step": None}
    try:
        content = load_outline(path)
    except InputError as error:
        return status | {"state": str(error).removeprefix(f"{path} ").partition(";")[0]}
    config, task = ResolvedConfig.from_dict(content["config"]), Task.from_dict(content["task"])
    model = {
        "weights": sum(math.prod(shape) for shape in content["network"].values()),
        "recurrent": any(config.model.lstm_channels),
        "direction": config.model.direction,
        "kind": config.model.kind,
        "labels": task.labels,
        "channel_names": list(task.channel_names),
        "time": time_axis(task.cyclic),
        "held_out": list(task.held_out),
    }
    place = {name: content["training"].get(name) for name in ("epoch", "step")}
    return (
        status
        | place
        | {"config": flatten_dict(config.as_dict()), "model": model, "next_command": _predict_command(path)}
    )


def file_status(path: Path) -> dict[str, Any]:
    """Return the status of a single checkpoint. Raises InputError: it is damaged, or none."""
    status = checkpoint_status(path)
    if status["state"] != WHOLE:
        raise InputError(f"{path} {status['state']}; give a whole checkpoint written by unet4d train")
    config = status.pop("config")
    return {"checkpoint": str(path), "fold": config["fold"], **status, "settings": _changed_settings(config)}


def _changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, by dotted names."""
    defaults = flatten_dict(Config().as_dict())
    return {name: value for name, value in config.items() if name not in defaults or value != defaults[name]}


def _postprocessing(folder: Path) -> str | None:
    """Return what `postprocess` recorded in a folder, as text; None where it recorded nothing."""
    try:
        steps = read_steps(folder)
    except InputError as error:
        return f"left out: {error}"
    return None if steps is None else describe_steps(steps) or "none: nothing helped"


def _predict_command(model: Path) -> str:
    return shlex.join(["unet4d", "predict", str(model), "-i", "STUDIES", "-o", "PREDICTED"])


def _train_command(dataset: str | None, out: Path | str, *options: str | Path) -> str:
    """Return a command with the run's dataset, or a placeholder where that is unknown."""
    return shlex.join(["unet4d", "train", "--dataset", dataset or "DATASET", "--out", str(out), *map(str, options)])


def _read_config(path: Path) -> dict[str, Any] | None:
    """Return the run's configuration by dotted names; None without a file."""
    if not path.is_file():
        return None
    try:
        config = node_value(compose_yaml(path, path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); copy it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings, expected what train wrote; copy it again")
    return flatten_dict(config)


def _read_dict(path: Path, *keys: str) -> dict[str, Any] | None:
    """Return the JSON object of a file; None without a file. Raises InputError: it is no object with these keys."""
    found = read_json(path) if path.is_file() else None
    if found is not None and (not isinstance(found, dict) or not found.keys() >= set(keys)):
        raise InputError(f"{path} is not what train wrote; delete it to see the rest")
    return found
