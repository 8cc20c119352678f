"""The conditions under which a label map is made, as far as a fair comparison of two methods must know them.

`evaluate` gathers them in summary.json, and `compare` warns where they differ; see evaluation/conditions.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.inference.options import InferenceOptions, Models
from unet4d.inference.postprocessing_steps import Step
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, RUN_SUMMARY
from unet4d.system.files import read_json

_NAMES = {BEST: "best", LAST: "last", PREVIOUS: "previous"}


def prediction_conditions(models: Models, options: InferenceOptions, steps: Sequence[Step]) -> dict[str, Any]:
    """Return the conditions in plain values; they are settings, the same for every study.

    Returns:
        `runs`: folders of the models; `checkpoint`: "best", "last" or the file's name; `models`: their number; `mirror_axes`,
        `overlap` and `cyclic_shifts` of the first; `temporal_smoothing`: frames, or "by the cycle": a share of it, and none in open
        time; `postprocessing`: steps; `training_seconds` and `training_steps`: of all models together, where the
        summary.json of their runs has them; `priming_frames` of networks with recurrence.
    """
    window = options.window_config(models[0].config.inference)
    paths = [model.path.resolve() for model in models]
    summaries = [_read_summary(path.parent) for path in paths]
    seconds = [summary.get("seconds") for summary in summaries]
    steps_done = [(summary.get("steps") or {}).get("done") for summary in summaries]
    primed = "a whole round" if window.priming_frames is None else window.priming_frames
    smoothing = "by the cycle" if window.temporal_smoothing is None else window.temporal_smoothing
    priming = {} if models[0].network.is_frame_wise else {"priming_frames": primed}
    return priming | {
        "runs": sorted({str(path.parent) for path in paths}),
        "checkpoint": ", ".join(sorted({_NAMES.get(path.name, path.name) for path in paths})),
        "models": len(models),
        "mirror_axes": list(window.mirror_axes),
        "overlap": window.overlap,
        "cyclic_shifts": options.cyclic_shifts,
        "temporal_smoothing": smoothing,
        "postprocessing": [step.as_dict() for step in steps],
        "training_seconds": _sum(seconds),
        "training_steps": _sum(steps_done),
    }


def _read_summary(run: Path) -> dict[str, Any]:
    """Return the summary.json of a run; {} where there is none that can be read, as beside a copied checkpoint."""
    path = run / RUN_SUMMARY
    with contextlib.suppress(InputError):
        summary = read_json(path) if path.is_file() else {}
        return summary if isinstance(summary, dict) else {}
    return {}


def _sum(values: Sequence[Any]) -> float | int | None:
    """Return the sum of numbers; None where one is missing."""
    return sum(values) if all(isinstance(value, (int, float)) for value in values) else None
