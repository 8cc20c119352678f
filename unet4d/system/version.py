"""The version of this package, read without importing anything heavy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _installed_version() -> str:
    """Return the version that is installed, else that of the checkout around this package."""
    try:
        return version("unet4d")
    except PackageNotFoundError:
        import tomllib

        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        return tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"] if pyproject.is_file() else "unknown"


VERSION = _installed_version()
