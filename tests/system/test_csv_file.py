"""CSV files: no cell is a formula, numbers stay numbers, and the original names come back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet4d.system.csv_file import csv_text, read_csv

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
    assert [list(row.values()) for row in read_csv(path)[1]] == [names]


def test_missing_cells_are_empty_and_other_bytes_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1\n")
    assert read_csv(path) == (["a", "b"], [{"a": "1", "b": ""}])
    path.write_bytes(b"a,b\n\xff,1\n")
    with pytest.raises(ValueError, match="utf-8"):
        read_csv(path)
