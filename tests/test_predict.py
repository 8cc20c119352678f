"""`unet4d predict`: studies in, label maps under their own headers out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet4d import load_model, read_image, segment, write_image
from unet4d.data.image4d import Image4D
from unet4d.errors import InputError
from unet4d.predict import predict

SHAPE = (18, 15, 5)
AFFINE = np.diag([-2.0, 2.0, 8.0, 1.0])
GEOMETRY_AND_TIME = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z", "toffset", "slice_duration", "slice_code", "slice_start", "slice_end",
    "dim_info", "dim", "descrip",
)  # fmt: skip


def label_of(path: Path) -> np.ndarray:
    """(X, Y, Z, T) as on disk."""
    return np.asarray(nib.load(path).dataobj)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (4, 0)])
def test_the_label_map_has_the_header_of_its_study(command, model_file, tmp_path, codes, study):
    study(tmp_path / "heart.nii.gz")
    image = nib.load(tmp_path / "heart.nii.gz")
    image.header.set_qform(image.affine, codes[0], strip_shears=True)
    image.header.set_sform(image.affine, codes[1])
    for field, value in (("toffset", 12.5), ("slice_duration", 3.0), ("slice_code", 1), ("descrip", b"cine")):
        image.header[field] = value
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), tmp_path / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out", "--device", "cpu")
    assert (done.code, done.error) == (0, "")
    assert done.told == f"1 label map and volumes.csv: {tmp_path / 'out'}\n"
    assert names_in(tmp_path / "out") == ["heart.nii.gz", "prediction.json", "volumes.csv"]
    came, source = (nib.load(tmp_path / where).header for where in ("out/heart.nii.gz", "heart.nii.gz"))
    for field in GEOMETRY_AND_TIME:
        np.testing.assert_array_equal(came[field], source[field], field)
    label = label_of(tmp_path / "out" / "heart.nii.gz")
    assert (label.dtype, label.shape) == (np.uint8, (*SHAPE, 3))
    assert {0, 3} < set(np.unique(label)) <= {0, 1, 2, 3}


def test_segment_gives_what_predict_writes(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    [path] = predict(model_file(), [tmp_path / "heart.nii.gz"], tmp_path / "out", precision="fp32")
    image = read_image(tmp_path / "heart.nii.gz")
    label = segment(load_model(tmp_path / "model.pt"), image, precision="fp32")
    assert (label.dtype, label.shape) == (np.uint8, (3, *SHAPE))
    np.testing.assert_array_equal(np.moveaxis(label_of(path), -1, 0), label)
    write_image(tmp_path / "own.nii.gz", label, like=image)
    assert (tmp_path / "own.nii.gz").read_bytes() == path.read_bytes()


def test_label_values_are_those_of_the_dataset_that_was_learnt(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    model = model_file(labels={"background": 0, "left ventricle": 30, "aorta": 200})
    [path] = predict(model, [tmp_path / "heart.nii.gz"], tmp_path / "out")
    assert set(np.unique(label_of(path))) == {0, 30, 200}
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    assert {(row["class"], row["value"]) for row in rows} == {("left ventricle", "30"), ("aorta", "200")}


def test_volumes_are_voxels_times_the_voxel_volume(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz", frames=2)
    [path] = predict(model_file(), [tmp_path / "heart.nii.gz"], tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    assert len(rows) == 2 * 3
    label, voxel_ml = label_of(path), abs(np.linalg.det(nib.load(path).affine[:3, :3])) / 1000
    for row in rows:
        voxels = np.count_nonzero(label[..., int(row["frame"])] == int(row["value"]))
        assert float(row["volume_ml"]) == pytest.approx(voxels * voxel_ml, abs=1e-6)
        assert float(row["time_s"]) == pytest.approx(0.0425 * int(row["frame"]))
        assert row["case"] == "heart"


def test_files_folders_and_datasets_can_be_given_together(command, model_file, phantom, tmp_path, study):
    study(tmp_path / "one.nii")
    for name in ("two.nii.gz", "three.nii.gz"):
        study(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("not a study")
    study(tmp_path / "folder" / ".hidden.nii.gz")
    inputs = [tmp_path / "one.nii", tmp_path / "folder", phantom]
    done = command("predict", model_file(), "-i", *inputs, "-o", tmp_path / "out")
    assert (done.code, done.error) == (0, "")
    names = ["one", "three", "two", "phantom001", "phantom002", "phantom003"]
    assert names_in(tmp_path / "out") == sorted([*(f"{n}.nii.gz" for n in names), "prediction.json", "volumes.csv"])
    cases = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]
    assert {name: case["time"] for name, case in cases.items()} == {
        name: "cyclic" if name.startswith("phantom") else "open" for name in names
    }


def test_the_test_cases_of_a_dataset_are_taken_where_it_has_some(model_file, own_phantom, tmp_path):
    about = json.loads((own_phantom / "dataset.json").read_text())
    about["test"] = [{"case": "new", "image": about["training"].pop()["image"]}]
    (own_phantom / "dataset.json").write_text(json.dumps(about))
    for given in (own_phantom, own_phantom / "dataset.json"):
        [path] = predict(model_file(), [given], tmp_path / "out")
        assert path.name == "new.nii.gz"


def test_channels_come_as_one_file_each(command, model_file, tmp_path, study):
    for case in ("heart_a", "heart_b"):
        for channel in range(2):
            study(tmp_path / "studies" / f"{case}_{channel:04d}.nii.gz", seed=channel)
    model = model_file(channel_names=("magnitude", "velocity"))
    assert command("predict", model, "-i", tmp_path / "studies", "-o", tmp_path / "out").code == 0
    assert names_in(tmp_path / "out")[:2] == ["heart_a.nii.gz", "heart_b.nii.gz"]
    files = [tmp_path / "studies" / f"heart_a_{channel:04d}.nii.gz" for channel in range(2)]
    wanted = segment(load_model(model), read_image(files))
    swapped = segment(load_model(model), read_image(files[::-1]))
    came = np.moveaxis(label_of(tmp_path / "out" / "heart_a.nii.gz"), -1, 0)
    np.testing.assert_array_equal(came, wanted)
    assert (came != swapped).any()


@pytest.mark.parametrize("shape", [(5, 4, 1), (40, 6, 9), (16, 16, 4)])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_study_of_any_size_is_segmented(model_file, tmp_path, shape, frames, study):
    study(tmp_path / "heart.nii.gz", frames, shape)
    [path] = predict(model_file(), [tmp_path / "heart.nii.gz"], tmp_path / "out")
    assert label_of(path).shape == nib.load(tmp_path / "heart.nii.gz").shape


def test_a_3d_study_gives_a_3d_label_map(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz", 1)
    flat = nib.load(tmp_path / "heart.nii.gz").slicer[..., 0]
    nib.save(flat, tmp_path / "flat.nii.gz")
    [path] = predict(model_file(), [tmp_path / "flat.nii.gz"], tmp_path / "out")
    assert label_of(path).shape == SHAPE


def test_time_is_as_asked_else_as_learnt(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    image = read_image(tmp_path / "heart.nii.gz")
    model = load_model(model_file(cyclic=True))
    cyclic, opened = (segment(model, image, time=time, precision="fp32") for time in ("cyclic", "open"))
    assert (cyclic != opened).any()
    np.testing.assert_array_equal(segment(model, image, precision="fp32"), cyclic)
    [path] = predict(
        tmp_path / "model.pt", [tmp_path / "heart.nii.gz"], tmp_path / "out", time="open", precision="fp32"
    )
    np.testing.assert_array_equal(np.moveaxis(label_of(path), -1, 0), opened)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["heart"]["time"] == "open"
    with pytest.raises(InputError, match="time is 'closed'; wanted cyclic or open"):
        segment(model, image, time="closed")


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_forward_network_under_open_time_is_causal(model_file, direction):
    model = load_model(model_file(direction=direction, normalisation="none"))
    array = np.random.default_rng(0).normal(size=(5, 16, 16, 4))
    later = array.copy()
    later[3:] += np.random.default_rng(1).normal(size=later[3:].shape)
    one, other = (segment(model, Image4D.from_array(a, AFFINE), time="open", precision="fp32") for a in (array, later))
    assert (one[3:] != other[3:]).any()
    assert np.array_equal(one[:3], other[:3]) == (direction == "forward")


def test_a_smaller_overlap_and_more_windows_at_once_change_little(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz", shape=(40, 36, 6))
    maps = []
    for name, options in (("a", {}), ("b", {"sw_batch_size": 5}), ("c", {"overlap": 0.25})):
        [path] = predict(model_file(), [tmp_path / "heart.nii.gz"], tmp_path / name, precision="fp32", **options)
        maps.append(label_of(path))
    assert (maps[0] == maps[1]).mean() > 0.999
    assert 0.6 < (maps[0] == maps[2]).mean() < 1.0


def test_a_trained_run_is_a_model(trained, phantom, tmp_path):
    written = predict(trained, [phantom], tmp_path / "out")
    assert [path.name for path in written] == [f"phantom00{n}.nii.gz" for n in (1, 2, 3)]
