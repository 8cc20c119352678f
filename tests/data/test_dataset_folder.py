"""A dataset folder while it is written: whose it is, and when it is done."""

from __future__ import annotations

import pytest

from unet4d.data.dataset_folder import filling
from unet4d.data.phantom import write_phantom
from unet4d.errors import InputError


def test_a_folder_that_was_stopped_is_filled_again_and_then_done(tmp_path):
    out = tmp_path / "deep" / "out"
    stopped = filling(out)
    stopped.__enter__()
    (out / "image").touch()
    with filling(out):
        (out / "dataset.json").touch()
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "image"]
    with pytest.raises(InputError, match="holds a dataset already"), filling(out):
        raise AssertionError


@pytest.mark.parametrize("name", ["dataset.json", "image", ".hidden"])
def test_a_folder_that_holds_anything_is_somebodys(tmp_path, name):
    (tmp_path / name).touch()
    with (
        pytest.raises(InputError, match="holds a dataset already" if "json" in name else "is not empty"),
        filling(tmp_path),
    ):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_folder_will_do_and_a_file_will_not(tmp_path):
    with filling(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; wanted a new or empty folder"), filling(tmp_path / "file"):
        raise AssertionError


def test_a_stopped_phantom_can_be_run_again(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unet4d.data.phantom.dataset.write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path, 1, 2, shape=(32, 32, 4))
    assert not (tmp_path / "dataset.json").exists()
    assert write_phantom(tmp_path, 1, 2, shape=(32, 32, 4)).is_file()
