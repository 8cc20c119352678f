"""4D flow MRI of the great vessels: magnitude, three velocities, the exact label of every frame, and the true flow.

Conventions:
    axes        X towards the back, Y towards the feet, Z towards the right: a sagittal slab of nearly cubic voxels, a little
                oblique.
    velocity    mm/s along the file's axes, positive towards growing index; noise as phase has it, without bounds but `venc` where
                there is no signal. No velocity of blood reaches venc: nothing is wrapped.
    label       a voxel is a vessel if its center is: the aorta from its valve, the pulmonary artery from its valve into the right
                lung. A vein and the heart's blood move as well, and are background.
    truth       the flow through any cross-section (mL/s), the volumes of the tubes.
    time        cyclic: frame k lies at k / T of the heartbeat.

Normal values: Kawel-Boehm et al., J Cardiovasc Magn Reson 22:87, 2020; how 4D flow is acquired: Dyverfeldt et al., "4D flow
cardiovascular magnetic resonance consensus statement", J Cardiovasc Magn Reson 17:72, 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data.phantom.mediastinum import Surroundings, beating, draw_surroundings
from data.phantom.vessels import Near, Vessel, ejected, ejection, fills, near, pulse, tube, velocity, volume_ml
from unet4d.config import Size
from unet4d.phantom.phantom_study import Array, PhantomStudy, Seed, check_size, label_volumes
from unet4d.phantom.thorax import grain

FLOW_LABELS = {"background": 0, "aorta": 1, "pulmonary artery": 2}
SMALLEST_FLOW = (24, 24, 8)
FIELD_MM = np.array([150.0, 170.0, 76.0])
"""Field of view (X, Y, Z) of the usual anatomy."""
SLOWEST_VENC = 800.0
"""In mm/s: the heart's own blood does not wrap where no frame shows the arteries' flow."""


@dataclass(frozen=True)
class VesselFlow:
    """A vessel, and the blood in it over one beat.

    Attributes:
        vessel: its shape.
        flow_ml_s: (T,), Q.
        widening: (T,), the radius over that at rest.
    """

    vessel: Vessel
    flow_ml_s: Array
    widening: Array


@dataclass(frozen=True)
class SlabGrid:
    """The voxels, and their positions: `points` (X, Y, Z, 3) in mm about the anatomy's middle."""

    shape: Size
    spacing: Array
    points: Array
    affine: NDArray[np.float64]


def make_flow(seed: Seed, frames: int, shape: Size | None = None) -> PhantomStudy:
    """Make one subject's study; the same arguments give the same arrays.

    Args:
        seed: the subject; anatomy, flow and appearance depend on it alone.
        frames: T.
        shape: (X, Y, Z) of the grid over the field of view; None: voxels of 2.1 to 2.5 mm.
    """
    check_size(frames, shape, SMALLEST_FLOW)
    anatomy, looks, noise = (np.random.default_rng(source) for source in np.random.SeedSequence(seed).spawn(3))
    scale = anatomy.uniform(0.88, 1.12)
    grid = _draw_grid(anatomy, scale, shape)
    period_s = 60.0 / anatomy.uniform(50, 95)
    streams, stroke_ml = _draw_streams(anatomy, scale, period_s, frames)
    places = [near(stream.vessel, grid.points) for stream in streams]
    label = _label(streams[:2], places[:2], frames, grid.shape)
    peak = max(float(np.abs(_fastest(stream)).max()) for stream in streams)
    venc = 100.0 * math.ceil(max(1.15 * peak, SLOWEST_VENC) / 100)
    around = draw_surroundings(looks, grid.points, scale, grid.spacing)
    channels = _acquire(looks, noise, streams, places, around, grid, venc)
    low, high = grid.points[0, 0, 0] - grid.spacing / 2, grid.points[-1, -1, -1] + grid.spacing / 2
    shapes = [[volume_ml(one.vessel, low, high, float(w)) for w in one.widening] for one in streams[:2]]
    aorta, pulmonary = streams[:2]
    return PhantomStudy(
        channels=channels,
        label=label,
        affine=grid.affine,
        frame_duration_s=round(period_s / frames, 6),
        volumes_ml=label_volumes(label, len(FLOW_LABELS), float(grid.spacing.prod()) / 1000),
        shape_volumes_ml=np.stack([np.full(frames, np.nan), *shapes], axis=1),
        labelled_frames=(int(aorta.flow_ml_s.argmax()), int(np.abs(aorta.flow_ml_s).argmin())),
        truth={
            "flow_ml_s": {
                "aorta": np.round(aorta.flow_ml_s, 4).tolist(),
                "pulmonary artery": np.round(pulmonary.flow_ml_s, 4).tolist(),
            },
            "stroke_volume_ml": round(stroke_ml, 4),
            "heart_rate_bpm": round(60 / period_s, 2),
            "venc_mm_s": venc,
            "affine": grid.affine.tolist(),
        },
    )


