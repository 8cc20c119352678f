"""The 4D flow phantom: blood runs along the vessels, the flow is what it was asked to be, noise is that of a phase."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from data.phantom.flow import FLOW_LABELS, make_flow
from data.phantom.vessels import ejected, ejection, fills, near, pulse, tube, velocity, volume_ml
from unet4d.phantom.phantom_study import PhantomStudy

SHAPE = (60, 66, 30)
SEEDS = (0, 1)


@cache
def study(seed: int, frames: int = 6) -> PhantomStudy:
    return make_flow(seed, frames, shape=SHAPE)


def grid_of(step_mm: float, low, high) -> np.ndarray:
    """Points (X, Y, Z, 3) in mm."""
    return np.stack(np.meshgrid(*(np.arange(a, b, step_mm) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)


def bent(taper: float = 0.0):
    """A tube that goes up, bends in a quarter of a circle of 40 mm and goes on to the side; `taper` mm of its 12 go."""
    turn = np.linspace(0, math.pi / 2, 6)
    arc = np.stack([40 - 40 * np.cos(turn), 40 * np.sin(turn), 0 * turn], axis=1)
    return tube(arc, np.array([1.0, 0, 0]), np.linspace(12, 12 - taper, 6), 2.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_velocities_carry_the_true_flow_through_every_plane(seed):
    """In mL/s, at the descending aorta (across Y) and at the pulmonary artery (across Z), over the labelled voxels."""
    one = study(seed)
    spacing = np.linalg.norm(one.affine[:3, :3], axis=0)
    peak = one.labelled_frames[0]
    for name, axis, planes in (("aorta", 1, (46, 52, 58)), ("pulmonary artery", 2, (22, 25))):
        true = one.truth["flow_ml_s"][name][peak]
        area = np.delete(spacing, axis).prod()
        for plane in planes:
            inside = np.take(one.label[peak] == FLOW_LABELS[name], plane, axis=axis)
            if name == "aorta":
                inside[: SHAPE[0] // 2] = False  # the ascending aorta, where it is in this plane
            through = np.take(one.channels[1 + axis][peak], plane, axis=axis)
            assert through[inside].sum() * area / 1000 == pytest.approx(true, rel=0.08)


def test_the_flow_over_a_beat_is_the_stroke_volume():
    one = make_flow(0, 60, shape=(24, 24, 8))
    for name in ("aorta", "pulmonary artery"):
        flow = np.array(one.truth["flow_ml_s"][name])
        assert flow.sum() * one.frame_duration_s == pytest.approx(one.truth["stroke_volume_ml"], rel=0.01)
        assert flow.min() < 0 < 5 * -flow.min() < flow.max()
    assert one.frame_duration_s * 60 == pytest.approx(60 / one.truth["heart_rate_bpm"], rel=1e-3)


@pytest.mark.parametrize(("length", "leak"), [(0.3, 0.0), (0.36, 0.1)])
def test_the_curve_of_ejection_is_cyclic_and_its_integral_closed(length, leak):
    phase = np.linspace(0, 1, 20000, endpoint=False)
    curve = ejection(phase, length, leak)
    assert curve.max() == pytest.approx(1, abs=1e-4)
    assert curve.mean() == pytest.approx(ejected(length, leak), abs=1e-4)
    assert np.allclose(ejection(phase + 3, length, leak), curve)
    assert np.abs(np.diff(curve, append=curve[0])).max() < 0.01


def test_the_wall_opens_fast_and_closes_slowly():
    phase = np.linspace(0, 1, 200, endpoint=False)
    wall = pulse(phase, 0.35)
    assert (wall[0], wall.max()) == (0, pytest.approx(1, abs=1e-3))
    assert phase[wall.argmax()] == pytest.approx(0.245, abs=0.01)
    assert np.allclose(pulse(phase + 1, 0.35), wall)


@pytest.mark.parametrize("bluntness", [2.0, 6.0])
def test_blood_in_a_straight_tube_is_poiseuilles_and_comes_to_its_flow(bluntness):
    vessel = tube(np.array([[0.0, 0, 0], [0, 0, 30], [0, 0, 60]]), np.array([0, 0, 1.0]), np.full(3, 10.0), bluntness)
    points = grid_of(0.5, (-12, -12, 20), (12, 12, 21))
    place = near(vessel, points)
    field = np.zeros((*points.shape[:3], 3))
    field.reshape(-1, 3)[place.voxels] = velocity(vessel, place, 400.0, 1.0)
    assert np.allclose(field[..., :2], 0, atol=1e-6)
    assert field[:, :, 0, 2].sum() * 0.25 / 1000 == pytest.approx(400, rel=0.01)
    rho = np.hypot(points[:, :, 0, 0], points[:, :, 0, 1]) / 10
    mean = 1000 * 400 / (math.pi * 100)
    wanted = mean * (bluntness + 2) / bluntness * np.clip(1 - rho**bluntness, 0, None)
    assert np.allclose(field[:, :, 0, 2], wanted, atol=0.01 * mean)


@pytest.mark.parametrize("taper", [0.0, 4.0])
def test_the_field_has_no_divergence_even_where_the_tube_bends_and_narrows(taper):
    vessel = bent(taper)
    points = grid_of(1.0, (-14, -20, -14), (60, 54, 14))
    place = near(vessel, points)
    field = np.zeros((*points.shape[:3], 3))
    field.reshape(-1, 3)[place.voxels] = velocity(vessel, place, 300.0, 1.0)
    rho = np.full(points.shape[:3], np.inf)
    rho.reshape(-1)[place.voxels] = place.rho
    inside = rho < 0.8
    inside[[0, -1]] = inside[:, [0, -1]] = inside[:, :, [0, -1]] = False
    gradients = np.stack([np.gradient(field[..., axis], axis=axis) for axis in range(3)])
    divergence, alone = (np.sqrt(np.mean(one[inside] ** 2)) for one in (gradients.sum(0), gradients[0]))
    assert divergence < 0.1 * alone


def test_velocity_is_tangential_at_the_wall_and_nothing_runs_outside():
    vessel = bent()
    points = grid_of(1.0, (-14, -10, -14), (60, 54, 14))
    place = near(vessel, points)
    field = velocity(vessel, place, 300.0, 1.1)
    assert not field[place.rho > 1.1].any()
    assert (np.linalg.norm(field, axis=1) > 0)[place.rho < 1].all()
    upstream = field[(points.reshape(-1, 3)[place.voxels] @ vessel.tangent[0] < -1) & (place.rho < 1)]
    along = upstream @ vessel.tangent[0]
    assert (along > 0).all()
    assert np.allclose(upstream, along[:, None] * vessel.tangent[0], atol=1e-3 * np.abs(field).max())


def test_volumes_of_tubes_are_pappuss():
    vessel = bent()
    box = np.array([-20.0, -20, -20]), np.array([40.0, 60, 20])
    assert volume_ml(vessel, *box, 1.0) == pytest.approx(math.pi * 144 * 40 * math.pi / 2 / 1000, rel=0.02)
    assert volume_ml(vessel, *box, 1.1) == pytest.approx(1.21 * volume_ml(vessel, *box, 1.0))
    points = grid_of(1.0, *box)
    place = near(vessel, points)
    measured = (fills(place, 1.0, 1.0) * place.counts).sum() / 1000
    assert measured == pytest.approx(volume_ml(vessel, *box, 1.0), rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_have_the_volumes_of_the_shape_and_the_wall_moves(seed):
    one = study(seed)
    assert np.allclose(one.volumes_ml[:, 1:], one.shape_volumes_ml[:, 1:], rtol=0.04)
    counts = np.stack([np.count_nonzero(one.label == value, axis=(1, 2, 3)) for value in range(3)], axis=1)
    voxel_ml = abs(np.linalg.det(one.affine[:3, :3])) / 1000
    assert np.allclose(one.volumes_ml, counts * voxel_ml, rtol=1e-3)
    swing = one.volumes_ml.max(0) / one.volumes_ml.min(0)
    assert (swing[1:] > 1.05).all()
    assert (swing[1:] < 1.3).all()
    assert len({one.label[t].tobytes() for t in range(6)}) == 6


def test_blood_is_fast_in_systole_and_at_rest_in_diastole_where_magnitude_shows_it_no_better_than_the_heart():
    one = study(0)
    fast, slow = one.labelled_frames
    speed = np.sqrt(sum(np.square(channel) for channel in one.channels[1:]))
    aorta = one.label == FLOW_LABELS["aorta"]
    assert np.median(speed[fast][aorta[fast]]) > 3 * np.median(speed[slow][aorta[slow]])
    assert one.image[fast][aorta[fast]].mean() > 1.3 * one.image[slow][aorta[slow]].mean()


def test_noise_is_that_of_a_phase_large_where_there_is_no_signal():
    """The deviation in signal is that of two phases (Conturo & Smith 1990): venc / pi * sqrt(2) / SNR."""
    one = study(1)
    slow, venc = one.labelled_frames[1], one.truth["venc_mm_s"]
    velocities = np.stack(one.channels[1:])
    assert np.abs(velocities).max() <= venc
    air = one.image[slow] < np.percentile(one.image[slow], 3)
    assert velocities[:, slow][:, air].std() > 0.3 * venc
    aorta = one.label[slow] == FLOW_LABELS["aorta"]
    assert velocities[:, slow][:, aorta].std() < 0.08 * venc
    peak = one.labelled_frames[0]
    assert np.abs(velocities[:, peak][:, one.label[peak] > 0]).max() < venc  # nothing of it wrapped: no jump of 2 venc
    for value in (1, 2):
        inside = velocities[:, peak][:, one.label[peak] == value]
        assert (np.abs(inside) > 0.97 * venc).mean() < 0.001


def test_the_same_seed_gives_the_same_arrays_and_another_seed_does_not():
    one, again, other = (make_flow(seed, 2, shape=(24, 24, 8)) for seed in (3, 3, 4))
    for a, b, c in zip(one.channels, again.channels, other.channels, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)
        assert np.array_equal(a, np.rint(a))
        assert np.abs(a).max() <= np.iinfo(np.int16).max
    assert np.array_equal(one.label, again.label)
    assert len(one.channels) == 4


def test_voxels_are_nearly_cubes_of_2_to_2_5_mm_and_the_axes_are_a_sagittal_slabs():
    for seed in range(2):
        one = make_flow(seed, 1)
        spacing = np.linalg.norm(one.affine[:3, :3], axis=0)
        assert 2.05 < spacing.min() <= spacing.max() < 2.55
        towards = np.abs(one.affine[:3, :3] / spacing).argmax(0).tolist()
        assert towards == [1, 2, 0]
        assert np.linalg.det(one.affine[:3, :3]) > 0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_studies_work(frames):
    one = make_flow(5, frames, shape=(24, 24, 8))
    assert one.label.shape == (frames, 24, 24, 8)
    assert all(np.isfinite(channel).all() for channel in one.channels)
    assert set(np.unique(one.label)) == {0, 1, 2}
