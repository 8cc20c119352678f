"""CSV files whose names a spreadsheet takes as text and not as formulas; the one writer and reader of the package."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unet4d.system.text import printable

_BEFORE_FORMULA = r"""(?:^|(?<=[;,"|]))(?=[' ]*[=+\-@\uff1d\uff0b\uff0d\uff20])"""
"""Where a spreadsheet may begin to read a formula: at the start of a cell, or behind what it may take for the end of one."""
_UNQUOTED, _QUOTED = re.compile(_BEFORE_FORMULA), re.compile(_BEFORE_FORMULA.replace("(?=", "'(?=", 1))
_ESCAPED = re.compile(r"\\(?:u[0-9a-f]{4}|x[0-9a-f]{2}|U[0-9a-f]{8}|[nrt\\])")
_NAMES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return the text of a CSV file.

    A text that a spreadsheet may take as a formula gets an apostrophe before it; characters that are not printable are escaped.
    Numbers stay numbers. `read_csv` gives the original texts.

    Args:
        rows: of texts and numbers; the header is one of them.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a file of `csv_text`: its columns, and its rows as the original text by column; what is missing in a row is "".

    Raises:
        OSError: it cannot be read.
        ValueError: it is no CSV file in UTF-8.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{name: original(cell) for name, cell in row.items() if name is not None} for row in reader]
            return [original(name) for name in reader.fieldnames or ()], rows
    except csv.Error as error:
        raise ValueError(str(error)) from error


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
