"""The page: complete, closed in itself, safe against what is in names, and honest about what it lacks."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unet4d.data.image4d import Image4D, write_image
from unet4d.errors import InputError
from unet4d.evaluate import evaluate
from unet4d.report import report

NAMES = {"background": 0, "left ventricle": 1, "valve <b>&": 3}


class Page(HTMLParser):
    """Tags, texts and addresses of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.words += data + " "


def image(frames: int = 3, seconds: float | None = 0.05) -> Image4D:
    noise = np.random.default_rng(0).normal(100, 20, (frames, 14, 12, 3))
    return Image4D.from_array(noise, np.diag([2.0, 2.0, 10.0, 1.0]), seconds)


def label(frames: int = 3) -> np.ndarray:
    """Left ventricle of 60, 40, 20 voxels of 0.04 mL; the valve in frame 0 alone."""
    drawn = np.zeros((frames, 14, 12, 3), np.uint8)
    for t in range(frames):
        drawn[t, 3:8, 3 : 9 - 2 * (t % 3), :2] = 1
    drawn[0, 11, 10, 1] = 3
    return drawn


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset with one case, frame 0 labelled, and a prediction for it."""
    root, predictions = tmp_path / "dataset", tmp_path / "predictions"
    study = image()
    write_image(root / "images/heart.nii.gz", study.array[0], like=study)
    write_image(root / "labels/heart.nii.gz", label(), like=study)
    case = {"case": "heart", "image": "images/heart.nii.gz", "label": "labels/heart.nii.gz", "labelled_frames": [0]}
    entry = {"name": "A & B", "channel_names": {"0": "MRI"}, "labels": NAMES, "training": [case]}
    (root / "dataset.json").write_text(json.dumps(entry))
    write_image(predictions / "heart.nii.gz", label(), like=study)
    return root, predictions


def test_page_is_closed_in_itself_and_complete(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "evaluation")
    path = report(root, predictions, tmp_path / "out", tmp_path / "evaluation")
    assert path == tmp_path / "out/index.html"
    page = Page(path)
    assert page.tags.count("img") == 3  # loop, contours, curves
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "http" not in re.sub(r"data:[^\"]*", "", path.read_text())
    for words in (
        "A & B",
        "heart",
        "left ventricle",
        "valve <b>&",
        "not for diagnosis",
        "n_both_empty",
        "0.05 s a frame",
    ):
        assert words in page.words
    assert "mean foreground Dice 1.000" in page.words
    pictures = sorted(file.name for file in (tmp_path / "out/pictures").iterdir())
    assert pictures == ["heart_contours.png", "heart_loop.webp", "heart_volumes.png"]


def test_volumes_and_what_is_missing_are_told(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    words = Page(report(root, predictions, tmp_path / "out")).words
    drawn = [float((frame == 1).sum()) * 0.04 for frame in label()]
    assert f"{max(drawn):.1f} mL" in words
    assert f"{min(drawn):.1f} mL" in words
    change = 100 * (max(drawn) - min(drawn)) / max(drawn)
    assert f"{change:.0f} % (ejection fraction)" in words
    assert words.count("(ejection fraction)") == 1  # a valve ejects nothing
    assert "valve <b>&: nothing found in frames 1, 2." in words
    assert "Against the reference" not in words


def test_a_folder_of_studies_needs_no_dataset(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    assert "class 1" in Page(report(root / "images", predictions, tmp_path / "out")).words
    (predictions / "prediction.json").write_text(json.dumps({"labels": NAMES, "time": "cyclic"}))
    one = report(root / "images/heart.nii.gz", predictions / "heart.nii.gz", tmp_path / "one")
    assert "left ventricle" in Page(one).words


def test_a_single_frame_without_time_has_no_curve(tmp_path: Path):
    study = image(1, None)
    write_image(tmp_path / "images/still.nii.gz", study.array[0], like=study)
    write_image(tmp_path / "found/still.nii.gz", label(1), like=study)
    page = Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out"))
    assert page.tags.count("img") == 1
    assert "unknown" in page.words


def test_several_channels_are_found_by_their_number(tmp_path: Path):
    study = image()
    for channel in ("0000", "0001"):
        write_image(tmp_path / f"images/heart_{channel}.nii.gz", study.array[0], like=study)
    write_image(tmp_path / "found/heart.nii.gz", label(), like=study)
    assert "heart" in Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out")).words


def test_a_suffix_in_capitals_is_one_too(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    for file in (root / "images/heart.nii.gz", predictions / "heart.nii.gz"):
        file.rename(file.with_name("heart.NII.GZ"))
    for given in ((root / "images", predictions), (root / "images/heart.NII.GZ", predictions / "heart.NII.GZ")):
        assert "heart" in Page(report(*given, tmp_path / "out")).words


def test_references_left_out_of_the_scores_are_told(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "evaluation")
    summary = json.loads((tmp_path / "evaluation/summary.json").read_text())
    (tmp_path / "evaluation/summary.json").write_text(json.dumps(summary | {"without_prediction": ["liver", "lung"]}))
    words = Page(report(root, predictions, tmp_path / "out", tmp_path / "evaluation")).words
    assert "1 labelled frames (2 references without prediction left out);" in words


def test_bad_input_is_told_in_one_line(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    out = tmp_path / "out"
    for folder in (predictions, tmp_path / "missing"):
        with pytest.raises(InputError, match=rf"{folder.name}/summary\.json is missing.*folder of `unet4d evaluate`"):
            report(root, predictions, out, evaluation=folder)
    with pytest.raises(InputError, match=r"no \.nii"):
        report(root, root, out)
    write_image(predictions / "liver.nii.gz", label(), like=image())
    with pytest.raises(InputError, match=r"no study for liver"):
        report(root, predictions, out)
    (predictions / "liver.nii.gz").unlink()
    write_image(predictions / "heart.nii.gz", label(2), like=image(2))
    with pytest.raises(InputError, match=r"has 2 frames, its study 3"):
        report(root, predictions, out)
    assert not (out / "index.html").exists()
