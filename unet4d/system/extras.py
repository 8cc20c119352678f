"""Packages that only some features need: an extra of the package installs each."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from unet4d.errors import InputError


def check_extra(package: str, extra: str, purpose: str) -> None:
    """Raise an InputError that names the extra to install unless a package is there; it is not imported."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"got no package {package}, expected it for {purpose}; pip install 'unet4d[{extra}]'")


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Return the module of a package that an extra installs. Raise InputError as `check_extra`."""
    check_extra(package, extra, purpose)
    return importlib.import_module(package)
