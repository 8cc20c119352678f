"""Midsagittal real-time videos, as folders of pictures, to a dataset folder of single-slice 4D studies.

    ffmpeg -i sub001_2drt_01_vcv1_r1_video.mp4 frames/sub001_vcv1/%05d.png     # a folder a video, made beforehand
    python data/airway/prepare.py frames DATASET

The folder's name up to its first "_" is the subject. The airway is unlabelled: the studies are test cases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError, Unet4DError
from unet4d.images.image4d import Image4D, write_image
from unet4d.system.files import write_json
from unet4d.system.progress_bar import ProgressBar


def prepare(source: Path, out: Path, pixel_mm: float, thickness_mm: float, frame_duration_s: float) -> Path:
    """Write every video as (X, Y, 1, T): X towards the back, Y towards the head, as a midsagittal picture shows a face to the left.

    Raises:
        InputError: no video, or pictures of several sizes in one.
    """
    videos = [folder for folder in sorted(source.iterdir()) if folder.is_dir() and any(folder.glob("*.png"))]
    if not videos:
        raise InputError(f"{source} holds no folder of .png pictures; make one a video first, as --help shows")
    # voxel axes (X, Y, Z) to right, anterior, superior: back, up, and the slice's normal
    affine = np.array([[0, 0, thickness_mm, 0], [-pixel_mm, 0, 0, 0], [0, pixel_mm, 0, 0], [0, 0, 0, 1.0]])
    test = []
    with fill_dataset_folder(out):
        for folder in ProgressBar(videos, "airway", unit="video"):
            pictures = [_pixels(file) for file in sorted(folder.glob("*.png"))]
            sizes = {picture.shape for picture in pictures}
            if len(sizes) > 1:
                raise InputError(f"{folder} holds pictures of {sorted(sizes)} pixels; wanted one size a video")
            frames = np.stack(pictures)
            image = Image4D.from_array(frames[..., None], affine, frame_duration_s)
            write_image(out / "images" / f"{folder.name}.nii.gz", frames[..., None], like=image)
            entry = {"case": folder.name, "subject": folder.name.split("_")[0]}
            test.append({**entry, "image": f"images/{folder.name}.nii.gz"})
        about = {
            "name": "midsagittal real-time MRI of speech",
            "reference": "Lim et al., Scientific Data 8:187, 2021, doi 10.1038/s41597-021-00976-x",
            "channel_names": {"0": "real-time MRI"},
            "labels": {"background": 0, "airway": 1},
            "time": "open",
            "test": test,
        }
        write_json(out / "dataset.json", about)
    return out / "dataset.json"


def _pixels(file: Path) -> np.ndarray:
    """Read a picture as (X, Y) uint8: columns from left to right, rows from the bottom up."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))[::-1].T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pixel_mm", type=float, default=2.4)
    parser.add_argument("--thickness_mm", type=float, default=6.0)
    parser.add_argument("--frame_duration_s", type=float, default=1 / 83.28)
    given = parser.parse_args()
    try:
        print(prepare(given.source, given.out, given.pixel_mm, given.thickness_mm, given.frame_duration_s))
    except Unet4DError as error:
        parser.error(str(error))
