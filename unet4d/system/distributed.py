"""The processes (ranks) that work together: their shares, their exchanges, and errors that end all of them with one message.

One process alone is `ProcessGroup()`, which exchanges nothing; several are started by torchrun.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")
TIMEOUT, LONG_TIMEOUT = datetime.timedelta(hours=1), datetime.timedelta(hours=12)
"""Times for which a rank waits for the others: as a rule, and while one of them may preprocess a large dataset."""


def process_count() -> int:
    """Return how many processes torchrun started together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this is the process that prints: the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that work together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, and of its GPU.
        local_size: number of processes on this machine.
        long_wait: torch's process group with the long timeout.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    long_wait: Any = None

    @property
    def is_first(self) -> bool:
        """Return whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """Return the device for this rank where `name` was asked for; several ranks on a machine take a GPU each.

        Raises:
            InputError: one GPU was asked for by several processes, or Apple's by any of several.
        """
        if self.local_size > 1 and name.startswith("cuda:"):
            raise InputError(
                f"device {name!r} was asked for by {self.local_size} processes of this machine; expected a GPU each; leave "
                "--device out"
            )
        if self.size > 1 and name == "mps":
            raise InputError(
                f"got device 'mps' for {self.size} processes, expected one process; start it without torchrun"
            )
        if self.size > 1 and name in ("auto", "cuda"):
            import torch

            return f"cuda:{self.local_rank}" if torch.cuda.is_available() else name
        return name

    def share(self, count: int) -> range:
        """Return the contiguous share of `count` items of this rank; shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def any(self, holds: bool) -> bool:
        """Return whether it holds for at least one rank."""
        return bool(self.largest([holds])[0])

    def largest(self, values: Sequence[float]) -> list[float]:
        """Return the largest of the ranks' values at each place, in one exchange between CPUs."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def all_gather(self, value: Result, group: Any = None) -> list[Result]:
        """Return the values of all ranks, in their order; `group` is another process group of torch than the default."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=group)
        return values

    def broadcast_from_rank0(self, make: Callable[[], Result]) -> Result:
        """Call `make` on rank 0; return its result on all ranks.

        Raises:
            ReportedByOtherRank: it failed on rank 0, where its error is raised.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        result, error = _call(make) if self.is_first else (None, None)
        self._raise_together(error, self.long_wait)
        results: list[Any] = [result]
        dist.broadcast_object_list(results, src=0)
        return results[0]

    def rank0_first(self, make: Callable[[], Result]) -> Result:
        """Call `make` on every rank, the first of each machine before its others, so that they find the files it wrote.

        Raises:
            ReportedByOtherRank: it failed on another rank, where its error is raised.
        """
        if self.size == 1:
            return make()
        result, error = (None, None) if self.local_rank else _call(make)
        self._raise_together(error, self.long_wait)
        if self.local_rank:
            result, error = _call(make)
        self._raise_together(error, self.long_wait)
        return result  # type: ignore[return-value]

    def total(self, sums: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; its gradient flows to this rank's part alone."""
        if self.size == 1:
            return sums
        import torch.distributed as dist

        everywhere = sums.detach().clone()
        dist.all_reduce(everywhere)
        return everywhere + (sums - sums.detach())

    @contextlib.contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise an error that occurs inside on every rank as itself on rank 0 only, which reports it.

        Raises:
            ReportedByOtherRank: in place of an Unet4DError or Stopped, on the other ranks.
        """
        try:
            yield
        except (Unet4DError, Stopped) as error:
            if self.is_first:
                raise
            raise ReportedByOtherRank(error.exit_code) from error

    @contextlib.contextmanager
    def report_lost_ranks(self) -> Iterator[None]:
        """Turn an exchange inside that failed because a rank is gone into an Unet4DError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_peer_error(error):
                raise
            raise Unet4DError(
                f"process {self.rank} lost another one of the {self.size} of this run; see that one's message "
                f"({str(error).splitlines()[0][:120]})"
            ) from error

    def _raise_together(self, error: BaseException | None, group: Any = None) -> None:
        """Raise this rank's error, or that another rank has one; a collective: all ranks pass or none."""
        codes = self.all_gather(None if error is None else getattr(error, "exit_code", 1), group)
        if error is not None:
            raise error
        if failures := [code for code in codes if code is not None]:
            raise ReportedByOtherRank(failures[0])


def _call(make: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    """Return the result, or the error."""
    try:
        return make(), None
    except BaseException as error:
        return None, error


ALONE = ProcessGroup()
"""One process alone."""


@contextlib.contextmanager
def init_distributed() -> Iterator[ProcessGroup]:
    """Connect the processes that torchrun started, and disconnect them at the end; yield `ALONE` where it started none.

    After an error this rank stays connected, because disconnecting would wait for the others, which may be in the midst of an
    exchange. It is to report the error and end, as `cli.main` does; then they notice.

    Raises:
        InputError: the environment names one process of several and not how to reach the others.
        Unet4DError: the others cannot be reached, or one has ended meanwhile.
    """
    size = process_count()
    if size == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size} and {missing[0]} is not set, expected what torchrun sets; start several processes with "
            "torchrun --nproc-per-node N -m unet4d train ..."
        )
    import torch
    import torch.distributed as dist

    rank, local_rank, local_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise Unet4DError(
            f"process {rank} could not connect to the others of {size} at {os.environ['MASTER_ADDR']} "
            f"({str(error).splitlines()[0][:120]}); see that all were started and reach that address"
        ) from error
    ranks = ProcessGroup(rank, size, local_rank, local_size, dist.new_group(backend="gloo", timeout=LONG_TIMEOUT))
    with ranks.report_lost_ranks():
        yield ranks
    dist.destroy_process_group()


def _is_peer_error(error: RuntimeError) -> bool:
    """Return whether an exchange failed because another rank is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "gloo")
    )
