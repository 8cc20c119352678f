"""What a run writes about itself: a line an epoch on the terminal, JSON lines, TensorBoard scalars and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unet4d.files import write_text, writing

LOG, BOARD = "log.jsonl", "tensorboard"


class Record:
    """The record of a run in `out_dir`: log.jsonl (one JSON object an epoch) and TensorBoard files under tensorboard/.

    Args:
        out_dir: the run's folder.
        epochs_done: epochs a resumed run has behind it; what was recorded of later ones is dropped, for they come again.
    """

    def __init__(self, out_dir: Path, epochs_done: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.log = out_dir / LOG
        kept = [line for line in _lines(self.log) if line["epoch"] <= epochs_done]
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in kept))
        step = kept[-1]["step"] + 1 if kept else 0
        with writing(out_dir / BOARD):
            self.board = SummaryWriter(str(out_dir / BOARD), purge_step=step)

    def epoch(self, values: dict[str, Any]) -> None:
        """Record one epoch: `epoch` (from 1), `step`, and numbers or dicts of numbers under any other name.

        A number that is infinite or NaN is recorded as null, for JSON has neither.

        Raises:
            Unet4DError: the disk is full.
        """
        values = _finite(values)
        with writing(self.log):
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")
            for name, value in flat(values, "/").items():
                if name not in ("epoch", "step") and value is not None:
                    self.board.add_scalar(name, value, values["step"])
            self.board.flush()

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture (H, W, 3) uint8 in TensorBoard."""
        self.board.add_image(name, picture, step, dataformats="HWC")

    def say(self, line: str) -> None:
        """A line on the terminal that does not tear a progress bar."""
        tqdm.write(line)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self.board.close()


def _lines(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one torn by a kill is left out."""
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _finite(value: Any) -> Any:
    """The same with None for every number that is infinite or NaN."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(values: dict[str, Any], separator: str) -> dict[str, Any]:
    """Nested dicts as one, the names on the way joined by `separator`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value, separator) if isinstance(value, dict) else {"": value}
        found.update({f"{name}{separator}{key}" if key else name: item for key, item in inner.items()})
    return found
