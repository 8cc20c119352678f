"""Segmentations: segments by name, cropped, layered, empty, in any orientation, on the image's grid or an error."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.errors import error_of
from tests.images.slicer import OBLIQUE, write_segmentation, write_sequence, write_volume
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.images.nrrd import read_nrrd_header
from unet4d.images.segmentations import Segment, label_values, named_segments, read_label_map, read_segmentation

GRID = (6, 5, 4)
LABELS = {"background": 0, "wall": 1, "blood": 2}
WALL_AND_BLOOD = [("wall", 1, 0), ("blood", 2, 0)]


@pytest.fixture
def image() -> Image4D:
    return Image4D.from_array(np.zeros((2, *GRID)), OBLIQUE)


def drawn() -> np.ndarray:
    """Return a wall around a voxel of blood, away from the border."""
    label = np.zeros(GRID, np.uint8)
    label[2:5, 1:4, 1:3] = 1
    label[3, 2, 1] = 2
    return label


def refusal(call, path: Path, *args) -> str:
    message = error_of(call, path, *args)
    assert path.name in message
    return message


def test_segments_are_mapped_by_name_not_by_value(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), [("blood", 2, 0), ("wall", 1, 0)])
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())
    np.testing.assert_array_equal(
        read_segmentation(path, {"wall": 7, "blood": 3}, image), np.choose(drawn(), [0, 7, 3])
    )


def test_names_are_compared_without_capitals_and_spaces(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), [(" WALL ", 1, 0), ("Blo od", 2, 0)])
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())
    assert label_values([path], LABELS) == LABELS


def test_names_keep_letters_that_are_not_ascii(tmp_path):
    """Pins names read as ASCII, which lost letters."""
    path = write_volume(tmp_path / "a.seg.nrrd", drawn())
    name = "Ventrículo"
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head + f"\nSegment0_Name:={name}\nSegment0_LabelValue:=1\n\n".encode() + voxels)
    assert label_values([path], None) == {"background": 0, name: 1}
    np.testing.assert_array_equal(read_nrrd_header(path).read()[0], drawn())


def test_a_cropped_segmentation_is_put_back(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, crop=True)
    assert read_nrrd_header(path).grid == (3, 3, 2)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (1, 1, -1), (-1, 1, -1)])
def test_axes_in_another_order_or_sense_are_turned_back(axes, flips, image, tmp_path):
    """3D Slicer loads a left-handed image with its last axis reversed, and saves segmentations so."""
    turn = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    turned = nib.orientations.apply_orientation(drawn(), turn)
    affine = OBLIQUE @ nib.orientations.inv_ornt_aff(turn, GRID)
    path = write_segmentation(tmp_path / "a.seg.nrrd", turned, WALL_AND_BLOOD, affine, crop=True)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())


def test_an_empty_margin_beyond_the_image_is_cropped(image, tmp_path):
    affine = OBLIQUE.copy()
    affine[:3, 3] = (OBLIQUE @ [-1, 0, -2, 1])[:3]
    wide = np.zeros((9, 5, 6), np.uint8)
    wide[1:7, :, 2:] = drawn()
    path = write_segmentation(tmp_path / "a.seg.nrrd", wide, WALL_AND_BLOOD, affine)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())
    wide[0, 0, 0] = wide[8, 0, 3] = 1
    path = write_segmentation(tmp_path / "a.seg.nrrd", wide, WALL_AND_BLOOD, affine)
    assert "2 labelled voxels outside the image" in refusal(read_segmentation, path, LABELS, image)


@pytest.mark.parametrize("away", [(9, 0, 0), (-9, 0, 0), (0, 0, 4)])
def test_a_segmentation_wholly_beside_the_image_is_refused(away, image, tmp_path):
    affine = OBLIQUE.copy()
    affine[:3, 3] = (OBLIQUE @ [*away, 1])[:3]
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, affine)
    assert "18 labelled voxels outside" in refusal(read_segmentation, path, LABELS, image)


def test_another_lattice_is_refused_and_both_are_named(image, tmp_path):
    affine = OBLIQUE.copy()
    affine[:3, 3] = (OBLIQUE @ [0.25, 0, 0, 1])[:3]
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, affine)
    said = refusal(read_segmentation, path, LABELS, image)
    assert f"6 x 5 x 4 of {np.linalg.norm(OBLIQUE[:3, 0]):.6g} x" in said
    assert "mm from 39.525 30.05 -19.925) up to 0.25 voxels off those of the image (6 x 5 x 4" in said
    assert "mm from 40 30 -20)" in said


@pytest.mark.parametrize("scale", [0.5, 1.01, 2.0])
def test_another_spacing_is_refused(scale, image, tmp_path):
    affine = OBLIQUE @ np.diag([1, 1, scale, 1])
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, affine)
    assert "voxels off" in refusal(read_segmentation, path, LABELS, image)


def test_rounding_of_the_header_is_no_other_lattice(image, tmp_path):
    affine = OBLIQUE.copy()
    affine[:3] += 1e-4
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, affine, crop=True)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())


@pytest.mark.parametrize("order", [("heart", "blood"), ("blood", "heart")])
def test_of_overlapping_segments_the_later_wins(order, image, tmp_path):
    """By hand: heart covers voxels 0 to 3 of a row, blood 2 to 4; they share 2 and 3."""
    cover = {"heart": slice(0, 4), "blood": slice(2, 5)}
    layers = np.zeros((2, *GRID), np.uint8)
    for layer, name in enumerate(order):
        layers[layer, cover[name], 0, 0] = 1
    path = write_segmentation(tmp_path / "a.seg.nrrd", layers, [(order[0], 1, 0), (order[1], 1, 1)])
    row = read_segmentation(path, {"heart": 1, "blood": 2}, image)[:, 0, 0]
    assert row.tolist() == ([1, 1, 2, 2, 2, 0] if order[1] == "blood" else [1, 1, 1, 1, 2, 0])


def test_layers_of_several_segments_are_put_back_cropped(image, tmp_path):
    layers = np.zeros((2, *GRID), np.uint8)
    layers[0], layers[1, 5, 4, 3] = drawn(), 1
    segments = [*WALL_AND_BLOOD, ("mark", 1, 1)]
    path = write_segmentation(tmp_path / "a.seg.nrrd", layers, segments, crop=True)
    wanted = drawn()
    wanted[5, 4, 3] = 3
    np.testing.assert_array_equal(read_segmentation(path, {**LABELS, "mark": 3}, image), wanted)


def test_segments_of_slicer_4_have_a_layer_each(image, tmp_path):
    layers = np.stack([drawn() == 1, drawn() == 2])
    fields = {f"Segment{n}_{what}": None for n in (0, 1) for what in ("Layer", "LabelValue")}
    path = write_segmentation(tmp_path / "a.seg.nrrd", layers, [("wall", 1, 0), ("blood", 1, 1)], **fields)
    assert named_segments(read_nrrd_header(path)) == (Segment("wall", 1, 0), Segment("blood", 1, 1))
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), drawn())


def test_a_single_voxel_of_0_is_an_empty_segmentation(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", np.zeros((1, 1, 1)), [("wall", 1, 0)], np.eye(4))
    assert not read_segmentation(path, LABELS, image).any()


def test_a_single_labelled_voxel_is_kept(image, tmp_path):
    """Pins a drawn voxel, cropped to itself, that was taken for an empty segmentation."""
    label = np.zeros(GRID, np.uint8)
    label[4, 1, 2] = 2
    path = write_segmentation(tmp_path / "a.seg.nrrd", label, WALL_AND_BLOOD, crop=True)
    assert read_nrrd_header(path).grid == (1, 1, 1)
    np.testing.assert_array_equal(read_segmentation(path, LABELS, image), label)
    path = write_segmentation(tmp_path / "b.seg.nrrd", np.ones((1, 1, 1)), WALL_AND_BLOOD, np.eye(4))
    assert "voxels off" in refusal(read_segmentation, path, LABELS, image)


@pytest.mark.parametrize("key", ["Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation"])
def test_a_fractional_segmentation_is_refused(key, image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), WALL_AND_BLOOD, **{key: "Fractional labelmap"})
    assert "expected a binary label map" in refusal(read_segmentation, path, LABELS, image)


def test_voxels_of_no_segment_are_refused(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), [("wall", 1, 0)])
    assert "1 voxels with the values [2] of no segment, expected those of wall (1)" in refusal(
        read_segmentation, path, LABELS, image
    )
    path = write_segmentation(tmp_path / "b.seg.nrrd", drawn(), [])
    assert "18 voxels with the values [1, 2] of no segment" in refusal(read_segmentation, path, LABELS, image)


def test_a_segment_of_a_layer_that_is_not_there_is_refused(image, tmp_path):
    path = write_segmentation(tmp_path / "a.seg.nrrd", drawn(), [("wall", 1, 0), ("blood", 2, 1)])
    assert "got layer 1 for its segment 'blood', expected one of 0 to 0" in refusal(
        read_segmentation, path, LABELS, image
    )
    path = write_segmentation(tmp_path / "b.seg.nrrd", drawn(), WALL_AND_BLOOD, Segment1_LabelValue="two")
    assert "Segment1_LabelValue is 'two', expected a whole number" in refusal(read_segmentation, path, LABELS, image)


def test_values_follow_the_first_appearance_of_names(tmp_path):
    first = write_segmentation(tmp_path / "1.seg.nrrd", drawn(), [("right", 5, 0), ("left", 2, 0)])
    second = write_segmentation(tmp_path / "2.seg.nrrd", drawn(), [("atrium", 1, 0), ("Left", 2, 0)])
    files = [first, tmp_path / "x.nii.gz", second]
    assert label_values(files, None) == {"background": 0, "right": 1, "left": 2, "atrium": 3}
    assert list(label_values([second, first], None)) == ["background", "atrium", "Left", "right"]
    assert label_values([tmp_path / "x.nii.gz"], None) == label_values([], None) == {}


def test_a_damaged_header_names_nothing_and_is_an_error_where_it_is_read(image, tmp_path):
    good = write_segmentation(tmp_path / "1.seg.nrrd", drawn(), [("left", 2, 0)])
    (tmp_path / "2.seg.nrrd").write_bytes(good.read_bytes()[:60])
    assert label_values([tmp_path / "2.seg.nrrd", good], None) == {"background": 0, "left": 1}
    assert "2.seg.nrrd" in refusal(read_segmentation, tmp_path / "2.seg.nrrd", LABELS, image)


def test_a_segment_named_background_is_background(tmp_path):
    path = write_segmentation(tmp_path / "1.seg.nrrd", drawn(), [("Background", 1, 0), ("blood", 2, 0)])
    assert label_values([path], None) == {"background": 0, "blood": 1}


def test_eleven_segments_come_in_the_order_of_their_numbers(tmp_path):
    path = write_segmentation(tmp_path / "1.seg.nrrd", np.zeros(GRID), [(f"s{n}", n + 1, 0) for n in range(11)])
    assert list(label_values([path], None))[1:] == [f"s{n}" for n in range(11)]


def test_given_labels_get_a_background_and_their_order(tmp_path):
    assert label_values([], {"b": 2, "a": 1}) == {"background": 0, "a": 1, "b": 2}
    assert label_values([], {"air": 0, "a": 1}) == {"air": 0, "a": 1}
    assert list(label_values([], {"b": 2, "a": 1})) == ["background", "a", "b"]
    for labels in ({"a": 1, " A": 2}, {"background": 1}, {"Background": 3, "a": 1}):
        with pytest.raises(InputError, match="expected every name once"):
            label_values([], labels)


def test_an_unknown_segment_is_refused_with_the_nearest_names(tmp_path):
    path = write_segmentation(tmp_path / "1.seg.nrrd", drawn(), [("wal", 1, 0)])
    said = refusal(lambda p: label_values([p], LABELS), path)
    assert "got a segment 'wal' (near: wall), expected one of background, wall, blood" in said


def test_label_maps_are_read_alike_from_every_format(image, tmp_path):
    series = np.stack([drawn(), drawn()[::-1]])
    nib.save(nib.Nifti1Image(drawn(), OBLIQUE), tmp_path / "a_seg.nii.gz")
    write_volume(tmp_path / "a_seg.nrrd", drawn())
    write_segmentation(tmp_path / "named_seg.nrrd", drawn() * 4, [("blood", 8, 0), ("wall", 4, 0)])
    for name in ("a_seg.nii.gz", "a_seg.nrrd", "named_seg.nrrd"):
        np.testing.assert_array_equal(read_label_map(tmp_path / name, LABELS, image), drawn()[None], err_msg=name)
    segments = {
        "Segment0_Name": "blood",
        "Segment0_LabelValue": "8",
        "Segment1_Name": "wall",
        "Segment1_LabelValue": "4",
    }
    segments |= {"Segment0_Layer": "0", "Segment1_Layer": "0"}
    for list_axis in (0, 3):
        path = write_sequence(tmp_path / "b.seq.nrrd", series, list_axis=list_axis)
        np.testing.assert_array_equal(read_label_map(path, LABELS, image), series)
        path = write_sequence(tmp_path / "c.seq.nrrd", series * 4, list_axis=list_axis, **segments)
        np.testing.assert_array_equal(read_label_map(path, LABELS, image), series)


@pytest.mark.parametrize("value", [-1, 256, 0.5, np.nan, np.inf])
def test_label_maps_of_other_than_whole_numbers_are_refused(value, image, tmp_path):
    voxels = drawn().astype(np.float32)
    voxels[0, 0, 0] = value
    path = write_volume(tmp_path / "a_seg.nrrd", voxels, encoding="raw")
    assert "no whole numbers from 0 to 255" in refusal(read_label_map, path, LABELS, image)


@pytest.mark.parametrize("name", ["a_seg.nrrd", "a_seg.nii.gz"])
def test_values_without_a_name_are_refused(name, image, tmp_path):
    path = tmp_path / name
    if name.endswith("nrrd"):
        write_volume(path, drawn())
    else:
        nib.save(nib.Nifti1Image(drawn(), OBLIQUE), path)
    said = refusal(read_label_map, path, {"background": 0, "wall": 1}, image)
    assert "got label values [2], expected 0 (background), 1 (wall); name them in labels" in said
    assert "got label values [1, 2], expected names" in refusal(read_label_map, path, {}, image)
