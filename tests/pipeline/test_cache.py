"""The preprocessed cache: entries are right, reused when nothing changed, rebuilt when something did, never half there."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from processes import exit_code, exit_codes

from tests.masking import needs_posix
from unet4d.config import DataConfig
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError, Unet4DError
from unet4d.pipeline import cache
from unet4d.pipeline.cache import MEMO, cached_studies
from unet4d.pipeline.cached_study import CachedStudy

RAW = DataConfig(normalization="none")


def build(dataset, root: Path, config: DataConfig = RAW, plane: float | None = None) -> list[CachedStudy]:
    return cached_studies(dataset.training, dataset, config, plane, root)


def entries(root: Path) -> list[str]:
    """The names of the entries, and nothing else may lie there but the memo."""
    names = sorted(path.name for path in root.glob("*") if path.name != MEMO)
    assert all(re.fullmatch(r"[^.].*-[0-9a-f]{16}", name) for name in names), names
    return names


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != MEMO}


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


def test_an_entry_of_the_phantom_is_resampled_and_normalized(phantom_dataset, tmp_path):
    studies = build(phantom_dataset, tmp_path, DataConfig(), 3.0)
    assert [study.case for study in studies] == ["phantom001", "phantom002"]
    for study in studies:
        assert study.image.dtype == np.float32
        assert study.label.shape == (2, *study.image.shape[2:])
        assert set(np.unique(study.label)) == {0, 1, 2, 3}
        assert abs(float(study.image.mean())) < 1e-4
        assert float(study.image.std()) == pytest.approx(1, abs=1e-4)
        assert np.allclose(study.spacing[:2], 3.0, rtol=0.05)


def test_a_file_that_changes_while_it_is_read_makes_no_entry(write_case, tmp_path, monkeypatch):
    """The entry would bear the name of what the file held before."""
    dataset = write_case(*drawn(), values=(0, 3, 7))
    whole = cache.read_labelled

    def meanwhile(case, dataset, image):
        case.images[0].write_bytes(case.images[0].read_bytes() + b"more")
        return whole(case, dataset, image)

    monkeypatch.setattr(cache, "read_labelled", meanwhile)
    with pytest.raises(Unet4DError, match="changed while it was read"):
        build(dataset, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_labelled_frames_without_foreground_give_an_empty_table(write_case, tmp_path):
    image, label = drawn()
    (study,) = build(write_case(image, np.zeros_like(label)), tmp_path / "cache")
    assert study.foreground.shape == (0, 5)


def test_a_label_without_background_keeps_its_first_class(write_case, tmp_path):
    image, label = drawn()
    (study,) = build(write_case(image, np.ones_like(label)), tmp_path / "cache")
    assert len(study.foreground) == label.size


@needs_posix("Windows takes no such names")
@pytest.mark.parametrize("name", ["ein Fall (2), größer", '100%\'s "case"; $HOME', "-rf"])
def test_any_case_name_can_name_an_entry(write_case, tmp_path, name):
    image, label = drawn()
    dataset = write_case(image, (label > 0).astype(np.uint8), name=name)
    for _ in range(2):
        (study,) = build(dataset, tmp_path / "cache")
        assert study.case == name
        assert np.array_equal(study.image, image)


def test_an_entry_is_reused_when_nothing_changed(phantom_dataset, tmp_path, monkeypatch):
    first = build(phantom_dataset, tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(cache, "read_labelled", None)  # nothing can be built any more
    again = build(phantom_dataset, tmp_path)
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
        lambda d, c: (d, replace(c, normalization="zscore"), None),
        lambda d, c: (d, replace(c, slice_spacing_mm=4.0), None),
        lambda d, c: (d, replace(c, interpolation="cubic"), None),
        lambda d, c: (d, c, 2.0),
        lambda d, c: (replace(d, training=(replace(d.training[0], labelled_frames=(0,)),)), c, None),
        lambda d, c: (replace(d, labels=(("background", 0), ("seven", 7), ("three", 3))), c, None),
    ],
    ids=["normalization", "slice spacing", "interpolation", "plane spacing", "labelled frames", "labels"],
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


def test_what_channels_hold_makes_a_new_entry(write_case, tmp_path):
    dataset, kinds = write_case(*drawn(channels=2), values=(0, 3, 7)), ("signal", "velocity Z")
    build(dataset, tmp_path / "cache")
    training = (replace(dataset.training[0], channel_kinds=kinds),)
    build(replace(dataset, training=training, channel_kinds=kinds), tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.parametrize("file", ["study_0.nii", "study_label.nii"])
def test_a_touched_file_rebuilds_nothing(write_case, tmp_path, file):
    dataset = write_case(*drawn(), values=(0, 3, 7))
    build(dataset, tmp_path / "cache")
    before = files(tmp_path / "cache")
    os.utime(tmp_path / file, ns=(0, 0))
    build(dataset, tmp_path / "cache")
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize("put", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_dataset_rebuilds_nothing(phantom_dataset, tmp_path, put):
    first = Path(shutil.copytree(phantom_dataset.root, tmp_path / "first"))
    build(read_dataset(first), tmp_path / "cache")
    before = files(tmp_path / "cache")
    put(first, tmp_path / "second")
    build(read_dataset(tmp_path / "second"), tmp_path / "cache")
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize("part", ["images", "labels"])
def test_one_changed_voxel_rebuilds_its_study_alone(phantom_dataset, tmp_path, part):
    root = Path(shutil.copytree(phantom_dataset.root, tmp_path / "phantom"))
    dataset = read_dataset(root)
    case = dataset.training[1]
    file = case.files[0 if part == "images" else -1]
    plain = file.with_name("plain.nii")
    nib.save(nib.load(file), plain)
    spoiled = replace(case, **{"images": (plain,)} if part == "images" else {"label": plain, "labelled_frames": (0,)})
    dataset = replace(dataset, training=(dataset.training[0], spoiled))
    build(dataset, tmp_path / "cache")
    before, times = files(tmp_path / "cache"), plain.stat()
    with open(plain, "r+b") as written:
        written.seek(352)
        first = written.read(1)
        written.seek(352)
        written.write(bytes([first[0] ^ 1]))
    os.utime(plain, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither its size nor its time tells
    build(dataset, tmp_path / "cache")
    after = files(tmp_path / "cache")
    new = {path.relative_to(tmp_path / "cache").parts[0] for path in after.keys() - before.keys()}
    assert {path: after[path] for path in before} == before
    assert len(new) == 1
    assert new.pop().startswith(case.name)


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

    def dying(file, array):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(file)
        save(file, array)

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            build(dataset, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []
    assert np.array_equal(build(dataset, tmp_path / "cache")[0].image, image)


def test_an_entry_appears_whole_by_one_rename(write_case, tmp_path, monkeypatch):
    rename, seen = os.replace, []

    def watched(source, target):
        if Path(target).name.startswith("study-"):
            seen.append(sorted(path.name for path in Path(source).iterdir()))
            assert not Path(target).exists()
        rename(source, target)

    monkeypatch.setattr(os, "replace", watched)
    build(write_case(*drawn(), values=(0, 3, 7)), tmp_path / "cache")
    assert seen == [["foreground.npy", "image.npy", "label.npy", "study.json"]]


def test_what_a_killed_process_left_behind_is_not_taken_for_an_entry_and_goes_when_it_is_old(write_case, tmp_path):
    image, label = drawn()
    dataset, root = write_case(image, label, values=(0, 3, 7)), tmp_path / "cache"
    build(dataset, root)
    (name,) = entries(root)
    partials = [root / f".0123abcd.partial.{name}", root / f".4567abcd.partial.{name}", root / f".89.partial.{MEMO}"]
    (root / name).rename(partials[0])
    (partials[0] / "label.npy").unlink()
    partials[1].mkdir()  # another process has just begun it
    partials[2].write_text("{")
    for path in (partials[0], *partials[0].iterdir(), partials[2]):
        os.utime(path, (0, 0))
    assert np.array_equal(build(dataset, root)[0].image, image)
    assert [path.exists() for path in partials] == [False, True, False]
    partials[1].rmdir()
    assert entries(root) == [name]


def test_what_grows_still_is_not_removed(write_case, tmp_path):
    partial = tmp_path / "cache" / ".0123abcd.partial.other-0123456789abcdef"
    partial.mkdir(parents=True)
    (partial / "image.npy").write_text("")
    os.utime(partial, (0, 0))  # a folder keeps its time while a file in it grows
    build(write_case(*drawn(), values=(0, 3, 7)), tmp_path / "cache")
    assert (partial / "image.npy").exists()


def build_and_die(root: Path, folder: Path, workers: int) -> None:
    """Be killed within the second study; in a process of its own."""
    save, calls = np.save, []

    def dying(file, array):
        save(file, array)
        calls.append(file)
        if len(calls) == 5:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    np.save = dying
    build(read_dataset(root), folder, replace(RAW, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_build_leaves_whole_entries_and_is_taken_up_where_it_stopped(phantom_dataset, tmp_path, workers):
    whole = build(phantom_dataset, tmp_path / "whole")
    assert exit_code(build_and_die, phantom_dataset.root, tmp_path / "cache", workers) == -signal.SIGKILL
    visible = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    partial = len(list((tmp_path / "cache").glob(".*.partial.*")))
    assert (len([path for path in visible if path.name != MEMO]), partial) in (
        [(1, 1), (0, 2)] if workers else [(1, 1)]
    )
    before = files(tmp_path / "cache")
    again = build(phantom_dataset, tmp_path / "cache")
    after = files(tmp_path / "cache")
    assert {path: after[path] for path in before} == before
    for one, other in zip(whole, again, strict=True):
        assert one.entry == other.entry
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.foreground, other.foreground)


@pytest.mark.parametrize("workers", [1, 2])
def test_entries_built_in_parallel_are_those_built_one_by_one_to_the_bit(phantom_dataset, tmp_path, workers):
    built = {}
    for count in (0, workers):
        root = tmp_path / str(count)
        build(phantom_dataset, root, DataConfig(num_workers=count), 3.0)
        built[count] = {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name != MEMO
        }
    assert len(built[0]) == 2 * 4
    assert built[0] == built[workers]


def test_workers_leave_the_global_random_state_alone(phantom_dataset, tmp_path):
    before = torch.get_rng_state()
    build(phantom_dataset, tmp_path, DataConfig(num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def three(phantom_dataset, root: Path, spoiled: int):
    """A dataset of three phantoms, one with a truncated image."""
    folder = Path(shutil.copytree(phantom_dataset.root, root / "phantom"))
    cases = [*read_dataset(folder).training]
    cases.append(replace(cases[0], name="phantom003"))
    file = cases[spoiled].images[0].with_name("cut.nii.gz")
    whole = cases[spoiled].images[0].read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    cases[spoiled] = replace(cases[spoiled], images=(file,))
    return replace(read_dataset(folder), training=tuple(cases)), file


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_a_bad_study_ends_the_build_in_one_line_that_names_its_file(phantom_dataset, tmp_path, spoiled):
    dataset, file = three(phantom_dataset, tmp_path, spoiled)
    with pytest.raises(InputError, match="truncated") as caught:
        build(dataset, tmp_path / "cache", DataConfig(num_workers=1))
    assert str(caught.value).startswith(f"{file} ")
    assert "\n" not in str(caught.value)
    names = [case.name for case in dataset.training]
    assert [name[:10] for name in entries(tmp_path / "cache")] == names[:spoiled]


def test_after_an_error_those_under_way_are_brought_to_their_end(phantom_dataset, tmp_path):
    dataset, _ = three(phantom_dataset, tmp_path, 0)
    with pytest.raises(InputError, match="truncated"):
        build(dataset, tmp_path / "cache", DataConfig(num_workers=2))
    assert "phantom002" in [name[:10] for name in entries(tmp_path / "cache")]


def test_the_printed_size_is_the_size_on_disk(write_case, tmp_path, capsys):
    label = np.zeros((6, 60, 50, 8), np.uint8)
    label[:, 20:35, 20:35, 1:7] = 1
    dataset = write_case(np.zeros((1, *label.shape)), label, labelled_frames=[0, 3])
    build(dataset, tmp_path / "cache", RAW, 0.5)
    told = re.search(r"preprocessing 1 study into .*: ([0-9.]+) MB, .* free", capsys.readouterr().out)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.npy"))
    assert float(told[1]) == pytest.approx(on_disk / 1e6, rel=0.04)
    build(dataset, tmp_path / "cache", RAW, 0.5)
    assert capsys.readouterr().out == ""  # nothing to build, nothing to tell


def test_too_little_room_is_refused_before_anything_is_built(phantom_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**5, 10**5))
    monkeypatch.setattr(cache._StudyCache, "build", None)
    with pytest.raises(Unet4DError, match=r"100 kB are free.*data\.cache_dir") as caught:
        build(phantom_dataset, tmp_path / "new" / "cache")
    assert not isinstance(caught.value, InputError)
    assert str(tmp_path / "new" / "cache") in str(caught.value)


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
    assert entries(tmp_path / "cache") == []


def test_a_file_in_the_cache_folders_place_ends_in_one_line(write_case, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(Unet4DError, match="set data"):
        build(write_case(*drawn(), values=(0, 3, 7)), tmp_path / "cache")


def test_a_faulty_study_leaves_nothing(write_case, tmp_path):
    image, label = drawn()
    with pytest.raises(InputError, match="label value 3"):
        build(write_case(image, label, values=(0, 7)), tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_an_entry_that_another_process_finished_meanwhile_is_taken(write_case, tmp_path, monkeypatch):
    image, label = drawn()
    dataset = write_case(image, label, values=(0, 3, 7))
    save, raced = np.save, []

    def overtaken(file, array):
        if not raced:
            raced.append(True)
            build(dataset, tmp_path / "cache")
        save(file, array)

    monkeypatch.setattr(np, "save", overtaken)
    (study,) = build(dataset, tmp_path / "cache")
    assert np.array_equal(study.image, image)
    assert len(entries(tmp_path / "cache")) == 1


def test_two_processes_can_build_the_same_entries_at_once(phantom_dataset, tmp_path):
    assert exit_codes([(build, (phantom_dataset, tmp_path))] * 2) == [0, 0]
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("file", ["study.json", "image.npy", "label.npy"])
def test_a_damaged_entry_ends_in_one_line_that_names_it(phantom_dataset, tmp_path, file):
    build(phantom_dataset, tmp_path)
    entry = tmp_path / entries(tmp_path)[0]
    (entry / file).write_bytes((entry / file).read_bytes()[:-9])
    with pytest.raises(Unet4DError, match=r"is damaged .* delete it") as caught:
        build(phantom_dataset, tmp_path)
    assert str(entry) in str(caught.value)
    shutil.rmtree(entry)
    build(phantom_dataset, tmp_path)


def test_a_study_sent_to_a_process_is_opened_there_and_not_sent(phantom_dataset, tmp_path):
    study = build(phantom_dataset, tmp_path)[0]
    sent = pickle.dumps(study)
    assert len(sent) < 1000 < study.image.nbytes
    received = pickle.loads(sent)
    assert isinstance(received.image, np.memmap)
    assert np.array_equal(received.foreground, study.foreground)
    assert (received.case, received.labelled_frames) == (study.case, study.labelled_frames)
