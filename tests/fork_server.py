"""A helper process with torch imported, from which the tests' processes are forked: the test process itself never forks.

A forked test process would share locks with its children, and one that is killed leaves a lock locked for good.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context, reduction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle

PATIENCE_S = 90
"""Seconds after which a process that has not ended is killed; under the limit of a test."""
Work = tuple[Callable[..., Any], tuple[Any, ...]]

_server: _Server | None = None


class _Server:
    """Return the helper process; start it at the first use. It ends with this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        code = f"from tests.fork_server import _serve; _serve({theirs.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        atexit.register(self.end)
        assert self.connection.poll(PATIENCE_S), "the helper process did not start"
        self.connection.recv()

    def run(self, works: Sequence[Work]) -> list[int | None]:
        for descriptor in (1, 2):
            reduction.send_handle(self.connection, descriptor, None)
        state = dict(os.environ), os.getcwd(), sys.path
        self.connection.send((*state, [cloudpickle.dumps(work) for work in works]))
        assert self.connection.poll(PATIENCE_S + 25), "the helper process hangs"
        return self.connection.recv()

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def exit_codes(works: Sequence[Work]) -> list[int | None]:
    """Run each `(function, arguments)` in a process of its own, all at once; return their exit codes, None for one that hung.

    Standard output and error, environment, and working directory are those of this process at the time of the call.
    Monkeypatches of this process are not: a function that needs one makes it itself. Each process leads a session of its own.
    """
    global _server
    _server = _server or _Server()
    try:
        return _server.run(works)
    except BaseException:
        _server.end()
        _server = None
        raise


def _serve(descriptor: int) -> None:
    """Fork processes on request until the test process closes its end."""
    import torch

    import unet4d.inference.predict  # noqa: F401
    import unet4d.report.pictures.contour_sheet  # noqa: F401
    import unet4d.training.train  # noqa: F401

    torch.set_num_threads(1)
    connection = Connection(descriptor)
    connection.send("ready")
    while True:
        try:
            outputs = [reduction.recv_handle(connection) for _ in range(2)]
            environment, folder, path, works = connection.recv()
        except (EOFError, OSError, RuntimeError):
            return
        given = environment, folder, path, outputs
        children = [get_context("fork").Process(target=_run, args=(work, *given)) for work in works]
        for child in children:
            child.start()
        for output in outputs:
            os.close(output)
        connection.send(_codes(children, connection))


def _codes(children: Sequence[Any], connection: Connection) -> list[int | None]:
    """Return the exit codes of the children.

    Those that do not end in time, or outlive the test process, are killed with all they started.
    """
    running, end = {child.sentinel for child in children}, time.monotonic() + PATIENCE_S
    while running and (left := end - time.monotonic()) > 0:
        ready = wait([*running, connection], left)
        if connection in ready:  # the test process sends nothing now: it has ended
            break
        running -= set(ready)
    hanging = [child.sentinel in running for child in children]
    for child, hangs in zip(children, hanging, strict=True):
        if hangs:
            os.kill(child.pid, signal.SIGABRT)  # has faulthandler print where it is
            child.join(5)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            child.kill()
        child.join(5)
    return [None if hangs else child.exitcode for child, hangs in zip(children, hanging, strict=True)]


def _run(work: bytes, environment: dict[str, str], folder: str, path: list[str], outputs: list[int]) -> None:
    os.setsid()
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
        os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    faulthandler.enable(sys.__stderr__)
    try:
        function, given = cloudpickle.loads(work)
        function(*given)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
