"""Digests of content: equal for equal bytes, read once, and a memo that can harm nothing."""

from __future__ import annotations

import os
import shutil

import pytest

from unet4d.errors import InputError
from unet4d.system import digests
from unet4d.system.digests import DigestMemo, content_digests


def memo(folder) -> DigestMemo:
    return DigestMemo(folder / "memo")


@pytest.fixture
def read(monkeypatch):
    """The files that are read, in order; files settle at once."""
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    taken, digest = [], digests._digest

    def counted(path):
        taken.append(path.name)
        return digest(path)

    monkeypatch.setattr(digests, "_digest", counted)
    return taken


@pytest.fixture
def pair(tmp_path):
    """Two files of one size."""
    paths = [tmp_path / "a.nii", tmp_path / "b.nii"]
    for path, byte in zip(paths, b"ab", strict=True):
        path.write_bytes(bytes([byte]) * 1000)
    return paths


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_digest_is_of_the_bytes_alone(pair, tmp_path, threads):
    copy = tmp_path / "copy"
    shutil.copy(pair[0], copy)
    os.utime(copy, (0, 0))
    digests = content_digests([*pair, copy], memo(tmp_path), threads)
    assert digests[pair[0]] == digests[copy] != digests[pair[1]]
    assert all(len(digest) == 32 for digest in digests.values())


def test_an_unchanged_file_is_read_once(pair, tmp_path, read, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in pair]
    first = content_digests(relative, memo(tmp_path))
    assert content_digests(relative, memo(tmp_path)) == first
    assert list(content_digests(pair, memo(tmp_path)).values()) == list(first.values())
    assert read == ["a.nii", "b.nii"]


def test_a_file_is_read_again_when_anything_about_it_changed(pair, tmp_path, read):
    before = content_digests(pair, memo(tmp_path))
    times = pair[0].stat()
    pair[0].write_bytes(b"c" * 1000)
    os.utime(pair[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    after = content_digests(pair, memo(tmp_path))
    assert before[pair[0]] != after[pair[0]]
    assert before[pair[1]] == after[pair[1]]
    assert read == ["a.nii", "b.nii", "a.nii"]


def test_another_file_under_the_same_name_is_read(pair, tmp_path, read):
    before = content_digests(pair, memo(tmp_path))
    assert digests.stamp(pair[0])[3] != digests.stamp(pair[1])[3]  # where all times are equal
    os.replace(pair[1], pair[0])
    assert content_digests(pair[:1], memo(tmp_path))[pair[0]] == before[pair[1]]
    assert read == ["a.nii", "b.nii", "a.nii"]


def test_a_file_that_was_just_written_is_not_remembered(pair, tmp_path, read, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_S", 3600.0)
    for _ in range(2):
        content_digests(pair, memo(tmp_path))
    assert len(read) == 4


def test_files_of_others_are_not_forgotten(pair, tmp_path, read):
    for part in (pair[:1], pair[1:], pair):
        content_digests(part, memo(tmp_path))
    assert read == ["a.nii", "b.nii"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"PATH": 7}', '{"PATH": []}', '{"PATH": [[1, 2, 3, 4], "x"]}', '{"PATH": [STAMP, 7]}',
        '{"PATH": [STAMP]}', "\udcff",
    ],
)  # fmt: skip
def test_a_damaged_memo_does_no_harm(pair, tmp_path, read, text):
    whole = content_digests(pair, memo(tmp_path))
    text = text.replace("PATH", str(pair[0])).replace("STAMP", str(digests.stamp(pair[0])))
    (tmp_path / "memo").write_bytes(text.encode(errors="surrogateescape"))
    read.clear()
    assert content_digests(pair, memo(tmp_path)) == whole
    assert read == ["a.nii", "b.nii"]
    assert content_digests(pair, memo(tmp_path)) == whole  # and is whole again
    assert len(read) == 2


def test_a_memo_that_cannot_be_written_does_no_harm(pair, tmp_path):
    (tmp_path / "file").write_text("")
    assert len(content_digests(pair, DigestMemo(tmp_path / "file" / "memo"))) == 2


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_remembered(pair, tmp_path, read, monkeypatch):
    digest = digests._digest

    def refused(path):
        if path == pair[1]:
            raise digests._unreadable(path, PermissionError(13, "Permission denied"))
        return digest(path)

    monkeypatch.setattr(digests, "_digest", refused)
    with pytest.raises(InputError, match=r"b\.nii cannot be read \(Permission denied\)"):
        content_digests(pair, memo(tmp_path))
    monkeypatch.setattr(digests, "_digest", digest)
    content_digests(pair, memo(tmp_path))
    assert read == ["a.nii", "b.nii"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.nii cannot be read"):
        content_digests([tmp_path / "gone.nii"], memo(tmp_path))
