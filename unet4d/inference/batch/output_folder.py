"""The folder that `unet4d predict` writes; calls, jobs of an array and processes add to it, one after the other or at once.

formats.py names the files of a case, summary_tables.py the tables. OUT/labels.txt names and colors the values for ITK-SNAP, and
beside sequences OUT/labels.ctbl for 3D Slicer. OUT/.unet4d holds the records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.evaluation.conditions import mixed_conditions
from unet4d.evaluation.plausibility import LabelShape, find_flags
from unet4d.images.image4d import ImageInfo
from unet4d.images.label_writers import write_color_table, write_label_descriptions
from unet4d.inference.batch.case_measures import describe_case
from unet4d.inference.batch.case_records import CaseRecords
from unet4d.inference.batch.formats import (
    LABEL_FORMATS,
    PROBABILITIES,
    case_paths,
    foreground_classes,
    write_label,
    write_probabilities,
)
from unet4d.inference.batch.summary_tables import TABLE_FILES, SummaryTables
from unet4d.metrics.cardiac_structures import Roles, find_roles
from unet4d.metrics.regions import Regions, classes_of
from unet4d.metrics.vitals import UNKNOWN_VITALS, Vitals
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.report.dicom.result import DicomResult
from unet4d.report.dicom.write import DICOM_FORMATS
from unet4d.system.documents import check_document, write_document
from unet4d.system.files import check_disk_space, check_writable, read_json
from unet4d.system.operating_system import ignores_case

LABEL_NAMES_FILE, COLOR_TABLE_FILE = "labels.txt", "labels.ctbl"
_LEAST_SPACE_BYTES = 10**7
FLAGGED_FRAMES = 4
"""Frames in which pieces of the classes are counted; the report counts them in all."""


class PredictionFolder:
    """A folder of label maps of models with the same labels. Every file appears whole or not at all, the record of a case last.

    Args:
        path: created with the first case.
        labels: class name to value, background first.
        formats: of the label maps, of `LABEL_FORMATS`.
        probabilities: write each class's probability, too.
        roles: the structure of a heart that a class is, or "other", where the models' dataset says so.
        regions: unions of the labels, which are measured in place of them.
        curves: those that `add` gets, see `CurveOptions.outputs`.

    Raises:
        InputError: an unknown format; a DICOM report without the segmentation that it refers to.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, int],
        formats: Sequence[str] = ("nifti",),
        probabilities: bool = False,
        roles: Roles | None = None,
        regions: Regions | None = None,
        curves: Sequence[str] = (),
    ):
        if not formats or not set(formats) <= set(LABEL_FORMATS):
            raise InputError(
                f"got --format {' '.join(formats) or 'empty'}, expected one or more of {', '.join(LABEL_FORMATS)}; correct it"
            )
        if "dicom-sr" in formats and "dicom-seg" not in formats:
            raise InputError(
                "got --format dicom-sr, expected dicom-seg with it, to which the report refers; add dicom-seg"
            )
        self.path, self.labels, self.formats = path, dict(labels), tuple(dict.fromkeys(formats))
        self.outputs = (*self.formats, PROBABILITIES) if probabilities else self.formats
        self.made_outputs = (*self.outputs, *curves)
        self.records = CaseRecords(path)
        self.regions = dict(regions or {})
        self.classes = classes_of(labels, self.regions)
        self.roles = find_roles(self.classes, roles)
        self.tables = SummaryTables(self.records, labels, self.roles, self.regions)
        self._is_begun = False

    @property
    def writes_dicom(self) -> bool:
        """Return whether one of the formats is DICOM, which only studies that came as DICOM can have."""
        return not set(self.formats).isdisjoint(DICOM_FORMATS)

    def check(self, studies: Sequence[Study]) -> None:
        """Check, before any work, that everything can be written and that nothing replaces what is no prediction.

        Raises:
            InputError: DICOM is to be written, and no study is DICOM; two cases of one name; a file would replace an input, or one
                in a folder that no earlier predict wrote; the folder holds predictions with other labels, or without records.
            Unet4DError: the folder may not be written to, or its disk is full.
        """
        check_writable(self.path)
        check_disk_space(self.path, _LEAST_SPACE_BYTES, "label maps and tables", "choose another folder")
        if self.writes_dicom and not any(study.key for study in studies):
            raise InputError(
                f"got --format {' '.join(self.formats)} and no DICOM study, expected one or more; leave the DICOM formats out"
            )
        names = [study.name for study in studies]
        files = [name.casefold() for name in names] if ignores_case(self.path) else names
        if len(set(files)) < len(files):
            doubled = next(name for name, file in sorted(zip(names, files, strict=True)) if files.count(file) > 1)
            raise InputError(
                f"several inputs are named {doubled}, and would overwrite one another; predict them to folders of their own"
            )
        self._check_earlier()
        self._check_replaced(studies)

    def skips(self, case: str, made: Mapping[str, Any], vitals: Vitals = UNKNOWN_VITALS) -> bool:
        """Return whether a case is there already, whole, made from the same and in every output that is asked for.

        Other vitals change its measures and not its label map: they are recorded anew.
        """
        record = self.records.read_complete(case, made, self.made_outputs)
        if record and record.get("vitals") != vitals.known():
            write_document(self.records.path(case), "case-record", {**record, "vitals": vitals.known()})
        return record is not None

    def begin(self) -> None:
        """Write the tables and the labels' names, once: a run that is stopped before the first case may be repeated."""
        if self._is_begun:
            return
        self.tables.write(always=True)
        classes = foreground_classes(self.labels)
        write_label_descriptions(self.path / LABEL_NAMES_FILE, classes)
        if "seq.nrrd" in self.formats:
            write_color_table(self.path / COLOR_TABLE_FILE, classes)
        self._is_begun = True

    def add(
        self,
        case: str,
        label: np.ndarray,
        probabilities: np.ndarray | None,
        info: ImageInfo,
        about: Mapping[str, Any],
        dicom: DicomResult | None = None,
    ) -> Path:
        """Write one segmented study, its record, and the tables if it is time to; earlier files of the case are removed.

        Args:
            case: name of the study.
            label: (T, X, Y, Z) uint8, label values.
            probabilities: (K, T, X, Y, Z) float32, in the order of the labels; None unless they were asked for.
            info: the study.
            about: the record's "made", "entry", "vitals", "seconds" and "hardware", and curves, see case_records.py.
            dicom: the label map with the images that it is of, where a format is DICOM.

        Returns:
            The file or folder of the case in the first format.
        """
        self.begin()
        before = self.records.remove(case)
        files = write_label(self.path, case, label, info, self.labels, self.formats, dicom)
        if probabilities is not None:
            files += write_probabilities(self.path, case, probabilities, info, self.outputs_by_name)
        for path in before:
            if path not in files:
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # a case's own folder, if that was the last in it
        is_cyclic, values = about["entry"]["time"] == "cyclic", list(self.classes.values())
        volumes = volumes_ml(label, values, voxel_volume_ml(info.affine))
        curves = dict(zip(self.classes, volumes.T, strict=True))
        flags = find_flags(curves, is_cyclic, self.roles, LabelShape.measure(label, values, FLAGGED_FRAMES))
        record = {
            "case": case,
            **about,
            "formats": list(self.made_outputs),
            "frames": len(label),
            "frame_duration_s": info.frame_duration_s,
            "volumes_ml": {name: [round(float(volume), 6) for volume in curve] for name, curve in curves.items()},
            "flags": [flag.sentence for flag in flags],
            "flag_keys": list(dict.fromkeys(flag.key for flag in flags)),
        }
        self.records.write(case, record, files)
        self.tables.write()
        return case_paths(self.path, case, self.formats[:1])[0]

    @property
    def outputs_by_name(self) -> dict[str, int]:
        """Return what the network has outputs for: each label with its value, or each region with its number from 1."""
        return {name: number for number, name in enumerate(self.regions, 1)} or self.labels

    def describe(self, case: str) -> str:
        """Return the measures of a case that was added, in one line."""
        return describe_case(self.records.read(case) or {"case": case}, list(self.classes), self.roles)

    def finish(self) -> None:
        """Bring the tables up to date, where there are any."""
        if (self.path / PREDICTION_JSON).is_file():
            self.tables.write(always=True)

    def mixed_conditions(self) -> str:
        """Return what differs between the options of its cases; an empty text where nothing does."""
        return mixed_conditions(record["entry"].get("conditions", {}) for record in self.records.read_all().values())

    def _check_earlier(self) -> None:
        """Raise InputError where an earlier predict wrote other labels, or its records are missing."""
        path = self.path / PREDICTION_JSON
        about = read_json(path) if path.is_file() else {"cases": {}}
        if not isinstance(about, dict) or not isinstance(about.get("cases"), dict):
            raise InputError(f'{path} holds no object with "cases", expected what predict wrote; choose another -o')
        check_document(about, "prediction", path)
        regions = {name: region.as_dict() for name, region in self.regions.items()}
        for what, before, now in (
            ("labels", about.get("labels"), self.labels),
            ("regions", about.get("regions", {}), regions),
        ):
            if about["cases"] and before != now:
                raise InputError(
                    f"{self.path} holds label maps with the {what} {before}, and the model has {now}; choose another -o"
                )
        if about["cases"] and not self.records.folder.is_dir():
            raise InputError(
                f"{self.path} holds an earlier predict and no {self.records.folder}, perhaps because it was copied without; choose "
                "another -o"
            )

    def _check_replaced(self, studies: Sequence[Study]) -> None:
        """Raise InputError where an input, or a file that no predict wrote, would be replaced.

        Another job may begin in the folder meanwhile: its prediction.json comes first, so that is looked for last.
        """
        inputs = {path.resolve() for study in studies for path in study.files}
        inputs |= {folder for path in inputs for folder in path.parents}
        files = [path for study in studies for path in case_paths(self.path, study.name, self.outputs)]
        for path in [*files, *(self.path / name for name in (*TABLE_FILES, LABEL_NAMES_FILE, COLOR_TABLE_FILE))]:
            if path.resolve() in inputs:
                raise InputError(f"{path} is an input, and its label map would replace it; choose another -o")
            if os.path.lexists(path) and not (self.path / PREDICTION_JSON).is_file():
                raise InputError(
                    f"{path} exists, in a folder without the {PREDICTION_JSON} of an earlier predict, expected a folder that "
                    "predict wrote, or a new one; choose another -o"
                )
