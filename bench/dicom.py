"""CPU seconds and memory of writing a segmented cine as DICOM, each format in a fresh process without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
SHAPE = (30, 256, 256, 12)  # (T, X, Y, Z)
FORMATS = ("dicom-seg", "dicom-seg-frames", "dicom-sr", "dicom-sc")
LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
MOST_S, MOST_MB = 5, 500
"""Bars of a segmentation of all frames."""


def run(shape: tuple[int, int, int, int] = SHAPE) -> dict[str, list[Row]]:
    """Return a row per format, and the bars."""
    from bench.bars import bar

    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as folder:
        write_images(Path(folder), shape)
        rows = []
        for name in FORMATS:
            words = [sys.executable, "-W", "ignore", "-m", "bench.dicom", folder, name]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    bars = [
        bar("segmentation of all frames: CPU s", "<=", MOST_S, [rows[0]["CPU s"]]),
        bar("segmentation of all frames: most MB", "<=", MOST_MB, [rows[0]["most MB"]]),
    ]
    return {"formats": rows, "bars": bars}


def write_images(folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Write a cine of noise, one file per plane."""
    from tests.datasets.convert import dicom_files as files

    def place(dataset: Any, t: int, z: int) -> None:
        dataset.TriggerTime, dataset.InstanceNumber = t * 30.0, t * shape[3] + z + 1

    noise = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    files.save(files.single_frames(noise, files.AFFINE, place), folder / "images")


def rings(shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map (T, X, Y, Z) of three rings that beat."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[1:3]), indexing="ij")
    label = np.zeros(shape, np.uint8)
    for t in range(shape[0]):
        radius = np.hypot(x, y) * (1 + 0.2 * np.cos(2 * np.pi * t / shape[0]))
        label[t] = np.select([radius < 0.2, radius < 0.28, radius < 0.5], [3, 2, 1], 0)[..., None]
    return label


def measure(folder: Path, name: str) -> Row:
    """Return the cost of one format in this process."""
    from unet4d.datasets.find_studies import open_source
    from unet4d.report.dicom.result import Algorithm, DicomResult
    from unet4d.report.dicom.write import write_dicom

    [study] = open_source(folder / "images", layout="dicom").studies
    assert study.dicom is not None
    label = rings(study.dicom.shape)
    begin_s = time.process_time()
    result = DicomResult(label, study.dicom, LABELS, Algorithm({}), cyclic=True)
    written = write_dicom(folder / name, "case", result, [name])
    seconds = time.process_time() - begin_s
    [most_kb] = re.findall(
        r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.M
    )  # ru_maxrss has the parent's
    size_mb = sum(path.stat().st_size for path in written) / 1e6
    return {
        "format": name,
        "files": len(written),
        "MB": size_mb,
        "CPU s": seconds,
        "most MB": 1024 * int(most_kb) / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
