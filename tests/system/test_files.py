"""Files appear whole or not at all, and what the disk refuses is one clear line."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from types import SimpleNamespace

import pytest

from tests.masking import needs_posix
from unet4d.errors import InputError, Unet4DError
from unet4d.system.files import (
    check_disk_space,
    check_writable,
    free_disk_bytes,
    read_json,
    remove_partial,
    replacing,
    write_json,
    write_text,
)


@contextlib.contextmanager
def largest_file(size):
    """Files in here cannot grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full when what was written is synced."""

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet4d.system.files.os.fsync", refuse)


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "map.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["map.nii.gz"]


@pytest.mark.parametrize("failure", [ValueError("a bug"), KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(Unet4DError, match=r"could not write .*table.csv: No space left on device; free space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


@needs_posix("Windows cannot sync folders")
def test_what_is_written_is_synced_before_it_takes_its_name_and_the_name_after(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def replaced(source, target):
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text(tmp_path / "table.csv", "new")
    content, renamed, folder = done
    assert content.endswith(".partial.table.csv")
    assert (renamed, folder) == ("replace", str(tmp_path))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_is_let_be(tmp_path, monkeypatch, number):
    usual = os.fsync

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        usual(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "table.csv", "new")
    assert (tmp_path / "table.csv").read_text() == "new"


def test_a_file_too_large_for_the_file_system_is_told(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with (
        largest_file(1000),
        pytest.raises(Unet4DError, match=r"could not write .*table.csv: File too large; free space"),
    ):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / ".partial.table.csv").touch()
    (tmp_path / "run.partial.table.csv").touch()
    (tmp_path / ".0123abcd.partial.picture.png").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".0123abcd.partial.table.csv").touch()
    kept = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: None)  # killed before it cleaned up
        patch.setattr(os, "replace", lambda source, target: None)
        write_text(tmp_path / "table.csv", "half")
    assert len(list(tmp_path.glob(".????????.partial.table.csv"))) == 1
    remove_partial(tmp_path, "table*.csv")
    assert sorted(tmp_path.rglob("*")) == kept
    remove_partial(tmp_path / "missing", "table*.csv")


@pytest.mark.parametrize("name", ["file/below.txt", "file/deep/below.txt", "folder", "x" * 300])
def test_a_path_that_cannot_be_written_is_told(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "within").mkdir(parents=True)
    with pytest.raises(Unet4DError, match="could not write"):
        write_text(tmp_path / name, "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_is_checked_without_being_made(tmp_path, monkeypatch):
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "deep")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file, expected a folder"):
        check_writable(tmp_path / "file" / "deep")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Unet4DError, match="no permission"):
        check_writable(tmp_path / "new")


def test_json_there_and_back(tmp_path):
    value = {"name": "Herzkammer ä", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON .*; correct it there"):
        read_json(tmp_path / "a.json")


def test_a_missing_or_unreadable_json_is_named(tmp_path):
    with pytest.raises(InputError, match=r"b\.json is missing; give"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match=r"cannot be read \((Is a directory|Permission denied)\); give"):
        read_json(tmp_path)


def test_a_folder_to_come_has_the_space_of_the_nearest_one_above(tmp_path):
    assert free_disk_bytes(tmp_path / "a" / "b") == pytest.approx(free_disk_bytes(tmp_path), rel=0.2)


def test_too_little_space_names_the_folder_both_sizes_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    check_disk_space(tmp_path, 10**9, "tables", "choose another folder")
    with pytest.raises(Unet4DError, match=r"needs 2 GB for tables, and 1 GB are free.*choose another folder"):
        check_disk_space(tmp_path, 2e9, "tables", "choose another folder")
