"""One segmented study, as the pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np

from unet4d.evaluation.plausibility import Flag, find_flags
from unet4d.images.image4d import Image4D
from unet4d.metrics.cardiac_structures import cavity_within
from unet4d.metrics.volume_curves import extreme_frames, volumes_ml, voxel_volume_ml
from unet4d.report.pictures.layout import display_axes


@dataclass(frozen=True, eq=False)
class Segmented:
    """One segmented study, in memory.

    Attributes:
        name: of the case.
        image: of all channels; the first is shown.
        label: (T, X, Y, Z) uint8, the prediction.
        classes: foreground class name to label value.
        reference: (T, X, Y, Z) uint8 and zero where nobody drew, with `labelled` (T,) bool; None where there is none.
        cyclic: whether the last frame leads into the first; None where nobody says.
        about: how it was made, as prediction.json has it of the case, and of all.
        scores: of the case, as an evaluation has them; empty where there is none.
    """

    name: str
    image: Image4D
    label: np.ndarray
    classes: Mapping[str, int]
    reference: np.ndarray | None
    labelled: np.ndarray
    cyclic: bool | None
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def curves_ml(self) -> dict[str, np.ndarray]:
        """Class name to its volume in every frame, (T,)."""
        return self._volumes(self.label)

    @cached_property
    def reference_ml(self) -> dict[str, np.ndarray] | None:
        """The same of the reference, NaN in frames that nobody labelled."""
        if self.reference is None:
            return None
        return {name: np.where(self.labelled, curve, np.nan) for name, curve in self._volumes(self.reference).items()}

    @cached_property
    def flags(self) -> list[Flag]:
        """What is implausible."""
        return find_flags(self.curves_ml, self.cyclic)

    @cached_property
    def moments(self) -> tuple[tuple[int, str], ...]:
        """The two frames to look at first, with their names: end-diastole and end-systole of the left ventricle, else the
        largest and the smallest volume of the class that changes most; none where nothing changes.
        """
        ventricle = cavity_within("left", list(self.classes))
        curves = self.curves_ml if ventricle is None else {ventricle: self.curves_ml[ventricle]}
        found = extreme_frames(np.stack(list(curves.values()), axis=1)) if curves else []
        if len(set(found)) < 2:
            return ()
        names = ("ED", "ES") if ventricle is not None else ("largest", "smallest")
        return tuple(zip(found, names, strict=True))

    @property
    def right_hand(self) -> str:
        """What is on the right of every picture, in words."""
        affine = self.image.affine
        (_, _, column), _ = display_axes(affine)
        across = int(nib.orientations.io_orientation(affine)[column, 0])
        return f"the patient's {'left' if across == 0 else 'back'} is on the right, as the header has it"

    def _volumes(self, label: np.ndarray) -> dict[str, np.ndarray]:
        volumes = volumes_ml(label, list(self.classes.values()), voxel_volume_ml(self.image.affine))
        return dict(zip(self.classes, volumes.T, strict=True))
