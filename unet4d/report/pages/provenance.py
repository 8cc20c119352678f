"""Provenance of a label map: what the prediction.json beside it records of the case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.system.files import read_json


def read_provenance(folders: list[Path], case: str) -> dict[str, Any]:
    """Return what the first prediction.json in `folders` records of a case, after what it records of all; {} without one.

    Raises:
        InputError: a prediction.json that is not valid JSON.
    """
    for folder in folders:
        if (folder / PREDICTION_JSON).is_file():
            record = read_json(folder / PREDICTION_JSON)
            cases = record.get("cases") if isinstance(record, dict) else None
            entry = cases.get(case) if isinstance(cases, dict) else None
            if not isinstance(entry, dict):
                return {}
            return {name: value for name, value in record.items() if name not in ("cases", "labels")} | entry
    return {}
