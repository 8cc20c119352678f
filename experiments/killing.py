"""A training at a pseudo-terminal that can be killed at a chosen moment; its progress bars show its state."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.0005
STARTING, STEP, VALIDATING, WRITING, BETWEEN = (
    "starting", "in a step", "validating", "writing a checkpoint", "between an epoch's steps and the next",
)  # fmt: skip
_EPOCH = re.compile(r"epoch (\d+)/\d+ .*?(\d+)/(\d+)(?:,|\s*$)")
_VALIDATING = re.compile(r"validating\b")


class Doing(NamedTuple):
    """The state of a training.

    Attributes:
        what: one of the states above.
        epoch: counted from 1; 0 before the first.
        steps: optimizer steps of this epoch that are done, as far as the bar shows.
    """

    what: str
    epoch: int = 0
    steps: int = 0


def seen(before: Doing, text: str) -> Doing:
    """Return the state of a training after a piece of its output, between two carriage returns or line ends."""
    if step := _EPOCH.search(text):
        epoch, done, of = map(int, step.groups())
        return Doing(STEP, epoch, done) if done < of else Doing(BETWEEN, epoch, done)
    if _VALIDATING.search(text):
        return before._replace(what=VALIDATING)
    if not text.strip() and before.what in (STEP, VALIDATING):  # a bar is taken away
        return before._replace(what=BETWEEN)
    return before


class Life:
    """One process of `unet4d WORDS` with its workers, at a pseudo-terminal; a context manager that ends it.

    Args:
        words: of the command.
        run: the run's folder.
        transcript: a file that its output is added to.
    """

    def __init__(self, words: list[str], run: Path, transcript: Path):
        self.run, self.transcript = run, transcript
        self._left = self._partial()
        self.began, self.doing = time.perf_counter(), Doing(STARTING)
        mine, its = pty.openpty()
        termios.tcsetwinsize(its, (40, 200))
        print(f"\n$ unet4d {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "unet4d", *words]
        self.process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
        os.close(its)
        self._reader = threading.Thread(target=self._read, args=(mine,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def lasted_s(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self.began

    @property
    def writes_checkpoint(self) -> bool:
        """True while a checkpoint file is half written, or if it was when the process was killed."""
        return bool(self._partial() - self._left)

    def until(self, holds: Callable[[], bool], most_s: float = float("inf")) -> None:
        """Wait until a condition holds, the process has ended, or `most_s` seconds have passed."""
        end = time.perf_counter() + most_s
        while not holds() and self.process.poll() is None and time.perf_counter() < end:
            time.sleep(POLL_S)

    def end(self, number: signal.Signals) -> tuple[int, Doing]:
        """Send a signal to it and its workers; return its exit code, and its state when the signal came."""
        doing = self.doing
        os.killpg(self.process.pid, number)
        code = self.wait()
        return code, doing._replace(what=WRITING) if self.writes_checkpoint else doing

    def wait(self) -> int:
        """Wait for its end; return its exit code, or minus the number of the signal that killed it."""
        code = self.process.wait()
        self._reader.join(timeout=30)
        return code

    def _partial(self) -> set[Path]:
        return set(self.run.glob(".*.partial.checkpoint_*"))

    def _read(self, terminal: int) -> None:
        kept = ""
        with open(self.transcript, "ab", buffering=0) as file, os.fdopen(terminal, "rb", buffering=0) as screen:
            while True:
                try:
                    piece = screen.read(4096)
                except OSError:  # the process has ended
                    return
                if not piece:
                    return
                file.write(piece)
                *whole, kept = re.split(r"[\r\n]", kept + piece.decode(errors="replace"))
                for text in [*whole, kept]:
                    self.doing = seen(self.doing, text) if text else self.doing
