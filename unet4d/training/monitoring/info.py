"""`unet4d info`: what a run is and how it stands, in a screenful."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import textwrap
from collections.abc import Mapping
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
from unet4d.training.checkpoints import position
from unet4d.training.monitoring.run_status import WHOLE, checkpoint_facts, is_run, run_facts, settings
from unet4d.training.monitoring.summary import CONFIG

_WIDTH = 118


def info(run: str | os.PathLike[str] | None = None, as_json: bool = False) -> dict[str, Any]:
    """Print what a run, a folder of folds or a checkpoint is, how it stands and how to go on; nothing there is changed.

    Args:
        run: a run's folder, whether it is being written or not; a folder of runs fold_0, fold_1, ...; or a checkpoint file.
            None: print the versions that are installed here.
        as_json: print one JSON object and nothing else.

    Returns:
        That object.

    Raises:
        InputError: it is none of these, or damaged.
    """
    facts: dict[str, Any]
    path = Path(run or "")
    if run is None:
        facts = {"versions": installed()}
        lines = [f"{name:<10} {version}" for name, version in facts["versions"].items()]
    elif path.is_file():
        facts = _checkpoint(path)
        lines = _checkpoint_lines(facts)
    elif (path / FOLDS_FILE).is_file() or (folds_in(path) and not holds_run(path)):
        facts = _folds(path)
        lines = _fold_lines(facts)
    elif is_run(path):
        facts = _run(path)
        lines = _run_lines(facts)
    else:
        came = "holds no run" if path.is_dir() else "is missing"
        raise InputError(f"{path} {came}; wanted a run's folder, a folder of folds or a checkpoint; give one of these")
    print(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(lines))
    return facts


def _run(run: Path) -> dict[str, Any]:
    facts = run_facts(run)
    return facts | {"postprocessing": _tuned(run), "go_on": _go_on(run, facts)}


def _tuned(run: Path) -> str | None:
    """What `postprocess` recorded in a folder, in words; None where it recorded nothing."""
    try:
        steps = read_steps(run)
    except InputError as error:
        return f"left out: {error}"
    if steps is None:
        return None
    return ", ".join(f"{step.operation} of {step.class_name}" for step in steps) or "none: nothing helped"


def _go_on(run: Path, facts: Mapping[str, Any]) -> str:
    """The command that goes on from here: predict with what is finished, else train."""
    if facts["state"] == "finished":
        return _predict(run)
    known = facts["checkpoints"]
    if any(name in known and known[name]["state"] == WHOLE for name in (LAST, PREVIOUS)):
        return _resume(run, facts)
    again = ["unet4d", "train", "--dataset", _dataset(facts), "--out", "NEW_RUN", "--config", str(run / CONFIG)]
    return shlex.join(again)


def _predict(model: Path) -> str:
    return shlex.join(["unet4d", "predict", str(model), "-i", "STUDIES", "-o", "PREDICTED"])


def _resume(run: Path, facts: Mapping[str, Any], *options: str) -> str:
    return shlex.join(["unet4d", "train", "--dataset", _dataset(facts), "--out", str(run), *options, "--resume"])


def _dataset(facts: Mapping[str, Any]) -> str:
    """The dataset's folder; a word for it where the run does not say."""
    return facts.get("dataset") or "DATASET"


def _checkpoint(path: Path) -> dict[str, Any]:
    facts = checkpoint_facts(path)
    if facts["state"] != WHOLE:
        raise InputError(f"{path} {facts['state']}; wanted a whole checkpoint written by unet4d train; give another")
    config = facts.pop("config")
    about = {"checkpoint": str(path), "fold": config["fold"], **facts}
    return about | settings(config) | {"go_on": _predict(path)}


def _folds(out: Path) -> dict[str, Any]:
    """Every fold that was begun, and the best Dice over them."""
    folds = {number: _run(run) for number, run in folds_in(out).items()}
    scored = {
        number: {name: facts["best"][name] for name in ("mean_foreground_dice", "dice")}
        for number, facts in folds.items()
        if facts["best"]
    }
    record = read_json(out / FOLDS_FILE) if (out / FOLDS_FILE).is_file() else None
    wanted = record.get("folds") if isinstance(record, dict) else None
    finished = len(folds) == (wanted or len(folds)) and all(facts["state"] == "finished" for facts in folds.values())
    alike = len({tuple(best["dice"]) for best in scored.values()}) == 1
    best = summarize_folds(scored) if alike else None
    return {
        "folds": str(out),
        "of": wanted,
        "runs": {str(number): facts for number, facts in folds.items()},
        "best": best,
        "postprocessing": _tuned(out),
        "go_on": _predict(out) if finished else _resume(out, next(iter(folds.values()), {}), "--fold", "all"),
    }


def _run_lines(facts: Mapping[str, Any]) -> list[str]:
    epochs, best = facts["epochs"], facts["best"]
    time = datetime.timedelta(seconds=round(facts["seconds"]))
    skipped = f"; {count(facts['skipped_steps'], 'step')} skipped" if facts["skipped_steps"] else ""
    lines = [
        f"{facts['run']}: {_state(facts)}",
        _row("trained", f"{epochs['done']} of {epochs['of'] or '?'} epochs in {time}{skipped}"),
        *_made_with(facts["summary"]),
        *_model_lines(facts),
    ]
    if best:
        classes = ", ".join(f"{name} {format_number(value, 3)}" for name, value in best["dice"].items())
        lines += _row(
            "best Dice", f"{best['mean_foreground_dice']:.4f} in epoch {best['epoch']}: {classes}"
        ).splitlines()
    else:
        lines.append(_row("best Dice", "none yet"))
    if facts["losses"]:
        losses = " ".join(format_number(loss, 4) for loss in facts["losses"].values())
        epoch = list(facts["losses"])
        lines.append(_row("loss", f"{losses} (epochs {epoch[0]} to {epoch[-1]})"))
    lines += [_row(name, _checkpoint_told(one)) for name, one in facts["checkpoints"].items()]
    lines += [*_tuned_lines(facts), *_setting_lines(facts)]
    return [*lines, _go_on_line(facts["go_on"], facts["state"] == "running")]


