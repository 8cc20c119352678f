"""Paths that a dataset names, kept inside its folder: a dataset from another place may hold links to anywhere.

A link out of the folder is followed only into folders that the user named in the environment variable UNET4D_ALLOW_LINKS_TO.
Nothing in a dataset can name one. Hard links look like files.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from typing import Any

from unet4d.errors import InputError
from unet4d.system.text import short_repr

ALLOWED = "UNET4D_ALLOW_LINKS_TO"
"""Environment variable: folders that links in datasets may lead to, separated by colons (on Windows by semicolons)."""
_LONGEST_PART, _LONGEST_PATH = 255, 2048  # bytes; file systems take 255 for a name, and Linux 4096 for a whole path


def path_inside(value: Any, where: str, root: Path) -> Path:
    """Return `root` / `value`, which need not exist; `where` names what gives the value, for the error.

    Raises:
        InputError: no text, an absolute path, one that leaves the folder, or that a link leads out of it.
    """
    expected = (
        "a path relative to the dataset's folder and inside it; move the file there, or link to it from there and name its folder "
        f"in {ALLOWED}"
    )
    if not isinstance(value, str) or not value or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise InputError(f"{where} is {short_repr(value)}, expected {expected}")
    try:
        longest = max(len(os.fsencode(part)) for part in (*value.split("/"), ""))
        is_short = longest <= _LONGEST_PART and len(os.fsencode(value)) <= _LONGEST_PATH
    except UnicodeEncodeError:
        is_short = False
    if not is_short:
        limits = f"at most {_LONGEST_PATH} bytes, and {_LONGEST_PART} from slash to slash"
        raise InputError(f"{where} is {short_repr(value)}, expected a path of {limits}; rename the file")
    inside = os.path.normpath(value)
    absolute = os.path.isabs(value) or PureWindowsPath(value).is_absolute()
    if absolute or inside.split(os.sep)[0] in ("..", "."):
        raise InputError(f"{where} is {value!r}, expected {expected}")
    check_links(root / inside, where, root)
    return root / inside


def check_links(path: Path, where: str, root: Path) -> None:
    """Refuse a path in `root`, existing or not, where links lead to another place that is not allowed.

    Raises:
        InputError: names the place, and the variable that allows it.
    """
    to = Path(os.path.realpath(path))
    allowed = [folder for folder in os.environ.get(ALLOWED, "").split(os.pathsep) if folder]
    if any(to.is_relative_to(os.path.realpath(folder)) for folder in (str(root), *allowed)):
        return
    raise InputError(
        f"{where} is {str(path)!r}, which links lead to {to}, outside of the dataset's folder, expected it inside; put what the "
        f"link leads to in its place or, if you trust this dataset, allow that folder or one above it: {ALLOWED}={to.parent}"
    )
