"""Which exception is the failure of one study, which ends a batch, and what is advised where a disk refuses."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from unet4d.errors import InputError, Unet4DError
from unet4d.system.failures import failure_of_study
from unet4d.system.files import check_writable, replacing, write_text


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InputError("wrong"), InputError, "wrong"),
        (KeyError("bug"), Unet4DError, "unexpected KeyError: 'bug'"),
        (RecursionError(), Unet4DError, "unexpected RecursionError"),
        (RuntimeError("shape mismatch"), Unet4DError, "unexpected RuntimeError: shape mismatch"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), InputError, "choose shorter names"),
        (OSError(errno.EIO, "I/O error", "a.nii"), Unet4DError, "a.nii: I/O error"),
    ],
)
def test_what_is_wrong_with_one_study_is_its_failure(error, kind, words):
    found = failure_of_study(error)
    assert type(found) is kind
    assert words in str(found)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_a_full_disk_and_a_broken_device_end_the_batch(error):
    with pytest.raises(type(error)):
        failure_of_study(error)


def test_a_traceback_is_printed_on_request(monkeypatch, capsys):
    def failing():
        raise KeyError("bug")

    for value, shown in (("", False), ("1", True)):
        monkeypatch.setenv("UNET4D_DEBUG", value)
        try:
            failing()
        except KeyError as error:
            failure_of_study(error)
        assert ("in failing" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("number", "kind", "words", "never"),
    [
        (errno.EACCES, Unet4DError, "permission", "free space"),
        (errno.EROFS, Unet4DError, "read-only", "free space"),
        (errno.ENAMETOOLONG, InputError, "shorter", "free space"),
        (errno.ENOSPC, Unet4DError, "free space", "permission"),
    ],
)
def test_each_refusal_has_its_own_advice(tmp_path, number, kind, words, never):
    def write():
        with replacing(tmp_path / "a.json"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(kind) as caught:
        write()
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert never not in str(caught.value)


def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_refused_before_the_work(tmp_path):
    longest = "é" * 124 + ".nii.gz"
    write_text(tmp_path / longest, "whole")
    assert os.listdir(tmp_path) == [longest]
    with pytest.raises(InputError, match="shorter"):
        check_writable(tmp_path / ("x" * 300) / "out")
    with pytest.raises(InputError, match="null byte"):
        check_writable(f"{tmp_path}/a\0b")
