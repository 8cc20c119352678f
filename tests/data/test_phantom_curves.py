"""Curves of the phantoms over their true labels, against the closed forms that they were made with."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from data.phantom.dce import DCE_LABELS, FLIP_DEG, REPETITION_MS, make_dce
from data.phantom.flow import FLOW_LABELS, make_flow
from data.phantom.uptake import Tissue, signal
from unet4d.evaluation.signal_curves import CurveOptions, measure_curves
from unet4d.metrics.flow import flow_volumes
from unet4d.metrics.signal_curves import enhancement_percent, measure_uptake
from unet4d.phantom.phantom_study import PhantomStudy

VELOCITIES = {"magnitude": "signal", "vx": "velocity X", "vy": "velocity Y", "vz": "velocity Z"}


def classes(labels):
    return {name: value for name, value in labels.items() if value}


def frames_of(study: PhantomStudy):
    """Yield the frames (C, X, Y, Z), maps repeated."""
    for t in range(len(study.label)):
        yield np.stack([channel if channel.ndim == 3 else channel[t] for channel in study.channels]).astype(np.float32)


@cache
def flows(seed: int, frames: int):
    study = make_flow(seed, frames, shape=(60, 66, 30))
    found = measure_curves(
        frames_of(study), study.label, classes(FLOW_LABELS), VELOCITIES, study.affine, CurveOptions(("flow",)), "mm/s"
    )
    return study, found["flow"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["aorta", "pulmonary artery"])
def test_flow_along_a_vessel_is_the_true_one_in_every_frame(name, seed):
    study, found = flows(seed, 8)
    true, flow = np.array(study.truth["flow_ml_s"][name]), np.array(found[name]["flow_ml_per_s"])
    assert flow == pytest.approx(true, rel=0.1, abs=0.03 * true.max())
    net = flow_volumes(flow, study.frame_duration_s).net_ml
    assert net == pytest.approx(true.sum() * study.frame_duration_s, rel=0.1)


def test_the_speed_is_that_of_the_voxels_in_another_unit():
    study, found = flows(0, 8)
    t = study.labelled_frames[0]
    inside = study.label[t] == FLOW_LABELS["aorta"]
    velocity = np.stack([channel[t][inside] for channel in study.channels[1:]])
    assert found["aorta"]["mean_speed_cm_per_s"][t] == pytest.approx(
        np.linalg.norm(velocity, axis=0).mean() / 10, rel=1e-4
    )
    assert found["aorta"]["mean_velocity_y_cm_per_s"][t] == pytest.approx(velocity[1].mean() / 10, abs=1e-3)


def eroded(label: np.ndarray) -> np.ndarray:
    """Return a label (T, X, Y, Z) without the voxels that touch another class, which hold several tissues."""
    inner = [ndimage.minimum_filter(frame, 3) == ndimage.maximum_filter(frame, 3) for frame in label]
    return np.where(inner, label, 0)


@pytest.mark.parametrize(
    ("name", "shape", "within"),
    [("renal cortex", (66, 44, 14), 0.2), pytest.param("lesion", None, 0.08, marks=pytest.mark.slow)],
)
def test_enhancement_is_that_of_the_signal_equation(name, shape, within):
    """The tissue's signal by the Ernst angle equation at the true concentration; coil, noise and breathing are the phantom's.

    The cortex is thinner than two voxels, which hold other tissues, too; of the lesion only whole voxels count.
    """
    study = make_dce(0, 8, shape=shape)
    options, channels = CurveOptions(("intensity",)), {"series": "signal", "T1": "map"}
    label, values = study.label if shape else eroded(study.label), {name: DCE_LABELS[name]}
    found = measure_curves(frames_of(study), label, values, channels, study.affine, options)["intensity"][name]
    tissue = Tissue(**study.truth["tissues"][name])
    true = signal(tissue, np.array(study.truth["concentration_mm"][name]), REPETITION_MS, FLIP_DEG)
    curves = (np.array(found["series"]["mean"], np.float64), true)
    measured, wanted = (measure_uptake(curve, study.frame_duration_s) for curve in curves)
    assert (measured.arrival_frame, measured.peak_frame) == (wanted.arrival_frame, wanted.peak_frame)
    assert measured.arrival_frame * study.frame_duration_s <= study.truth["bolus_arrival_s"] + tissue.delay_s
    ours, closed_form = (
        enhancement_percent(one, m.baseline) for one, m in zip(curves, (measured, wanted), strict=True)
    )
    assert ours == pytest.approx(closed_form, rel=0.2, abs=8)
    assert ours.mean() == pytest.approx(closed_form.mean(), rel=within)
    assert found["T1"]["median"][0] == pytest.approx(tissue.t1_ms, rel=within / 2)
