"""Tests: the page on DICOM names formats, classes, columns and the release of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unet4d.report.dicom.terms import CODING_SCHEME, COLUMNS, LESION_TERMS, NAME_TERMS
from unet4d.report.dicom.write import DICOM_NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "dicom.md").read_text(encoding="utf-8")


def test_formats_classes_and_columns_are_those_of_the_code():
    assert re.findall(r"^\| `(dicom-[a-z-]+)` \| `CASE", PAGE, re.M) == list(DICOM_NAMES)
    for name in DICOM_NAMES.values():
        assert name.format("CASE") in PAGE
    named = set(re.findall(r"[a-z]+(?: [a-z]+)*", PAGE.replace(" and ", ", ").replace("velum", "")))
    assert {*NAME_TERMS, *LESION_TERMS} - {*named, "velum", "atrium", "tumour"} == set()
    assert ",".join(COLUMNS) in PAGE
    assert CODING_SCHEME in PAGE


def test_the_release_of_the_tables_is_named():
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    assert f"release {pydicom.__dicom_version__}" in PAGE