def _go_on_line(command: str, runs: bool = False) -> str:
    """The command, in one line; of what runs it is said when it may be given: two would write to one folder."""
    return _row("if it was killed" if runs else "go on", command, wrapped=False)


def _tuned_lines(facts: Mapping[str, Any]) -> list[str]:
    return [_row("post-processing", facts["postprocessing"])] if facts["postprocessing"] else []


def _state(facts: Mapping[str, Any]) -> str:
    reason = facts["reason"] or ""
    state = reason if reason.startswith(facts["state"]) else facts["state"] + (f" ({reason})" if reason else "")
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(facts["last_written"])
    ago = datetime.timedelta(seconds=max(0, round(since.total_seconds())))
    killed = ", unless it was killed since" if facts["state"] == "running" else ""
    return f"{state}, last written {ago} ago{killed}"


def _made_with(summary: Mapping[str, Any] | None) -> list[str]:
    if not summary:
        return []
    try:
        return [_row("with", _versions_and_device(summary))]
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"summary.json is no summary of a run ({error!r}); expected what train wrote; delete it to see the rest"
        ) from error


def _versions_and_device(summary: Mapping[str, Any]) -> str:
    versions, hardware, commit = summary["versions"], summary["hardware"], summary["commit"]
    gpu, count = hardware["gpu"], hardware["processes"]
    device = f"{gpu['name']}, {gpu['memory_gb']} GB" if gpu else f"{hardware['cpu']}, {hardware['cores']} cores"
    came = f" ({commit['id'][:10]}{', changed' if commit['changed'] else ''})" if commit else ""
    many = f", {count} processes" if count > 1 else ""
    return f"unet4d {versions['unet4d']}{came}, torch {versions['torch']}, on {device}{many}"


def _model_lines(facts: Mapping[str, Any]) -> list[str]:
    model, held_out = facts["model"], facts.get("held_out")
    lines = []
    if model:
        kind = f"{model['direction']} CLSTM-UNet" if model["recurrent"] else "frame-wise twin (no recurrence)"
        classes = ", ".join(name for name, value in model["labels"].items() if value)
        channels = ", ".join(model["channel_names"])
        lines.append(_row("model", f"{kind}, {model['weights']:,} weights; {channels}, {model['time']}; {classes}"))
        held_out = held_out or model["held_out"]
    if held_out:
        chosen = "named" if "data.val_subjects" in facts["settled"] else f"fold {facts['fold']}"
        lines.append(_row("held out", f"{chosen}: {textwrap.shorten(', '.join(held_out), 80)}"))
    return lines


def _checkpoint_told(one: Mapping[str, Any]) -> str:
    place = f", {position(one)}" if one["epoch"] is not None else ""
    return f"{one['state']}, {one['bytes'] / 1e6:.2f} MB{place}"


def _setting_lines(facts: Mapping[str, Any]) -> list[str]:
    """Settings other than the defaults, those the defaults leave open apart."""
    told = {
        name: ", ".join(f"{key} {json.dumps(value)}" for key, value in facts[name].items())
        for name in ("set", "settled")
    }
    return [_row(name, words or "nothing") for name, words in told.items()]


def _checkpoint_lines(facts: Mapping[str, Any]) -> list[str]:
    told = [f"{facts['checkpoint']}: {_checkpoint_told(facts)}", *_model_lines(facts), *_setting_lines(facts)]
    return [*told, _go_on_line(facts["go_on"])]


def _fold_lines(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"{facts['folds']}: {len(facts['runs'])} of {facts['of'] or '?'} folds begun"]
    lines.append(f"{'fold':<6} {'state':<12} {'epochs':>9} {'best Dice':>10} {'in epoch':>9}  classes")
    for number, run in facts["runs"].items():
        best, epochs = run["best"] or {"mean_foreground_dice": None, "epoch": "-", "dice": {}}, run["epochs"]
        classes = ", ".join(f"{name} {format_number(value, 3)}" for name, value in best["dice"].items())
        lines.append(
            f"{number:<6} {run['state']:<12} {epochs['done']:>4}/{epochs['of'] or '?':<4} "
            f"{format_number(best['mean_foreground_dice'], 4):>10} {best['epoch']:>9}  {classes}"
        )
    if facts["best"]:
        over = facts["best"]["over"]
        classes = ", ".join(f"{name} {format_mean_std(values)}" for name, values in over["dice"].items())
        mean = over["mean_foreground_dice"]
        lines.append(f"mean +- deviation of {mean['n']}: {format_mean_std(mean)}  {classes}")
    lines += _tuned_lines(facts)
    return [*lines, _go_on_line(facts["go_on"], any(run["state"] == "running" for run in facts["runs"].values()))]


def _row(name: str, words: str, wrapped: bool = True) -> str:
    """A name and what there is to say of it, the further lines set in; a command is left in one line, to be copied."""
    head, indent = f"  {name:<24}", " " * 26
    return (
        head + words
        if not wrapped
        else "\n".join(
            textwrap.wrap(words, _WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
        )
    )
