"""Picture dicom.webp of a phantom's DICOM segmentation, read by dcmqi and pydicom alone: `python docs/drawing/dicom_picture.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dcmqi
import matplotlib
import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmread

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

from tests.datasets.convert import dicom_files as files  # noqa: E402
from unet4d.datasets.find_studies import open_source  # noqa: E402
from unet4d.phantom.cine import CINE_LABELS, make_cine  # noqa: E402
from unet4d.report.dicom.result import Algorithm, DicomResult  # noqa: E402
from unet4d.report.dicom.write import write_dicom  # noqa: E402

FRAMES, SLICES = {"end-diastole": 0, "end-systole": 7}, (2, 4, 6)


def write_files(folder: Path) -> list[Path]:
    """Write a phantom's cine and its exact label as DICOM; return the segmentations, one per frame."""

    def place(dataset: Dataset, t: int, z: int) -> None:
        dataset.TriggerTime, dataset.SliceThickness = 40 * t, "8"

    study = make_cine(seed=3, frames=20)
    image, label = np.rint(study.image).astype(np.uint16), study.label
    files.save(files.single_frames(image, study.affine, place), folder / "images")
    [found] = open_source(folder / "images", layout="dicom").studies
    assert found.dicom is not None
    if np.dot(found.dicom.affine[:3, 2], study.affine[:3, 2]) < 0:  # slices come sorted along their normal
        label = label[..., ::-1]
    result = DicomResult(
        np.ascontiguousarray(label), found.dicom, CINE_LABELS, Algorithm({"model": "the phantom's exact label"})
    )
    return write_dicom(folder, "phantom", result, ["dicom-seg-frames"])


def read_segments(file: Path, folder: Path) -> list[tuple[np.ndarray, np.ndarray, list[float]]]:
    """Read a segmentation by dcmqi: voxels, affine and color of each segment."""
    tool = Path(dcmqi.__file__).parent / "bin" / "segimage2itkimage"
    folder.mkdir()
    words = ["--inputDICOM", file, "--outputDirectory", folder, "--outputType", "nii"]
    subprocess.run([tool, *words], check=True, capture_output=True)
    found = []
    for number, [about] in enumerate(json.loads((folder / "meta.json").read_text())["segmentAttributes"], 1):
        image = nib.load(folder / f"{number}.nii.gz")
        color = [channel / 255 for channel in about["recommendedDisplayRGBValue"]]
        found.append((np.asarray(image.dataobj) > 0, image.affine, color))
    return found


def mask_on(image: Dataset, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxels at the pixels of a source image, by their place in space alone."""
    x, y = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    down, along = image.PixelSpacing
    columns, rows = np.meshgrid(np.arange(image.Columns), np.arange(image.Rows))
    lps = np.array(image.ImagePositionPatient, float) + columns[..., None] * along * x + rows[..., None] * down * y
    at = np.rint(nib.affines.apply_affine(np.linalg.inv(affine), lps * (-1, -1, 1))).astype(int)
    inside = ((at >= 0) & (at < voxels.shape)).all(axis=-1)
    mask = np.zeros(inside.shape, bool)
    mask[inside] = voxels[tuple(at[inside].T)]
    return mask


def draw(axes: Any, image: Dataset, segments: list[tuple[np.ndarray, np.ndarray, list[float]]]) -> None:
    """Draw an image with its segments in their colors."""
    axes.imshow(image.pixel_array, cmap="gray")
    for voxels, affine, color in segments:
        mask = mask_on(image, voxels, affine)
        axes.imshow(np.dstack([*(np.full(mask.shape, channel) for channel in color), 0.45 * mask]))
    axes.set_axis_off()


def main() -> None:
    """Write the picture."""
    figure, grid = plt.subplots(len(FRAMES), len(SLICES), figsize=(7.5, 5.2), facecolor="black")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_files(folder)
        images = [dcmread(path) for path in (folder / "images").iterdir()]
        for (moment, t), row in zip(FRAMES.items(), grid, strict=True):
            segments = read_segments(written[t], folder / f"read{t}")
            frame = sorted(
                (image for image in images if image.TriggerTime == 40 * t),
                key=lambda image: image.ImagePositionPatient[2],
            )
            for axes, z in zip(row, SLICES, strict=True):
                draw(axes, frame[z], segments)
            row[0].set_title(moment, color="white", loc="left", fontsize=11)
    figure.tight_layout(pad=0.4)
    figure.savefig(
        ROOT / "docs" / "pictures" / "dicom.webp", dpi=110, facecolor="black", pil_kwargs={"quality": 80, "method": 6}
    )


if __name__ == "__main__":
    main()