def _draw_grid(rng: np.random.Generator, scale: float, shape: Size | None) -> SlabGrid:
    field = FIELD_MM * scale
    voxel_mm = rng.uniform(2.1, 2.5)
    x, y, z = (int(n) for n in np.round(field / voxel_mm)) if shape is None else shape
    size = (x, y, z)
    spacing = np.round(field / size, 4)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    points = ((index - (np.array(size) - 1) / 2) * spacing + rng.normal(0, 2, 3)).astype(np.float32)
    axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # columns: posterior, inferior, right
    turn = Rotation.from_rotvec(np.deg2rad(rng.normal(0, 7, 3).clip(-14, 14))).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * spacing
    affine[:3, 3] = rng.normal(0, 12, 3) - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return SlabGrid(size, spacing, points, np.round(affine, 6))


def _draw_streams(
    rng: np.random.Generator, scale: float, period_s: float, frames: int
) -> tuple[tuple[VesselFlow, VesselFlow, VesselFlow], float]:
    """Draw aorta, pulmonary artery and superior vena cava; and the stroke volume in mL, which both arteries carry."""

    def vessel(controls: list[list[float]], end: list[float], radii_mm: list[float], blunt: float) -> Vessel:
        places = np.array(controls) + rng.normal(0, 1.2, (len(controls), 3))
        return tube(scale * places, np.array(end), scale * np.array(radii_mm) * rng.uniform(0.93, 1.07), blunt)

    aorta = vessel(
        [[-10, 32, 2], [-20, 2, 9], [-17, -30, 8], [8, -52, -3], [38, -34, -13], [45, 2, -14], [45, 36, -12]],
        [0, 1, 0],
        [14.5, 15, 14.5, 13, 12, 11.5, 11],
        rng.uniform(4, 9),
    )
    pulmonary = vessel(
        [[-36, 24, -16], [-36, 2, -20], [-21, -13, -21], [2, -17, -14], [12, -15, 0], [14, -13, 18]],
        [0, 0, 1],
        [13.5, 13, 12.5, 11.5, 10, 9],
        rng.uniform(3, 7),
    )
    cava = vessel([[-2, -95, 29], [-2, -40, 29], [-4, 0, 30]], [0, 1, 0], [8, 8, 8.5], 2.0)
    phase = np.arange(frames) / frames - rng.uniform(0.04, 0.08)
    length = rng.uniform(0.3, 0.38)
    stroke_ml = rng.uniform(62, 95) * scale**3
    arteries = []
    for artery, lasts, leak in ((aorta, length, rng.uniform(0.02, 0.08)), (pulmonary, 1.12 * length, 0.02)):
        flow = stroke_ml / (period_s * ejected(lasts, leak)) * ejection(phase, lasts, leak)
        strain = rng.uniform(0.12, 0.25)  # of the area
        arteries.append(VesselFlow(artery, flow, np.sqrt(1 + strain * pulse(phase, lasts))))
    back = 0.3 * stroke_ml / period_s * (1 + 0.5 * np.sin(2 * np.pi * (phase - 0.1)))
    return (arteries[0], arteries[1], VesselFlow(cava, back, np.ones(frames))), stroke_ml


