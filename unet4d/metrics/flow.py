"""Velocity and flow of a class in phase contrast MRI: mean speed, mean velocity, and net flow through its cross-sections.

Flow through a surface is the sum of velocity across it times area, as in through-plane phase contrast (Nayak et al., J Cardiovasc
Magn Reson 17:71, 2015). In 4D flow it is the same through every cross-section of a vessel without branches, which is also how 4D
flow is checked (Dyverfeldt et al., J Cardiovasc Magn Reson 17:72, 2015). So it is averaged over many sections, and their deviation
is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ENDS = 0.1
"""Fraction of the sections at either end that is left out, because they do not cut the vessel whole."""
MM_S = {"mm/s": 1.0, "cm/s": 10.0, "m/s": 1000.0}
"""Units of velocity, in mm/s."""


def face_areas_mm2(affine: np.ndarray) -> np.ndarray:
    """Return the area of a voxel's face across each of its axes, (3,) mm2, from a 4x4 affine in mm."""
    x, y, z = np.asarray(affine, np.float64)[:3, :3].T
    return np.array([np.linalg.norm(np.cross(a, b)) for a, b in ((y, z), (z, x), (x, y))])


@dataclass(frozen=True)
class FlowSections:
    """Cross-sections of a class, the same for all frames.

    With velocities along all three axes a section is a surface of voxel faces. It parts the voxels up to a distance from one end of
    the class, counted along the class, from those beyond. With one velocity, and in a single slice, sections are the planes of
    voxels across that axis.

    Attributes:
        axis: of the velocity across planes; None: sections part distances.
        distance: (X, Y, Z) int, steps from voxel to voxel from one end; -1 outside the class's largest part. Empty with planes.
        areas_mm2: of a voxel's faces, (3,).
    """

    axis: int | None
    distance: np.ndarray
    areas_mm2: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, axes: tuple[int, ...], affine: np.ndarray) -> FlowSections | None:
        """Find the sections of a class.

        Args:
            mask: (X, Y, Z) bool, the voxels of the class in any frame.
            axes: those that velocities are known along.
            affine: (4, 4), voxel to mm.

        Returns:
            None where the velocities do not decide a section: two of them, or none across a single slice.
        """
        thin = [axis for axis in range(3) if mask.shape[axis] == 1]
        across = [axis for axis in axes if axis in thin] if thin else list(axes)
        if len(across) == 1:
            return cls(across[0], np.zeros(0, np.int64), face_areas_mm2(affine))
        if thin or len(across) != 3 or not mask.any():
            return None
        return cls(None, _distances(mask), face_areas_mm2(affine))

    def flows_ml_s(self, mask: np.ndarray, velocity: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the flow through each section in mL/s, (N,), positive away from the end where distances begin, or along the axis.

        Sections without a voxel in this frame are left out: nothing is known of the flow there.

        Args:
            mask: (X, Y, Z) bool, the voxels of the class in one frame.
            velocity: axis to (X, Y, Z) mm/s, positive towards growing index.
        """
        if self.axis is not None:
            others = tuple(axis for axis in range(3) if axis != self.axis)
            present = mask.any(axis=others)
            sums = np.where(mask, velocity[self.axis], 0).sum(axis=others, dtype=np.float64)
            return sums[present] * self.areas_mm2[self.axis] / 1000
        flows = np.zeros(max(int(self.distance.max()), 0))
        is_cut = np.zeros(len(flows), bool)
        inside = mask & (self.distance >= 0)
        for axis in range(3):
            here, there = _pair(axis)
            both = inside[here] & inside[there]
            steps = (self.distance[there] - self.distance[here])[both]
            section = np.minimum(self.distance[here], self.distance[there])[both]
            mean = (velocity[axis][here][both].astype(np.float64) + velocity[axis][there][both]) / 2
            crossing = steps != 0
            np.add.at(flows, section[crossing], (steps * mean)[crossing] * self.areas_mm2[axis] / 1000)
            is_cut[section[crossing]] = True
        flows = flows[is_cut]
        cut = int(np.ceil(ENDS * len(flows)))
        return flows[cut : len(flows) - cut] if len(flows) > 2 * cut else flows


def _pair(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the indices of the voxels with a next one along an axis, and of these next ones."""
    here, there = [slice(None)] * 3, [slice(None)] * 3
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


def _distances(mask: np.ndarray) -> np.ndarray:
    """Return the steps from voxel to voxel from one end of the largest connected part of a mask, -1 outside of it.

    The end is the voxel that is farthest from the one that is farthest from any.
    """
    from scipy import ndimage, sparse

    numbered, _ = ndimage.label(mask)
    part = numbered == np.bincount(numbered[mask]).argmax()
    index = np.cumsum(part.ravel()).reshape(part.shape) - 1
    pairs = [np.stack([index[a][part[a] & part[b]], index[b][part[a] & part[b]]]) for a, b in map(_pair, range(3))]
    rows, columns = np.concatenate(pairs, axis=1)
    count = int(part.sum())
    graph = sparse.coo_array((np.ones(len(rows), np.int8), (rows, columns)), (count, count)).tocsr()

    def steps(start: int) -> np.ndarray:
        return sparse.csgraph.dijkstra(graph, directed=False, indices=start, unweighted=True)

    from_end = steps(int(steps(int(steps(0).argmax())).argmax()))
    found = np.full(mask.shape, -1, np.int64)
    found[part] = from_end.astype(np.int64)
    return found


@dataclass(frozen=True)
class FlowVolumes:
    """Volumes that a flow moves over all frames; None without a frame duration.

    Attributes:
        net_ml: forward minus backward; of a great artery over one beat the stroke volume.
        forward_ml: of the frames with flow above 0.
        backward_ml: of those below, positive.
        regurgitant_fraction_percent: 100 backward / forward; None where nothing goes forward.
    """

    net_ml: float | None
    forward_ml: float | None
    backward_ml: float | None
    regurgitant_fraction_percent: float | None


def flow_volumes(flow_ml_s: np.ndarray, frame_duration_s: float | None) -> FlowVolumes:
    """Integrate a flow `(T,)` over all frames, each for the duration of a frame."""
    if not frame_duration_s or not np.isfinite(flow_ml_s).all():
        return FlowVolumes(None, None, None, None)
    forward, backward = (float(np.clip(sign * flow_ml_s, 0, None).sum() * frame_duration_s) for sign in (1, -1))
    return FlowVolumes(forward - backward, forward, backward, 100 * backward / forward if forward else None)
