"""M&Ms as downloaded to a dataset folder; nothing is copied where the disk can link.

python data/mnms/prepare.py OpenDataset DATASET
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from pathlib import Path
from typing import Any

from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError, Unet4DError
from unet4d.system.files import write_json

LABELS = {"background": 0, "left ventricle": 1, "myocardium": 2, "right ventricle": 3}
PARTS = {"Training/Labeled": "training", "Validation": "test", "Testing": "test"}


def prepare(source: Path, out: Path) -> Path:
    """Link every labelled study into `out` and write its dataset.json.

    Raises:
        InputError: the table of the studies is not there, or says nothing of one of them.
    """
    frames = _labelled_frames(source)
    cases: dict[str, list[dict[str, Any]]] = {"training": [], "test": []}
    with fill_dataset_folder(out):
        for folder, part in PARTS.items():
            for image in sorted((source / folder).glob("*/*_sa.nii.gz")):
                code = image.name.removesuffix("_sa.nii.gz")
                if any(code == case["case"] for known in cases.values() for case in known):
                    raise InputError(
                        f"{image}: another part has a study of this code; wanted each once; remove one of them"
                    )
                if code not in frames:
                    raise InputError(
                        f"{image}: the table has no ED and ES for {code}; wanted both for each; download it again"
                    )
                label = image.with_name(f"{code}_sa_gt.nii.gz")
                for kind, file in (("images", image), ("labels", label)):
                    _link(file, out / kind / f"{code}.nii.gz")
                name = f"{code}.nii.gz"
                entry = {"case": code, "subject": code, "image": f"images/{name}", "label": f"labels/{name}"}
                cases[part].append({**entry, "labelled_frames": frames[code]})
        if not cases["training"]:
            raise InputError(f"{source} holds no Training/Labeled/*/*_sa.nii.gz; give the folder OpenDataset")
        about = {
            "name": "M&Ms",
            "reference": "Campello et al., IEEE Trans Med Imaging 40:3543, 2021, doi 10.1109/TMI.2021.3090082",
            "channel_names": {"0": "cine MRI"},
            "labels": LABELS,
            "time": "cyclic",
            **cases,
        }
        write_json(out / "dataset.json", about)
    return out / "dataset.json"


def _labelled_frames(source: Path) -> dict[str, list[int]]:
    """Map each code to its end-diastolic and end-systolic frame, counted from 0 as the table does."""
    tables = sorted(source.glob("*opendataset*.csv")) + sorted(source.parent.glob("*opendataset*.csv"))
    if not tables:
        raise InputError(
            f"{source} has no *opendataset*.csv, nor has the folder above; put the table of the studies there"
        )
    with open(tables[0], newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    wanted = {"External code", "ED", "ES"}
    if not rows or not wanted <= set(rows[0]):
        raise InputError(
            f"{tables[0]} has the columns {list(rows[0]) if rows else []}; wanted {sorted(wanted)} among them"
        )
    frames = {}
    for row in rows:
        try:
            frames[row["External code"]] = sorted({int(float(row["ED"])), int(float(row["ES"]))})
        except ValueError:
            continue  # unlabelled; a study that needs the row is reported
    return frames


def _link(file: Path, to: Path) -> None:
    """Make a hard link, or a copy where the disk has none."""
    if not file.is_file():
        raise InputError(f"{file} is missing; download the study again, or remove its folder")
    to.unlink(missing_ok=True)  # of a run that was stopped; a copy would be written through the link, into the download
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        print(prepare(given.source, given.out))
    except Unet4DError as error:
        parser.error(str(error))
