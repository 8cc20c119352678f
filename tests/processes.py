"""Functions run in processes of their own: one that is killed, or several as torchrun starts them.

They are forked from a helper process (`tests.fork_server`), never from the test process.
"""

from __future__ import annotations

import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from tests.fork_server import PATIENCE_S, exit_codes

__all__ = ["PATIENCE_S", "exit_code", "exit_codes", "run_ranks"]


def run_ranks(size: int, work: Callable[..., Any], *given: Any, fails: bool = False) -> list[Any]:
    """Run `work(ranks, *given)` in `size` processes; return what each returned, or the exception it raised, in their order.

    A process that dies gives None. With `fails` left False an exception in any of them is an assertion of this one.
    `work` sees no monkeypatch of this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(size)]
        port = _free_port()
        codes = exit_codes([(_run, (rank, size, port, file, work, given)) for rank, file in enumerate(files)])
        answers = [cloudpickle.loads(file.read_bytes()) if file.exists() else None for file in files]
    hanging = [rank for rank, code in enumerate(codes) if code is None]
    assert not hanging, f"processes {hanging} of {size} hang"
    errors = [f"process {rank}: {answer[1]}" for rank, answer in enumerate(answers) if answer and answer[1]]
    errors += [f"process {rank} ended with {codes[rank]}" for rank, answer in enumerate(answers) if answer is None]
    assert fails or not errors, "\n".join(errors)
    return [answer and answer[0] for answer in answers]


def exit_code(work: Callable[..., Any], *given: Any) -> int:
    """Run `work(*given)` in a process of its own; return its exit code, minus the signal's number where it was killed.

    `work` sees no monkeypatch of this process.
    """
    [code] = exit_codes([(work, given)])
    assert code is not None, f"the process did not end in {PATIENCE_S} s"
    return code


def _run(rank: int, size: int, port: int, file: Path, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    import torch

    from unet4d.system.distributed import init_distributed

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        with init_distributed() as ranks:
            answer = work(ranks, *given), ""
    except BaseException as error:
        answer = error, traceback.format_exc()
    partial = file.with_suffix(".partial")
    partial.write_bytes(cloudpickle.dumps(answer))
    partial.rename(file)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
