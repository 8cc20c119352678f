"""`unet4d info`: what a run, a folder of folds, a checkpoint or a model file is, its state, settings and the next command."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.evaluation.fold_summary import format_folds
from unet4d.models.folds import holds_folds, holds_run
from unet4d.models.model_file import is_model_file, is_network_of_file
from unet4d.system.environment import installed
from unet4d.system.text import count, format_number
from unet4d.training.monitoring.run_status import checkpoint_status, folds_status, model_file_status, run_status
from unet4d.training.monitoring.summary import CONFIG


def info(run: str | os.PathLike[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return what a run, a folder of folds or a checkpoint is, its state and the next command; change nothing.

    Args:
        run: a run's folder, also one that is being trained; a folder of runs fold_0, fold_1, ...; a checkpoint or a model file.
            None: the installed versions.

    Returns:
        Plain values for JSON, and the same as lines for a terminal.

    Raises:
        InputError: it is none of these, or damaged.
    """
    if run is None:
        versions = installed()
        return {"versions": versions}, [f"{name:<10} {version}" for name, version in versions.items()]
    try:
        return _describe(Path(run))
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{run} has a JSON file that is not what train wrote ({error!r}); copy it again") from error


def _describe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what there is, as `info`."""
    if is_model_file(path):
        facts = model_file_status(path)
        first, *_ = facts["networks"].values()
        return facts, _lines(_card_rows(facts["card"], facts["licence"]) | _model_rows(first), facts)
    if path.is_file() or is_network_of_file(path):
        facts = checkpoint_status(path)
        return facts, _lines({"checkpoint": _place_text(facts), **_model_rows(facts)}, facts)
    if holds_folds(path):
        facts = folds_status(path)
        rows = {f"fold {number}": f"{run['state']}, {_epochs_text(run)}" for number, run in facts["runs"].items()}
        table = format_folds(facts["last"]).splitlines() if facts["last"] else []
        return facts, [*_lines({"folds": f"{len(rows)} of {facts['of'] or '?'} begun"} | rows, facts), *table]
    if holds_run(path) or (path / CONFIG).is_file():
        facts = run_status(path)
        return facts, _lines(_run_rows(facts) | _model_rows(facts), facts)
    found = "holds no run" if path.is_dir() else "is missing"
    raise InputError(f"{path} {found}; give a run's folder, a folder of folds, a checkpoint or a model file")


def _run_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows about how far a run is."""
    return {
        "state": ": ".join(filter(None, (facts["state"], facts["reason"]))),
        "trained": f"{_epochs_text(facts)} in {_time(facts['seconds'])}; {count(facts['skipped_steps'], 'step')} skipped",
        "last Dice": _score_text(facts["last"]),
        "best Dice": _score_text(facts["best"]) + ", optimistic because chosen by it" * bool(facts["best"]),
        **{name: status.get("fault") or _place_text(status) for name, status in facts["checkpoints"].items()},
    }


def _card_rows(card: Mapping[str, Any], licence: str) -> dict[str, str]:
    """Return the rows of a model card."""
    networks, lines = card["networks"], licence.strip().splitlines()
    rows = {
        "model": card["name"],
        "intended use": card["intended_use"],
        "licence": lines[0] + f" (the first of {count(len(lines), 'line')}; --json has all)" * (len(lines) > 1),
        "training data": card["training_data"],
    }
    for name, record in networks.items():
        trained, own = record["trained_on"], f"{name}, " * (len(networks) > 1)
        rows[f"{own}trained on"] = _trained_on_text(trained) if trained else "not recorded"
        for which, score in (record["validated"] or {}).items():
            rows[f"{own}{which} Dice"] = _score_text(score) + ", optimistic because chosen by it" * (which == "best")
    steps = ", ".join(f"{step['operation']} of {step['class']}" for step in card["postprocessing"])
    return rows | {"post-processing": steps or "none", "networks": str(len(networks))}


def _trained_on_text(trained: Mapping[str, Any]) -> str:
    return (
        f"{trained['dataset']}: {count(trained['subjects'], 'subject')}, {count(trained['studies'], 'study', 'studies')}, "
        f"{count(trained['frames'], 'frame')}, {trained['labelled_frames']} of them labelled; "
        f"validated on {count(trained['validation_subjects'], 'subject')}"
    )


def _model_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows about the network, its task and the settings that differ from the defaults."""
    rows, model = {"held out": ", ".join(facts["held_out"] or ())}, facts["model"]
    if model:
        rows |= {
            "network": f"{model['kind']}, {model['weights']:,} weights",
            "channels": ", ".join(model["channel_names"]),
            "classes": ", ".join(model.get("regions") or [name for name, value in model["labels"].items() if value]),
            "time": model["time"],
        }
    return rows | {name: json.dumps(value) for name, value in facts["settings"].items()}


def _epochs_text(facts: Mapping[str, Any]) -> str:
    done, of, budget = facts["epochs"]["done"], facts["epochs"]["of"], facts["time_budget"]
    spent = (
        f" ({_time(budget['spent_seconds'])} of {_time(budget['seconds'])} spent, {budget['clock']} time)"
        if budget
        else ""
    )
    return f"{done} of {of} epochs" if of else f"{done} epochs{spent}"


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))


def _score_text(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "none yet"
    dice = ", ".join(f"{name} {format_number(value, 3)}" for name, value in score["dice"].items())
    return f"{format_number(score['mean_foreground_dice'], 4)} in epoch {score['epoch']}: {dice}"


def _place_text(status: Mapping[str, Any]) -> str:
    return (
        "to predict with" if status["epoch"] is None else f"after step {status['step']}, epoch {status['epoch']} done"
    )


def _lines(rows: dict[str, str], facts: Mapping[str, Any]) -> list[str]:
    """Return names and texts as lines, empty ones left out, and the next command.

    For a run that is being trained, that command is for after a kill, because two trainings would write to one folder.
    """
    name = "if it was killed" if facts.get("state") == "running" else "next command"
    shown = {key: text for key, text in (rows | {name: facts["next_command"]}).items() if text}
    return [f"{key:<{max(map(len, shown))}}  {text}" for key, text in shown.items()]
