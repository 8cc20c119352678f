"""The preprocessed cache: entries are right, reused when nothing changed, rebuilt when something did, never half there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unet4d.config import DataConfig
from unet4d.data import cache
from unet4d.data.cache import CachedStudy, cached_studies
from unet4d.data.dataset import read_dataset
from unet4d.errors import InputError, Unet4DError

RAW = DataConfig(normalisation="none")


def build(dataset, root: Path, config: DataConfig = RAW, plane: float | None = None) -> list[CachedStudy]:
    return cached_studies(dataset.training, dataset, config, plane, root)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def drawn(channels: int = 1, frames: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random image (C, T, 5, 4, 3) and a label with the values 0, 3 and 7."""
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 3, 7], np.uint8), (frames, 5, 4, 3))
    return rng.random((channels, frames, 5, 4, 3), dtype=np.float32), label


def test_an_entry_holds_image_label_and_foreground_of_the_labelled_frames(write_case, tmp_path):
    image, label = drawn(channels=2)
    dataset = write_case(image, label, values=(0, 3, 7), labelled_frames=[0, 2])
    (study,) = build(dataset, tmp_path / "cache")
    classes = np.select([label[[0, 2]] == 3, label[[0, 2]] == 7], [1, 2])
    assert study.case == "study"
    assert np.array_equal(study.image, image)
    assert np.array_equal(study.label, classes)
    assert study.labelled_frames == (0, 2)
    assert study.spacing == (1.0, 1.0, 8.0)
    expected = [(row, classes[row, x, y, z], x, y, z) for row, x, y, z in np.argwhere(classes)]
    assert study.foreground.tolist() == [list(map(int, row)) for row in sorted(expected)]


def test_an_entry_of_the_phantom_is_resampled_and_normalised(phantom, tmp_path):
    studies = build(phantom, tmp_path, DataConfig(), 3.0)
    assert [study.case for study in studies] == ["phantom001", "phantom002"]
    for study in studies:
        assert study.image.dtype == np.float32
        assert study.label.shape == (2, *study.image.shape[2:])
        assert set(np.unique(study.label)) == {0, 1, 2, 3}
        assert abs(float(study.image.mean())) < 1e-4
        assert float(study.image.std()) == pytest.approx(1, abs=1e-4)
        assert np.allclose(study.spacing[:2], 3.0, rtol=0.05)


