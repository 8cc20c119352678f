"""Read the pickle inside a file of `torch.save` without torch: every tensor becomes its shape.

A .pt file is a zip archive: NAME/data.pkl holds the structure, NAME/data/0, NAME/data/1, ... the numbers of the tensors.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Shape = tuple[int, ...]


def load_with_shapes(path: str | os.PathLike[str]) -> Any:
    """Return the content of a file of `torch.save`, each tensor replaced by its shape; no code in the file is run.

    Raises:
        pickle.UnpicklingError: the file names anything but tensors and plain values.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return _Unpickler(io.BytesIO(archive.read(name))).load()


class _Unpickler(pickle.Unpickler):
    """Build plain values only: each name that a pickle may use stands for a function of this module."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _shape,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name.endswith("Storage"):
            return _storage
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a plain value")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid  # names the storage of a tensor, which is not read


def _shape(storage: Any, offset: int, size: Shape, *others: Any) -> Shape:
    if not all(type(length) is int and 0 <= length < 2**63 for length in size):
        raise pickle.UnpicklingError("a tensor has an impossible shape")
    return tuple(size)


def _parameter(shape: Shape, *others: Any) -> Shape:
    return shape


def _storage(*others: Any) -> None:
    """Stand for the type of a storage; a checkpoint only names it."""
