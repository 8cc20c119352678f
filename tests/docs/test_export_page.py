"""The program of the page on export runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.graph_models import make_model
from unet4d.inference.graph_folder import write_graph_folder

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


def test_the_program_segments_a_study_and_its_frames_as_they_arrive(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'unet4d[onnx]'")
    card = {"postprocessing": []}
    write_graph_folder(tmp_path / "heart_onnx", make_model(direction="forward"), card, "not stated", "onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setitem(sys.modules, "run", None)
    del sys.modules["run"]
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    values: dict[str, object] = {}
    exec(program, values)
    label, frames = values["label"], values["frames"]
    assert isinstance(label, np.ndarray)
    assert (label.shape, label.dtype) == ((5, 40, 36, 6), np.uint8)
    assert [frame.shape for frame in frames] == [(40, 36, 6)] * 5
