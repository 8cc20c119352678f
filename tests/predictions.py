"""Helpers for tests of `unet4d predict`: contents of a folder of predictions, and a check that it is whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from unet4d.images.nrrd import read_nrrd_image


def json_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "volumes.csv").open()))


def names_in(folder: Path) -> list[str]:
    """Return the names that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    """Label maps and volumes: what must not depend on how it came about."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".nii.gz", ".csv"))}


def check_whole(out: Path) -> None:
    """Every file under a final name can be read to its end."""
    for path in out.rglob("*"):
        if ".partial." in path.name or not path.is_file() or path.name == "lock":
            continue
        if path.suffix == ".json":
            json_of(path)
        elif path.name.endswith(".nii.gz"):
            np.asarray(nib.load(path).dataobj)
        elif path.name.endswith(".nrrd"):
            read_nrrd_image(path)
        else:
            assert path.read_text().endswith("\n")
