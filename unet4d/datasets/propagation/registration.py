"""Registration of two frames by Greedy: deformations, their composition, and label maps carried by them.

Greedy: Yushkevich et al., "Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in 3 Tesla and
7 Tesla T2-weighted MRI", Alzheimer's & Dementia 2016; PyPI picsl-greedy. One thread each: processes run beside one another.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from unet4d.errors import InputError

Deformation = Any
"""As the registration makes it; callers only hand it back."""

SMOOTHING_MM = (4.0, 1.5)
"""Standard deviations by which each update, and the whole deformation, are smoothed."""
ITERATIONS = (15, 8)
"""At half and at full resolution. Neighboring frames are close."""
RADIUS_MM, LARGEST_RADIUS = 6.0, 4
"""Radius of the windows of normalized cross-correlation; at most this many voxels."""
NOISE = 0.001
"""Standard deviation of noise, of a frame's range: flat regions need it for a correlation. Greedy's own differs at each call."""
_FEWEST_VOXELS = 8
"""Voxels along each axis: Greedy needs four at half resolution."""
_BEYOND = 2
"""Voxels that each border is repeated by, at least, so that structures can move across it."""


class Registration(Protocol):
    """Deformations between frames (X, Y, Z) of one study."""

    def register(self, fixed: np.ndarray, moving: np.ndarray) -> Deformation:
        """Return the deformation that brings `moving` onto `fixed`."""

    def compose(self, near: Deformation, far: Deformation) -> Deformation:
        """Return one deformation for two: `far` leads from the moving frame to one between, `near` from there to the fixed one."""

    def carry(self, shares: np.ndarray, deformation: Deformation) -> np.ndarray:
        """Return what is drawn on the moving frame, (N, X, Y, Z) float32, on the fixed frame, by linear interpolation."""


class Warp:
    """A deformation that Greedy keeps under this name: it takes none from outside."""

    def __init__(self, name: str):
        self.name = name


class Greedy:
    """Registration by Greedy's deformable mode; implements `Registration`.

    Args:
        spacing_mm: along X, Y and Z.

    Raises:
        InputError: the package picsl-greedy is missing.
    """

    def __init__(self, spacing_mm: Sequence[float]):
        greedy, self._sitk = import_greedy()
        self._greedy = greedy.GreedyFloat3D()
        self._spacing = [float(size) for size in spacing_mm]
        radius = [min(LARGEST_RADIUS, max(1, round(RADIUS_MM / size))) for size in self._spacing]
        update, total = SMOOTHING_MM
        self._options = f"-noise 0 -m NCC {'x'.join(map(str, radius))} -s {update:g}mm {total:g}mm"
        self._free: list[str] = []
        self._numbers = itertools.count()

    def register(self, fixed: np.ndarray, moving: np.ndarray) -> Warp:
        """Return the deformation that brings `moving` onto `fixed`, both (X, Y, Z)."""
        warp = self._new_warp()
        images = {"fixed": self._image(_add_noise(fixed, 0)), "moving": self._image(_add_noise(moving, 1))}
        empty = np.ptp(fixed) == 0 or np.ptp(moving) == 0  # one value has no correlation, and shows no motion
        iterations = "0" if empty else "x".join(map(str, ITERATIONS))
        self._execute(f"-i fixed moving {self._options} -n {iterations} -o {warp.name}", **images, **{warp.name: None})
        return warp

    def compose(self, near: Warp, far: Warp) -> Warp:
        """Return one deformation for two, see `Registration`."""
        warp = self._new_warp()
        self._execute(f"-rf {near.name} -r {near.name} {far.name} -rc {warp.name}", **{warp.name: None})
        return warp

    def carry(self, shares: np.ndarray, deformation: Warp) -> np.ndarray:
        """Return what is drawn on the moving frame on the fixed one, see `Registration`."""
        numbers, shape = range(len(shares)), shares.shape[1:]
        given: dict[str, Any] = {f"share{i}": self._image(share) for i, share in enumerate(shares)}
        pairs = " ".join(f"-rm share{i} carried{i}" for i in numbers)
        self._execute(
            f"-rf {deformation.name} {pairs} -r {deformation.name}", **given, **{f"carried{i}": None for i in numbers}
        )
        inside = tuple(slice(before, before + n) for (before, _), n in zip(_margins(shape), shape, strict=True))
        carried = [self._sitk.GetArrayFromImage(self._greedy[f"carried{i}"]).T[inside] for i in numbers]
        return np.stack(carried).astype(np.float32)

    def _new_warp(self) -> Warp:
        """Return a deformation yet to be filled; it takes the name, and so the memory, of one that is no longer held."""
        warp = Warp(self._free.pop() if self._free else f"warp{next(self._numbers)}")
        weakref.finalize(warp, self._free.append, warp.name)
        return warp

    def _execute(self, command: str, **images: Any) -> None:
        """Run a command on images by name, the results among them as None."""
        self._greedy.execute(f"-V 0 -threads 1 {command}", **images)

    def _image(self, volume: np.ndarray) -> Any:
        """Return (X, Y, Z) for Greedy, each border repeated outwards."""
        padded = np.pad(volume.astype(np.float32), _margins(volume.shape), "edge")
        image = self._sitk.GetImageFromArray(np.ascontiguousarray(padded.T))
        image.SetSpacing(self._spacing)
        return image


MakeRegistration = Callable[[Sequence[float]], Registration]
"""From the spacing in mm along X, Y and Z to a registration."""


def import_greedy() -> tuple[ModuleType, ModuleType]:
    """Return picsl_greedy and SimpleITK. Raises InputError, with what to install, where one is missing."""
    try:
        import picsl_greedy
        import SimpleITK
    except ImportError as error:
        raise InputError(
            f"got no package {error.name}, expected it for the registration of frames; pip install 'unet4d[registration]'"
        ) from error
    return picsl_greedy, SimpleITK


def _margins(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return the number of voxels added before and after, for each axis."""
    margins = [max(_BEYOND, -(-(_FEWEST_VOXELS - n) // 2)) for n in shape]
    return [(margin, margin) for margin in margins]


def _add_noise(frame: np.ndarray, seed: int) -> np.ndarray:
    """Return a frame with a little noise, the same for the same seed."""
    return frame + np.random.default_rng(seed).normal(0, NOISE * np.ptp(frame), frame.shape)
