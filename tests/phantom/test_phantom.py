"""The phantom: exact labels, a heart that beats as hearts do, ambiguous frames that hide it, a dataset that reads back."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet4d.errors import InputError
from unet4d.images.image4d import read_image, read_label
from unet4d.phantom import make_cine, write_phantom
from unet4d.phantom.cine import CINE_LABELS
from unet4d.phantom.cover import cover
from unet4d.phantom.heart import EJECTION_FRACTIONS, beats, contraction, draw_heart
from unet4d.phantom.phantom_study import PhantomStudy

RV, MYOCARDIUM, LV = 1, 2, 3
SHAPE = (56, 52, 6)
SEEDS = (0, 1, 2)


@cache
def study(seed: int, frames: int = 10, ambiguous: float = 0.0) -> PhantomStudy:
    return make_cine(seed, frames, ambiguous, SHAPE)


def contrast_to_noise(image: np.ndarray, label: np.ndarray, one: int, other: int) -> float:
    a, b = image[label == one], image[label == other]
    return float(abs(a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))


def test_the_same_seed_gives_the_same_arrays_and_another_seed_does_not():
    again = make_cine(0, 10, 0.0, SHAPE)
    assert np.array_equal(again.image, study(0).image)
    assert np.array_equal(again.label, study(0).label)
    assert np.array_equal(again.affine, study(0).affine)
    assert not np.array_equal(again.label, study(1).label)


def test_arrays_are_what_a_scanner_stores():
    one = study(0)
    assert one.image.shape == one.label.shape == (10, *SHAPE)
    assert one.image.dtype == np.float32
    assert one.label.dtype == np.uint8
    assert np.array_equal(one.image, np.rint(one.image))
    assert one.image.min() >= 0
    assert set(np.unique(one.label)) == set(CINE_LABELS.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_left_ventricle_is_largest_at_ed_and_smallest_at_es(seed: int):
    one = study(seed)
    left = one.volumes_ml[:, LV]
    ed, es = one.truth["ed_frame"], one.truth["es_frame"]
    assert (ed, left.argmax(), left.argmin()) == (0, 0, es)
    assert one.labelled_frames == (ed, es)
    assert es in (3, 4)
    assert one.truth["ejection_fraction"] == pytest.approx(1 - left.min() / left.max(), abs=1e-4)
    assert one.volumes_ml[es, RV] < 0.9 * one.volumes_ml[0, RV]


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_is_cyclic_and_every_step_moves(seed: int):
    label = study(seed).label
    steps = [int(np.count_nonzero(label[t] != label[t - 1])) for t in range(len(label))]  # steps[0]: last to first
    assert 0 < steps[0] <= max(steps[1:])
    assert min(steps) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_muscle_keeps_its_volume(seed: int):
    muscle, shape = study(seed).volumes_ml[:, MYOCARDIUM], study(seed).shape_volumes_ml[:, MYOCARDIUM]
    assert np.ptp(shape) < 1e-6
    assert np.abs(muscle / shape.mean() - 1).max() < 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_muscle_encloses_the_left_ventricle_in_plane(seed: int):
    label = study(seed).label
    for axis in (1, 2):
        for step in (-1, 1):
            beside = np.roll(label, step, axis=axis)[label == LV]
            assert set(np.unique(beside)) <= {MYOCARDIUM, LV}


def test_labels_match_the_shape_in_closed_form():
    """On a fine grid, voxel counts of the majority label come to the volumes the motion was asked for."""
    heart = draw_heart(np.random.default_rng(5), 70.0, 150.0, np.pi)
    x, y, z = (axis.astype(np.float32)[..., None] for axis in np.mgrid[-80:60:1.0, -60:60:1.0, -2:78:1.0])
    for shape in (beats(heart, 10)[0], beats(heart, 10)[4]):
        filled = cover(heart, shape, (x, y, z), 1.0, 1.0)
        measured = [float(part.sum()) / 1000 for part in (filled.rv, filled.myocardium, filled.lv)]
        assert measured == pytest.approx(shape.volumes_ml, rel=0.02)


def test_the_volume_curve_ejects_fills_and_kicks():
    time = np.linspace(0, 1, 200, endpoint=False)
    curve = contraction(time, 0.36)
    assert curve[0] == 0
    assert curve.max() == pytest.approx(1, abs=1e-3)
    assert time[curve.argmax()] == pytest.approx(0.36, abs=0.01)
    filling = -np.gradient(curve, time)
    early, rest, kick = (filling[(time > a) & (time < b)] for a, b in ((0.45, 0.65), (0.7, 0.8), (0.84, 0.98)))
    assert early.max() > kick.max() > 2 * np.median(rest) > 0
    assert np.allclose(contraction(time + 1, 0.36), curve)


def test_subjects_differ_as_people_and_scanners_do():
    many = [make_cine(seed, 1, shape=(32, 32, 4)) for seed in range(24)]
    hearts = [one.truth["parameters"]["heart"] for one in many]
    fractions = [heart["ejection_fraction"] for heart in hearts]
    slices = [np.linalg.norm(one.affine[:3, 2]) for one in many]
    pixels = [np.linalg.norm(one.affine[:3, 0]) for one in many]
    assert EJECTION_FRACTIONS[0] <= min(fractions) < 0.35
    assert 0.55 < max(fractions) <= EJECTION_FRACTIONS[1]
    assert 8 <= min(slices) < 8.5
    assert 9.5 < max(slices) <= 10
    assert 1.3 <= min(pixels) < max(pixels) <= 1.9
    assert len({one.affine.tobytes() for one in many}) == len({one.frame_duration_s for one in many}) == 24
    turned = [one.affine[:3, :3] / np.linalg.norm(one.affine[:3, :3], axis=0) for one in many]
    assert np.allclose([axes.T @ axes for axes in turned], np.eye(3), atol=1e-4)
    assert np.std([heart["rv_angle"] for heart in hearts]) > 0.1


def test_sizes_are_drawn_when_not_given():
    shapes = {make_cine(seed, 1).image.shape[1:] for seed in range(6)}
    assert len(shapes) > 1
    assert all(96 <= x <= 112 and 96 <= y <= 104 and 7 <= z <= 9 for x, y, z in shapes)


@pytest.mark.parametrize("seed", SEEDS)
def test_blood_and_muscle_stand_apart_in_intact_frames(seed: int):
    one = study(seed)
    for t in range(10):
        assert contrast_to_noise(one.image[t], one.label[t], LV, MYOCARDIUM) > 1.5
        assert contrast_to_noise(one.image[t], one.label[t], RV, MYOCARDIUM) > 1.2


@pytest.mark.parametrize("seed", SEEDS)
def test_ambiguous_frames_hide_the_heart_and_nothing_else_changes(seed: int):
    clean, spoiled = study(seed), study(seed, 10, 0.3)
    hit = spoiled.truth["ambiguous_frames"]
    assert len(hit) == 3
    assert sorted(spoiled.truth["ambiguous_kinds"]) == ["dropout", "ghosting", "noise"]
    assert np.array_equal(spoiled.label, clean.label)
    changed = [t for t in range(10) if not np.array_equal(spoiled.image[t], clean.image[t])]
    assert changed == hit
    for t in changed:
        image, label = spoiled.image[t], spoiled.label[t]
        assert contrast_to_noise(image, label, LV, MYOCARDIUM) < 0.8
        assert contrast_to_noise(image, label, RV, MYOCARDIUM) < 0.8
        assert abs(np.corrcoef(image[label > 0], clean.image[t][label > 0])[0, 1]) < 0.5


@pytest.mark.parametrize("frames", [2, 3, 5, 8, 9])
def test_ambiguous_frames_are_never_neighbors_on_the_cycle(frames: int):
    most = frames // 2
    seen = set()
    for seed in range(12):
        hit = make_cine(seed, frames, most / frames, (32, 32, 4)).truth["ambiguous_frames"]
        assert len(set(hit)) == most
        assert not {(t + 1) % frames for t in hit} & set(hit)
        seen |= set(hit)
    assert seen == set(range(frames))  # any frame can be hit, the labelled ones too


def test_the_written_dataset_reads_back(tmp_path: Path):
    path = write_phantom(tmp_path / "new" / "set", 2, 4, "two", 0.25, seed=3, shape=(40, 36, 5))
    root, description = path.parent, json.loads(path.read_text())
    assert description["time"] == "cyclic"
    assert description["labels"] == {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    truth = json.loads((root / "truth" / "subjects.json").read_text())
    for index, entry in enumerate(description["training"]):
        made = make_cine((3, index), 4, 0.25, (40, 36, 5))
        image = read_image(root / entry["image"])
        assert np.array_equal(image.array[0], made.image)
        assert np.allclose(image.affine, made.affine, atol=1e-4)
        assert image.frame_duration_s == pytest.approx(entry["frame_duration_s"])
        assert nib.load(root / entry["image"]).header.get_xyzt_units() == ("mm", "sec")
        exact = read_label(root / "truth" / f"{entry['case']}.nii.gz", like=image)
        label = read_label(root / entry["label"], like=image)
        assert np.array_equal(exact, made.label)
        assert entry["labelled_frames"] == sorted(set(made.labelled_frames))
        for t in range(4):
            assert np.array_equal(label[t], exact[t] if t in entry["labelled_frames"] else np.zeros_like(exact[t]))
        assert truth[entry["case"]]["ambiguous_frames"] == made.truth["ambiguous_frames"]


def test_volumes_are_the_labels_own(tmp_path: Path):
    root = write_phantom(tmp_path, 1, 3, shape=(40, 36, 5)).parent
    entry = json.loads((root / "dataset.json").read_text())["training"][0]
    assert "labelled_frames" not in entry
    image = nib.load(root / entry["label"])
    label, voxel_ml = np.asarray(image.dataobj), abs(np.linalg.det(image.affine[:3, :3])) / 1000
    with open(root / "truth" / "volumes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3
    for row in rows:
        count = np.count_nonzero(label[..., int(row["frame"])] == CINE_LABELS[row["class"]])
        assert float(row["volume_ml"]) == pytest.approx(count * voxel_ml, rel=1e-4)
        assert float(row["time_s"]) == pytest.approx(int(row["frame"]) * entry["frame_duration_s"], rel=1e-4)


def test_a_subject_does_not_depend_on_how_many_there_are(tmp_path: Path):
    few = write_phantom(tmp_path / "few", 1, 2, "all", shape=(32, 32, 4)).parent
    more = write_phantom(tmp_path / "more", 2, 2, "two", shape=(32, 32, 4)).parent
    for part in ("images", "truth"):
        name = f"{part}/phantom001.nii.gz"
        assert np.array_equal(np.asarray(nib.load(few / name).dataobj), np.asarray(nib.load(more / name).dataobj))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_studies_work(frames: int):
    one = make_cine(0, frames, shape=(32, 32, 4))
    assert len(one.image) == frames
    assert np.isfinite(one.image).all()
    assert 0 <= one.truth["es_frame"] < frames


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"subjects": 0}, "subjects is 0"),
        ({"frames": 0}, "frames is 0"),
        ({"ambiguous": 1.0}, "ambiguous is 1.0"),
        ({"ambiguous": -0.1}, "ambiguous is -0.1"),
        ({"ambiguous": float("nan")}, "ambiguous is nan"),
        ({"ambiguous": 0.8}, "at most 2 can be"),
        ({"frames": 1, "ambiguous": 0.5}, "at most 0 can be"),
        ({"labelled": "some"}, "labelled is 'some'"),
        ({"seed": -1}, "seed is -1"),
        ({"shape": (32, 31, 4)}, "shape is (32, 31, 4)"),
        ({"shape": (32, 32)}, "shape is (32, 32)"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(tmp_path: Path, arguments: dict, says: str):
    wanted = {"subjects": 1, "frames": 4, "shape": (32, 32, 4), **arguments}
    with pytest.raises(InputError) as caught:
        write_phantom(tmp_path / "out", **wanted)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_phantom(tmp_path, 1, 1, shape=(32, 32, 4))
    with pytest.raises(InputError, match="is a file"):
        write_phantom(tmp_path / "thesis.txt", 1, 1, shape=(32, 32, 4))
    path = write_phantom(tmp_path / "set", 1, 1, shape=(32, 32, 4))
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds a dataset already"):
        write_phantom(tmp_path / "set", 2, 1, shape=(32, 32, 4))
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "thesis.txt"]


def test_a_run_cut_short_leaves_no_dataset_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(seed, *rest):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return make_cine(seed, *rest)

    monkeypatch.setattr("unet4d.phantom.phantom_dataset.make_cine", fail)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "set", 2, 1, shape=(32, 32, 4))
    assert (tmp_path / "set" / "images" / "phantom001.nii.gz").exists()
    assert not (tmp_path / "set" / "dataset.json").exists()
