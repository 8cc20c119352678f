"""Label maps for 3D Slicer and ITK-SNAP: read back by this package's readers and by pynrrd, voxel for voxel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.images.slicer import OBLIQUE, nrrd, write_volume
from tests.images.slicer import write_sequence as write_image_sequence
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS
from unet4d.datasets.convert.layouts import open_layout
from unet4d.errors import InputError, Unet4DError
from unet4d.images.image4d import Image4D
from unet4d.images.label_writers import (
    LabelClass,
    write_color_table,
    write_label_descriptions,
    write_segmentation,
    write_sequence,
)
from unet4d.images.nrrd import read_nrrd_header, read_nrrd_image
from unet4d.images.segmentations import named_segments, read_label_map, read_segmentation

CLASSES = [LabelClass("left ventricle", 3, "#CC79A7"), LabelClass("aorta \u00e4", 200, "#ff8000")]
LABELS = {"background": 0, "left ventricle": 3, "aorta \u00e4": 200}
FLIPPED = np.diag([-1.5, 1.25, -8.0, 1.0])
FLIPPED[:3, 3] = 0.1, -20.7, 1e3 / 3
TURNED = OBLIQUE[:, [2, 0, 1, 3]]
AFFINES = pytest.mark.parametrize(
    "affine", [np.eye(4), OBLIQUE, FLIPPED, TURNED], ids=["plain", "oblique", "flipped", "turned"]
)


@pytest.fixture
def label() -> np.ndarray:
    """Return (T, X, Y, Z), random, so that no two axes or senses are alike."""
    return np.random.default_rng(0).choice(np.uint8([0, 3, 200]), (3, 5, 4, 2))


@AFFINES
@pytest.mark.parametrize("duration", [None, 0.0425])
def test_a_sequence_comes_back_as_it_was(tmp_path, label, affine, duration):
    path = tmp_path / "heart.seq.nrrd"
    write_sequence(path, label, affine, CLASSES, duration)
    image = read_nrrd_image(path)
    np.testing.assert_array_equal(image.array[0], label)
    np.testing.assert_array_equal(read_nrrd_header(path).affine, affine)
    assert image.frame_duration_s == (None if duration is None else pytest.approx(duration))
    voxels, header = nrrd.read(str(path))
    np.testing.assert_array_equal(voxels, label)
    assert (voxels.dtype, header["kinds"]) == (np.uint8, ["list", "domain", "domain", "domain"])
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_array_equal(header["space directions"][1:], (np.diag([-1, -1, 1]) @ affine[:3, :3]).T)
    assert np.isnan(header["space directions"][0]).all()
    np.testing.assert_array_equal(header["space origin"], affine[:3, 3] * [-1, -1, 1])
    assert header["DataNodeClassName"] == "vtkMRMLLabelMapVolumeNode"
    times = header["axis 0 index values"].split()
    assert [float(time) for time in times] == pytest.approx([t * (duration or 1) for t in range(3)])
    assert (header["labels"][0], header.get("units", [""])[0]) == (("frame", "") if duration is None else ("time", "s"))


@AFFINES
def test_a_segmentation_comes_back_as_it_was(tmp_path, label, affine):
    path = tmp_path / "heart_frame000.seg.nrrd"
    image = Image4D.from_array(np.zeros((1, 5, 4, 2)), affine)
    frame = np.where(label[0] == 200, 0, label[0]).astype(np.uint8)  # without the one class
    frame[3:] = 0
    write_segmentation(path, frame, affine, CLASSES)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), frame)
    np.testing.assert_array_equal(read_nrrd_header(path).affine, affine)
    voxels, header = nrrd.read(str(path))
    np.testing.assert_array_equal(voxels, frame)
    drawn = np.argwhere(frame == 3)
    ends = itertools.chain.from_iterable(zip(drawn.min(0), drawn.max(0), strict=True))
    assert header["Segment0_Extent"] == " ".join(map(str, ends))
    assert header["Segment1_Extent"] == "0 -1 0 -1 0 -1"
    assert [float(part) for part in header["Segment1_Color"].split()] == pytest.approx([1, 128 / 255, 0], abs=1e-6)
    for name, value in (
        ("Segment0_ID", "Segment_3"), ("Segment0_Name", "left ventricle"), ("Segment0_LabelValue", "3"), ("Segment0_Layer", "0"),
        ("Segment1_LabelValue", "200"), ("Segmentation_SourceRepresentation", "Binary labelmap"),
        ("Segmentation_MasterRepresentation", "Binary labelmap"), ("Segmentation_ReferenceImageExtentOffset", "0 0 0"),
        ("Segmentation_ContainedRepresentationNames", "Binary labelmap|"),
    ):  # fmt: skip
        assert header[name] == value, name


def test_names_in_any_letters_are_kept(tmp_path, label):
    write_sequence(tmp_path / "a.seq.nrrd", label, OBLIQUE, CLASSES)
    write_segmentation(tmp_path / "a.seg.nrrd", label[0], OBLIQUE, CLASSES)
    for name in ("a.seq.nrrd", "a.seg.nrrd"):
        segments = named_segments(read_nrrd_header(tmp_path / name))
        assert [(one.name, one.value, one.layer) for one in segments] == [
            ("left ventricle", 3, 0),
            ("aorta \u00e4", 200, 0),
        ]


def test_a_frame_without_any_class_and_a_name_with_a_line_break(tmp_path):
    frame = np.zeros((5, 4, 2), np.uint8)
    write_segmentation(tmp_path / "a.seg.nrrd", frame, OBLIQUE, [LabelClass("left\n atrium", 1, "#000000")])
    image = Image4D.from_array(np.zeros((1, 5, 4, 2)), OBLIQUE)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.seg.nrrd", {"left atrium": 1}, image), frame)


def test_converted_beside_its_image_a_sequence_is_the_label(tmp_path, label):
    """A file that predict wrote, taken into a dataset by `unet4d convert sequence`."""
    write_image_sequence(tmp_path / "cine.seq.nrrd", label.astype(np.int16) + 1)
    write_sequence(tmp_path / "cine.seg.seq.nrrd", label, OBLIQUE, CLASSES, 0.04)
    [study] = open_layout("sequence", tmp_path, NO_LAYOUT_OPTIONS).studies
    image = study.image()
    values = open_layout("sequence", tmp_path, NO_LAYOUT_OPTIONS).labels
    assert list(values) == ["background", "left ventricle", "aorta \u00e4"]
    assert study.label is not None
    came, labelled = study.label(image)
    np.testing.assert_array_equal(came, np.searchsorted([0, 3, 200], label))  # named, so numbered anew from 1
    assert labelled is None
    np.testing.assert_array_equal(read_label_map(tmp_path / "cine.seg.seq.nrrd", LABELS, image), label)


def test_converted_beside_their_images_segmentations_are_the_label(tmp_path, label):
    for t in range(3):
        write_volume(tmp_path / "anna" / f"heart_frame{t:03d}.nrrd", label[t].astype(np.int16) + 1)
        write_segmentation(tmp_path / "anna" / f"heart_frame{t:03d}.seg.nrrd", label[t], OBLIQUE, CLASSES)
    [study] = open_layout("frames", tmp_path, NO_LAYOUT_OPTIONS).studies
    assert study.label is not None
    came, _ = study.label(study.image())
    np.testing.assert_array_equal(came, np.searchsorted([0, 3, 200], label))


def test_the_same_label_map_gives_the_same_bytes(tmp_path, label):
    for name in "ab":
        write_sequence(tmp_path / name, label, OBLIQUE, CLASSES, 0.04)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_arrays_than_label_maps_are_refused(tmp_path, label):
    with pytest.raises(InputError, match=r"uint8 and shape \(5, 4, 2\), expected \(T, X, Y, Z\) uint8"):
        write_sequence(tmp_path / "a.seq.nrrd", label[0], OBLIQUE, CLASSES)
    with pytest.raises(InputError, match="an array of float32"):
        write_segmentation(tmp_path / "a.seg.nrrd", label[0].astype(np.float32), OBLIQUE, CLASSES)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unet4DError, match="could not write"):
        write_sequence(tmp_path / "file" / "a.seq.nrrd", label, OBLIQUE, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def read_rows(path: Path) -> list[list[str]]:
    return [
        line.split(maxsplit=7) for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]


def test_label_descriptions_of_itk_snap(tmp_path):
    """Columns as ITK-SNAP writes and reads them: IDX R G B A VIS MSH "LABEL"."""
    classes = [LabelClass("left ventricle", 3, "#CC79A7"), LabelClass('the "apex"', 12, "#0072B2")]
    write_label_descriptions(tmp_path / "labels.txt", classes)
    assert read_rows(tmp_path / "labels.txt") == [
        ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"'],
        ["3", "204", "121", "167", "1", "1", "1", '"left ventricle"'],
        ["12", "0", "114", "178", "1", "1", "1", "\"the 'apex'\""],
    ]
    assert (
        (tmp_path / "labels.txt")
        .read_text()
        .startswith("################################################\n# ITK-SnAP Label")
    )


def test_a_color_table_of_3d_slicer(tmp_path):
    write_color_table(tmp_path / "labels.ctbl", CLASSES[:1])
    assert read_rows(tmp_path / "labels.ctbl") == [
        ["0", "background", "0", "0", "0", "0"],
        ["3", "left_ventricle", "204", "121", "167", "255"],
    ]
    assert (tmp_path / "labels.ctbl").read_text().startswith("# Color table file\n")
