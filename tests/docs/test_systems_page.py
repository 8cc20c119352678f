"""Tests: docs/start/systems.md names commands, sessions, variables and Pythons that there are, and no more than was run."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from unet4d.models.device import MPS_FALLBACK
from unet4d.system.operating_system import FOLDER_LOCK, REPLACE_PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "start" / "systems.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUN = dict(re.findall(r"^\| (3\.\d+) \| [\w., ]+ \| (.+) \| (?:at every change|\d{4}-\d\d-\d\d) \|$", PAGE, re.M))
"""Python to what was run on it."""


def test_only_pythons_are_classified_on_which_something_was_run():
    classified = {one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)}
    assert classified == {python for python, what in RUN.items() if not what.startswith("nothing")}
    assert PROJECT["requires-python"] == f">={min(RUN)}"


def test_the_sessions_of_nox_are_for_the_pythons_that_it_names():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert list(ast.literal_eval(values["PYTHONS"])) == list(RUN)
    assert re.findall(r"nox -s ([\w.-]+)", PAGE) == ["tests-3.13"]
    assert {"tests", "torch", "portable"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_its_commands_of_make_are_there():
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"\bmake (\w+)", PAGE)) <= rules


def test_names_and_numbers_are_those_of_the_code():
    assert f"`{FOLDER_LOCK}`" in PAGE
    assert f"for {REPLACE_PATIENCE_S:g} seconds" in PAGE
    assert f"{MPS_FALLBACK}=1 unet4d" in PAGE
    assert (ROOT / re.search(r"`(unet4d/\S+\.py)`", PAGE)[1]).is_file()
