"""Functions run in processes forked from the test's own: one that is killed, or several as torchrun starts them."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from unet4d.ranks import joined

PATIENCE_S = 120


def run_ranks(size: int, work: Callable[..., Any], *given: Any, fails: bool = False) -> list[Any]:
    """Run `work(ranks, *given)` in `size` processes; gives what each returned, or the exception it raised, in their order.

    A process that dies gives None. With `fails` left False an exception in any of them is an assertion of this one.
    """
    context = mp.get_context("fork")
    manager = context.Manager()
    answers = manager.dict()
    port = _free_port()
    processes = [context.Process(target=_run, args=(rank, size, port, answers, work, given)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hanging, f"processes {hanging} of {size} hang"
    found = [answers.get(rank) for rank in range(size)]
    manager.shutdown()
    errors = [f"process {rank}: {one[1]}" for rank, one in enumerate(found) if one and one[1]]
    assert fails or not errors, "\n".join(errors)
    return [one and one[0] for one in found]


def exit_code(work: Callable[..., Any], *given: Any) -> int:
    """Run `work(*given)` in a process of its own; gives how that ended, minus the signal's number where it was killed."""
    process = mp.get_context("fork").Process(target=work, args=given)
    process.start()
    process.join(PATIENCE_S)
    assert not process.is_alive(), process.kill()
    assert process.exitcode is not None
    return process.exitcode


def _run(rank: int, size: int, port: int, answers: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        with joined() as ranks:
            answers[rank] = (work(ranks, *given), "")
    except BaseException as error:
        answers[rank] = (error, traceback.format_exc())


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
