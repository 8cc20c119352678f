"""The scripts of data/, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def script(dataset: str) -> ModuleType:
    """Import data/<dataset>/prepare.py."""
    spec = importlib.util.spec_from_file_location(
        f"prepare_{dataset}", Path(__file__).parents[1] / "data" / dataset / "prepare.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
