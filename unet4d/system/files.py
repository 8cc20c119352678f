"""Files: writing them whole or not at all, checks of folders and of disk space, and JSON.

A file is written under a temporary name, synced, then renamed, and the name synced too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unet4d.errors import InputError, Unet4DError
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.failures import advice, is_bad_path
from unet4d.system.operating_system import is_refused_name, refuses_names, replace_file, sync_folder
from unet4d.system.regular_files import open_regular
from unet4d.system.text import shortened

PathLike = str | os.PathLike[str]

_PARTIAL = ".partial."
_UNFINISHED = ".unet4d_unfinished"
_LONGEST_NAME = 255
"""Bytes of a file's name on every common file system."""
_DIGITS = 20  # of a whole number of 64 bits, with its sign
_DEEPEST = 100


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the disk refuses within into one clear line.

    Raises:
        InputError: `path` cannot be: its name is too long, or a part of it is a file.
        Unet4DError: the disk is full, or `path` cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if (found := advice(error)) is None:
            raise
        kind = InputError if is_bad_path(error) else Unet4DError
        raise kind(f"could not write {path}: {os.strerror(error.errno or 0)}; {found}") from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """See that files can be written to a folder, which need not be there yet, before hours are spent on them.

    Raises:
        InputError: it, or a folder above it, is a file, or has a name that no file system takes.
        Unet4DError: it may not be written to.
    """
    folder = checked_path(folder).absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file, expected a folder to write to; choose another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise Unet4DError(f"could not write to {nearest}: no permission; choose another folder")


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that the system can look up. Raises InputError: a name in it is too long, or holds a null byte."""
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"got {path} with a null byte, expected a path without; remove it")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{shortened(str(path), 200)}: {error.strerror}; {advice(error)}") from error
    return path


def check_file_writable(path: str | os.PathLike[str]) -> None:
    """See that a file can be written, or replaced, before hours are spent on its content.

    Raises:
        InputError: it is a folder, or a folder above it is a file.
        Unet4DError: its folder may not be written to.
    """
    path = Path(path)
    check_writable(path.parent)
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; expected the name of a file; give one, such as {path / 'NAME'}")


def free_disk_bytes(folder: str | os.PathLike[str]) -> int:
    """Return what is free on the disk that a folder lies on, or will lie on."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def check_disk_space(folder: str | os.PathLike[str], needed_bytes: float, purpose: str, advice: str) -> None:
    """Raise Unet4DError, with `purpose` and `advice` in its message, where a disk has less room than needed."""
    free = free_disk_bytes(folder)
    if needed_bytes > free:
        raise Unet4DError(
            f"{folder} needs {describe_bytes(needed_bytes)} for {purpose}, and {describe_bytes(free)} are free: its disk is full; "
            f"free space or {advice}"
        )


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes that name at once, on any failure it is removed.

    The temporary name keeps the suffixes of `path`, since writers (nibabel) read the format from them. What is killed on the way
    leaves the temporary file, see `remove_partial`; neither a kill nor a power cut leaves less than the old file under its name.

    Raises:
        InputError: on Windows, a name that it takes for a device or for a stream of another file.
        Unet4DError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if refuses_names() and is_refused_name(path.name):
        raise InputError(f"got the file name {path.name}, expected one that Windows takes; rename the case or the file")
    temporary = path.with_name(_temporary_name(path.name))
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            replace_file(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary_name(name: str) -> str:
    """Return a name for a file while it is written; a long name loses its first characters, so that it is not too long."""
    start = f".{secrets.token_hex(4)}{_PARTIAL}"
    while len(os.fsencode(start + name)) > _LONGEST_NAME >= len(os.fsencode(name)):
        name = name[1:]
    return start + name


def remove_partial(folder: str | os.PathLike[str], names: str) -> None:
    """Remove what killed processes left of files of these names; none that is still being written may be among them.

    Args:
        folder: where they are; the folders in it are not looked into.
        names: a pattern, such as "checkpoint_*.pt".
    """
    for left in Path(folder).glob(f".????????{_PARTIAL}{names}"):
        with contextlib.suppress(OSError):
            left.unlink()


@contextlib.contextmanager
def filling(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder and mark it as unfinished while its files are written; what ends on the way leaves the mark.

    Raises:
        InputError, Unet4DError: as `writing`.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _UNFINISHED).touch()
        remove_partial(folder, "*")
        yield
        (folder / _UNFINISHED).unlink()


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is one that `filling` did not finish, so that it may be filled again."""
    return (Path(folder) / _UNFINISHED).is_file()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write `text` (UTF-8) to `path`, whole or not at all; what UTF-8 cannot hold, as of file names, becomes "\udcff".

    Lines end alike on every system.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_private(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all; only the owner may read it, from its first byte on.

    Windows knows no such mode: there the file is as private as its folder.
    """
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused, for JSON has neither."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON with a line's end; raise ValueError for NaN and infinity."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file as `parse_json`. Raises InputError: it is missing, no file, or not such JSON; names the file."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            return parse_json(file.read())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; give the path of an existing file") from error
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} is not valid JSON (half of a character, a lone surrogate); correct it there"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); correct it there") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable JSON file") from error


def parse_json(data: bytes) -> Any:
    """Return the value of JSON. Everything that Python would read and JSON does not have, or no program can use, is refused.

    Raises:
        ValueError, RecursionError: it is not JSON in UTF-8; it has a key twice, NaN or infinity, a number of more than 64 bits,
            half of a character (a lone surrogate but those of file names that are not UTF-8), or more than 100 levels.
    """
    hooks = {"parse_int": _integer, "parse_float": _number, "parse_constant": _constant}
    value = json.loads(data.decode("utf-8"), **hooks, object_pairs_hook=_object)  # type: ignore[arg-type]
    _check_depth(value)
    json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")  # as the names of files may be
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits, more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:40]}, larger than any that can be computed with")
    return float(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text}, which JSON does not have")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} twice in one object")
    return found


def _check_depth(value: Any) -> None:
    """Raise ValueError for what is nested so deep that programs which walk it by recursion would end."""
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, (dict, list))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels")
