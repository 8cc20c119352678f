"""Which studies each job of an array, and each process in it, takes."""

from __future__ import annotations

import itertools

import pytest

from unet4d.errors import InputError
from unet4d.inference.batch.job_split import JobShard, choose_shard
from unet4d.system.distributed import ProcessGroup

STUDIES = list("abcdefghij")


def slurm(number: int, numbers: range) -> dict[str, str]:
    """Return the variables that Slurm sets in a job of an array."""
    named = {"ID": number, "COUNT": len(numbers), "MIN": numbers[0], "MAX": numbers[-1], "STEP": numbers.step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in named.items()}


@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (3, 1), (1, 4), (3, 2), (12, 1), (5, 4)])
def test_all_shares_together_are_all_studies_each_once(parts, processes):
    taken = [
        JobShard(parts, part).within(ProcessGroup(rank, processes)).of(STUDIES)
        for part, rank in itertools.product(range(parts), range(processes))
    ]
    assert sorted(itertools.chain(*taken)) == STUDIES
    assert {len(one) for one in taken} <= {len(STUDIES) // len(taken), len(STUDIES) // len(taken) + 1}


def test_processes_share_what_their_part_is():
    assert JobShard(2, 1).of(STUDIES) == list("bdfhj")
    assert [JobShard(2, 1).within(ProcessGroup(rank, 2)).of(STUDIES) for rank in range(2)] == [
        list("cgk"[:2]),
        list("dhj"[:2]),
    ]


@pytest.mark.parametrize("numbers", [range(4), range(1, 5), range(0, 12, 3), range(7, 8)])
def test_the_jobs_of_a_slurm_array_take_a_part_each(numbers):
    shares = [choose_shard(None, None, slurm(number, numbers)) for number in numbers]
    assert shares == [JobShard(len(numbers), place, by_slurm=True) for place in range(len(numbers))]
    assert shares[0].describe() == f"part 0 of {len(numbers)} by the Slurm array"


def test_what_is_asked_for_goes_before_slurm():
    array = slurm(2, range(4))
    assert choose_shard(10, 3, array) == JobShard(10, 3)
    assert choose_shard(1, None, array) == JobShard()
    assert choose_shard(None, None, {}) == JobShard()
    assert choose_shard(None, None, {"SLURM_JOB_ID": "7"}) == JobShard()


@pytest.mark.parametrize(
    ("parts", "part", "environment", "words"),
    [
        (10, None, {}, "got --num_parts without --part_id"),
        (None, 3, {}, "got --part_id without --num_parts"),
        (10, 10, {}, "--num_parts 10 and --part_id 10, expected"),
        (0, 0, {}, "--num_parts 0"),
        (None, None, {**slurm(7, range(1, 8)), "SLURM_ARRAY_TASK_COUNT": "3"}, "3 jobs numbered from 1 to 7, of which this is 7"),
        (None, None, {**slurm(2, range(4)), "SLURM_ARRAY_TASK_COUNT": "many"}, "COUNT 'many'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(parts, part, environment, words):
    with pytest.raises(InputError) as told:
        choose_shard(parts, part, environment)
    assert words in str(told.value)
