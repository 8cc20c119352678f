"""`unet4d predict`: studies in, label maps under their own headers out."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.builders import change_dataset, edit_dataset
from tests.predictions import names_in, rows_of
from unet4d import load_model, read_image, segment, write_image
from unet4d.config import InferenceConfig
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.subject_folds import split_cases
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.inference.options import InferenceOptions, warn_of_untrained_mirroring
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import load_checkpoint

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


BESIDE = ["labels.txt", "measures.csv", "prediction.json", "volumes.csv"]


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
    told, measures, last = done.told.splitlines()
    assert re.fullmatch(r"done\theart\tframes=3\tseconds=\d+\.\d\d", told)
    assert re.match(r"heart: right ventricle EDV \S+ mL, ESV \S+ mL, SV \S+ mL, EF \S+ %; myocardium mass ", measures)
    assert last == f"1 label map and volumes.csv: {tmp_path / 'out'}"
    assert names_in(tmp_path / "out") == ["heart.nii.gz", *BESIDE]
    came, source = (nib.load(tmp_path / where).header for where in ("out/heart.nii.gz", "heart.nii.gz"))
    for field in GEOMETRY_AND_TIME:
        np.testing.assert_array_equal(came[field], source[field], field)
    label = label_of(tmp_path / "out" / "heart.nii.gz")
    assert (label.dtype, label.shape) == (np.uint8, (*SHAPE, 3))
    assert {0, 3} < set(np.unique(label)) <= {0, 1, 2, 3}


def test_segment_gives_what_predict_writes(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    [path] = predict(model_file(), [tmp_path / "heart.nii.gz"], tmp_path / "out", InferenceOptions(precision="fp32"))
    image = read_image(tmp_path / "heart.nii.gz")
    label = segment(load_model(tmp_path / "model.pt"), image, precision="fp32")
    assert (label.dtype, label.shape) == (np.uint8, (3, *SHAPE))
    np.testing.assert_array_equal(np.moveaxis(label_of(path), -1, 0), label)
    write_image(tmp_path / "own.nii.gz", label, like=image)
    assert (tmp_path / "own.nii.gz").read_bytes() == path.read_bytes()


def test_label_values_are_those_of_the_dataset_that_was_cyclic(model_file, tmp_path, study):
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
    assert names_in(tmp_path / "out") == sorted([*(f"{n}.nii.gz" for n in names), *BESIDE])
    cases = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]
    assert {name: case["time"] for name, case in cases.items()} == {
        name: "cyclic" if name.startswith("phantom") else "open" for name in names
    }


def test_the_test_cases_of_a_dataset_are_taken_where_it_has_some(model_file, own_phantom, tmp_path):
    with edit_dataset(own_phantom) as about:
        about["test"] = [{"case": "new", "image": about["training"].pop()["image"]}]
    for given in (own_phantom, own_phantom / "dataset.json"):
        [path] = predict(model_file(), [given], tmp_path / "out")
        assert path.name == "new.nii.gz"


def test_channels_come_as_one_file_each(command, model_file, tmp_path, study):
    for case in ("heart_a", "heart_b"):
        for channel in range(2):
            study(tmp_path / "studies" / f"{case}_{channel:04d}.nii.gz", seed=channel)
    model = model_file(channel_names=("magnitude", "velocity"))
    assert command("predict", model, "-i", tmp_path / "studies", "-o", tmp_path / "out").code == 0
    assert names_in(tmp_path / "out") == ["heart_a.nii.gz", "heart_b.nii.gz", *BESIDE]
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


def test_time_is_as_asked_else_as_cyclic(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    image = read_image(tmp_path / "heart.nii.gz")
    model = load_model(model_file(cyclic=True))
    cyclic, opened = (segment(model, image, time=time, precision="fp32") for time in ("cyclic", "open"))
    assert (cyclic != opened).any()
    np.testing.assert_array_equal(segment(model, image, precision="fp32"), cyclic)
    settings = InferenceOptions(time="open", precision="fp32")
    [path] = predict(tmp_path / "model.pt", [tmp_path / "heart.nii.gz"], tmp_path / "out", settings)
    np.testing.assert_array_equal(np.moveaxis(label_of(path), -1, 0), opened)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["heart"]["time"] == "open"
    with pytest.raises(InputError, match="time is 'closed', expected cyclic or open"):
        segment(model, image, time="closed")
    with pytest.raises(InputError, match="time 'open' and 'cyclic' in options"):
        segment(model, image, time="open", options=InferenceOptions(time="cyclic"))
    with pytest.raises(InputError, match="precision 'fp16' and 'fp32' in options"):
        segment(model, image, precision="fp16", options=InferenceOptions(precision="fp32"))
    filled = segment(model, image, time="open", options=InferenceOptions(precision="fp32"))
    np.testing.assert_array_equal(filled, opened)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_forward_network_under_open_time_is_causal(model_file, direction):
    model = load_model(model_file(direction=direction, normalization="none"))
    array = np.random.default_rng(0).normal(size=(5, 16, 16, 4))
    later = array.copy()
    later[3:] += np.random.default_rng(1).normal(size=later[3:].shape)
    one, other = (segment(model, Image4D.from_array(a, AFFINE), time="open", precision="fp32") for a in (array, later))
    assert (one[3:] != other[3:]).any()
    assert np.array_equal(one[:3], other[:3]) == (direction == "forward")


def test_more_windows_at_once_change_little_and_the_overlap_is_as_asked(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz", shape=(40, 36, 6))
    maps = []
    for name, options in (("a", {}), ("b", {"sw_batch_size": 5}), ("c", {"overlap": 0.25})):
        [path] = predict(
            model_file(), [tmp_path / "heart.nii.gz"], tmp_path / name, InferenceOptions(precision="fp32", **options)
        )
        maps.append(np.moveaxis(label_of(path), -1, 0))
    assert (maps[0] == maps[1]).mean() > 0.999
    assert (maps[0] != maps[2]).any()
    model = load_model(tmp_path / "model.pt")
    model = replace(model, config=replace(model.config, inference=InferenceConfig(overlap=0.25)))
    wanted = segment(model, read_image(tmp_path / "heart.nii.gz"), precision="fp32")
    np.testing.assert_array_equal(maps[2], wanted)


@pytest.mark.parametrize("cyclic", [True, False])
def test_a_dataset_without_a_time_leaves_it_to_the_model(model_file, own_phantom, tmp_path, cyclic):
    """Pins a cyclic model that ran open over a dataset.json without "time"."""
    change_dataset(own_phantom, lambda about: about.pop("time"))
    predict(model_file(cyclic=cyclic), [own_phantom], tmp_path / "out", cases=["phantom001"])
    entry = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["phantom001"]
    assert entry["time"] == ("cyclic" if cyclic else "open")


def test_two_calls_into_one_folder_keep_each_others_rows(model_file, tmp_path, study):
    for seed, name in enumerate("ab"):
        study(tmp_path / f"{name}.nii.gz", seed=seed)
    model, out = model_file(), tmp_path / "out"
    predict(model, [tmp_path / "a.nii.gz"], out)
    other = shutil.copy(model, tmp_path / "other.pt")
    before = rows_of(out)
    predict(other, [tmp_path / "b.nii.gz"], out, InferenceOptions(time="cyclic"))
    assert rows_of(out)[: len(before)] == before
    assert [row["case"] for row in rows_of(out)] == ["a"] * len(before) + ["b"] * len(before)
    cases = json.loads((out / "prediction.json").read_text())["cases"]
    usual = {"overlap": None, "mirror_axes": None, "cyclic_shifts": 1, "priming_frames": None, "precision": "auto"}
    usual["temporal_smoothing"] = None
    more = {"settings": usual, "postprocessing": [], "conditions": None}
    assert {case: entry | {"conditions": None} for case, entry in cases.items()} == {
        "a": {"image": str(tmp_path / "a.nii.gz"), "time": "open", "model": str(model)} | more,
        "b": {"image": str(tmp_path / "b.nii.gz"), "time": "cyclic", "model": str(other)} | more,
    }
    predict(other, [tmp_path / "a.nii.gz"], out)  # done again: its rows once, and of the later call
    assert sorted(row["case"] for row in rows_of(out)) == ["a"] * len(before) + ["b"] * len(before)
    assert json.loads((out / "prediction.json").read_text())["cases"]["a"]["model"] == str(other)
    (out / "b.nii.gz").unlink()
    predict(model, [tmp_path / "a.nii.gz"], out)
    assert {row["case"] for row in rows_of(out)} == {"a"}
    assert set(json.loads((out / "prediction.json").read_text())["cases"]) == {"a"}


def test_cases_of_a_dataset_can_be_named(command, model_file, own_phantom, tmp_path):
    with edit_dataset(own_phantom) as about:
        about["test"] = [{"case": "new", "image": about["training"].pop()["image"]}]
    given = ["predict", model_file(), "-i", own_phantom, "-o", tmp_path / "out"]
    assert command(*given, "--cases", "new", "phantom002").code == 0
    assert names_in(tmp_path / "out") == sorted(["new.nii.gz", "phantom002.nii.gz", *BESIDE])
    done = command(*given, "--cases", "phantom02")
    assert done.code == 2
    assert "there is no case 'phantom02' (near: phantom002" in done.line


def test_held_out_takes_the_cases_that_the_run_was_validated_on(command, trained, phantom, tmp_path):
    config = load_model(trained).config
    _, validation = split_cases(read_dataset(phantom), config.fold, config.data.folds, config.seed)
    done = command("predict", trained, "-i", phantom, "-o", tmp_path / "out", "--held_out")
    assert (done.code, done.error) == (0, "")
    predicted = [name.removesuffix(".nii.gz") for name in names_in(tmp_path / "out") if name.endswith(".gz")]
    assert predicted == [case.name for case in validation]
    assert len(predicted) == 1


# Several models --------------------------------------------------------------------------------------------------


def another(model: Path, path: Path, seed: int = 2) -> Path:
    """The same checkpoint with other weights."""
    content = load_checkpoint(model)
    generator = torch.Generator().manual_seed(seed)
    for weight in content["network"].values():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)
    torch.save(content, path)
    return path


def test_several_models_answer_with_the_mean_of_their_probabilities(model_file, tmp_path, study):
    """On the working grid itself, where no resampling comes between."""
    one = load_model(model_file(normalization="none"))
    other = load_model(another(tmp_path / "model.pt", tmp_path / "other.pt"))
    image = Image4D.from_array(np.random.default_rng(0).normal(size=(3, 16, 16, 4)), np.diag([2.0, 2.0, 8.0, 1.0]))
    alone = [segment(model, image, precision="fp32") for model in (one, other)]
    together = segment([one, other], image, precision="fp32")
    with torch.inference_mode():
        seen = torch.from_numpy(np.ascontiguousarray(image.array)).movedim(1, 0)[None]
        probabilities = sum(model.network(seen).softmax(2) for model in (one, other))[0]
    agrees = together == np.array(list(one.task.labels.values()))[probabilities.argmax(1).numpy()]
    assert agrees.mean() > 0.999
    assert all((together != single).any() for single in alone)
    np.testing.assert_array_equal(segment((one,), image, precision="fp32"), alone[0])


def test_a_model_with_itself_is_that_model_on_a_grid_of_another_spacing_too(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz", shape=(40, 33, 5))
    model, image = load_model(model_file()), read_image(tmp_path / "heart.nii.gz")
    assert (segment([model] * 3, image) == segment(model, image)).mean() > 0.9999


@pytest.mark.parametrize("kind", ["velocity X", "velocity -X"])
def test_velocities_change_their_sign_where_a_window_is_mirrored(model_file, kind):
    """A study and its mirror image, with its velocity along X negated, are the same to a network that mirrors along X."""
    model = load_model(model_file(channel_names=("magnitude", "vx"), normalization="none"))
    task = replace(model.task, channel_kinds=("signal", "velocity X"))
    window = replace(model.config.inference, mirror_axes=[0])
    model = replace(model, task=task, config=replace(model.config, inference=window))
    array = np.random.default_rng(0).normal(size=(2, 3, 16, 16, 4)).astype(np.float32)
    image = replace(Image4D.from_array(array[0], np.diag([2.0, 2.0, 8.0, 1.0])), array=array, kinds=("signal", kind))
    turned = array[:, :, ::-1] * np.float32([1, -1])[:, None, None, None, None]
    other = segment(model, replace(image, array=np.ascontiguousarray(turned)), precision="fp32")
    assert (segment(model, image, precision="fp32")[:, ::-1] == other).mean() > 0.999


def test_several_models_can_be_named_and_all_are_recorded(command, model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    models = [model_file(), another(tmp_path / "model.pt", tmp_path / "other.pt")]
    done = command("predict", *models, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out", "--overlap", 0.25)
    assert (done.code, done.error) == (0, "")
    found = json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]["heart"]
    assert found.pop("conditions")["models"] == 2
    assert found == {
        "image": str(tmp_path / "heart.nii.gz"), "time": "open", "models": [str(path) for path in models],
        "settings": {
            "overlap": 0.25, "mirror_axes": None, "cyclic_shifts": 1, "priming_frames": None, "temporal_smoothing": None,
            "precision": "auto",
        }, "postprocessing": [],
    }  # fmt: skip


def test_models_that_cannot_answer_together_are_told_before_any_work(command, model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    other = model_file(normalization="none").rename(tmp_path / "other.pt")
    words = ("-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    model = model_file()
    done = command("predict", model, other, *words)
    assert done.code == 2
    assert f"{other} and {model} cannot form an ensemble: got normalization none and zscore" in done.line
    assert f"got {model} twice, expected each model once" in command("predict", model, model, *words).line
    assert not (tmp_path / "out").exists()


def test_a_suffix_in_capitals_is_one_too(model_file, tmp_path, study):
    study(tmp_path / "plain.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "plain.nii.gz").rename(tmp_path / "in" / "A.NII.GZ")
    [path] = predict(model_file(), [tmp_path / "in"], tmp_path / "out")
    assert path.name == "A.nii.gz"
    [path] = predict(model_file(), [tmp_path / "in" / "A.NII.GZ"], tmp_path / "out")
    assert path.name == "A.nii.gz"


def test_a_trained_run_is_a_model(trained, phantom, tmp_path):
    written = predict(trained, [phantom], tmp_path / "out")
    assert [path.name for path in written] == [f"phantom00{n}.nii.gz" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("flips", "augmentation", "warned"), [([0], "mild", False), ([1], "mild", True), ([0], "off", True)]
)
def test_mirroring_along_an_axis_that_training_did_not_mirror_is_warned_of(
    model_file, caplog, flips, augmentation, warned
):
    model = load_model(model_file())
    data = replace(model.config.data, flip_axes=flips, augmentation=augmentation)
    model = replace(model, config=replace(model.config, data=data))
    warn_of_untrained_mirroring([model], InferenceOptions())
    assert not caplog.text
    warn_of_untrained_mirroring([model], InferenceOptions(mirror_axes=(0,)))
    assert ("mirroring along axes [0]" in caplog.text) == warned