def _fastest(stream: VesselFlow) -> Array:
    """Return the speed in mm/s on the centerline, at its narrowest, (T,)."""
    n, radius = stream.vessel.bluntness, stream.vessel.radius_mm.min() * stream.widening
    return 1000 * stream.flow_ml_s / (np.pi * radius**2) * (n + 2) / n


def _label(streams: tuple[VesselFlow, ...], places: list[Near], frames: int, shape: Size) -> np.ndarray:
    """Return the label (T, X, Y, Z) uint8: where two vessels touch, the centerline that is nearer in radii counts."""
    label = np.zeros((frames, int(np.prod(shape))), np.uint8)
    for t in range(frames):
        depth = np.zeros(label.shape[1])
        for value, (stream, place) in enumerate(zip(streams, places, strict=True), 1):
            inside = np.where(place.counts, stream.widening[t] - place.rho, 0)
            deeper = inside > depth[place.voxels]
            label[t, place.voxels[deeper]] = value
            depth[place.voxels[deeper]] = inside[deeper]
    return label.reshape(frames, *shape)


def _acquire(
    looks: np.random.Generator,
    noise: np.random.Generator,
    streams: tuple[VesselFlow, ...],
    places: list[Near],
    around: Surroundings,
    grid: SlabGrid,
    venc: float,
) -> tuple[Array, ...]:
    """Compute magnitude and three velocities, each (T, X, Y, Z), from four encodings of complex signal with noise.

    The velocity is the phase between a signal that motion turns and one that it does not, as in phase contrast MRI.
    """
    frames, voxels = len(streams[0].flow_ml_s), int(np.prod(grid.shape))
    coarse = tuple(0.3 * n for n in grid.shape)
    coil = np.exp(looks.uniform(0.15, 0.35) * grain(looks, grid.shape, coarse)).ravel().astype(np.float32)
    sigma, gain, inflow = 1 / looks.uniform(14, 26), looks.uniform(300, 600), looks.uniform(0.5, 0.62)
    out = np.empty((4, frames, voxels), np.float32)
    moved = np.empty((3, voxels), np.complex64)

    def noisy(signal: Array) -> Array:
        real, imaginary = sigma * noise.standard_normal((2, voxels), dtype=np.float32)
        return coil * signal + real + 1j * imaginary

    contraction = pulse(np.arange(frames) / frames, 0.45)
    for t in range(frames):
        tissue, cavity = (one.ravel() for one in beating(around, float(contraction[t])))
        swirl = (60 + 140 * contraction[t]) * around.stream.reshape(3, -1) * cavity
        moved[:] = tissue * np.exp(1j * np.pi / venc * swirl)
        still = tissue.copy()
        for stream, place in zip(streams, places, strict=True):
            speed = velocity(stream.vessel, place, float(stream.flow_ml_s[t]), float(stream.widening[t]))
            share = fills(place, float(stream.widening[t]), float(grid.spacing.mean()))
            blood = share * (inflow + (1 - inflow) * np.tanh(np.linalg.norm(speed, axis=1) / 400))
            turning = np.exp(1j * np.pi / venc * speed.T)
            moved[:, place.voxels] = (1 - share) * moved[:, place.voxels] + blood * turning
            still[place.voxels] = (1 - share) * still[place.voxels] + blood
        reference = noisy(still)
        out[0, t] = np.rint(gain * np.abs(reference))
        for axis in range(3):
            out[1 + axis, t] = np.rint(venc / np.pi * np.angle(noisy(moved[axis]) * reference.conj()))
    return tuple(out.reshape(4, frames, *grid.shape))
