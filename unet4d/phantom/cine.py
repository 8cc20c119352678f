"""Cine MRI of a beating heart: the image, the exact label of every frame, and the truth about them.

Conventions:
    axes        X to the viewer's right, Y down, Z from base to apex; the right ventricle lies to the left, as in a clinic.
    label       a voxel is heart if at least half of it is, and then of the class that fills the most of it; papillary
                muscles and trabeculae count as blood of their ventricle, as in ACDC.
    volume_ml   labelled voxels times the voxel's volume: exact for the label. `shape_volume_ml` is that of the smooth
                shape before it was sampled into voxels, in closed form.
    time        cyclic: frame k lies at k / T of the heartbeat, the last frame leads into the first.
    ED, ES      the frames with the largest and the smallest labelled left ventricle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unet4d.config import Size
from unet4d.errors import InputError
from unet4d.phantom.cover import Cover, cover
from unet4d.phantom.heart import Beat, Heart, beats
from unet4d.phantom.phantom_study import Array, PhantomStudy, Seed, check_size, label_volumes
from unet4d.phantom.scanner import Scanner, acquire, coil_shading, draw_scanner, magnitude, paint_heart
from unet4d.phantom.subject import SLICE_SAMPLES, HeartGrid, draw_subject, heart_coordinates
from unet4d.phantom.thorax import draw_thorax, grain, render_thorax

CINE_LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
"""Class names and values, as in ACDC (Bernard et al., IEEE Trans Med Imaging 37:2514, 2018)."""

SMALLEST_CINE = (32, 32, 4)
SPOILING = ("dropout", "ghosting", "noise")
"""Ways in which an ambiguous frame hides the heart, in the order in which they are assigned."""


def make_cine(seed: Seed, frames: int, ambiguous: float = 0.0, shape: Size | None = None) -> PhantomStudy:
    """Make one subject's study; the same arguments give the same arrays.

    Args:
        seed: the subject; anatomy, motion and appearance depend on it alone.
        frames: T.
        ambiguous: fraction of frames (at least one frame if above 0) that hide the heart's borders. Any frame can be
            ambiguous, but never two in a row (cyclically).
        shape: (X, Y, Z); drawn for each subject (96-112, 96-104, 7-9) if None. The heart is scaled to fit.
    """
    check_cine(frames, ambiguous, shape)
    sources = np.random.SeedSequence(seed).spawn(5)
    anatomy, surroundings, looks, noise, mishaps = (np.random.default_rng(source) for source in sources)
    heart, grid, chest_angle = draw_subject(anatomy, shape)
    scanner = draw_scanner(looks)
    sequence = beats(heart, frames)
    clean, label = _render(heart, grid, sequence, scanner, chest_angle, surroundings, noise)
    hit = _ambiguous_frames(frames, ambiguous, mishaps)
    image, kinds = _spoil_frames(clean, label, hit, scanner, grid, mishaps)
    image = np.clip(np.rint(image * np.float32(scanner.gain)), 0, 32767).astype(np.float32)
    volumes_ml = label_volumes(label, len(CINE_LABELS), grid.pixel_mm**2 * grid.slice_mm / 1000)
    left = volumes_ml[:, CINE_LABELS["left ventricle"]]
    ed_frame, es_frame = int(left.argmax()), int(left.argmin())
    frame_duration_s = round(60.0 / anatomy.uniform(48, 105) / frames, 6)
    truth = {
        "ed_frame": ed_frame,
        "es_frame": es_frame,
        "ejection_fraction": round(float(1 - left[es_frame] / left[ed_frame]), 4),
        "heart_rate_bpm": round(60.0 / (frame_duration_s * frames), 2),
        "frame_duration_s": frame_duration_s,
        "ambiguous_frames": list(hit),
        "ambiguous_kinds": list(kinds),
        "affine": grid.affine.tolist(),
        "parameters": {"heart": vars(heart), "scanner": vars(scanner), "chest_angle": chest_angle},
    }
    return PhantomStudy(
        channels=(image,),
        label=label,
        affine=grid.affine,
        frame_duration_s=frame_duration_s,
        volumes_ml=volumes_ml,
        shape_volumes_ml=np.array([(np.nan, *beat.volumes_ml) for beat in sequence]),
        labelled_frames=(ed_frame, es_frame),
        truth=truth,
    )


def check_cine(frames: int, ambiguous: float, shape: Size | None) -> None:
    """Raise InputError for numbers that no cine study can be made of."""
    check_size(frames, shape, SMALLEST_CINE)
    if not 0 <= ambiguous < 1:
        raise InputError(f"ambiguous is {ambiguous}, expected a fraction of the frames from 0 to below 1; give another")
    asked = _ambiguous_count(frames, ambiguous)
    if asked > frames // 2:
        raise InputError(
            f"ambiguous {ambiguous} of {frames} frames is {asked}; at most {frames // 2} can be, because never two in a row "
            "are; give a smaller fraction or more frames"
        )


def _ambiguous_count(frames: int, fraction: float) -> int:
    return max(1, round(fraction * frames)) if fraction > 0 else 0


def _ambiguous_frames(frames: int, fraction: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Sample frames of which no two are neighbors on the cycle.

    Choose k of T - k places, put one intact frame after each chosen one, and turn the cycle by a random amount.
    """
    count = _ambiguous_count(frames, fraction)
    if not count:
        return ()
    places = np.sort(rng.choice(frames - count, size=count, replace=False)) + np.arange(count)
    return tuple(sorted(int(t) for t in (places + rng.integers(frames)) % frames))