def test_a_large_class_is_represented_by_voxels_spread_evenly(write_case, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FOREGROUND_VOXELS", 5)
    label = np.ones((1, 20, 1, 2), np.uint8)
    label[0, 3, 0, 0] = 0
    (study,) = build(write_case(np.zeros((1, *label.shape)), label), tmp_path / "cache")
    assert len(study.foreground) == 5
    assert study.foreground[[0, -1], 2].tolist() == [0, 19]
    assert all(study.label[0, x, y, z] == 1 for x, y, z in study.foreground[:, 2:])


def test_labelled_frames_without_foreground_give_an_empty_table(write_case, tmp_path):
    image, label = drawn()
    (study,) = build(write_case(image, np.zeros_like(label)), tmp_path / "cache")
    assert study.foreground.shape == (0, 5)


def test_a_label_without_background_keeps_its_first_class(write_case, tmp_path):
    image, label = drawn()
    (study,) = build(write_case(image, np.ones_like(label)), tmp_path / "cache")
    assert len(study.foreground) == label.size


@pytest.mark.parametrize("name", ["ein Fall (2), größer", '100%\'s "case"; $HOME', "-rf"])
def test_any_case_name_can_name_an_entry(write_case, tmp_path, name):
    image, label = drawn()
    dataset = write_case(image, (label > 0).astype(np.uint8), name=name)
    for _ in range(2):
        (study,) = build(dataset, tmp_path / "cache")
        assert study.case == name
        assert np.array_equal(study.image, image)


def test_an_entry_is_reused_when_nothing_changed(phantom, tmp_path, monkeypatch):
    first = build(phantom, tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(cache, "read_labelled", None)  # nothing can be built any more
    again = build(phantom, tmp_path)
    assert files(tmp_path) == before
    assert np.array_equal(first[1].image, again[1].image)


def test_a_dataset_named_by_a_relative_path_finds_the_same_entries(write_case, tmp_path, monkeypatch):
    build(write_case(*drawn(), values=(0, 3, 7)), tmp_path / "cache")
    before = files(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    build(read_dataset("."), tmp_path / "cache")
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda d, c: (d, replace(c, normalisation="zscore"), None),
        lambda d, c: (d, replace(c, slice_spacing_mm=4.0), None),
        lambda d, c: (d, c, 2.0),
        lambda d, c: (replace(d, training=(replace(d.training[0], labelled_frames=(0,)),)), c, None),
        lambda d, c: (replace(d, labels=(("background", 0), ("seven", 7), ("three", 3))), c, None),
    ],
    ids=["normalisation", "slice spacing", "plane spacing", "labelled frames", "labels"],
)
def test_a_changed_setting_makes_a_new_entry(write_case, tmp_path, change):
    dataset = write_case(*drawn(), values=(0, 3, 7))
    build(dataset, tmp_path / "cache")
    changed, config, plane = change(dataset, RAW)
    build(changed, tmp_path / "cache", config, plane)
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.parametrize("augmentation", ["off", "strong"])
def test_a_setting_that_shapes_no_array_makes_none(write_case, tmp_path, augmentation):
    dataset = write_case(*drawn(), values=(0, 3, 7))
    build(dataset, tmp_path / "cache")
    build(dataset, tmp_path / "cache", replace(RAW, augmentation=augmentation, frames=3))
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("file", ["study_0.nii", "study_label.nii"])
def test_a_touched_file_makes_a_new_entry(write_case, tmp_path, file):
    dataset = write_case(*drawn(), values=(0, 3, 7))
    build(dataset, tmp_path / "cache")
    os.utime(tmp_path / file, ns=(0, 0))
    build(dataset, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 2


def test_new_content_is_what_is_read(write_case, tmp_path):
    build(write_case(*drawn(seed=0), values=(0, 3, 7)), tmp_path / "cache")
    image, label = drawn(seed=1)
    (study,) = build(write_case(image, label, values=(0, 3, 7)), tmp_path / "cache")
    assert np.array_equal(study.image, image)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_build_that_dies_half_way_leaves_nothing_that_looks_whole(write_case, tmp_path, monkeypatch, after):
    image, label = drawn()
    dataset = write_case(image, label, values=(0, 3, 7))
    save, calls = np.save, []

    def dying(path, array):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(path)
        save(path, array)

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            build(dataset, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert np.array_equal(build(dataset, tmp_path / "cache")[0].image, image)


def test_what_a_killed_process_left_behind_is_not_taken_for_an_entry(write_case, tmp_path):
    image, label = drawn()
    dataset = write_case(image, label, values=(0, 3, 7))
    build(dataset, tmp_path / "cache")
    (name,) = entries(tmp_path / "cache")
    (tmp_path / "cache" / name).rename(tmp_path / "cache" / f".0123abcd.partial.{name}")
    (tmp_path / "cache" / f".0123abcd.partial.{name}" / "label.npy").unlink()
    assert np.array_equal(build(dataset, tmp_path / "cache")[0].image, image)
    assert entries(tmp_path / "cache") == [name]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("40 requested and 12 written")]
)
def test_a_full_disk_ends_in_one_line_that_names_the_folder(write_case, tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    dataset = write_case(*drawn(), values=(0, 3, 7))
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(Unet4DError) as caught:
        build(dataset, tmp_path / "cache")
    assert not isinstance(caught.value, InputError)
    message = str(caught.value)
    assert str(tmp_path / "cache" / "study-") in message
    assert (error.strerror or str(error)) in message
    assert "\n" not in message
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_in_the_cache_folders_place_ends_in_one_line(write_case, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(Unet4DError, match="set data"):
        build(write_case(*drawn(), values=(0, 3, 7)), tmp_path / "cache")


def test_a_faulty_study_leaves_nothing(write_case, tmp_path):
    image, label = drawn()
    with pytest.raises(InputError, match="label value 3"):
        build(write_case(image, label, values=(0, 7)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_entry_that_another_process_finished_meanwhile_is_taken(write_case, tmp_path, monkeypatch):
    image, label = drawn()
    dataset = write_case(image, label, values=(0, 3, 7))
    save, raced = np.save, []

    def overtaken(path, array):
        if not raced:
            raced.append(True)
            build(dataset, tmp_path / "cache")
        save(path, array)

    monkeypatch.setattr(np, "save", overtaken)
    (study,) = build(dataset, tmp_path / "cache")
    assert np.array_equal(study.image, image)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_two_processes_can_build_the_same_entries_at_once(phantom, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build, args=(phantom, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_study_sent_to_a_process_is_opened_there_and_not_sent(phantom, tmp_path):
    study = build(phantom, tmp_path)[0]
    sent = pickle.dumps(study)
    assert len(sent) < 1000 < study.image.nbytes
    received = pickle.loads(sent)
    assert isinstance(received.image, np.memmap)
    assert np.array_equal(received.foreground, study.foreground)
    assert (received.case, received.labelled_frames) == (study.case, study.labelled_frames)
