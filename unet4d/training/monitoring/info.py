"""`unet4d info`: what a run, a folder of folds or a checkpoint is, its status and the command to continue, on one screen."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.evaluation.fold_summary import format_mean_std, summarize_folds
from unet4d.inference.postprocessing_steps import read_steps
from unet4d.models.checkpoint import LAST, PREVIOUS
from unet4d.models.folds import FOLDS_FILE, folds_in, holds_run
from unet4d.system.environment import installed
from unet4d.system.files import read_json
from unet4d.system.text import count, format_number
from unet4d.training.checkpoints import describe_position
from unet4d.training.monitoring.run_status import WHOLE, changed_settings, checkpoint_status, is_run, run_status
from unet4d.training.monitoring.summary import CONFIG

_WIDTH, _INDENT = 118, 26


def info(run: str | os.PathLike[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return what a run, a folder of folds or a checkpoint is, its status and how to continue; change nothing.

    Args:
        run: a run's folder, also one that is being trained; a folder of runs fold_0, fold_1, ...; or a checkpoint file.
            None: the installed versions.

    Returns:
        Plain values for JSON, and the same as lines for a terminal.

    Raises:
        InputError: it is none of these, or damaged.
    """
    facts: dict[str, Any]
    path = Path(run or "")
    if run is None:
        facts = {"versions": installed()}
        lines = [f"{name:<10} {version}" for name, version in facts["versions"].items()]
    elif path.is_file():
        facts = _checkpoint_facts(path)
        lines = [f"{path}: {_checkpoint_text(facts)}", *_rows(_model_rows(facts), facts)]
    elif (path / FOLDS_FILE).is_file() or (folds_in(path) and not holds_run(path)):
        facts = _fold_facts(path)
        lines = _fold_lines(facts)
    elif is_run(path):
        facts = _run_facts(path)
        lines = [f"{path}: {_state_text(facts)}", *_rows(_run_rows(facts), facts)]
    else:
        found = "holds no run" if path.is_dir() else "is missing"
        raise InputError(f"{path} {found}; give a run's folder, a folder of folds or a checkpoint")
    return facts, lines


def _run_facts(run: Path) -> dict[str, Any]:
    """Return the status of a run, its post-processing and the command that continues it."""
    status = run_status(run)
    resumable = any(status["checkpoints"].get(name, {}).get("state") == WHOLE for name in (LAST, PREVIOUS))
    if status["state"] == "finished":
        command = _predict_command(run)
    elif resumable:
        command = _train_command(status, run, "--resume")
    else:
        command = _train_command(status, "NEW_RUN", "--config", str(run / CONFIG))
    return status | {"postprocessing": _postprocessing(run), "go_on": command}


def _fold_facts(out: Path) -> dict[str, Any]:
    """Return every fold that was begun, and the best Dice over them."""
    folds = {number: _run_facts(run) for number, run in folds_in(out).items()}
    best = {
        number: {name: facts["best"][name] for name in ("mean_foreground_dice", "dice")}
        for number, facts in folds.items()
        if facts["best"]
    }
    record = read_json(out / FOLDS_FILE) if (out / FOLDS_FILE).is_file() else None
    planned = record.get("folds") if isinstance(record, dict) else None
    finished = len(folds) == (planned or len(folds)) and all(facts["state"] == "finished" for facts in folds.values())
    same_classes = len({tuple(scores["dice"]) for scores in best.values()}) == 1
    resume = _train_command(next(iter(folds.values()), {}), out, "--fold", "all", "--resume")
    return {
        "folds": str(out),
        "of": planned,
        "runs": {str(number): facts for number, facts in folds.items()},
        "best": summarize_folds(best) if same_classes else None,
        "postprocessing": _postprocessing(out),
        "go_on": _predict_command(out) if finished else resume,
    }


def _checkpoint_facts(path: Path) -> dict[str, Any]:
    """Return what a single checkpoint file holds."""
    status = checkpoint_status(path)
    if status["state"] != WHOLE:
        raise InputError(f"{path} {status['state']}; give a whole checkpoint written by unet4d train")
    config = status.pop("config")
    known = {"checkpoint": str(path), "fold": config["fold"], **status}
    return known | changed_settings(config) | {"go_on": _predict_command(path)}


def _postprocessing(folder: Path) -> str | None:
    """Return what `postprocess` recorded in a folder, as text; None where it recorded nothing."""
    try:
        steps = read_steps(folder)
    except InputError as error:
        return f"left out: {error}"
    if steps is None:
        return None
    return ", ".join(f"{step.operation} of {step.class_name}" for step in steps) or "none: nothing helped"


def _predict_command(model: Path) -> str:
    return shlex.join(["unet4d", "predict", str(model), "-i", "STUDIES", "-o", "PREDICTED"])


def _train_command(facts: Mapping[str, Any], out: Path | str, *options: str) -> str:
    """Return a command with the run's dataset, or a placeholder where that is unknown."""
    return shlex.join(["unet4d", "train", "--dataset", facts.get("dataset") or "DATASET", "--out", str(out), *options])


