"""The log of a run: one JSON line per epoch, curves and pictures in TensorBoard, and MLflow on request."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.config import ResolvedConfig
from unet4d.system.distributed import ProcessGroup
from unet4d.system.files import write_text, writing
from unet4d.training.monitoring.log_lines import LOG, flatten_dict, log_lines
from unet4d.training.monitoring.mlflow_log import MlflowLog

logger = logging.getLogger(__name__)

BOARD = "tensorboard"
NOT_PLOTTED = ("epoch", "step", "case_dice", "learning_rates")


def open_logger(run: Path, epochs_done: int, config: ResolvedConfig, ranks: ProcessGroup) -> RunLogger | None:
    """Open the log of a run on rank 0; return None on the others. All ranks call it together.

    Args:
        run: its folder.
        epochs_done: epochs that a resumed run has completed; log lines of later ones are dropped, because they are trained again.
        config: names the MLflow experiment, if any.
        ranks: this process among the others.

    Raises:
        InputError: MLflow is asked for and not installed.
        Unet4DError: the disk is full.
        ReportedByOtherRank: it failed on rank 0.
    """
    opened: list[RunLogger] = []

    def open_files() -> None:
        experiment, settings = config.train.mlflow, flatten_dict(config.as_dict())
        mlflow = None if experiment is None else MlflowLog(run, experiment, settings)
        opened.append(RunLogger(run, epochs_done, mlflow))

    ranks.broadcast_from_rank0(open_files)
    return opened[0] if opened else None


class RunLogger:
    """The log of a run: log.jsonl (one JSON object per epoch) and TensorBoard files under tensorboard/.

    Attributes:
        lines: the log's lines so far, those from before a resumption among them.
    """

    def __init__(self, run: Path, epochs_done: int = 0, mlflow: MlflowLog | None = None):
        from torch.utils.tensorboard import SummaryWriter

        self.log, self.board_dir, self.mlflow = run / LOG, run / BOARD, mlflow
        self.lines = [line for line in log_lines(run) if line["epoch"] <= epochs_done]
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in self.lines))
        step = self.lines[-1]["step"] + 1 if self.lines else 0
        _silence_board_thread()
        with writing(self.board_dir):
            self.board = SummaryWriter(str(self.board_dir), purge_step=step)

    def log_epoch(self, values: Mapping[str, Any]) -> None:
        """Log one epoch: `epoch` (from 1), `step`, and numbers, lists, or dicts of numbers under any other name.

        Numbers that are not finite are logged as null, because JSON has none. Plotted are all numbers and the lengths of lists,
        except NOT_PLOTTED.

        Raises:
            Unet4DError: the disk is full.
        """
        line = _finite(values)
        plotted = _plotted(line)
        with writing(self.log):
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            for name, value in plotted.items():
                self.board.add_scalar(name, value, line["step"])
            self.board.flush()
        self.lines.append(line)
        if self.mlflow:
            self.mlflow.metrics(plotted, line["step"])

    def log_picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Add a picture (H, W, 3) uint8 to TensorBoard. Raises Unet4DError: the disk is full."""
        with writing(self.board_dir):
            self.board.add_image(name, picture, step, dataformats="HWC")
            self.board.flush()

    def close(self) -> None:
        """Write what TensorBoard still buffers; set MLflow's status to that of the run's summary.

        A full disk is reported and not raised, because it would hide the error that ends the run.
        """
        try:
            self.board.close()
        except OSError as error:
            with contextlib.suppress(OSError):  # of a stdout on the same disk
                logger.warning(f"{self.board_dir} lacks what was logged last: {error.strerror or error}")
        if self.mlflow:
            self.mlflow.close()


def _silence_board_thread() -> None:
    """Print no traceback where the disk is full for TensorBoard's thread: the next call of its writer raises the error."""
    usual = threading.excepthook
    if getattr(usual, "__module__", None) == __name__:
        return

    def hook(failure: threading.ExceptHookArgs) -> None:
        of_board = type(failure.thread).__module__.partition(".")[0] == "tensorboard"
        if not (of_board and issubclass(failure.exc_type, OSError)):
            usual(failure)

    threading.excepthook = hook


def _plotted(line: Mapping[str, Any]) -> dict[str, float]:
    """Return every number of a line by its flat name, and the length of every list."""
    flat = flatten_dict({name: value for name, value in line.items() if name not in NOT_PLOTTED}, "/")
    lengths = {name: len(value) if isinstance(value, list) else value for name, value in flat.items()}
    return {name: value for name, value in lengths.items() if isinstance(value, int | float)}


def _finite(value: Any) -> Any:
    """Return the same values with None for every number that is infinite or NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
