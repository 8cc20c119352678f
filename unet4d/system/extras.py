"""Packages that only some features need: an extra of the package installs each."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from unet4d.errors import InputError

TORCH = "torch"
BACKENDS = {TORCH: (), "onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
"""Backends that compute a network's encoder and decoder, and the precisions of those that are not torch."""
_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


def check_extra(package: str, extra: str, purpose: str) -> None:
    """Raise an InputError that names the extra to install unless a package is there; it is not imported."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"got no package {package}, expected it for {purpose}; pip install 'unet4d[{extra}]'")


def check_backend(backend: str, device: str = "auto", precision: str = "auto") -> None:
    """Raise an InputError for an unknown backend, one without its packages, or with a device or precision that it lacks."""
    if backend not in BACKENDS:
        raise InputError(f"got --backend {backend}, expected one of {', '.join(BACKENDS)}; correct it")
    if backend == TORCH:
        return
    if device not in ("auto", "cpu"):
        raise InputError(f"got --backend {backend} with --device {device}, expected cpu; leave one of them out")
    known = BACKENDS[backend]
    if precision not in ("auto", *known):
        raise InputError(
            f"got --backend {backend} with --precision {precision}, expected {' or '.join(known)}; correct it"
        )
    for package in ("onnx", backend):
        check_extra(package, _EXTRAS[backend], f"--backend {backend}")


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Return the module of a package that an extra installs. Raise InputError as `check_extra`."""
    check_extra(package, extra, purpose)
    return importlib.import_module(package)
