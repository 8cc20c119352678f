"""CSV files: no cell is a formula, numbers stay numbers, and the original names come back."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet4d.errors import InputError
from unet4d.system.csv_file import csv_text, read_table

FORMULAS = ["=1+1", "+1", "-1", "@sum", "'=1", " =1", "a;=1", 'a,=1"=2', "\t=1", "\r=1", "\uff1d1", "\uff20x"]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_begins_as_a_formula_wherever_a_spreadsheet_splits_it(name):
    cell = next(csv.reader(io.StringIO(csv_text([[name]]))))[0]
    for separator in (",", ";", "\t", '"', "|"):
        for part in cell.split(separator):
            assert part.lstrip(" ")[:1] not in ("=", "+", "-", "@", *"\uff1d\uff0b\uff0d\uff20", "\t", "\r")


def test_numbers_stay_numbers():
    assert csv_text([["case", -1.5, 2, ""]]) == "case,-1.5,2,\n"


@given(st.lists(st.text(st.characters(codec=None), max_size=12) | st.sampled_from(FORMULAS), min_size=1, max_size=4))
def test_the_original_texts_come_back(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_text(csv_text([[f"c{i}" for i in range(len(names))], names]), encoding="utf-8")
    assert [list(row.values()) for row in read_table(path, ("c0",), "write it again")] == [names]


def read(path, data: bytes, written_whole: bool = True):
    path.write_bytes(data)
    return read_table(path, ("a", "b"), "write it again", written_whole)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"), (b" \n\n", "empty"), (b"a,b\n1\n", "row 2"), (b"a,b\n1,2,3\n", "row 2"), (b"a,b\n1,2", "truncated"),
        (b"a,c\n1,2\n", "no column b"), (b"a,b,a\n1,2,3\n", "twice"), (b"a,b\n\xff,1\n", "UTF-8"), (b"a,b\n\0,1\n", "NUL"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-8"), (b'a,b\n"' + b"1" * 200_000 + b'",2\n', "field larger"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_whole_is_refused_in_one_line(data, word, tmp_path):
    with pytest.raises(InputError, match=rf"table\.csv.*{word}.*write it again") as refused:
        read(tmp_path / "table.csv", data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"\xef\xbb\xbfa,b\r\n1,2\r\n", b"a;b\n1;2\n", b" a , b \n1,2\n\n"])
def test_what_spreadsheets_write_is_read(data, tmp_path):
    assert read(tmp_path / "table.csv", data) == [{"a": "1", "b": "2"}]


def test_a_table_typed_by_hand_needs_no_end_of_its_last_line(tmp_path):
    assert read(tmp_path / "table.csv", b"a,b\n1,2", written_whole=False) == [{"a": "1", "b": "2"}]


def test_a_device_is_refused_before_it_is_read():
    with pytest.raises(InputError, match="a device"):
        read_table(Path(os.devnull), ("case",), "copy it")
