"""Conditions under which scored label maps were made, and warnings where those of two methods differ in more than is compared.

`predict` records them in prediction.json, beside each case ("conditions"); other programs may do the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Conditions = Mapping[str, Any]
"""Name of a condition to its distinct values over cases; "cases" and "training_seconds" to a number."""
CONDITION_NAMES = {
    "checkpoint": "the checkpoint",
    "models": "the number of models",
    "mirror_axes": "mirroring",
    "cyclic_shifts": "cyclic shifts",
    "overlap": "the overlap of windows",
    "priming_frames": "priming frames",
    "temporal_smoothing": "smoothing over time",
    "postprocessing": "post-processing",
}
"""Conditions that a comparison needs to be the same, with their names for people."""
_ABSENT = {"temporal_smoothing": 0}
"""Values of what earlier versions and other programs do not record, because they do not have it."""
RUNS, TRAINING_SECONDS = "runs", "training_seconds"
LONGER = 1.25
"""Factor between two training times above which they count as different."""


def summarize_conditions(recorded: Iterable[Conditions]) -> dict[str, Any]:
    """Return the distinct values of each condition over cases, sorted; of the training time the mean; {} where nothing is recorded.

    Args:
        recorded: of each case, those that prediction.json has.
    """
    cases = [{**_ABSENT, **case} for case in recorded if case]
    if not cases:
        return {}
    found: dict[str, Any] = {"cases": len(cases)}
    for name in (RUNS, *CONDITION_NAMES):
        values = {json.dumps(case[name], sort_keys=True) for case in cases if name in case}
        if values:
            found[name] = [json.loads(value) for value in sorted(values)]
    seconds = [case[TRAINING_SECONDS] for case in cases if isinstance(case.get(TRAINING_SECONDS), (int, float))]
    return found | ({TRAINING_SECONDS: round(float(np.mean(seconds)), 2)} if seconds else {})


def mixed_conditions(recorded: Iterable[Conditions]) -> str:
    """Return what differs between the cases of one folder, as text: "mirroring (none; 0, 1)"; empty where nothing does."""
    found = summarize_conditions(recorded)
    return ", ".join(
        f"{text} ({'; '.join(_describe_value(value) for value in found[name])})"
        for name, text in CONDITION_NAMES.items()
        if len(found.get(name, ())) > 1
    )


def condition_warnings(a: Conditions, b: Conditions) -> list[str]:
    """Return warnings about A and B, from their conditions as `summarize_conditions` returns them.

    Where both are of the same training, one condition may differ, because it is what is compared; where they are not, the training
    is, and each condition that differs makes the comparison unfair.
    """
    if bool(a) != bool(b):
        unknown, known = ("B", "A") if a else ("A", "B")
        return [
            f"nothing records how {unknown} was made (training time, {', '.join(CONDITION_NAMES.values())}); make sure that it "
            f"was made as {known}"
        ]
    differing = [
        f"{text} (A: {_describe(a[name])}; B: {_describe(b[name])})"
        for name, text in CONDITION_NAMES.items()
        if name in a and name in b and a[name] != b[name]
    ]
    seconds = [one[TRAINING_SECONDS] for one in (a, b) if one.get(TRAINING_SECONDS)]
    if len(seconds) == 2 and max(seconds) > LONGER * min(seconds):
        differing.append(f"training time (A: {seconds[0] / 60:.1f} min; B: {seconds[1] / 60:.1f} min)")
    same_training = bool(a.get(RUNS)) and a.get(RUNS) == b.get(RUNS)
    if len(differing) <= same_training:
        return []
    also = "more than one thing" if same_training else "more than the training"
    return [f"A and B differ in {also}: {', '.join(differing)}; a difference may come from each of them"]


def _describe(values: Iterable[Any]) -> str:
    """Return the values of a condition as text: "best", "0, 1", "LV: largest_component"."""
    return " and ".join(_describe_value(value) for value in values)


def _describe_value(value: Any) -> str:
    if isinstance(value, dict):
        return ": ".join(str(part) for part in value.values())
    if isinstance(value, list):
        return ", ".join(map(_describe_value, value)) or "none"
    return "none" if value is None else str(value)
