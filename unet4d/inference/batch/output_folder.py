"""The folder that `unet4d predict` writes; calls, jobs of an array and processes add to it, one after the other or at once.

The files of a case are named in formats.py, the tables in tables.py. OUT/labels.txt names and colours the values for ITK-SNAP, and
beside sequences OUT/labels.ctbl for 3D Slicer. OUT/.unet4d holds the records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.case_json import can_name_a_file
from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.images.image4d import ImageInfo
from unet4d.images.label_writers import write_color_table, write_label_descriptions
from unet4d.inference.batch.case_records import Record, Records
from unet4d.inference.batch.formats import (
    FORMATS,
    PROBABILITIES,
    places,
    shown_classes,
    write_label,
    write_probabilities,
)
from unet4d.inference.batch.summary_tables import TABLES, Tables
from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import curve_measures, volumes_ml, voxel_volume_ml
from unet4d.system.disk_space import check_disk_space
from unet4d.system.files import check_writable, read_json

LABELS, COLOURS = "labels.txt", "labels.ctbl"
_SPARE_BYTES = 10**7


class PredictionFolder:
    """Where the label maps of models of the same labels go. Every file appears whole or not at all, the record of a case last.

    Args:
        path: made with the first case.
        labels: class name to value, background first.
        formats: of the label maps, of `FORMATS`.
        probabilities: write each class's probability, too.

    Raises:
        InputError: an unknown format.
    """

    def __init__(
        self, path: Path, labels: Mapping[str, int], formats: Sequence[str] = ("nifti",), probabilities: bool = False
    ):
        unknown = [one for one in formats if one not in FORMATS]
        if unknown or not formats:
            raise InputError(f"--format is {' '.join(formats) or 'empty'}; wanted one or more of {', '.join(FORMATS)}")
        self.path, self.labels = path, dict(labels)
        self.formats = tuple(dict.fromkeys(formats))
        self.outputs = (*self.formats, PROBABILITIES) if probabilities else self.formats
        self.records = Records(path)
        self.tables = Tables(path, labels, self.records)
        self._begun = False

    def place(self, case: str) -> Path:
        """The file or folder of a case in the first of the formats."""
        return places(self.path, case, self.formats[:1])[0]

    def check(self, studies: Sequence[Study]) -> None:
        """See, before any work, that everything can be written and that nothing replaces what is no prediction.

        Raises:
            InputError: two cases of one name; a file would replace an input, or one in a folder that no earlier predict wrote;
                what lies in the folder has other labels, or no records.
            Unet4DError: the folder may not be written to, or its disk is full.
        """
        check_writable(self.path)
        check_disk_space(self.path, _SPARE_BYTES, "label maps and tables", "choose another folder")
        names = [study.name for study in studies]
        if len(set(names)) < len(names):
            doubled = sorted({name for name in names if names.count(name) > 1})
            raise InputError(
                f"several inputs are named {doubled[0]}, and would overwrite one another; predict them to folders of their own"
            )
        known = self._recorded()
        self._check_replaced(studies)
        if known and not self.records.cases.is_dir():
            raise InputError(
                f"{self.path} holds {known[0]} of an earlier predict and no {self.records.cases}, which an earlier version did not "
                "write or a copy left behind; choose another -o"
            )

    def left(self, case: str, made: Mapping[str, Any]) -> bool:
        """Leave a case that lies there, whole, made of the same and in every format that is asked for; whether it is so."""
        if not self.records.is_complete(case, made, self.outputs):
            return False
        self.records.forget_failure(case)
        return True

    def begin(self) -> None:
        """Write the tables and the labels' names, once: whoever is stopped before the first case may run again."""
        if self._begun:
            return
        self.tables.write(always=True)
        classes = shown_classes(self.labels)
        write_label_descriptions(self.path / LABELS, classes)
        if "seq.nrrd" in self.formats:
            write_color_table(self.path / COLOURS, classes)
        self._begun = True

    def add(
        self,
        case: str,
        label: np.ndarray,
        probabilities: np.ndarray | None,
        like: ImageInfo,
        made: Mapping[str, Any],
        entry: Mapping[str, Any],
        seconds: Mapping[str, float],
        hardware: Mapping[str, Any],
    ) -> Path:
        """Write one segmented study, its record, and the tables if it is time to; what the case had before is gone.

        Args:
            case: name of the study.
            label: (T, X, Y, Z) uint8, label values.
            probabilities: (K, T, X, Y, Z) float32, in the order of the labels; None unless they were asked for.
            like: the study.
            made: what decided the answer, by which `left` knows it again.
            entry: for prediction.json.
            seconds: what took how long.
            hardware: that computed it.

        Returns:
            The file or folder of the case in the first format.

        Raises:
            Unet4DError: the disk is full or the folder cannot be written to.
        """
        self.begin()
        before = self.records.begin(case)
        files = write_label(self.path, case, label, like, self.labels, self.formats)
        if probabilities is not None:
            files += write_probabilities(self.path, case, probabilities, like, self.labels)
        for path in before:
            if path not in files:
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # a case's own folder, if that was the last in it
        record = {
            "case": case,
            "made": dict(made),
            "formats": list(self.outputs),
            "entry": dict(entry),
            "seconds": {step: round(taken, 3) for step, taken in seconds.items()},
            "hardware": dict(hardware),
            **self._measured(label, like, entry["time"] == "cyclic"),
        }
        record["summary"]["seconds"] = round(sum(seconds.values()), 3)
        self.records.keep(case, record, files)
        self.tables.write()
        return self.place(case)

    def finish(self, failed: Mapping[str, str]) -> None:
        """Bring the tables up to date, where there are any; what failed is listed with its reason."""
        if not (self.path / PREDICTION_JSON).is_file():
            return
        for case, reason in failed.items():
            self.records.keep_failure(case, reason)
        self.tables.write(always=True)

    def _measured(self, label: np.ndarray, like: ImageInfo, cyclic: bool) -> Record:
        """Volumes, and what their curves say."""
        classes = [(name, value) for name, value in self.labels.items() if value]
        volumes = volumes_ml(label, [value for _, value in classes], voxel_volume_ml(like.affine))
        step = like.frame_duration_s
        curves = {name: [round(float(volume), 6) for volume in volumes[:, k]] for k, (name, _) in enumerate(classes)}
        return {
            "frames": len(label),
            "frame_duration_s": step,
            "volumes_ml": curves,
            "summary": {
                "frames": len(label),
                "frame_duration_s": step,
                "classes": measures(curves, step, cyclic),
            },
        }

    def _recorded(self) -> list[str]:
        """The cases of an earlier prediction.json; refuses one of other labels."""
        path = self.path / PREDICTION_JSON
        if not path.is_file():
            return []
        about = read_json(path)
        cases = about.get("cases", {}) if isinstance(about, dict) else None
        if not isinstance(cases, dict):
            raise InputError(f'{path} holds no object with "cases"; wanted what predict wrote; choose another -o')
        named = [case for case in cases if can_name_a_file(case)]
        there = [
            case
            for case in named
            if self.records.path(case).is_file() or any(p.exists() for p in places(self.path, case, FORMATS))
        ]
        if there and about.get("labels") != self.labels:
            raise InputError(
                f"{self.path} holds label maps with the labels {about.get('labels')}; the model has {self.labels}; choose another "
                "-o"
            )
        return there

    def _check_replaced(self, studies: Sequence[Study]) -> None:
        """Refuse to write where an input lies, or where somebody else's file does.

        Another job may begin in the folder meanwhile: its prediction.json comes first, so that is looked for after all else.
        """
        sources = {path.resolve() for study in studies for path in study.files}
        folders = {folder for source in sources for folder in source.parents}
        tables = [self.path / name for name in (*TABLES, LABELS, *[COLOURS] * ("seq.nrrd" in self.formats))]
        for path in [place for study in studies for place in places(self.path, study.name, self.outputs)] + tables:
            if path.resolve() in sources | folders:
                raise InputError(f"{path} is an input, and its label map would replace it; choose another -o")
            if os.path.lexists(path) and not (self.path / PREDICTION_JSON).is_file():
                raise InputError(
                    f"{path} is there already, in a folder without the {PREDICTION_JSON} of an earlier predict; wanted a folder "
                    "that predict wrote, or a new one; choose another -o"
                )


def measures(
    curves: Mapping[str, Sequence[float]], frame_duration_s: float | None, cyclic: bool
) -> dict[str, dict[str, Any]]:
    """What the volume curves of a study say: of a heart's cavities their function, of its myocardium the mass, of others the range.

    The mass is that at end-diastole of the ventricle within, where there is one; roles are known by the classes' names.

    Args:
        curves: class name to (T,) mL.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, curve in curves.items():
        said: dict[str, Any] = {"mean_ml": float(np.mean(curve)), "min_ml": min(curve), "max_ml": max(curve)}
        if is_cavity(name):
            said = {"role": "cavity", **said, **asdict(curve_measures(curve, frame_duration_s, cyclic))}
        elif is_myocardium(name):
            within = cavity_within(name, list(curves))
            frame = None if within is None else int(np.argmax(curves[within]))
            grams = None if frame is None else MYOCARDIAL_DENSITY_G_PER_ML * curve[frame]
            said = {"role": "myocardium", **said, "ed_frame": frame, "mass_g": grams}
        found[name] = {key: round(value, 6) if isinstance(value, float) else value for key, value in said.items()}
    return found
