"""What a run is and how it stands, read from what lies in its folder, also while it is being written."""

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
from unet4d.training.monitoring.log_lines import LOG, flat, log_lines, totals
from unet4d.training.monitoring.summary import CONFIG, SUMMARY

CHECKPOINTS = (BEST, LAST, PREVIOUS)
WHOLE, SHOWN = "whole", 8


def is_run(folder: Path) -> bool:
    """Whether a training has begun in a folder."""
    return any((folder / name).is_file() for name in (CONFIG, *CHECKPOINTS))


def run_facts(run: Path) -> dict[str, Any]:
    """All that a run's folder says, as JSON has it; what is not there yet, or was not written by an older version, is None.

    Returns:
        `state`: that of summary.json, else "finished" or "unfinished"; `checkpoints`: by file name, see `checkpoint_facts`; `set`:
        settings that differ from their defaults; `settled`: those that the defaults leave open; `losses`: of the last epochs, by
        epoch; `summary`: summary.json itself; others by their names.

    Raises:
        InputError: config.yaml or summary.json is damaged.
    """
    summary, log = _summary(run / SUMMARY), log_lines(run)
    known = summary or {}
    checkpoints = {name: checkpoint_facts(run / name) for name in CHECKPOINTS if (run / name).is_file()}
    whole = next((one for one in checkpoints.values() if one["state"] == WHOLE), None)
    config = _config(run / CONFIG, whole)
    total, epochs = totals(log), config.get("train.epochs")
    done = total["epochs_done"]
    return {
        "run": str(run),
        "state": known.get("state") or ("finished" if done == epochs else "unfinished"),
        "reason": known.get("reason"),
        "last_written": _last_written(run),
        "dataset": known.get("dataset"),
        "model": whole and whole["model"],
        "fold": config.get("fold"),
        "held_out": known.get("held_out", whole and whole["model"]["held_out"]),
        "epochs": {"done": done, "of": epochs},
        **{name: total[name] for name in ("seconds", "skipped_steps", "best")},
        "losses": {str(line["epoch"]): line.get("loss") for line in log[-SHOWN:]},
        "checkpoints": {
            name: {k: v for k, v in one.items() if k not in ("config", "model")} for name, one in checkpoints.items()
        },
        **settings(config),
        "summary": summary,
    }


def checkpoint_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint file says of itself.

    Returns:
        `state`: "whole", or what is wrong with it, also where another version wrote it; `bytes`; `epoch` and `step`: None in one to
        predict with; of a whole one also `config` by dotted names and `model`.
    """
    facts: dict[str, Any] = {"state": WHOLE, "bytes": path.stat().st_size, "epoch": None, "step": None}
    try:
        content = load_outline(path)
    except InputError as error:
        return facts | {"state": str(error).removeprefix(f"{path} ").partition(";")[0]}
    try:
        return facts | _told_by(content)
    except (InputError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        return facts | {"state": f"does not fit this version of unet4d ({reason})"}


def _told_by(content: Mapping[str, Any]) -> dict[str, Any]:
    """Position, configuration and model of a checkpoint's content."""
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
    return {"epoch": epoch, "step": step, "config": flat(config.as_dict(), "."), "model": model}


def settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of a configuration by dotted names: what was `set` other than by default; `settled`: what the defaults leave open."""
    defaults = flat(Config().as_dict(), ".")
    differing = {name: value for name, value in config.items() if name not in defaults or value != defaults[name]}
    opened = {name for name, value in defaults.items() if value is None}
    return {
        "set": {name: value for name, value in differing.items() if name not in opened},
        "settled": {name: value for name, value in differing.items() if name in opened},
    }


def _config(path: Path, checkpoint: Mapping[str, Any] | None) -> dict[str, Any]:
    """The run's configuration by dotted names, from its file or else from a checkpoint."""
    if not path.is_file():
        return checkpoint["config"] if checkpoint else {}
    try:
        text = path.read_text(encoding="utf-8")
        config = node_value(compose_yaml(path, text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}); wanted what train wrote there"
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings; wanted what train wrote there; copy it again")
    return flat(config, ".")


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"state", "versions", "hardware", "commit"} <= summary.keys():
        raise InputError(
            f"{path} is no summary of a run; wanted what train wrote there; delete it, and the rest is told"
        )
    return summary


def _last_written(run: Path) -> str:
    """When one of the run's files was last written, in UTC."""
    times = [path.stat().st_mtime for name in (*CHECKPOINTS, CONFIG, SUMMARY, LOG) if (path := run / name).is_file()]
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds")
