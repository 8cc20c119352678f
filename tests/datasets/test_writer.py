"""A dataset folder while it is written: the folders that are refused, and completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import write_dataset_json
from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError
from unet4d.phantom import write_phantom


def write_dataset(root: Path) -> None:
    """Write a dataset.json of one test case; its file need not be there."""
    write_dataset_json(root, [], {"background": 0, "heart": 1}, test=[{"case": "a", "image": "images/a.nii"}])


def test_what_an_earlier_call_named_otherwise_is_gone(tmp_path):
    """Pins a conversion that was stopped and begun again without patients' ids, which stayed in the names beside."""
    stopped = fill_dataset_folder(tmp_path)
    stopped.__enter__()
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "DOE-JANE_series001.nii").touch()
    with fill_dataset_folder(tmp_path):
        assert not list(tmp_path.rglob("*.nii"))
        (tmp_path / "images").mkdir()
        for name in ("a", "left out after all"):
            (tmp_path / "images" / f"{name}.nii").touch()
        write_dataset(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.nii")] == ["a.nii"]


def test_a_folder_that_was_stopped_is_filled_again_and_then_done(tmp_path):
    out = tmp_path / "deep" / "out"
    stopped = fill_dataset_folder(out)
    stopped.__enter__()
    (out / "image").touch()
    with fill_dataset_folder(out):
        write_dataset(out)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "image"]
    with pytest.raises(InputError, match="holds a dataset already"), fill_dataset_folder(out):
        raise AssertionError


@pytest.mark.parametrize("name", ["dataset.json", "image", ".hidden"])
def test_a_folder_that_holds_anything_is_somebodys(tmp_path, name):
    (tmp_path / name).touch()
    with (
        pytest.raises(InputError, match="holds a dataset already" if "json" in name else "is not empty"),
        fill_dataset_folder(tmp_path),
    ):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_folder_will_do_and_a_file_will_not(tmp_path):
    with fill_dataset_folder(tmp_path):
        write_dataset(tmp_path)
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="is a file, expected a new or empty folder"),
        fill_dataset_folder(tmp_path / "file"),
    ):
        raise AssertionError


def test_a_stopped_phantom_can_be_run_again(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unet4d.phantom.phantom_dataset.write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path, 1, 2, shape=(32, 32, 4))
    assert not (tmp_path / "dataset.json").exists()
    assert write_phantom(tmp_path, 1, 2, shape=(32, 32, 4)).is_file()
