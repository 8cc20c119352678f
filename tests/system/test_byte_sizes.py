"""Tests: sizes of memory read from text and written as text."""

from __future__ import annotations

import pytest

from unet4d.errors import InputError
from unet4d.system.byte_sizes import bytes_of, describe_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8e9),
        ("8", 8e9),
        ("7.5", 7.5e9),
        ("8000 MB", 8e9),
        ("8GiB", 8 * 2**30),
        ("512mib", 2**29),
        (".5g", 5e8),
        ("2T", 2e12),
    ],
)
def test_a_size_in_words(text, size):
    assert bytes_of(text, "--max_memory") == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-8GB", "8 apples", "1e3", "inf", "8GB8"])
def test_what_is_no_size_is_told(text):
    with pytest.raises(InputError, match=r"--max_memory is .*, expected a size above 0"):
        bytes_of(text, "--max_memory")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (64800, "64.8 kB"), (3.21e9, "3.21 GB"), (1e15, "1e+03 TB")]
)
def test_a_size_is_told(size, text):
    assert describe_bytes(size) == text
