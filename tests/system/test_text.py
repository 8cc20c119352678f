"""Text that is safe to print, and streams that let nothing else through."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from tqdm import tqdm

from unet4d.errors import InputError
from unet4d.system.text import PrintableStream, format_significant, printable, printable_output, shortened

STEERING = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF)]
STEERING += [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xDC80, 0xDCFF, 0xD800)]


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_what_steers_a_terminal_becomes_a_visible_escape(character):
    text = printable(f"a{character}b")
    assert text.isprintable()
    assert text[0] == "a" and text[-1] == "b" and "\\" in text  # noqa: PT018


@pytest.mark.parametrize("text", ["plain", "é ß 日本語 قلب", "no-break\u00a0space", r"back\slash", "\U0001fac0", ""])
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


def test_a_long_text_keeps_its_ends():
    text = shortened("a" * 500 + "\x1b" + "z" * 500, 21)
    assert len(text) == 21
    assert text.startswith("aaaa") and text.endswith("zzzz")  # noqa: PT018
    assert shortened("short") == "short"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.012345, "0.0123"),
        (-12.34, "-12.3"),
        (999.6, "1000"),
        (-34998.4, "-34998"),
        (1e6, "1000000"),
    ],
)
def test_a_number_has_three_significant_digits_and_no_power_of_ten_for_large_ones(value, text):
    assert format_significant(value, 3) == text


def test_the_message_of_an_error_is_safe_for_a_library_user_too():
    assert str(InputError("case \x1b[31mred\u202e is wrong")) == r"case \x1b[31mred\u202e is wrong"


def test_a_bar_moves_its_cursor_and_names_do_not():
    plain = io.StringIO()
    stream = PrintableStream(plain, moves_cursor=True)
    with tqdm(total=2, file=stream, desc="first") as first, tqdm(total=2, file=stream, position=1) as second:
        first.set_postfix_str("na\x1b[Ame\rforged")
        second.update()
    written = plain.getvalue()
    assert "\x1b[A" in written
    assert "\r" in written
    assert r"na\x1b[Ame\rforged" in written


def test_lines_and_columns_stay_and_no_encoding_fails():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PrintableStream(stream).write("done\tcäse\r\n")
    stream.seek(0)
    assert stream.buffer.getvalue() == b"done\tc\\xe4se\\r\n"


class Broken(io.StringIO):
    """A stream that refuses every write."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, ""), OSError(errno.ENOSPC, ""), ValueError("closed")])
def test_a_stream_that_fails_is_noted_and_never_raises(error):
    stream = PrintableStream(Broken(error))
    stream.write("one")
    stream.write("two")
    stream.flush()
    assert isinstance(stream.failure, OSError)


def test_the_streams_of_the_process_come_back(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as in a process with a closed descriptor
    before = sys.stderr
    with printable_output() as (out, _):
        print("into nothing")
        assert out.failure is None
    assert sys.stdout is None
    assert sys.stderr is before
    assert os.fstat(0)
