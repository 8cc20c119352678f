"""The post-processing beside exported graphs, in numpy alone, is that of `unet4d predict`, voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.graph_models import HEART, LABELS
from unet4d.inference.graph_folder import describe_step
from unet4d.inference.graph_runner.postprocessing import REMOVALS, postprocessed
from unet4d.inference.postprocessing_steps import EVERY_CLASS, OPERATIONS, Step, apply_steps
from unet4d.metrics.regions import Region
from unet4d.models.task import Task
from unet4d.system.documents import load_schema

REGIONS = HEART | {"right": Region((1, 2), 2)}
TASKS = [Task(LABELS, ("cine",), False), Task(LABELS, ("cine",), False, regions=REGIONS)]


def steps_of(operation: str, task: Task) -> list[Step]:
    """Return the operation for every class that it can have."""
    names = [] if operation == "majority_over_time" else list(task.classes)
    return [Step(operation, name) for name in names + [EVERY_CLASS] * (operation != "fill_holes")]


def check(label: np.ndarray, steps: list[Step], task: Task, cyclic: bool) -> None:
    before = label.copy()
    after = postprocessed(label, [describe_step(step.as_dict(), task) for step in steps], cyclic)
    np.testing.assert_array_equal(after, apply_steps(label, steps, task.classes, cyclic))
    np.testing.assert_array_equal(label, before, "the input was changed")
    assert after.dtype == np.uint8


@st.composite
def label_maps(draw) -> np.ndarray:
    shape = draw(st.tuples(*(st.integers(1, n) for n in (5, 6, 6, 4))))
    often = draw(st.sampled_from([[0, 0, 0, 1, 2, 4], [2, 2, 2, 2, 2, 0], [1, 1, 4, 4, 2, 0], [0, 4]]))
    return draw(arrays(np.uint8, shape, elements=st.sampled_from(often), fill=st.nothing()))


EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@EXAMPLES
@given(label=label_maps(), cyclic=st.booleans())
def test_a_step_is_that_of_predict(operation, label, cyclic):
    for task in TASKS:
        for step in steps_of(operation, task):
            check(label, [step], task, cyclic)


@EXAMPLES
@given(label=label_maps(), cyclic=st.booleans(), data=st.data())
def test_steps_follow_one_another(label, cyclic, data):
    task = data.draw(st.sampled_from(TASKS))
    every = [step for operation in OPERATIONS for step in steps_of(operation, task)]
    check(label, data.draw(st.lists(st.sampled_from(every), max_size=5)), task, cyclic)


@pytest.mark.parametrize("share", [0.06, 0.1, 0.3, 0.7])
def test_long_and_winding_components_are_found(share):
    """Around 0.1 components with corners begin to reach through the whole image, around 0.3 those with faces."""
    random = np.random.default_rng(0)
    label = np.where(random.random((4, 40, 36, 6)) < share, random.choice([1, 2], (4, 40, 36, 6), p=[0.9, 0.1]), 0)
    for operation in OPERATIONS:
        for step in steps_of(operation, TASKS[0]):
            check(label.astype(np.uint8), [step], TASKS[0], True)


def test_every_operation_is_there_and_in_the_schema():
    assert {*REMOVALS, "fill_holes", "majority_over_time"} == set(OPERATIONS)
    described = load_schema("graphs")["properties"]["postprocessing"]["items"]["properties"]
    assert described["operation"]["enum"] == list(OPERATIONS)
