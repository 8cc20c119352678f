"""The surroundings of the great vessels in a sagittal slab of 4D flow: lungs, heart, spine, chest wall, liver, windpipe.

Places in mm: x towards the back, y towards the feet, z towards the right, 0 between the ascending and the descending aorta.
Brightness relative to blood that flows in, as in a spoiled gradient echo with contrast agent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unet4d.phantom.phantom_study import Array
from unet4d.phantom.thorax import grain

AIR, LUNG, FAT, MUSCLE, LIVER, BONE, BLOOD = 0.01, 0.05, 0.42, 0.26, 0.34, 0.22, 0.55


@dataclass(frozen=True)
class Surroundings:
    """One subject's chest without its great vessels.

    Attributes:
        still: brightness (X, Y, Z) of what does not move.
        heart: (X, Y, Z), how deep within the heart: 1 in its center, 0 on its border, below 0 outside.
        stream: (3, X, Y, Z), a direction in which blood in the heart's cavities moves, of length about 1.
    """

    still: Array
    heart: Array
    stream: Array


def draw_surroundings(rng: np.random.Generator, points: Array, scale: float, voxel_mm: Array) -> Surroundings:
    """Draw a chest at `points` (X, Y, Z, 3) in mm, for an anatomy `scale` times the usual size and voxels of `voxel_mm` (3,)."""
    shape = points.shape[:3]
    x, y, z = (points[..., axis] / np.float32(scale) for axis in range(3))

    def field(sigma_mm: float) -> Array:
        return grain(rng, shape, tuple(sigma_mm / voxel_mm))

    def step(distance: Array) -> Array:
        return np.clip(distance / np.float32(voxel_mm.mean()) + 0.5, 0, 1)

    wavy = 2.5 * field(12.0)
    vessels = np.clip(field(2.6) - 1.7, 0, 0.8) + np.clip(field(4.5) - 1.9, 0, 0.8)
    still = LUNG * (1 + 0.3 * field(6.0)) + 0.55 * vessels

    def paint(cover: Array, brightness: Array | float) -> None:
        nonlocal still
        still = still + cover * (brightness - still)

    middle = 1 - np.sqrt(((x - 14) / 52) ** 2 + ((y + 25) / 75) ** 2 + ((z + 2) / 27) ** 2)
    paint(step(30 * middle + wavy), FAT * (0.75 + 0.25 * field(5.0)))
    paint(step(7 - np.hypot(x - 31, z - 5)) * step(-5 - y), AIR)  # windpipe, down to where it divides
    diaphragm = rng.uniform(62, 76) + 0.012 * ((x - 10) ** 2 + (z - 12) ** 2)
    paint(step(y - diaphragm + wavy), LIVER * (1 + 0.06 * field(3.0)))
    paint(step(x - 60 + wavy), MUSCLE * (1 + 0.1 * field(3.0)))
    paint(*_spine(rng, x, y, z, step))
    front = -rng.uniform(56, 64) - 0.06 * (y - 40) - x + wavy
    paint(step(front), MUSCLE * (1 + 0.1 * field(3.0)))
    paint(step(front - 7), 1.35 * FAT)
    paint(step(front - rng.uniform(14, 30)), AIR)
    center, axes = np.array([-13.0, 64.0, -8.0]) + rng.normal(0, 2, 3), np.array([46.0, 42.0, 36.0])
    heart = 1 - np.sqrt(sum(((p - c) / a) ** 2 for p, c, a in zip((x, y, z), center, axes, strict=True)))
    stream = np.stack([field(9.0) for _ in range(3)])
    return Surroundings(still.astype(np.float32), heart + 0.02 * wavy, stream)


def beating(around: Surroundings, contraction: float) -> tuple[Array, Array]:
    """Return brightness (X, Y, Z) at a contraction, 0 at rest to 1, and the fraction of each voxel that is blood in cavities."""
    sharp = 12.0
    outside = np.clip(sharp * (around.heart - 0.06 * contraction) + 0.5, 0, 1)
    cavity = np.clip(sharp * (around.heart - 0.28 - 0.2 * contraction) + 0.5, 0, 1)
    cavity = cavity * np.clip(2.0 + 2 * around.stream[0], 0, 1)  # the septum and the valves between its chambers
    muscle = around.still + outside * (0.8 * MUSCLE - around.still)
    return muscle + cavity * (BLOOD - muscle), cavity


def _spine(rng: np.random.Generator, x: Array, y: Array, z: Array, step) -> tuple[Array, Array]:
    """Return the fraction of each voxel that is spine, and its brightness: vertebrae and the darker discs between them."""
    height, phase = rng.uniform(23, 27), rng.uniform(0, 1)
    along = np.mod(y / height + phase, 1) * height
    disc = step(3 - np.minimum(along, height - along))
    return step(15 - np.hypot(0.9 * (x - 72), z)), BONE + disc * (0.5 * BONE - BONE)
