"""The lines of RUN/log.jsonl, one per epoch: read, summarized, and written for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from unet4d.system.progress_bar import format_interval
from unet4d.system.text import format_number

LOG = "log.jsonl"


def log_lines(run: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a run's log; an empty list without a log. What follows a torn line is dropped."""
    log, lines = run / LOG, []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not _is_whole(line):
            break
        lines.append(line)
    return lines


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Return whether a line has the numbers that are read from it."""
    dice = line.get("dice", {})
    if not isinstance(dice, dict) or any(type(line.get(name)) is not int for name in ("epoch", "step")):
        return False
    if "mean_foreground_dice" in line and "dice" not in line:
        return False
    optional = (line.get(name) for name in ("seconds", "validation_seconds", "mean_foreground_dice"))
    return all(isinstance(number, (int, float, type(None))) for number in (*optional, *dice.values()))


def best_epoch(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line with the best mean foreground Dice, the later one of equals; None without any Dice."""
    scored = [line for line in lines if line.get("mean_foreground_dice") is not None]
    return max(scored, key=lambda line: (line["mean_foreground_dice"], line["epoch"]), default=None)


def last_score(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line of the newest validation, which no score has chosen; None without any Dice."""
    return next((line for line in reversed(lines) if line.get("mean_foreground_dice") is not None), None)


def log_totals(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the totals over the lines of a log.

    Returns:
        `epochs_done`; `seconds` of steps and validations; `skipped_steps`; `best` and `last`: epoch and Dice of the best validation
        and of the newest one, None without any Dice.
    """
    scored = {"best": best_epoch(lines), "last": last_score(lines)}
    return {
        "epochs_done": lines[-1]["epoch"] if lines else 0,
        "seconds": round(sum(line.get(name) or 0 for line in lines for name in ("seconds", "validation_seconds")), 2),
        "skipped_steps": sum(len(line.get("skipped") or ()) for line in lines),
        **{
            which: line and {name: line[name] for name in ("epoch", "mean_foreground_dice", "dice")}
            for which, line in scored.items()
        },
    }


def seconds_left(
    lines: Sequence[Mapping[str, Any]], epochs: int, validate_every: int, running: bool = False
) -> float | None:
    """Return the time that the remaining epochs take: steps and validations, each at the median of the last ten.

    Args:
        lines: of the log so far.
        epochs: of the run.
        validate_every: epochs from one validation to the next; the last epoch is always validated.
        running: leave out the steps of the epoch after the last line, but not its validation.

    Returns:
        None where no epoch has been timed; without the time of validations where none has been.
    """
    steps_s, validation_s = (
        [line[name] for line in lines if line.get(name) is not None][-10:] for name in ("seconds", "validation_seconds")
    )
    if not steps_s:
        return None
    ahead = range(lines[-1]["epoch"] + 1, epochs + 1)
    validations = sum(epoch == epochs or epoch % validate_every == 0 for epoch in ahead)
    left_s = median(steps_s) * max(0, len(ahead) - running)
    return left_s + (median(validation_s) * validations if validation_s else 0)


def epoch_line(values: Mapping[str, Any], left_s: float | None, best_so_far: bool = False) -> str:
    """Return one epoch as `key value` pairs, two spaces apart, in this order; no value has a space in it, a key may.

        epoch 20  loss 0.2114  seconds 61.2  ETA 3:03:36  frames/s 412.0  Dice 0.8711  right ventricle 0.840  (best so far)

    ETA is that of the whole run. Only a validated epoch has the mean Dice, and then that of each class. An unknown value is "-".

    Args:
        values: of the log's line.
        left_s: seconds until the run's end.
        best_so_far: whether no epoch before had a better Dice.
    """
    pairs = [
        ("epoch", str(values["epoch"])),
        ("loss", format_number(values.get("loss"), 4)),
        ("seconds", format_number(values.get("seconds"), 1)),
        ("ETA", "-" if left_s is None else format_interval(left_s)),
        ("frames/s", format_number(values.get("frames_per_second"), 1)),
    ]
    if "mean_foreground_dice" in values:
        pairs.append(("Dice", format_number(values["mean_foreground_dice"], 4)))
        pairs += [(" ".join(name.split()), format_number(value, 3)) for name, value in values["dice"].items()]
    return "  ".join([f"{key} {value}" for key, value in pairs] + ["(best so far)"] * best_so_far)


def flatten_dict(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return nested dicts as one, with the names on the way joined by a separator."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flatten_dict(value, separator) if isinstance(value, dict) else {"": value}
        found.update({f"{name}{separator}{key}" if key else name: item for key, item in inner.items()})
    return found
