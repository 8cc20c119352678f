"""The shards of studies for several jobs, and within a job for its processes: every n-th study, so that sizes mix.

A Slurm array (`sbatch --array=0-9`) sets the number of each job in its environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unet4d.errors import InputError
from unet4d.system.distributed import ProcessGroup

_Study = TypeVar("_Study")
_SLURM = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("COUNT", "ID", "MIN", "MAX", "STEP"))


@dataclass(frozen=True)
class JobShard:
    """Part number `part`, from 0, of `parts`.

    Attributes:
        by_slurm: it was read from Slurm's variables.
    """

    parts: int = 1
    part: int = 0
    by_slurm: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a number out of range."""
        if self.parts < 1 or not 0 <= self.part < self.parts:
            raise InputError(
                f"got --num_parts {self.parts} and --part_id {self.part}, expected 1 part or more, and a number from 0 to "
                "--num_parts - 1; correct them"
            )

    def within(self, ranks: ProcessGroup) -> JobShard:
        """Return the part of this part that a process among several takes."""
        return JobShard(self.parts * ranks.size, self.part * ranks.size + ranks.rank, self.by_slurm)

    def of(self, studies: Sequence[_Study]) -> list[_Study]:
        """Return every `parts`-th study from number `part` on: all parts together are all studies, each once."""
        return list(studies[self.part :: self.parts])

    def describe(self) -> str:
        """Return which part it is, and whether Slurm set it."""
        return f"part {self.part} of {self.parts}{' by the Slurm array' * self.by_slurm}"


def choose_shard(parts: int | None, part: int | None, environment: Mapping[str, str]) -> JobShard:
    """Return the part that was asked for, else that of this job in a Slurm array, else everything.

    Raises:
        InputError: one of the two is given without the other; an array skips numbers.
    """
    if parts is None and part is None:
        return _slurm_shard(environment)
    if part is None and parts == 1:
        return JobShard()
    if parts is None or part is None:
        given, missing = ("num_parts", "part_id") if part is None else ("part_id", "num_parts")
        raise InputError(
            f"got --{given} without --{missing}, expected both or neither; give --num_parts 10 --part_id 0"
        )
    return JobShard(parts, part)


def _slurm_shard(environment: Mapping[str, str]) -> JobShard:
    count, number, least, most, step = (environment.get(name, "") for name in _SLURM)
    if not count or not number:
        return JobShard()
    advice = "give --num_parts and --part_id, or --num_parts 1 for all studies"
    try:
        jobs, own, first, apart = int(count), int(number), int(least or 0), int(step or 1)
        last = int(most or first + (jobs - 1) * apart)
    except ValueError as error:
        raise InputError(
            f"got {_SLURM[0]} {count!r} and {_SLURM[1]} {number!r}, expected whole numbers; {advice}"
        ) from error
    if apart < 1 or last - first != (jobs - 1) * apart or (own - first) % apart or not first <= own <= last:
        raise InputError(
            f"got a Slurm array of {jobs} jobs numbered from {first} to {last}, of which this is {own}, expected none skipped "
            f"(--array=0-{jobs - 1}); {advice}"
        )
    return JobShard(jobs, (own - first) // apart, by_slurm=True)
