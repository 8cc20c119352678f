"""The progress bar of an epoch, on stderr."""

from __future__ import annotations

import time

import torch

from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.progress_bar import ProgressBar, format_interval
from unet4d.system.text import format_number


class EpochBar:
    """A context manager: the progress bar of one epoch, with loss, Dice, speed and memory; nothing where stderr is no terminal.

        epoch 3/200 ━━━━━━━━╸          41/100, loss 0.512, Dice 0.81, ETA 3:12:01, 412 frames/s, 11.2 GB

    ETA is that of the whole run: the rest of this epoch at its own pace, and `later_s`; of a time budget, what is left of it.
    GB is the peak of allocated GPU memory.

    Args:
        epoch: its number, from 1, of `epochs`.
        epochs: of the run; None where a time budget ends it, of which `later_s` is left as the epoch begins.
        steps: per epoch; `done` of them a resumed run has completed.
        done: see `steps`.
        dice: best mean foreground Dice so far; None before the first validation.
        enabled: False on ranks other than 0.
        later_s: the time after the steps of this epoch, see `seconds_left`; None: later epochs at the pace of this one.
    """

    def __init__(
        self,
        epoch: int,
        epochs: int | None,
        steps: int,
        done: int,
        dice: float | None,
        enabled: bool,
        later_s: float | None = None,
    ):
        self.bar = ProgressBar(
            total=steps,
            initial=done,
            desc=f"epoch {epoch}" if epochs is None else f"epoch {epoch}/{epochs}",
            leave=False,
            dynamic_ncols=True,
            miniters=1,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt}{postfix}",
            disable=None if enabled else True,
        )
        later_steps = (epochs - epoch) * steps if epochs is not None and later_s is None else 0
        self.dice, self.left, self.later_s = dice, steps - done + later_steps, later_s or 0.0
        self.is_timed = epochs is None
        self.taken, self.frames, self.began_s = 0, 0, time.perf_counter()

    def __enter__(self) -> EpochBar:
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.close()

    def step(self, loss: float | None, frames: int) -> None:
        """Move on by one step of this many frames on all ranks; `loss` is the epoch's mean so far, None where it is unknown."""
        self.taken += 1
        self.frames += frames
        if not self.bar.disable:
            self.bar.set_postfix_str(self._postfix(loss), refresh=False)
            self.bar.update()

    def _postfix(self, loss: float | None) -> str:
        seconds = max(time.perf_counter() - self.began_s, 1e-9)
        steps_s = (self.left - self.taken) * seconds / self.taken
        left_s = max(0.0, self.later_s - seconds) if self.is_timed else steps_s + self.later_s
        parts = [f"loss {format_number(loss, 4)}"]
        parts += [f"Dice {self.dice:.3f}"] if self.dice is not None else []
        parts += [f"ETA {format_interval(left_s)}", f"{self.frames / seconds:.0f} frames/s"]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            parts.append(describe_bytes(torch.cuda.max_memory_allocated()))
        return ", ".join(parts)
