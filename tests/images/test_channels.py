"""Channel kinds: the place and sign of velocities when a study is reoriented."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unet4d.errors import InputError
from unet4d.images.channels import (
    CHANNEL_KINDS,
    VELOCITIES,
    channels_of_kind,
    mirror_signs,
    reorient_channels,
    velocity_axis,
)

FLOW = ("signal", "velocity X", "velocity Y", "velocity Z")


def test_kinds_name_the_axis_and_the_sign_of_a_velocity():
    assert velocity_axis("velocity X") == (0, 1)
    assert velocity_axis("velocity -Z") == (2, -1)
    assert velocity_axis("signal") is velocity_axis("map") is None
    assert {kind for kind in CHANNEL_KINDS if velocity_axis(kind)} == set(VELOCITIES)
    assert channels_of_kind(("signal", "map", "velocity -Y", "map"), "map") == [1, 3]
    assert channels_of_kind(("signal", "map", "velocity -Y", "map"), *VELOCITIES) == [2]


def test_the_reorientation_of_the_docstring():
    assert reorient_channels(FLOW, (1, 2, 0), (False, True, False), "it") == [(0, 1), (2, 1), (3, -1), (1, 1)]


def test_channels_that_do_not_turn_stay():
    assert reorient_channels(FLOW, (0, 1, 2), (False,) * 3, "it") == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert reorient_channels(("signal", "map"), (2, 0, 1), (True, False, True), "it") == [(0, 1), (1, 1)]


def test_a_component_declared_backwards_comes_out_forwards_at_its_place():
    kinds = ("velocity -X", "signal", "velocity Y")
    assert reorient_channels(kinds, (0, 1, 2), (False,) * 3, "it") == [(0, -1), (1, 1), (2, 1)]
    assert reorient_channels(kinds, (0, 1, 2), (True, False, True), "it") == [(0, 1), (1, 1), (2, 1)]
    assert reorient_channels(kinds, (1, 0, 2), (True, True, False), "it") == [(2, -1), (1, 1), (0, 1)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_a_vector_field_turns_as_the_matrix_of_the_turn(order, flips):
    """The oracle: new axes as rows of a matrix, times the vector."""
    vector = np.array([2.0, 3.0, 5.0])
    matrix = np.zeros((3, 3))
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[new, old] = -1 if flip else 1
    stored = [7.0, vector[2], -vector[0], vector[1]]  # a signal, then velocity Z, -X and Y
    kinds = ("signal", "velocity Z", "velocity -X", "velocity Y")
    out = [sign * stored[channel] for channel, sign in reorient_channels(kinds, order, flips, "it")]
    z, x, y = out[1:]
    assert out[0] == 7.0
    assert np.array_equal([x, y, z], matrix @ vector)


def test_a_missing_component_is_an_error():
    through_plane = ("signal", "velocity Z")
    assert reorient_channels(through_plane, (1, 0, 2), (False, True, True), "it") == [(0, 1), (1, -1)]
    with pytest.raises(InputError) as error:
        reorient_channels(through_plane, (0, 2, 1), (False, False, False), "study.nii")
    assert 'study.nii: got velocity Z, expected "velocity Y", too' in str(error.value)


def test_a_mirror_changes_the_sign_of_the_velocity_along_its_axis_alone():
    kinds = ("signal", "velocity Z", "map", "velocity -X", "velocity Y")
    assert mirror_signs(kinds) == [(1, 1, 1), (1, 1, -1), (1, 1, 1), (-1, 1, 1), (1, -1, 1)]
