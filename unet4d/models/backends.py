"""The backends that compute a network's encoder and decoder on a CPU, and the precisions that each has; needs no torch."""

from __future__ import annotations

from unet4d.errors import InputError
from unet4d.system.extras import check_extra

TORCH = "torch"
BACKENDS = {TORCH: (), "onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
"""Backends that compute a network's encoder and decoder, and the precisions of those that are not torch."""
_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


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
