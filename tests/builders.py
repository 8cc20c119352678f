"""Small studies and datasets that many tests build."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from unet4d.datasets.dataset import Dataset, read_dataset
from unet4d.images.image4d import Image4D, write_image
from unet4d.phantom import write_phantom

DatasetMaker = Callable[..., Dataset]


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two phantom subjects of 4 frames on (40, 36, 5), two frames labelled; to be read only."""
    return read_dataset(write_phantom(tmp_path_factory.mktemp("phantom"), 2, 4, labelled="two", shape=(40, 36, 5)))


@pytest.fixture
def write_case(tmp_path: Path) -> DatasetMaker:
    """A function that writes one study as a dataset folder and reads it back."""

    def write(
        image: np.ndarray,
        label: np.ndarray,
        name: str = "study",
        spacing: Sequence[float] = (1.0, 1.0, 8.0),
        values: Sequence[int] = (0, 1),
        labelled_frames: Sequence[int] | None = None,
    ) -> Dataset:
        like = Image4D.from_array(image, np.diag([*spacing, 1.0]), 0.05)
        files = [f"{name}_{channel}.nii" for channel in range(len(image))]
        for file, channel in zip(files, image, strict=True):
            write_image(tmp_path / file, channel.astype(np.float32), like=like)
        write_image(tmp_path / f"{name}_label.nii", label, like=like)
        entry: dict = {"case": name, "image": files, "label": f"{name}_label.nii"}
        if labelled_frames is not None:
            entry["labelled_frames"] = list(labelled_frames)
        about = {
            "channel_names": {str(channel): f"channel {channel}" for channel in range(len(image))},
            "labels": {"background" if value == 0 else f"class {value}": value for value in values},
            "training": [entry],
        }
        (tmp_path / "dataset.json").write_text(json.dumps(about))
        return read_dataset(tmp_path)

    return write
