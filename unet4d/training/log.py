"""The lines of a run's log: read, compared, and told on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from unet4d.metrics import shown

LOG = "log.jsonl"


def log_lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log, an empty list where it has none; what a kill has torn is left out."""
    log, lines = run / LOG, []
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or not {"epoch", "step"} <= line.keys():
            break
        lines.append(line)
    return lines


def best_epoch(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The log's line of the best mean foreground Dice, the later one of equals; None where there is no Dice."""
    scored = [line for line in lines if line.get("mean_foreground_dice") is not None]
    return max(scored, key=lambda line: (line["mean_foreground_dice"], line["epoch"]), default=None)


def seconds_left(lines: Sequence[Mapping[str, Any]], epochs: int) -> float | None:
    """What the epochs that are left will take, from the median of the last ten; None where none has been timed."""
    seconds = [line["seconds"] for line in lines[-10:] if line.get("seconds") is not None]
    return median(seconds) * (epochs - lines[-1]["epoch"]) if seconds else None


def epoch_line(values: Mapping[str, Any], left_s: float | None, best_so_far: bool = False) -> str:
    """One epoch in a line: `key value` pairs, two spaces apart, in this order; no value has a space in it, a key may.

        epoch 20  loss 0.2114  seconds 61.2  ETA 3:03:36  frames/s 412.0  Dice 0.8711  right ventricle 0.840  (best so far)

    ETA is of the whole run. Only a validated epoch has a Dice, the mean, and after it that of each class; the remark at the end is
    in brackets. What is unknown is "-".

    Args:
        values: of the log's line.
        left_s: seconds until the run's end.
        best_so_far: whether no epoch before had a better Dice.
    """
    pairs = [
        ("epoch", str(values["epoch"])),
        ("loss", shown(values.get("loss"), 4)),
        ("seconds", shown(values.get("seconds"), 1)),
        ("ETA", "-" if left_s is None else tqdm.format_interval(left_s)),
        ("frames/s", shown(values.get("frames_per_second"), 1)),
    ]
    if "dice" in values:
        pairs.append(("Dice", shown(values["mean_foreground_dice"], 4)))
        pairs += [(" ".join(name.split()), shown(value, 3)) for name, value in values["dice"].items()]
    return "  ".join([f"{key} {value}" for key, value in pairs] + ["(best so far)"] * best_so_far)


def flat(values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Nested dicts as one, the names on the way joined by `separator`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value, separator) if isinstance(value, dict) else {"": value}
        found.update({f"{name}{separator}{key}" if key else name: item for key, item in inner.items()})
    return found
