"""Dynamic contrast-enhanced MRI of the kidneys with a T1 map: two channels, the exact label of every frame, and the true uptake.

Conventions:
    axes        X towards the left, Y towards the feet, Z towards the back: a coronal stack, a little oblique.
    channels    the contrast series; a T1 map in ms, taken before in a breath-hold of its own and so not moved with the frames.
    label       a voxel is kidney or lesion if at least half of it is, and then the tissue that fills most of it.
    lesion      takes contrast agent up as the cortex does and has its T1, and loses it faster: early frames tell both of them
                from the medulla and not from each other, late frames tell the lesion and neither cortex from medulla.
    time        open: before the bolus, through the arteries, out of the tissue; breathing moves the organs from frame to frame.
    truth       concentration of contrast agent by class (mM), breathing, volumes.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data.phantom.abdomen import TISSUES, draw_abdomen, paint_organs, shape_volumes_ml, still_tissues
from data.phantom.uptake import Tissue, arterial_mm, concentration_mm, signal
from unet4d.config import Size
from unet4d.phantom.phantom_study import Array, PhantomStudy, Seed, check_size, label_volumes
from unet4d.phantom.thorax import grain

DCE_LABELS = {"background": 0, "renal cortex": 1, "renal medulla": 2, "lesion": 3}
SMALLEST_DCE = (24, 20, 6)
FIELD_MM = np.array([330.0, 220.0, 100.0])
REPETITION_MS, FLIP_DEG = 4.0, 14.0
SAMPLE_PLACES = (np.arange(7)[:, None] * [1, 2, 4] % 7 + 0.5) / 7
"""Places (S, 3) within a voxel, 0 to 1, at which tissues are averaged: a lattice of as many steps along every axis; an odd number,
so that half of a voxel is never filled exactly."""


def make_dce(seed: Seed, frames: int, shape: Size | None = None) -> PhantomStudy:
    """Make one subject's study; the same arguments give the same arrays.

    Args:
        seed: the subject; anatomy, uptake and appearance depend on it alone.
        frames: T, spread over 4 to 5 minutes.
        shape: (X, Y, Z) of the grid over the field of view; None: about 100 x 66 x 20.
    """
    check_size(frames, shape, SMALLEST_DCE)
    anatomy, physiology, looks, noise = (np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(4))
    abdomen = draw_abdomen(anatomy)
    size, spacing, affine = _draw_grid(anatomy, shape)
    tissues = _draw_tissues(physiology)
    arrival_s, duration_s = physiology.uniform(22, 34), round(physiology.uniform(240, 300) / frames, 3)
    time_s = np.arange(frames) * duration_s
    breath_mm = physiology.normal(0, [0.5, 3.0, 1.2], (frames, 3)).clip(-7, 7)
    uptake = {name: concentration_mm(tissue, time_s, arrival_s) for name, tissue in tissues.items()}
    curves = np.stack([signal(tissues[name], uptake[name], REPETITION_MS, FLIP_DEG) for name in TISSUES], axis=1)
    t1_ms = np.array([tissues[name].t1_ms for name in TISSUES])

    points = _points(size, spacing)
    still = still_tissues(abdomen, points)
    label, clean = np.empty((frames, *size), np.uint8), np.empty((frames, *size), np.float32)
    for t in range(frames):
        painted = paint_organs(abdomen, points, still, breath_mm[t])
        label[t] = _majority(painted)
        clean[t] = curves[t].astype(np.float32)[painted].mean(-1)
    reference = paint_organs(abdomen, points, still, np.zeros(3))
    t1_map = t1_ms.astype(np.float32)[reference].mean(-1)
    texture = 1 + 0.04 * grain(looks, size, tuple(3.0 / spacing))
    coil = np.exp(looks.uniform(0.1, 0.3) * grain(looks, size, tuple(0.3 * n for n in size)))
    series = _acquired(noise, clean * texture * coil, looks.uniform(0.03, 0.05) * clean.max())
    measured = t1_map * (1 + 0.04 * noise.standard_normal(size, dtype=np.float32))
    late = frames - 1
    return PhantomStudy(
        channels=(np.rint(looks.uniform(400, 800) / clean.max() * series), np.rint(measured)),
        label=label,
        affine=affine,
        frame_duration_s=duration_s,
        volumes_ml=label_volumes(label, len(DCE_LABELS), float(spacing.prod()) / 1000),
        shape_volumes_ml=np.tile(shape_volumes_ml(abdomen), (frames, 1)),
        labelled_frames=(int(arterial_mm(time_s - arrival_s).argmax()), late),
        truth={
            "concentration_mm": {
                name: np.round(uptake[name], 5).tolist() for name in (*DCE_LABELS, "blood") if name in uptake
            },
            "bolus_arrival_s": round(arrival_s, 3),
            "breath_mm": np.round(breath_mm, 3).tolist(),
            "frame_duration_s": duration_s,
            "lesion_radius_mm": round(abdomen.lesion_mm, 3),
            "affine": affine.tolist(),
            "tissues": {name: asdict(tissue) for name, tissue in tissues.items()},
        },
    )


def _draw_grid(rng: np.random.Generator, shape: Size | None) -> tuple[Size, Array, NDArray[np.float64]]:
    """Draw (X, Y, Z), the spacing in mm (3,), and the affine."""
    field = FIELD_MM * rng.uniform(0.95, 1.05)
    voxel_mm = np.array([rng.uniform(3.1, 3.5)] * 2 + [rng.uniform(4.5, 5.5)])
    x, y, z = (int(n) for n in np.round(field / voxel_mm)) if shape is None else shape
    size = (x, y, z)
    spacing = np.round(field / size, 4)
    axes = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])  # columns: left, inferior, posterior
    turn = Rotation.from_rotvec(np.deg2rad(rng.normal(0, 5, 3).clip(-10, 10))).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * spacing
    affine[:3, 3] = rng.normal(0, 12, 3) - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return size, spacing, np.round(affine, 6)


def _points(size: Size, spacing: Array) -> Array:
    """Return the points within the voxels, (3, X, Y, Z, S) in mm."""
    axes = [
        ((np.arange(n)[:, None] + places - n / 2) * width).astype(np.float32)
        for n, places, width in zip(size, SAMPLE_PLACES.T, spacing, strict=True)
    ]
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None]
    return np.stack(np.broadcast_arrays(x, y, z))


def _draw_tissues(rng: np.random.Generator) -> dict[str, Tissue]:
    """Draw one subject's tissues, each value within a tenth of a plausible one."""

    def about(value: float) -> float:
        return value * rng.uniform(0.9, 1.1)

    t1_ms, transfer, plasma = about(1140), about(0.9), about(0.22)
    cortex = Tissue(t1_ms, 1.0, plasma, transfer, about(1.3), about(2))
    return {
        "air": Tissue(100, 0.0),
        "renal cortex": cortex,
        "renal medulla": Tissue(about(1540), 1.0, about(0.06), about(0.42), about(0.48), about(18)),
        "lesion": Tissue(t1_ms, 1.0, plasma, 1.05 * transfer, about(6), cortex.delay_s),
        "fat": Tissue(about(380), 0.12),  # suppressed
        "muscle": Tissue(about(1100), 0.8, 0.01, about(0.06), 0.6, 6),
        "bone": Tissue(about(600), 0.35, 0.02, about(0.08), 0.6, 6),
        "liver": Tissue(about(809), 0.85, about(0.06), about(0.55), about(1.5), about(14)),
        "spleen": Tissue(about(1328), 1.0, about(0.18), about(0.7), about(1.8), about(3)),
        "blood": Tissue(1900, 1.0, 0.58),
        "bowel": Tissue(about(1100), 0.8, 0.04, about(0.2), 1.0, 8),
        "sinus": Tissue(about(420), 0.15, 0.02, 0.03, 0.5, 20),
    }


def _majority(painted: np.ndarray) -> np.ndarray:
    """Return the label (X, Y, Z) of tissue numbers (X, Y, Z, S): where classes fill half of a voxel, the largest."""
    counts = np.stack([np.count_nonzero(painted == value, axis=-1) for value in range(1, len(DCE_LABELS))])
    return np.where(2 * counts.sum(0) > painted.shape[-1], counts.argmax(0) + 1, 0).astype(np.uint8)


def _acquired(rng: np.random.Generator, signal: Array, sigma: float) -> Array:
    """Return the magnitude of a signal (T, X, Y, Z) with noise of this deviation in both channels."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, sigma * rng.standard_normal(signal.shape, dtype=np.float32))
