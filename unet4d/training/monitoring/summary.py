"""RUN/summary.json: the status of a run, and the versions and hardware it was trained with."""

from __future__ import annotations

import datetime
import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import unet4d
from unet4d.config import ResolvedConfig
from unet4d.models.checkpoint import RUN_SUMMARY
from unet4d.models.task import Task
from unet4d.system.distributed import ProcessGroup
from unet4d.system.documents import write_document
from unet4d.system.environment import hardware, versions
from unet4d.training.monitoring.log_lines import log_totals

if TYPE_CHECKING:
    import torch

SUMMARY, CONFIG = RUN_SUMMARY, "config.yaml"
OPTIMISM = (
    "best has the highest validation score, which is optimistic, because the score has chosen it; last was not chosen"
)
RunState = Literal["running", "finished", "stopped", "failed"]


def write_summary(
    run: Path,
    *,
    state: RunState,
    config: ResolvedConfig,
    task: Task,
    device: torch.device,
    ranks: ProcessGroup,
    step: int,
    lines: Sequence[Mapping[str, Any]],
    dataset: str | os.PathLike[str] | None = None,
    budget: Mapping[str, Any] | None = None,
    initial: str | None = None,
    reason: str = "",
) -> None:
    """Write RUN/summary.json, whole or not at all; on rank 0 only. Raises Unet4DError: the disk is full."""
    if not ranks.is_first:
        return
    total = log_totals(lines)
    epochs = None if config.train.time_budget else config.train.epochs
    summary = {
        "state": state,
        "reason": reason or None,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": None if dataset is None else str(Path(dataset).absolute()),
        "seed": config.seed,
        "fold": config.fold,
        "held_out": list(task.held_out),
        "epochs": {"done": total["epochs_done"], "of": epochs},
        "steps": {"done": step, "of": epochs and epochs * config.train.steps_per_epoch},
        "time_budget": budget,
        "initial_weights": initial,
        "seconds": total["seconds"],
        "best": total["best"],
        "last": total["last"],
        "about": OPTIMISM,
        "last_loss": lines[-1].get("loss") if lines else None,
        "skipped_steps": total["skipped_steps"],
        "versions": versions(),
        "commit": _commit(),
        "hardware": hardware(device) | {"processes": ranks.size},
    }
    write_document(run / SUMMARY, "run", summary)


@functools.cache
def _commit() -> dict[str, Any] | None:
    """Return the commit of the checkout that this package runs from, and whether its files have changed; None if installed."""
    root = Path(unet4d.__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            errors="replace",
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # installed inside another project's checkout
        return {"id": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "unet4d"))}
    except (OSError, subprocess.SubprocessError):
        return None
