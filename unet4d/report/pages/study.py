"""One segmented study in memory, with what the pages compute from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np

from unet4d.evaluation.curve_tables import CurveRecord
from unet4d.evaluation.plausibility import Flag, LabelShape, find_flags
from unet4d.images.image4d import Image4D
from unet4d.metrics.cardiac_structures import LEFT_VENTRICLE, Roles, class_of, describe_roles
from unet4d.metrics.regions import ClassValue
from unet4d.metrics.volume_curves import extreme_frames, volumes_ml, voxel_volume_ml
from unet4d.report.pages.curves import StudyCurve, study_curves
from unet4d.report.pages.score_tables import ScoreSection
from unet4d.report.pictures.layout import display_axes
from unet4d.system.text import count


@dataclass(frozen=True, eq=False)
class SegmentedStudy:
    """One segmented study.

    Attributes:
        name: name of the case.
        image: all channels; the first is shown.
        label: (T, X, Y, Z) uint8, the prediction.
        classes: foreground class name to label value, or region.
        reference: (T, X, Y, Z) uint8, zero in unlabelled frames; None without a reference.
        labelled: (T,) bool, frames with a reference.
        cyclic: whether the last frame leads into the first; None where unknown.
        provenance: what prediction.json records of the case, and of all.
        scores: of an evaluation; None where it was not scored.
        roles: the structure of a heart that each class is, see `find_roles`.
        is_partial: (T, K) bool, frames and classes of which not all was drawn, so that the reference has no volume; None: none.
        records: curves beside the volumes, of `measure_both`; empty where none was measured.
    """

    name: str
    image: Image4D
    label: np.ndarray
    classes: Mapping[str, ClassValue]
    reference: np.ndarray | None
    labelled: np.ndarray
    cyclic: bool | None
    provenance: Mapping[str, Any]
    scores: ScoreSection | None
    roles: Roles
    is_partial: np.ndarray | None = None
    records: Mapping[str, CurveRecord] = field(default_factory=dict)

    @cached_property
    def curves_ml(self) -> dict[str, np.ndarray]:
        """Return the volume in every frame, class name to (T,)."""
        return self._volumes(self.label)

    @cached_property
    def reference_ml(self) -> dict[str, np.ndarray] | None:
        """Return the same of the reference, NaN in unlabelled and partly drawn frames."""
        if self.reference is None:
            return None
        known = whole_reference(self.labelled, self.is_partial, len(self.classes))
        curves = self._volumes(self.reference).items()
        return {name: np.where(known[:, k], curve, np.nan) for k, (name, curve) in enumerate(curves)}

    @cached_property
    def curves(self) -> list[StudyCurve]:
        """Return all curves of the page, volumes first; none of a single frame."""
        if self.image.frames == 1:
            return []
        volumes = StudyCurve("volumes", "Volumes", "volume (mL)", "mL", 1, self.curves_ml, self.reference_ml)
        return [volumes, *study_curves(self.name, self.records, self.classes)]

    @cached_property
    def flags(self) -> list[Flag]:
        """Return the implausible properties of the label map."""
        shape = LabelShape.measure(self.label, list(self.classes.values()))
        return find_flags(self.curves_ml, self.cyclic, self.roles, shape)

    @cached_property
    def moments(self) -> tuple[tuple[int, str], ...]:
        """Return two frames to look at first, with their names.

        They are end-diastole and end-systole of the left ventricle; without one the largest and the smallest volume of the class
        that changes most. There are none where nothing changes.
        """
        ventricle = class_of(LEFT_VENTRICLE, self.roles)
        curves = self.curves_ml if ventricle is None else {ventricle: self.curves_ml[ventricle]}
        found = extreme_frames(np.stack(list(curves.values()), axis=1)) if curves else []
        if len(set(found)) < 2:
            return ()
        names = ("ED", "ES") if ventricle is not None else ("largest", "smallest")
        return tuple(zip(found, names, strict=True))

    @property
    def taken(self) -> str:
        """Return what each class was taken for, as text; empty where none is a structure of a heart."""
        return describe_roles(self.roles, self.classes) if self.roles else ""

    @property
    def dice(self) -> float | None:
        """Return the mean foreground Dice, where it was scored."""
        return self.scores.dice if self.scores else None

    @property
    def facts(self) -> str:
        """Return frames, time, size and channels in a line."""
        image = self.image
        size, spacing = " x ".join(map(str, image.grid)), " x ".join(f"{mm:.3g}" for mm in image.spacing)
        time = f"{image.frame_duration_s:.3g} s per frame" if image.frame_duration_s else "frame duration unknown"
        order = {True: " · cyclic", False: " · open", None: ""}[self.cyclic]
        channels = f" · the first of {image.channels} channels is shown" if image.channels > 1 else ""
        return f"{count(image.frames, 'frame')}, {time}{order} · {size} voxels of {spacing} mm{channels}"

    @property
    def right_side(self) -> str:
        """Return the side of the patient, "left" or "back", that is on the right of every picture."""
        affine = self.image.affine
        (_, _, column), _ = display_axes(affine)
        return "left" if nib.orientations.io_orientation(affine)[column, 0] == 0 else "back"

    def _volumes(self, label: np.ndarray) -> dict[str, np.ndarray]:
        volumes = volumes_ml(label, list(self.classes.values()), voxel_volume_ml(self.image.affine))
        return dict(zip(self.classes, volumes.T, strict=True))


def whole_reference(labelled: np.ndarray, is_partial: np.ndarray | None, classes: int) -> np.ndarray:
    """Return (T, K) bool, where the reference of a class was drawn whole; arguments as the attributes of `SegmentedStudy`."""
    known = np.repeat(labelled[:, None], classes, 1)
    return known if is_partial is None else known & ~is_partial
