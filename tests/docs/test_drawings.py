"""Tests: the drawings and pictures of the pages are those that the programs in docs/drawing/ make."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

DRAWING, PICTURES = (Path(__file__).parents[2] / "docs" / name for name in ("drawing", "pictures"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a program of docs/drawing/ and return the files that it wrote into a folder of the test."""
    monkeypatch.syspath_prepend(DRAWING)
    import svg

    monkeypatch.setattr(svg, "PICTURES", tmp_path)

    def run(program: str) -> list[Path]:
        found = runpy.run_path(str(DRAWING / program))
        monkeypatch.setitem(found["main"].__globals__, "PICTURES", tmp_path)
        found["main"]()
        return sorted(tmp_path.iterdir())

    yield run
    sys.modules.pop("svg")


@pytest.mark.parametrize("program", ["diagrams.py", "frames.py"])
def test_diagrams_are_those_that_the_program_draws(run, program):
    files = run(program)
    assert files
    assert [file.name for file in files if file.read_bytes() != (PICTURES / file.name).read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("program", ["network.py", "phantoms.py"])
def test_pictures_are_drawn_anew(run, program):
    files = run(program)
    assert files
    for file in files:
        known = (PICTURES / file.name).stat().st_size
        assert abs(file.stat().st_size - known) < 0.05 * known + 100, file.name
