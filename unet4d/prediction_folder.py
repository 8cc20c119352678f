"""The folder that `unet4d predict` writes: label maps, volumes.csv and prediction.json; one call after another adds to it.

OUT/<case>.nii.gz     label map of a study
OUT/volumes.csv       case, frame, time_s, class, value, volume_ml: a row a frame and class
OUT/prediction.json   {"labels": {name: value}, "version": ..., "cases": {case: {"image", "time", "model"}}}
                      in place of "model", "models": [...] where several answered together; and "fold", whose network it was, where
                      the case was held out by a fold
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import unet4d
from unet4d.data.image4d import Image4D, write_image
from unet4d.data.references import PREDICTION
from unet4d.data.study import Study
from unet4d.errors import InputError
from unet4d.files import check_writable, read_json, write_json, write_text
from unet4d.metrics import volumes_ml, voxel_volume_ml

VOLUMES = "volumes.csv"
COLUMNS = ["case", "frame", "time_s", "class", "value", "volume_ml"]
Rows = list[list[Any]]


class PredictionFolder:
    """Where the label maps of models of the same labels go. Both tables are written anew with each, so that a stop loses nothing.

    Args:
        path: made with the first label map.
        labels: class name to value, background first.
    """

    def __init__(self, path: Path, labels: Mapping[str, int]):
        self.path, self.labels = path, dict(labels)
        self.rows: Rows = []
        self.cases: dict[str, dict[str, Any]] = {}

    def label_map(self, case: str) -> Path:
        """Where the label map of a case goes."""
        return self.path / f"{case}.nii.gz"

    def check(self, studies: Sequence[Study]) -> None:
        """See, before any work, that all label maps can be written and that none replaces what is no prediction.

        Raises:
            InputError: two cases of one name; a label map would replace an input, or a file in a folder that no earlier
                predict wrote; what lies in the folder has other labels, or cannot be read.
            Unet4DError: the folder may not be written to.
        """
        check_writable(self.path)
        names = [study.name for study in studies]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(
                f"several inputs are named {doubled[0]}, and would overwrite one another; predict them to folders of their own"
            )
        sources = {path.resolve() for study in studies for path in study.files}
        earlier = (self.path / PREDICTION).is_file()
        for path in map(self.label_map, names):
            if path.resolve() in sources:
                raise InputError(f"{path} is an input, and its label map would replace it; choose another -o")
            if not earlier and os.path.lexists(path):
                raise InputError(
                    f"{path} is there already, in a folder without the {PREDICTION} of an earlier predict; wanted a folder "
                    "that predict wrote, or a new one; choose another -o"
                )
        labels, others = self._recorded()
        self._recorded_rows()
        if others and labels != self.labels:
            raise InputError(
                f"{self.path} holds label maps with the labels {labels}; the model has {self.labels}; choose another -o"
            )

    def add(
        self,
        case: str,
        label: np.ndarray,
        image: Image4D,
        time: str,
        checkpoints: Sequence[Path],
        fold: int | None = None,
    ) -> Path:
        """Write one segmented study, and both tables with it.

        Args:
            case: name of the study.
            label: (T, X, Y, Z) uint8, label values.
            image: that was segmented.
            time: "cyclic" or "open", as it was run.
            checkpoints: of the networks that answered.
            fold: that held the case out; None where no fold did.

        Returns:
            The label map's path.
        """
        if not self.cases:
            self._write()  # whoever is stopped before the first label map is told may run again
        path = self.label_map(case)
        write_image(path, label, like=image)
        classes = [(name, value) for name, value in self.labels.items() if value]
        volumes = volumes_ml(label, [value for _, value in classes], voxel_volume_ml(image.affine))
        step = image.frame_duration_s
        self.rows += [
            [case, t, "" if step is None else round(t * step, 6), name, value, round(float(volumes[t, k]), 6)]
            for t in range(len(label))
            for k, (name, value) in enumerate(classes)
        ]
        models = [str(path) for path in checkpoints]
        entry = {"image": str(image.source), "time": time}
        self.cases[case] = entry | ({"model": models[0]} if len(models) == 1 else {"models": models})
        if fold is not None:
            self.cases[case]["fold"] = fold
        self._write()
        return path

    def _write(self) -> None:
        """Write both tables: what other calls recorded, and what this one did."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *self._recorded_rows(), *self.rows])
        write_text(self.path / VOLUMES, table.getvalue())
        cases = {**self._recorded()[1], **self.cases}
        write_json(self.path / PREDICTION, {"labels": self.labels, "version": unet4d.__version__, "cases": cases})

    def _recorded(self) -> tuple[Any, dict[str, Any]]:
        """What prediction.json says of the labels, and of the others' cases whose label map is there."""
        path = self.path / PREDICTION
        if not path.is_file():
            return None, {}
        about = read_json(path)
        cases = about.get("cases", {}) if isinstance(about, dict) else None
        if not isinstance(cases, dict):
            raise InputError(f'{path} holds no object with "cases"; wanted what predict wrote; choose another -o')
        return about.get("labels"), {name: entry for name, entry in cases.items() if self._is_others(name)}

    def _recorded_rows(self) -> Rows:
        """The rows of volumes.csv of the others' cases whose label map is there."""
        path = self.path / VOLUMES
        if not path.is_file():
            return []
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = [row for row in csv.reader(file) if row] or [COLUMNS]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read ({error}); move it away, or choose another -o") from error
        if header != COLUMNS:
            raise InputError(
                f"{path} has the columns {', '.join(header)}; wanted {', '.join(COLUMNS)}; move it away, or choose "
                "another -o"
            )
        others = {case for case in {row[0] for row in rows} if self._is_others(case)}
        return [row for row in rows if row[0] in others]

    def _is_others(self, case: str) -> bool:
        return case not in self.cases and self.label_map(case).is_file()
