"""Check the pickle inside a file of `torch.save`, and read it without torch: every tensor becomes its shape.

A .pt file is a zip archive: NAME/data.pkl holds the structure, NAME/data/0, NAME/data/1, ... the numbers of the tensors.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

Shape = tuple[int, ...]
_MOST_IN_TUPLE = 10_000
"""Values in a tuple and in the tuples within it; hashing more might take for ever, or more stack than there is."""
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_POPPED = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "REDUCE": 2, "BINPERSID": 1, **_TUPLES}
_UP_TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NEWTRUE", "NEWFALSE", "NONE")
_PUSHES = ("GLOBAL", "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", *_NUMBERS)
_OTHERS = ("PROTO", "STOP", "MARK")
_PLAIN = {*_POPPED, *_UP_TO_MARK, *_PUTS, *_GETS, *_PUSHES, *_OTHERS}
"""The instructions of a pickle that torch writes for tensors and plain values."""
_GLOBAL = -1


def check_archive(file: IO[bytes]) -> None:
    """Check that a file is a whole archive of tensors and plain values, and no larger in memory than on disk.

    Raises:
        zipfile.BadZipFile: it is no archive as torch writes it.
        pickle.UnpicklingError: it holds more than tensors and plain values.
    """
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise zipfile.BadZipFile  # torch compresses nothing
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
        first = min((entry.header_offset for entry in entries), default=-1)
    if first != 0:  # torch would read what comes before the archive, which is not checked
        raise zipfile.BadZipFile
    check_pickle(file)


def check_pickle(file: IO[bytes]) -> None:
    """Check that the pickle in a file of `torch.save` builds tensors and plain values, and no more than its size accounts for.

    Nothing is built. A pickle may be small and take all memory (the number of a stored value is the size of a table), or all
    time (tuples that share their parts have a hash that takes ages).

    Raises:
        pickle.UnpicklingError: the pickle does something else.
    """
    stack: list[int | None] = []  # per value: values in it if it is a tuple, else 1; None for a mark
    stored: dict[int, int] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(_pickle_of(file)):
        name, values = opcode.name, list[int]()
        _check_instruction(name, argument)
        if name in _UP_TO_MARK:
            while (value := stack.pop()) is not None:
                values.append(value)
        for _ in range(_POPPED.get(name, 0)):
            values.append(_value(stack.pop()))
        if name in _PUTS:
            if argument > len(stored):
                raise pickle.UnpicklingError("a stored value has a number out of turn")
            stored[argument] = _value(stack[-1])
        elif name in _GETS:
            stack.append(stored[argument])
        elif name == "MARK":
            stack.append(None)
        elif name == "REDUCE":
            if values[1] != _GLOBAL:
                raise pickle.UnpicklingError("a value is called")
            stack.append(values[0])
        elif name == "BUILD":
            if stack[-1] == _GLOBAL:
                raise pickle.UnpicklingError("a function is changed")
        elif name == "TUPLE" or name in _TUPLES:
            stack.append(_size_of_tuple(values))
        elif name == "BINPERSID":
            stack += values
        elif name in _PUSHES:
            stack.append(_GLOBAL if name == "GLOBAL" else 1)


def _check_instruction(name: str, argument: Any) -> None:
    if name not in _PLAIN:
        raise pickle.UnpicklingError(f"{name} builds neither a tensor nor a plain value")
    if name == "GLOBAL":
        _stand_in(*argument.split(" ", 1))
    if isinstance(argument, int) and not -(2**63) <= argument < 2**64:  # larger ones may all have the same hash
        raise pickle.UnpicklingError("a number has more than 64 bits")


def _size_of_tuple(values: list[int]) -> int:
    size = 1 + sum(max(value, 1) for value in values)
    if size > _MOST_IN_TUPLE:
        raise pickle.UnpicklingError("a tuple is too large")
    return size


def _value(item: int | None) -> int:
    if item is None:
        raise pickle.UnpicklingError("a mark is used as a value")
    return item


def _pickle_of(file: IO[bytes]) -> bytes:
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return archive.read(name)


def load_with_shapes(file: IO[bytes]) -> Any:
    """Return the content of a file of `torch.save`, each tensor replaced by its shape; no code in the file is run.

    Call `check_pickle` first: a file may be made to take all memory.

    Raises:
        pickle.UnpicklingError: the file names anything but tensors and plain values.
    """
    return _Unpickler(io.BytesIO(_pickle_of(file))).load()


class _Unpickler(pickle.Unpickler):
    """Build plain values only: each name that a pickle may use stands for a function of this module."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return pid  # names the storage of a tensor, which is not read


def _stand_in(module: str, name: str) -> Callable[..., Any]:
    """Return what stands for a name in a pickle. Raises UnpicklingError for a name that builds no tensor and no plain value."""
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


def _shape(storage: Any, offset: int, size: Shape, *others: Any) -> Shape:
    if not all(type(length) is int and 0 <= length < 2**63 for length in size):
        raise pickle.UnpicklingError("a tensor has an impossible shape")
    return tuple(size)


def _parameter(shape: Shape, *others: Any) -> Shape:
    return shape


def _storage(*others: Any) -> None:
    """Stand for the type of a storage; a checkpoint only names it."""
