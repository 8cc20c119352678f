"""CSV files with names that a spreadsheet takes as text and not as formulas, and descriptions of their columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unet4d.errors import InputError
from unet4d.system.regular_files import open_regular
from unet4d.system.text import count, printable

Row = dict[str, str]
_BEFORE_FORMULA = r"""(?:^|(?<=[;,"|]))(?=[' ]*[=+\-@\uff1d\uff0b\uff0d\uff20])"""
"""Places where a spreadsheet may begin to read a formula: the start of a cell, or behind a character that may end one."""
_UNQUOTED, _QUOTED = re.compile(_BEFORE_FORMULA), re.compile(_BEFORE_FORMULA.replace("(?=", "'(?=", 1))
_ESCAPED = re.compile(r"\\(?:u[0-9a-f]{4}|x[0-9a-f]{2}|U[0-9a-f]{8}|[nrt\\])")
_NAMES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


class Table(NamedTuple):
    """The description of a table that the package writes; the documentation lists it.

    Attributes:
        file: its name.
        row: what one row is of.
        columns: name to meaning, in order, with the unit where there is one.
    """

    file: str
    row: str
    columns: Mapping[str, str]

    def text(self, rows: Iterable[Sequence[Any]]) -> str:
        """Return the text of the file: its columns, then the rows."""
        return csv_text([list(self.columns), *rows])


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return the text of a CSV file.

    A text that a spreadsheet may take as a formula gets an apostrophe before it; characters that are not printable are escaped.
    Numbers stay numbers. `read_table` gives the original texts.

    Args:
        rows: of texts and numbers; the header is one of them.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def read_table(path: Path, columns: Sequence[str], advice: str, written_whole: bool = True) -> list[Row]:
    """Read a CSV file with a header line; commas or, where the header has no comma, semicolons part its columns.

    Args:
        path: the file, in UTF-8, with or without a byte order mark.
        columns: those it must have; it may have others.
        advice: what to do about a file that is refused.
        written_whole: a program wrote the file, which ends its last line; without that end the file was truncated.

    Returns:
        A row for each line that is not blank, column to text.

    Raises:
        InputError: the file cannot be read, is empty, or lacks a column; a line has another number of columns than the header.
    """
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); expected CSV in UTF-8; {advice}"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    if "\0" in text:
        raise InputError(f"{path} holds NUL characters, so it is no text; {advice}")
    if not text.strip():
        raise InputError(f"{path} is empty; expected the columns {', '.join(columns)}; {advice}")
    if written_whole and not text.endswith("\n"):
        raise InputError(f"{path} ends within a line, so it was truncated; {advice}")
    header = text.lstrip().splitlines()[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if line]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV ({error}); {advice}") from error
    names = [original(name.strip()) for name in lines[0]] if lines else []
    lacking = [column for column in columns if column not in names]
    if lacking or len(set(names)) < len(names):
        wrong = f"has no column {', '.join(lacking)}" if lacking else "has a column twice"
        raise InputError(f"{path} {wrong}; expected the columns {', '.join(columns)}; {advice}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            got = count(len(line), "column")
            raise InputError(
                f"{path}: row {number} has {got}, expected {len(names)} as in the header; it was truncated or changed; {advice}"
            )
    return [dict(zip(names, map(original, line), strict=True)) for line in lines[1:]]


def original(cell: str) -> str:
    """Return the text that `csv_text` wrote as this cell."""
    cell = _QUOTED.sub("", cell)
    return _ESCAPED.sub(_unescaped, cell) if "\\" in cell else cell


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.isprintable() or _ESCAPED.search(value):
        value = printable(value.replace("\\", "\\\\"))
    return _UNQUOTED.sub("'", value)


def _unescaped(found: re.Match[str]) -> str:
    body = found[0][1:]
    return _NAMES.get(body) or chr(int(body[1:], 16))
