"""The processes that train together: who takes which share, what they must agree on, and who speaks.

One process alone is `ProcessGroup()`, for which every exchange is nothing at all; several are started by torchrun.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
USUAL, PATIENT = datetime.timedelta(hours=1), datetime.timedelta(hours=12)
"""How long a process waits for the others: as a rule, and where the first of a machine may preprocess a large dataset meanwhile."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number among those on this machine; that of its GPU.
        local_size: how many are on this machine.
        patient: the group for exchanges that may take long.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient: Any = None

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks and writes."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """The device that this process is to take where `name` was asked for: of several on a machine, each has a GPU of its own.

        Raises:
            InputError: one GPU was asked for by several processes.
        """
        if self.local_size > 1 and name.startswith("cuda:"):
            raise InputError(
                f"device {name!r} was asked for by {self.local_size} processes of this machine; wanted a GPU each; leave "
                "--device out"
            )
        if self.size > 1 and name in ("auto", "cuda"):
            import torch

            return f"cuda:{self.local_rank}" if torch.cuda.is_available() else name
        return name

    def share(self, count: int) -> range:
        """The part of `count` things side by side that this process takes; shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def any(self, holds: bool) -> bool:
        """Whether it holds for one process or more."""
        if self.size == 1:
            return holds
        import torch
        import torch.distributed as dist

        found = torch.tensor([holds], dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def all_gather(self, value: Value, group: Any = None) -> list[Value]:
        """The values of all processes, in their order; exchanged in `group`, if that is to be another than the usual one."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=group)
        return values

    def broadcast_from_rank0(self, make: Callable[[], Value]) -> Value:
        """What `make` gives on the first process, on all of them.

        Raises:
            ReportedByOtherRank: it failed there, where the reason is raised.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        made, failed = _tried(make) if self.is_first else (None, None)
        self._fail_together(failed)
        sent: list[Any] = [made]
        dist.broadcast_object_list(sent, src=0)
        return sent[0]

    def rank0_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives on each process, the first of each machine before its others: what it leaves on the disk is there.

        Only the first process of all is heard.

        Raises:
            ReportedByOtherRank: it failed in another process, where the reason is raised.
        """
        if self.size == 1:
            return make()
        hushed = contextlib.nullcontext() if self.is_first else contextlib.redirect_stdout(io.StringIO())
        with hushed:
            made, failed = (None, None) if self.local_rank else _tried(make)
            self._fail_together(failed, self.patient)
            if self.local_rank:
                made, failed = _tried(make)
            self._fail_together(failed, self.patient)
        return made  # type: ignore[return-value]

    def total(self, sums: Tensor) -> Tensor:
        """The sum of a tensor over all processes, whose gradient flows to this one's part alone."""
        if self.size == 1:
            return sums
        import torch.distributed as dist

        everywhere = sums.detach().clone()
        dist.all_reduce(everywhere)
        return everywhere + (sums - sums.detach())

    @contextlib.contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """What is inside fails on every process or on none, so that the first alone says why.

        Raises:
            ReportedByOtherRank: in place of an Unet4DError or Stopped, on the others.
        """
        try:
            yield
        except (Unet4DError, Stopped) as error:
            if self.is_first:
                raise
            raise ReportedByOtherRank(error.exit_code) from error

    @contextlib.contextmanager
    def report_lost_ranks(self) -> Iterator[None]:
        """An exchange inside that failed since a process is no longer there becomes an Unet4DError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_of_a_peer(error):
                raise
            raise Unet4DError(
                f"process {self.rank} lost another one of the {self.size} of this run, whose own message says why "
                f"({str(error).splitlines()[0][:120]})"
            ) from error

    def _fail_together(self, failed: BaseException | None, group: Any = None) -> None:
        """Raise what failed here, or that something failed in another process; all come here, and all leave or none."""
        codes = self.all_gather(None if failed is None else getattr(failed, "exit_code", 1), group)
        if failed is not None:
            raise failed
        if failures := [code for code in codes if code is not None]:
            raise ReportedByOtherRank(failures[0])


def _tried(make: Callable[[], Value]) -> tuple[Value | None, BaseException | None]:
    """What it gives, or what it raised."""
    try:
        return make(), None
    except BaseException as error:
        return None, error


ALONE = ProcessGroup()
"""One process that trains by itself."""


@contextlib.contextmanager
def init_distributed() -> Iterator[ProcessGroup]:
    """Meet the others that torchrun started, and part from them at the end; alone where it started none.

    Who fails does not part: the others may be in the midst of an exchange, and parting would wait for them. It is to say why and
    end, as `cli.main` does; then they know.

    Raises:
        InputError: the environment names a process among several and not how to meet them.
        Unet4DError: the others do not come, or one has ended meanwhile.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size} and {missing[0]} is not set; wanted what torchrun sets; start several processes with "
            "torchrun --nproc-per-node N -m unet4d train ..."
        )
    import torch
    import torch.distributed as dist

    rank, local_rank, local_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=USUAL)
    except (RuntimeError, ValueError) as error:
        raise Unet4DError(
            f"process {rank} did not meet the others of {size} at {os.environ['MASTER_ADDR']} "
            f"({str(error).splitlines()[0][:120]}); see that all were started and reach that address"
        ) from error
    ranks = ProcessGroup(rank, size, local_rank, local_size, dist.new_group(backend="gloo", timeout=PATIENT))
    with ranks.report_lost_ranks():
        yield ranks
    dist.destroy_process_group()


def _is_of_a_peer(error: RuntimeError) -> bool:
    """Whether an exchange failed because somebody is no longer there."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "gloo")
    )
