"""A process of its own for what is measured, started afresh, so that memory and settings are its own."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

TIMEOUT_S = 20
"""Seconds after which a process that was asked to end is killed."""


class Work(Protocol):
    """Work that can be sent to another process."""

    def load(self) -> Callable[..., Any]:
        """Do what is done once, and return the function to call."""
        ...


class Child:
    """A process that works whenever it is called; a context manager that ends it.

    Args:
        work: what it does.
        context: of multiprocessing.

    Attributes:
        answers: of all calls.
    """

    def __init__(self, work: Work, context: Any):
        self.answers: list[Any] = []
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work, torch.get_num_threads()))
        self.process.start()
        theirs.close()

    def __call__(self, *arguments: Any) -> Any:
        """Call the work's function there. Raises what it raises."""
        self.pipe.send(arguments)
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        self.answers.append(answer)
        return answer

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(TIMEOUT_S)
        self.process.kill()
        self.pipe.close()


def _serve(pipe: Connection, work: Work, threads: int) -> None:
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(None, force=True)  # its workers start as in training, not as it did
    warnings.simplefilter("ignore")
    run: Callable[..., Any] | None = None
    while (arguments := pipe.recv()) is not None:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run = run or work.load()
                answer = run(*arguments)
        except Exception as error:
            answer = error
        pipe.send(answer)
