"""A part of the studies for each of several jobs, and within it for each process: every n-th study, so that sizes mix.

A Slurm array (`sbatch --array=0-9`) says by itself which part each job takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unet4d.errors import InputError
from unet4d.system.distributed import ProcessGroup

Item = TypeVar("Item")
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
        """Raises InputError for a part that cannot be."""
        if self.parts < 1 or not 0 <= self.part < self.parts:
            raise InputError(
                f"--num_parts is {self.parts} and --part_id {self.part}; wanted 1 part or more, and its number from 0 to "
                "--num_parts - 1"
            )

    def within(self, ranks: ProcessGroup) -> JobShard:
        """The part of this part that a process among several takes."""
        return JobShard(self.parts * ranks.size, self.part * ranks.size + ranks.rank, self.by_slurm)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every `parts`-th of the items, from number `part` on: all parts together are all items, each once."""
        return list(items[self.part :: self.parts])

    @property
    def words(self) -> str:
        """Which part it is, and who said so."""
        return f"part {self.part} of {self.parts}{' by the Slurm array' * self.by_slurm}"


def share_of(parts: int | None, part: int | None, environment: Mapping[str, str]) -> JobShard:
    """The share that was asked for, else that of this job in a Slurm array, else everything.

    Raises:
        InputError: one of the two came without the other; an array whose numbers leave some out.
    """
    if parts is None and part is None:
        return _of_slurm(environment)
    if part is None and parts == 1:
        return JobShard()
    if parts is None or part is None:
        came, missing = ("num_parts", "part_id") if part is None else ("part_id", "num_parts")
        raise InputError(
            f"--{came} came without --{missing}; wanted both, such as --num_parts 10 --part_id 0, or neither"
        )
    return JobShard(parts, part)


def _of_slurm(environment: Mapping[str, str]) -> JobShard:
    count, number, least, most, step = (environment.get(name, "") for name in _SLURM)
    if not count or not number:
        return JobShard()
    advice = "give --num_parts and --part_id, or --num_parts 1 for all studies"
    try:
        jobs, own, first = int(count), int(number), int(least or 0)
        apart, last = int(step or 1), int(most or first + (jobs - 1) * int(step or 1))
    except ValueError as error:
        raise InputError(
            f"{_SLURM[0]} is {count!r} and {_SLURM[1]} {number!r}; wanted whole numbers; {advice}"
        ) from error
    if apart < 1 or last - first != (jobs - 1) * apart or (own - first) % apart or not first <= own <= last:
        raise InputError(
            f"the Slurm array has {jobs} jobs numbered from {first} to {last}, of which this is {own}; wanted none left out "
            f"(--array=0-{jobs - 1}); {advice}"
        )
    return JobShard(jobs, (own - first) // apart, by_slurm=True)
