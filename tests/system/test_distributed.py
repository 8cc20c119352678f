"""Several processes agree, share and fail together; alone, each of these is nothing at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from processes import run_ranks

from unet4d.errors import InputError, ReportedByOtherRank, Unet4DError
from unet4d.system.distributed import ProcessGroup, init_distributed


@pytest.mark.parametrize("count", [3, 4, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_side_by_side_and_differ_by_one_at_most(count, size):
    shares = [ProcessGroup(rank, size).share(count) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nothing_to_exchange(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    sums = torch.ones(2, requires_grad=True)
    with init_distributed() as ranks:
        assert (ranks, ranks.is_first) == (ProcessGroup(), True)
        assert (ranks.any(True), ranks.any(False)) == (True, False)
        assert (ranks.all_gather("a"), ranks.broadcast_from_rank0(lambda: 3), ranks.rank0_first(lambda: 4)) == (
            ["a"],
            3,
            4,
        )
        assert ranks.total(sums) is sums


def _exchanges(ranks: ProcessGroup, order: Path) -> dict:
    own = torch.tensor([1.0 + ranks.rank, 2.0], requires_grad=True)
    total = ranks.total(own)
    (total**2).sum().backward()
    ranks.rank0_first(lambda: _append(order, ranks.rank))
    return {
        "any": [ranks.any(ranks.rank == k) for k in range(4)],
        "all_gather": ranks.all_gather(ranks.rank * 10),
        "broadcast_from_rank0": ranks.broadcast_from_rank0(lambda: f"made by {ranks.rank}"),
        "total": total.tolist(),
        "gradient": own.grad.tolist(),
    }


def _append(order: Path, rank: int) -> None:
    with open(order, "a", encoding="utf-8") as file:
        file.write(str(rank))


@pytest.mark.parametrize("size", [2, 3])
def test_what_they_exchange(size, tmp_path):
    answers = run_ranks(size, _exchanges, tmp_path / "order")
    total = [float(sum(range(1, size + 1))), 2.0 * size]
    for answer in answers:
        assert answer["any"] == [k < size for k in range(4)]
        assert answer["all_gather"] == [10 * k for k in range(size)]
        assert answer["broadcast_from_rank0"] == "made by 0"
        assert answer["total"] == total
        assert answer["gradient"] == [2 * value for value in total]  # of its own part, as if the others' were constants
    written = (tmp_path / "order").read_text()
    assert written[0] == "0", "the first process goes first"
    assert sorted(written) == [str(rank) for rank in range(size)]


def _fails(ranks: ProcessGroup, exchange: str, culprit: int) -> None:
    def make() -> int:
        if ranks.rank == culprit:
            raise InputError("no such study")
        return 1

    getattr(ranks, exchange)(make)


@pytest.mark.parametrize(("exchange", "culprit"), [("broadcast_from_rank0", 0), ("rank0_first", 0), ("rank0_first", 1)])
def test_one_fails_with_its_reason_and_the_others_leave_in_silence_with_its_code(exchange, culprit):
    answers = run_ranks(2, _fails, exchange, culprit, fails=True)
    assert type(answers[culprit]) is InputError
    assert type(answers[1 - culprit]) is ReportedByOtherRank
    assert answers[1 - culprit].exit_code == InputError.exit_code


def _dies(ranks: ProcessGroup) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(10**6):
        ranks.any(False)


def test_a_process_that_dies_is_told_of_by_the_others():
    first, second = run_ranks(2, _dies, fails=True)
    assert second is None
    assert type(first) is Unet4DError
    assert "process 0 lost another one of the 2 of this run" in str(first)


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"RANK is not set.* torchrun"), init_distributed():
        pass
