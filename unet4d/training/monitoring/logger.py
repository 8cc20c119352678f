"""What a run writes about itself: a line an epoch on the terminal, JSON lines, TensorBoard, and MLflow if asked."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.config import ResolvedConfig
from unet4d.system.distributed import ProcessGroup
from unet4d.system.files import write_text, writing
from unet4d.system.progress_bar import print_line
from unet4d.training.monitoring.log_lines import LOG, flat, log_lines
from unet4d.training.monitoring.mlflow_log import MlflowLog

BOARD = "tensorboard"
NOT_PLOTTED = ("epoch", "step", "case_dice")


def opened(run: Path, epochs_done: int, config: ResolvedConfig, ranks: ProcessGroup) -> Record:
    """The record of a run, on the first process; on the others one that keeps nothing. All processes call it together.

    Args:
        run: its folder.
        epochs_done: epochs a resumed run has behind it; what was recorded of later ones is dropped, for they come again.
        config: says whether MLflow is told too.
        ranks: this process among the others.

    Raises:
        InputError: MLflow is asked for and cannot be used.
        Unet4DError: the disk is full.
        ReportedByOtherRank: it failed on the first process.
    """
    record: list[Record] = []

    def begin() -> None:
        experiment, settings = config.train.mlflow, flat(config.as_dict(), ".")
        mlflow = MlflowLog(run, experiment, settings, tell) if experiment is not None else None
        record.append(Record(run, epochs_done, mlflow))

    ranks.broadcast_from_rank0(begin)
    return record[0] if record else SilentRecord()


class Record:
    """The record of a run: log.jsonl (one JSON object an epoch) and TensorBoard files under tensorboard/.

    Args:
        run: the run's folder.
        epochs_done: as in `opened`.
        mlflow: told every epoch's numbers, too.

    Attributes:
        lines: the log's lines so far, those from before a resumption among them.
    """

    def __init__(self, run: Path, epochs_done: int = 0, mlflow: MlflowLog | None = None):
        from torch.utils.tensorboard import SummaryWriter

        self.log, self.board_dir, self.mlflow = run / LOG, run / BOARD, mlflow
        self.lines = [line for line in log_lines(run) if line["epoch"] <= epochs_done]
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in self.lines))
        step = self.lines[-1]["step"] + 1 if self.lines else 0
        _keep_board_quiet()
        with writing(self.board_dir):
            self.board = SummaryWriter(str(self.board_dir), purge_step=step)

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Record one epoch: `epoch` (from 1), `step`, and numbers, lists, or dicts of numbers under any other name.

        A number that is infinite or NaN is recorded as null, for JSON has neither. Plotted is every number, and of a list its
        length, but for NOT_PLOTTED.

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

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture (H, W, 3) uint8 in TensorBoard.

        Raises:
            Unet4DError: the disk is full.
        """
        with writing(self.board_dir):
            self.board.add_image(name, picture, step, dataformats="HWC")
            self.board.flush()

    def say(self, line: str) -> None:
        """A line on stdout, at once, that does not tear a progress bar."""
        tell(line)

    def close(self) -> None:
        """Write out what TensorBoard still holds; tell MLflow how the run's summary says that it stands.

        What the disk refuses is said and not raised, for it would hide the error that ends the run.
        """
        try:
            self.board.close()
        except OSError as error:
            with contextlib.suppress(OSError):  # of a stdout on the same disk
                self.say(f"{self.board_dir} lacks what was recorded last: {error.strerror or error}")
        if self.mlflow:
            self.mlflow.close()


class SilentRecord(Record):
    """The record of a process that is not the first: it keeps and says nothing, and `lines` stays empty."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def tell(line: str) -> None:
    """What `Record.say` says."""
    print_line(line)


def _keep_board_quiet() -> None:
    """Have no traceback printed of what the disk refuses TensorBoard's thread: the next call of its writer raises the same."""
    usual = threading.excepthook
    if getattr(usual, "__module__", None) == __name__:
        return

    def hook(failure: threading.ExceptHookArgs) -> None:
        of_board = type(failure.thread).__module__.partition(".")[0] == "tensorboard"
        if not (of_board and issubclass(failure.exc_type, OSError)):
            usual(failure)

    threading.excepthook = hook


def _plotted(line: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a line by its flat name, and the length of every list."""

    def numbers() -> Iterator[tuple[str, float]]:
        for name, value in flat({k: v for k, v in line.items() if k not in NOT_PLOTTED}, "/").items():
            if isinstance(value, list):
                yield name, len(value)
            elif isinstance(value, int | float):
                yield name, value

    return dict(numbers())


def _finite(value: Any) -> Any:
    """The same with None for every number that is infinite or NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
