"""A synthetic dataset for benchmarks: cine studies of smooth shapes and noise, as large as real ones."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path

import nibabel as nib
import numpy as np

SPACING_MM = (1.4, 1.4, 10.0)
LABELS = {"background": 0, "wall": 1, "cavity": 2}


def write_studies(
    folder: Path, count: int, frames: int, shape: tuple[int, int, int], processes: int, context: BaseContext
) -> None:
    """Write a dataset folder: int16 images and uint8 labels (X, Y, Z, T) as .nii.gz, two labelled frames per study.

    Args:
        folder: an empty one.
        count: of studies.
        frames: of each.
        shape: voxels (X, Y, Z).
        processes: how many write at once.
        context: of multiprocessing.
    """
    names = [f"study{i:03d}" for i in range(count)]
    with ProcessPoolExecutor(processes, context) as pool:
        list(pool.map(_write, [folder] * count, names, [(*shape, frames)] * count, range(count)))
    entries = [
        {"case": name, "image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz", "labelled_frames": [0, frames // 3]}
        for name in names
    ]
    about = {"channel_names": {"0": "cine"}, "labels": LABELS, "time": "cyclic", "training": entries}
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def _write(folder: Path, name: str, shape: tuple[int, ...], seed: int) -> None:
    """Write a beating ring in a body that is brighter to one side."""
    rng = np.random.default_rng(seed)
    size, frames = np.array(shape[:3]), shape[3]
    place = np.indices(shape[:3], np.float32, sparse=True)
    distance = (
        sum(((p - c) / n) ** 2 for p, c, n in zip(place, size * rng.uniform(0.4, 0.6, 3), size, strict=True)) ** 0.5
    )
    body = 200 + 100 * place[0] / size[0] * np.cos(3 * distance)
    beat = 0.12 + 0.03 * np.cos(np.linspace(0, 2 * np.pi, frames, endpoint=False, dtype=np.float32))
    label = (distance[..., None] < 1.5 * beat).astype(np.uint8) + (distance[..., None] < beat)
    image = rng.standard_normal(shape, np.float32)
    image *= 12
    image += body[..., None]
    image += np.array([0, -100, 150], np.float32)[label]
    for file, voxels in ((f"{name}.nii.gz", image.astype(np.int16)), (f"{name}_label.nii.gz", label)):
        nifti = nib.Nifti1Image(voxels, np.diag([*SPACING_MM, 1.0]))
        nifti.header.set_xyzt_units("mm", "sec")
        nifti.header["pixdim"][4] = 0.03
        nib.save(nifti, folder / file)
