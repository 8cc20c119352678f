"""Tests: docs/how-to/python.md runs as it is, and returns what it describes."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unet4d
from unet4d.cli import COMMANDS
from unet4d.images.image4d import read_label
from unet4d.models.checkpoint import BEST

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names after the last line, what was printed as "printed", and the folder as "folder"."""
    folder = tmp_path_factory.mktemp("session")
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        patch.syspath_prepend(folder)
        for block in BLOCKS:
            if name := re.match(r"# (\w+\.py)\n", block):
                Path(name[1]).write_text(block, encoding="utf-8")
            exec(compile(block, "docs/how-to/python.md", "exec"), names)
    return {**names, "printed": printed.getvalue(), "folder": folder}


def test_arrays_have_the_shapes_it_says(session):
    frames, grid = 4, (40, 36, 5)
    assert session["image"].array.shape == (1, frames, *grid)
    assert (session["image"].array.dtype, session["label"].dtype) == (np.float32, np.uint8)
    assert session["labelled"].tolist() == [True] * frames
    for name in ("label", "found", "again", "cleaned"):
        assert session[name].shape == (frames, *grid)
    assert session["volumes"].shape == session["overlap"].shape == (frames, 3)
    assert session["seconds"].shape == (frames,)
    assert session["logits"].shape == (1, 3, 4, 16, 16, 4)
    assert session["hidden"].shape == (1, 3, 16, 8, 8, 2)
    assert session["coupled"].shape == (1, 3, 4, 16, 16, 4)
    assert isinstance(session["logits"], torch.Tensor)


def test_what_is_printed_is_what_stands_beside_it(session):
    printed = session["printed"].splitlines()
    assert '(("background", 0), ("right ventricle", 1), ("myocardium", 2), ("left ventricle", 3))' in PAGE
    assert "(('background', 0), ('right ventricle', 1), ('myocardium', 2), ('left ventricle', 3))" in printed
    assert {"cyclic", "(1.5, 1.5, 8.0)"} <= set(printed)
    assert any(line.startswith("nowhere.nii.gz is missing;") for line in printed)


def test_files_lie_where_it_says(session):
    folder = session["folder"]
    (held_out,) = session["model"].task.held_out
    assert session["checkpoint"] == Path("run") / BEST
    for file in (
        f"predicted/{held_out}.nii.gz",
        "predicted/volumes.csv",
        "predicted/prediction.json",
        "scores/summary.json",
    ):
        assert (folder / file).is_file()
    assert (folder / session["page"]).is_file()
    assert session["page"] == Path("pages/index.html")
    np.testing.assert_array_equal(read_label(folder / "found.nii.gz"), session["found"])
    assert set(session["summary"]["classes"]["myocardium"]["dice"]) == {"mean", "median", "std", "n"}


def test_frame_by_frame_is_the_whole_study_as_an_open_one(session):
    whole = unet4d.segment(session["model"], session["image"], time="open")
    np.testing.assert_array_equal(np.stack(session["frames"]), whole)


def test_the_table_names_the_function_of_every_command():
    rows = dict(re.findall(r"^\| `(\w+)` \| `unet4d\.([\w.]+)`", PAGE, re.M))
    assert rows.keys() == COMMANDS.keys() - {"phantom"}  # which is write_phantom
    for command, path in rows.items():
        module, _, name = path.rpartition(".")
        assert name == command
        assert callable(getattr(importlib.import_module(f"unet4d.{module}"), name))


def test_the_public_names_are_those_it_lists():
    listed = set(re.findall(r"`(\w+)`", PAGE.split("in `unet4d` itself: ")[1].split(". Each command")[0]))
    assert listed == set(unet4d.__all__) - {"__version__"}