def _render(
    heart: Heart,
    grid: HeartGrid,
    sequence: list[Beat],
    scanner: Scanner,
    chest_angle: float,
    surroundings: np.random.Generator,
    noise: np.random.Generator,
) -> tuple[Array, NDArray[np.uint8]]:
    """Return the image (blood near 1) and the label, each (T, X, Y, Z)."""
    points = heart_coordinates(grid)
    radius = heart.radius_mm + heart.wall_mm
    reach = radius + sequence[0].rv_height_mm * float(np.clip(np.cos(heart.rv_angle - chest_angle), 0.3, 1))
    thorax = draw_thorax(surroundings, chest_angle, reach, radius, scanner.myocardium)
    depth = np.clip(points[2] / heart.length_mm, -0.2, 1.2)
    body = render_thorax(thorax, surroundings, points[0], points[1], depth, grid.pixel_mm)
    step_mm = grid.slice_mm / SLICE_SAMPLES
    label = np.empty((len(sequence), *grid.shape), dtype=np.uint8)
    parts = np.empty((3, *label.shape), dtype=np.float32)
    for t, beat in enumerate(sequence):
        filled = cover(heart, beat, points, grid.pixel_mm, step_mm)
        label[t] = majority(filled)
        parts[:, t] = paint_heart(scanner, filled, *body, thorax.fat)
    speed = np.abs(np.gradient([beat.contraction for beat in sequence])) if len(sequence) > 1 else np.zeros(1)
    signal = magnitude(scanner, noise, parts[0], parts[1], parts[2], speed / max(speed.max(), 1e-6), grid.pixel_mm)
    towards = np.cos(chest_angle) * points[0] + np.sin(chest_angle) * points[1]
    towards = (towards / np.abs(towards).max()).mean(-1)
    return acquire(scanner, noise, signal, coil_shading(scanner, noise, towards)), label


def majority(filled: Cover) -> NDArray[np.uint8]:
    """Return the label (X, Y, Z): heart where it fills at least half of the voxel, and then the class that fills the most."""
    classes = np.stack([filled.rv.mean(-1), filled.myocardium.mean(-1), filled.lv.mean(-1)])
    return np.where(classes.sum(0) >= 0.5, classes.argmax(0) + 1, 0).astype(np.uint8)


def _spoil_frames(
    clean: Array,
    label: NDArray[np.uint8],
    hit: tuple[int, ...],
    scanner: Scanner,
    grid: HeartGrid,
    rng: np.random.Generator,
) -> tuple[Array, tuple[str, ...]]:
    """Return a copy of `clean` (T, X, Y, Z) with the frames in `hit` spoiled, and how each was."""
    first = int(rng.integers(len(SPOILING)))
    kinds = tuple(SPOILING[(first + i) % len(SPOILING)] for i in range(len(hit)))
    x, y = np.nonzero((label > 0).any(axis=(0, 3)))
    center = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    away = np.hypot(np.arange(grid.shape[0])[:, None] - center[0], np.arange(grid.shape[1])[None] - center[1])
    radius = np.hypot(x - center[0], y - center[1]).max() + 4.0 / grid.pixel_mm
    disk = np.clip((radius - away) / (8.0 / grid.pixel_mm) + 1, 0, 1)[..., None].astype(np.float32)
    image = clean.copy()
    for t, kind in zip(hit, kinds, strict=True):
        image[t] = _spoil(clean[t], kind, rng, disk, 1.0, scanner.noise)
    return image, kinds


def _spoil(image: Array, kind: str, rng: np.random.Generator, heart: Array, blood: float, noise: float) -> Array:
    """Return one frame `(X, Y, Z)` in which the heart's borders can no longer be seen.

    Args:
        image: the intact frame.
        kind: one of `SPOILING`. "dropout": the signal over the heart is gone but for noise; "ghosting": every line of
            k-space was read at another position of the body; "noise": coarse noise drowns the heart.
        heart: a smooth mask `(X, Y, Z)`, 1 on the heart and its border, 0 far from it.
        blood: signal of blood; noise: standard deviation of the noise, in the image's unit.
    """
    if kind == "dropout":
        empty = noise * np.hypot(rng.standard_normal(image.shape), rng.standard_normal(image.shape))
        return (image * (1 - heart) + empty * heart).astype(np.float32)
    if kind == "ghosting":
        return _scramble(image, rng)
    burst = 0.5 * grain(rng, image.shape, (3.0, 3.0, 0.3)) + 0.5 * grain(rng, image.shape, (1.0, 1.0, 0.0))
    drowned = 0.06 * image + blood * (0.55 + 0.35 * burst + 0.1 * rng.standard_normal(image.shape))
    return np.abs(drowned).astype(np.float32)


def _scramble(image: Array, rng: np.random.Generator) -> Array:
    """Read every k-space line (Y is phase-encoded) from another position of the body and with another phase."""
    x, y, z = image.shape
    space = np.fft.fft2(image, axes=(0, 1))
    shift = np.clip(rng.normal(0, 0.2, (2, 1, y, z)), -0.45, 0.45) * np.array([x, y])[:, None, None, None]
    phase = rng.uniform(0, 2 * np.pi, (1, y, z))
    across, along = np.fft.fftfreq(x)[:, None, None], np.fft.fftfreq(y)[None, :, None]
    space = space * np.exp(-2j * np.pi * (across * shift[0] + along * shift[1]) + 1j * phase)
    return np.abs(np.fft.ifft2(space, axes=(0, 1))).astype(np.float32)
