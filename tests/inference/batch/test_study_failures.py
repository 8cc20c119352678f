"""Tests: an unexpected exception fails one study and the others go on; predict and evaluate have tests elsewhere."""

from __future__ import annotations

import importlib

import pytest

from tests.builders import skip_drawing
from tests.datasets.convert.layouts import write_patient
from unet4d.datasets.dataset import read_dataset


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("unet4d.datasets.convert.convert", "_write_study"),
        ("unet4d.datasets.verify.run_checks", "check_image"),
        ("unet4d.report.report", "_read_study"),
    ],
    ids=["convert", "verify", "report"],
)
def test_an_unexpected_exception_is_the_failure_of_one_study(command, own_phantom, tmp_path, monkeypatch, module, name):
    skip_drawing(monkeypatch, "unet4d.report.report")
    for number in (1, 2, 3):
        write_patient(tmp_path / "acdc" / f"patient00{number}", number)
    out, calls, place = tmp_path / "out", [], importlib.import_module(module)
    usual = getattr(place, name)

    def failing(*given):
        calls.append(given)
        if "002" in str(getattr(given[0], "name", given[0])):
            raise KeyError("bug")
        return usual(*given)

    monkeypatch.setattr(place, name, failing)
    words = {
        "_write_study": ["convert", "acdc", tmp_path / "acdc", "--out", out],
        "check_image": ["verify", own_phantom],
        "_read_study": ["report", "--image", own_phantom, "--prediction", own_phantom / "labels", "--out", out],
    }[name]
    done = command(*words)
    assert done.code == 2
    assert "unexpected KeyError" in done.told + done.line
    assert len(calls) == 3
    if name == "_write_study":
        assert len(read_dataset(out).training) == 2
    if name == "check_image":
        assert "3 studies" not in done.told.splitlines()[0]
        assert "1 error" in done.told
    if name == "_read_study":
        assert (out / "index.html").exists()
        assert len(list(out.glob("phantom*.html"))) == 2
