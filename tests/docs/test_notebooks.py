"""Tests: the notebooks are stored without outputs, use only what is there, and run from the first cell to the last (slow)."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
EACH = pytest.mark.parametrize("name", NOTEBOOKS)
SHOWN = {
    "segment_and_look": ["left ventricle   Dice", "image/png"],
    "train_with_monai": ["Dice of right ventricle", "image/png"],
    "recurrence_or_frames": ["frame-wise  mean Dice", "dice: left ventricle", "image/png"],
}
"""Texts that the outputs of each notebook hold, at least."""
MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]


def code_of(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def test_there_are_the_three_that_the_page_lists():
    page = (ROOT / "docs/how-to/notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS.keys() == SHOWN.keys() == set(re.findall(r"notebooks/(\w+)\.ipynb\)", page))


@EACH
def test_it_is_stored_without_outputs(name):
    notebook = NOTEBOOKS[name]
    assert (notebook["nbformat"], notebook["metadata"].keys()) == (4, {"kernelspec", "language_info"})
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@EACH
def test_what_it_imports_is_there(name):
    for node in ast.walk(ast.parse("\n".join(code_of(name)))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("unet4d"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_extra_has_what_they_need():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    needed = {re.match(r"[\w-]+", line)[0] for line in extras["notebooks"]}
    assert needed == {"ipykernel", "ipyniivue", "nbclient"}


@EACH
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} missing: pip install 'unet4d[notebooks]'")
def test_it_runs_from_the_first_cell_to_the_last(name, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1000, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    print(f"\n{name}\n{text}{kinds}")  # in the log of a CI with -s
    assert all(shown in text or shown in kinds for shown in SHOWN[name])
    has_viewer = importlib.util.find_spec("ipyniivue") is not None
    assert name != "segment_and_look" or ("ipyniivue is not installed" in text) != has_viewer
    assert name != "segment_and_look" or ("application/vnd.jupyter.widget-view+json" in kinds) == has_viewer
