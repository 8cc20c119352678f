"""The benchmark of DICOM objects at toy size."""

from __future__ import annotations

import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from bench.__main__ import PARTS
from bench.dicom import FORMATS, measure, write_images


def test_a_format_has_a_cost(tmp_path):
    assert "dicom" in PARTS
    write_images(tmp_path, (2, 12, 10, 3))
    for name in FORMATS[:2]:
        row = measure(tmp_path, name)
        assert row["files"] == (1 if name == "dicom-seg" else 2)
        assert row["CPU s"] > 0
        assert row["most MB"] > row["MB"] > 0
