"""The status of a run, read from the files in its folder, also while it is being trained."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unet4d.config import Config, ResolvedConfig
from unet4d.errors import InputError
from unet4d.images.time_axis import time_axis
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, Task, load_outline
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
        `state`: that of summary.json, else "finished" or "unfinished"; `checkpoints`: by file name, see `checkpoint_status`; `set`
        and `settled`: see `changed_settings`; `losses`: of the last epochs, by epoch; `summary`: summary.json; others by their
        names.

    Raises:
        InputError: config.yaml or summary.json is damaged.
    """
    summary, log = _read_summary(run / SUMMARY), log_lines(run)
    known, totals = summary or {}, log_totals(log)
    checkpoints = {name: checkpoint_status(run / name) for name in CHECKPOINTS if (run / name).is_file()}
    whole = next((status for status in checkpoints.values() if status["state"] == WHOLE), {})
    model = whole.get("model")
    config = _read_config(run / CONFIG) if (run / CONFIG).is_file() else whole.get("config", {})
    epochs = {"done": totals["epochs_done"], "of": config.get("train.epochs")}
    return {
        "run": str(run),
        "state": known.get("state") or ("finished" if epochs["done"] == epochs["of"] else "unfinished"),
        "reason": known.get("reason"),
        "last_written": _last_written(run),
        "dataset": known.get("dataset"),
        "model": model,
        "fold": config.get("fold"),
        "held_out": known.get("held_out", model and model["held_out"]),
        "epochs": epochs,
        **{name: totals[name] for name in ("seconds", "skipped_steps", "best")},
        "losses": {str(line["epoch"]): line.get("loss") for line in log[-LAST_LOSSES:]},
        "checkpoints": {
            name: {key: status[key] for key in ("state", "bytes", "epoch", "step")}
            for name, status in checkpoints.items()
        },
        **changed_settings(config),
        "summary": summary,
    }


def checkpoint_status(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds.

    Returns:
        `state`: "whole", or what is wrong with it; `bytes`; `epoch` and `step`: None in one to predict with; of a whole one also
        `config` by dotted names and `model`.
    """
    status: dict[str, Any] = {"state": WHOLE, "bytes": path.stat().st_size, "epoch": None, "step": None}
    try:
        content = load_outline(path)
        return status | _content_status(content)
    except InputError as error:
        return status | {"state": str(error).removeprefix(f"{path} ").partition(";")[0]}
    except (KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        return status | {"state": f"does not fit this version of unet4d ({reason})"}


def _content_status(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return position, configuration and model of a checkpoint's content."""
    training, config, task = (
        content["training"],
        ResolvedConfig.from_dict(content["config"]),
        Task.from_dict(content["task"]),
    )
    epoch, step = (value if isinstance(value, int) else None for value in map(training.get, ("epoch", "step")))
    model = {
        "weights": sum(math.prod(shape) for shape in content["network"].values()),
        "recurrent": any(config.model.lstm_channels),
        "direction": config.model.direction,
        "labels": task.labels,
        "channel_names": list(task.channel_names),
        "time": time_axis(task.cyclic),
        "held_out": list(task.held_out),
    }
    return {"epoch": epoch, "step": step, "config": flatten_dict(config.as_dict()), "model": model}


def changed_settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings that differ from the defaults: those `set`, and those `settled` because the default is None."""
    defaults = flatten_dict(Config().as_dict())
    differing = {name: value for name, value in config.items() if name not in defaults or value != defaults[name]}
    unset = {name for name, value in defaults.items() if value is None}
    return {
        "set": {name: value for name, value in differing.items() if name not in unset},
        "settled": {name: value for name, value in differing.items() if name in unset},
    }


def _read_config(path: Path) -> dict[str, Any]:
    """Return the run's configuration by dotted names."""
    try:
        text = path.read_text(encoding="utf-8")
        config = node_value(compose_yaml(path, text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); copy it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings, expected what train wrote; copy it again")
    return flatten_dict(config)


def _read_summary(path: Path) -> dict[str, Any] | None:
    """Return summary.json; None where there is none."""
    if not path.is_file():
        return None
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"state", "versions", "hardware", "commit"} <= summary.keys():
        raise InputError(f"{path} is no summary of a run, expected what train wrote; delete it to see the rest")
    return summary


def _last_written(run: Path) -> str:
    """Return when one of the run's files was last written, in UTC."""
    times = [path.stat().st_mtime for name in (*CHECKPOINTS, CONFIG, SUMMARY, LOG) if (path := run / name).is_file()]
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds")
