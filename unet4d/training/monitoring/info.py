"""`unet4d info`: what a run, a folder of folds or a checkpoint is, its status and the next command, on one screen."""

from __future__ import annotations

import datetime
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.evaluation.fold_summary import format_folds
from unet4d.models.folds import holds_folds
from unet4d.system.environment import installed
from unet4d.system.text import count, format_number
from unet4d.training.checkpoints import describe_position
from unet4d.training.monitoring.run_status import file_status, folds_status, is_run, run_status

_WIDTH, _INDENT = 118, 26


def info(run: str | os.PathLike[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return what a run, a folder of folds or a checkpoint is, its status and the next command; change nothing.

    Args:
        run: a run's folder, also one that is being trained; a folder of runs fold_0, fold_1, ...; or a checkpoint file.
            None: the installed versions.

    Returns:
        Plain values for JSON, and the same as lines for a terminal.

    Raises:
        InputError: it is none of these, or damaged.
    """
    path = Path(run or "")
    if run is None:
        versions = installed()
        return {"versions": versions}, [f"{name:<10} {version}" for name, version in versions.items()]
    if path.is_file():
        facts = file_status(path)
        return facts, [f"{path}: {_checkpoint_text(facts)}", *_rows(_model_rows(facts), facts)]
    if holds_folds(path):
        facts = folds_status(path)
        return facts, _fold_lines(facts)
    if is_run(path):
        facts = run_status(path)
        return facts, [f"{path}: {_state_text(facts)}", *_rows(_run_rows(facts), facts)]
    found = "holds no run" if path.is_dir() else "is missing"
    raise InputError(f"{path} {found}; give a run's folder, a folder of folds or a checkpoint")


def _state_text(facts: Mapping[str, Any]) -> str:
    state, reason = facts["state"], facts["reason"] or ""
    text = reason if reason.startswith(state) else state + (f" ({reason})" if reason else "")
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(facts["last_written"])
    ago = datetime.timedelta(seconds=max(0, round(since.total_seconds())))
    return f"{text}, last written {ago} ago{', unless it was killed since' if state == 'running' else ''}"


def _run_rows(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the rows about one run, by their names."""
    losses, time = facts["losses"], datetime.timedelta(seconds=round(facts["seconds"]))
    skipped = f"; {count(facts['skipped_steps'], 'step')} skipped" if facts["skipped_steps"] else ""
    curve = " ".join(format_number(loss, 4) for loss in losses.values())
    return {
        "trained": f"{_epochs_text(facts)} in {time}{skipped}",
        "time budget": _budget_text(facts["time_budget"]),
        "with": _versions_and_device(facts["summary"]),
        "last Dice": _score_text(facts["last"]),
        "best Dice": _score_text(facts["best"]) + ", optimistic because chosen by it" * bool(facts["best"]),
        "loss": f"{curve} (epochs {min(losses, key=int)} to {max(losses, key=int)})" if losses else None,
        **{name: _checkpoint_text(status) for name, status in facts["checkpoints"].items()},
        "post-processing": facts["postprocessing"],
        **_model_rows(facts),
    }


def _fold_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return one line per fold, their Dice with mean and deviation as a table, and the rest."""
    runs = facts["runs"]
    rows = {
        f"fold {number}": f"{run['state']}, {_epochs_text(run)}; {_score_text(run['last'])}"
        for number, run in runs.items()
    }
    table = [f"  {line}" for line in format_folds(facts["last"]).splitlines()] if facts["last"] else []
    about = _rows({"post-processing": facts["postprocessing"]}, facts)
    return [f"{facts['folds']}: {len(runs)} of {facts['of'] or '?'} folds begun", *_wrapped(rows), *table, *about]


def _budget_text(budget: Mapping[str, Any] | None) -> str | None:
    """Return how much of a time budget is spent; None without one."""
    if not budget:
        return None
    spent, total = (datetime.timedelta(seconds=round(budget[name])) for name in ("spent_seconds", "seconds"))
    return f"{spent} of {total} spent, {budget['clock']} time"


def _epochs_text(facts: Mapping[str, Any]) -> str:
    epochs = facts["epochs"]
    return f"{epochs['done']} epochs" if facts["time_budget"] else f"{epochs['done']} of {epochs['of'] or '?'} epochs"


def _score_text(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "none yet"
    dice = ", ".join(f"{name} {format_number(value, 3)}" for name, value in score["dice"].items())
    return f"{format_number(score['mean_foreground_dice'], 4)} in epoch {score['epoch']}: {dice}"


def _checkpoint_text(status: Mapping[str, Any]) -> str:
    place = f", {describe_position(status)}" if status["epoch"] is not None else ""
    return f"{status['state']}, {status['bytes'] / 1e6:.2f} MB{place}"


def _versions_and_device(summary: Mapping[str, Any] | None) -> str | None:
    """Return the versions and the device that a run was trained with; None without a summary."""
    if summary is None:
        return None
    try:
        versions, hardware, commit = summary["versions"], summary["hardware"], summary["commit"]
        device = (hardware["gpu"] or {"name": hardware["cpu"]})["name"]
        revision = f" ({commit['id'][:10]}{', changed' if commit['changed'] else ''})" if commit else ""
        processes = count(hardware["processes"], "process", "processes")
        return f"unet4d {versions['unet4d']}{revision}, torch {versions['torch']}, {processes} on {device}"
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"summary.json is not what train wrote ({error!r}); delete it to see the rest") from error


def _model_rows(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the rows about the network, the held-out subjects and the settings that differ from the defaults."""
    rows, model, settings = dict[str, str | None](), facts["model"] or {}, facts["settings"]
    if held_out := facts.get("held_out") or model.get("held_out"):
        source = "named" if settings.get("data.val_subjects") else f"fold {facts['fold']}"
        rows["held out"] = f"{source}: {textwrap.shorten(', '.join(held_out), 80)}"
    if model:
        classes = ", ".join(name for name, value in model["labels"].items() if value)
        channels = ", ".join(model["channel_names"])
        rows["model"] = f"{model['kind']}, {model['weights']:,} weights; {channels}, {model['time']}; {classes}"
    rows["settings"] = ", ".join(f"{key} {json.dumps(value)}" for key, value in settings.items()) or "the defaults"
    return rows


def _rows(rows: Mapping[str, str | None], facts: Mapping[str, Any]) -> list[str]:
    """Return names and texts as indented lines, and the next command, unwrapped.

    For a run that is being trained, that command is for after a kill, because two trainings would write to one folder.
    """
    is_running = any(run.get("state") == "running" for run in (facts, *facts.get("runs", {}).values()))
    name = "if it was killed" if is_running else "next command"
    return [*_wrapped(rows), f"  {name:<{_INDENT - 2}}{facts['next_command']}"]


def _wrapped(rows: Mapping[str, str | None]) -> list[str]:
    """Return names and texts as indented lines, those without text left out."""
    lines = []
    for head, text in rows.items():
        first = f"  {head:<{_INDENT - 2}}"
        lines += textwrap.wrap(
            text or "", _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT, break_on_hyphens=False
        )
    return lines