def _state_text(facts: Mapping[str, Any]) -> str:
    state, reason = facts["state"], facts["reason"] or ""
    text = reason if reason.startswith(state) else state + (f" ({reason})" if reason else "")
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(facts["last_written"])
    ago = datetime.timedelta(seconds=max(0, round(since.total_seconds())))
    return f"{text}, last written {ago} ago{', unless it was killed since' if state == 'running' else ''}"


def _run_rows(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the rows about one run, by their names."""
    epochs, best, losses = facts["epochs"], facts["best"], facts["losses"]
    time = datetime.timedelta(seconds=round(facts["seconds"]))
    skipped = f"; {count(facts['skipped_steps'], 'step')} skipped" if facts["skipped_steps"] else ""
    curve = " ".join(format_number(loss, 4) for loss in losses.values())
    return {
        "trained": f"{epochs['done']} of {epochs['of'] or '?'} epochs in {time}{skipped}",
        "with": _versions_and_device(facts["summary"]),
        "best Dice": f"{best['mean_foreground_dice']:.4f} in epoch {best['epoch']}: {_dice_text(best)}" if best else "none yet",
        "loss": f"{curve} (epochs {min(losses, key=int)} to {max(losses, key=int)})" if losses else None,
        **{name: _checkpoint_text(status) for name, status in facts["checkpoints"].items()},
        "post-processing": facts["postprocessing"],
        **_model_rows(facts),
    }  # fmt: skip


def _versions_and_device(summary: Mapping[str, Any] | None) -> str | None:
    """Return the versions and the device that a run was trained with; None without a summary."""
    if not summary:
        return None
    try:
        versions, hardware, commit = summary["versions"], summary["hardware"], summary["commit"]
        device = (hardware["gpu"] or {"name": hardware["cpu"]})["name"]
        revision = f" ({commit['id'][:10]}{', changed' if commit['changed'] else ''})" if commit else ""
        processes = count(hardware["processes"], "process", "processes")
        return f"unet4d {versions['unet4d']}{revision}, torch {versions['torch']}, {processes} on {device}"
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"summary.json is no summary of a run ({error!r}); expected what train wrote; delete it to see the rest"
        ) from error


def _model_rows(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the rows about the network, the held-out subjects and the settings that differ from the defaults."""
    model = facts["model"] or {}
    held_out = facts.get("held_out") or model.get("held_out")
    source = "named" if "data.val_subjects" in facts["settled"] else f"fold {facts['fold']}"
    rows = {"held out": f"{source}: {textwrap.shorten(', '.join(held_out), 80)}" if held_out else None}
    if model:
        kind = f"{model['direction']} CLSTM-UNet" if model["recurrent"] else "frame-wise baseline (no recurrence)"
        classes = ", ".join(name for name, value in model["labels"].items() if value)
        channels = ", ".join(model["channel_names"])
        rows["model"] = f"{kind}, {model['weights']:,} weights; {channels}, {model['time']}; {classes}"
    for name in ("set", "settled"):
        rows[name] = ", ".join(f"{key} {json.dumps(value)}" for key, value in facts[name].items()) or "nothing"
    return rows


def _checkpoint_text(status: Mapping[str, Any]) -> str:
    place = f", {describe_position(status)}" if status["epoch"] is not None else ""
    return f"{status['state']}, {status['bytes'] / 1e6:.2f} MB{place}"


def _fold_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return a table of the folds, with mean and deviation."""
    lines = [f"{facts['folds']}: {len(facts['runs'])} of {facts['of'] or '?'} folds begun"]
    lines.append(f"{'fold':<6} {'state':<12} {'epochs':>9} {'best Dice':>10} {'in epoch':>9}  classes")
    for number, run in facts["runs"].items():
        best, epochs = run["best"] or {"mean_foreground_dice": None, "epoch": "-", "dice": {}}, run["epochs"]
        lines.append(
            f"{number:<6} {run['state']:<12} {epochs['done']:>4}/{epochs['of'] or '?':<4} "
            f"{format_number(best['mean_foreground_dice'], 4):>10} {best['epoch']:>9}  {_dice_text(best)}"
        )
    if facts["best"]:
        over = facts["best"]["over"]
        classes = ", ".join(f"{name} {format_mean_std(values)}" for name, values in over["dice"].items())
        mean = over["mean_foreground_dice"]
        lines.append(f"mean +- deviation of {mean['n']}: {format_mean_std(mean)}  {classes}")
    return lines + _rows({"post-processing": facts["postprocessing"]}, facts)


def _dice_text(best: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {format_number(value, 3)}" for name, value in best["dice"].items())


def _rows(rows: Mapping[str, str | None], facts: Mapping[str, Any]) -> list[str]:
    """Return names and texts as indented lines, those without text left out, and the command that continues, unwrapped.

    For a run that is being trained, that command is for after a kill, because two trainings would write to one folder.
    """
    runs = [facts, *facts.get("runs", {}).values()]
    name = "if it was killed" if any(run.get("state") == "running" for run in runs) else "go on"
    lines, wrap = [], partial(textwrap.wrap, width=_WIDTH, subsequent_indent=" " * _INDENT, break_on_hyphens=False)
    for head, text in rows.items():
        lines += wrap(text or "", initial_indent=f"  {head:<{_INDENT - 2}}")
    return [*lines, f"  {name:<{_INDENT - 2}}{facts['go_on']}"]
