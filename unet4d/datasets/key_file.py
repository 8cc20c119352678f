"""The key file: a table, for its owner alone, of the patient and the series behind each anonymized case."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.system.csv_file import csv_text
from unet4d.system.files import check_writable, checked_path, write_private

logger = logging.getLogger(__name__)


def check_key_file(path: Path, out: Path, sources: Sequence[Path]) -> None:
    """Raise InputError where a key would be shared with `out`, change the sources, or cannot be written."""
    checked_path(path)
    for folder, what in (
        (out, "the results, which may be shared"),
        *((source, "the source, which stays as it is") for source in sources),
    ):
        if path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"key_file {path} is inside {folder}, {what}; choose a file elsewhere")
    if path.is_dir():
        raise InputError(f"key_file {path} is a folder, expected a file; give a path such as {path / 'key.csv'}")
    check_writable(path.parent)


def write_key_file(path: Path, studies: Sequence[Study], source: str) -> None:
    """Write which patient each anonymized case is of, for the file's owner alone. Another file is not replaced.

    Raises:
        InputError: no study is anonymized, which names the `source`; the file holds something else.
    """
    keys: list[Mapping[str, str]] = [study.key for study in studies if study.key]
    if not keys:
        raise InputError(f"got key_file for {source}, which keeps the names of its files; leave it out")
    text = csv_text([tuple(keys[0]), *(tuple(key.values()) for key in keys)])
    if os.path.lexists(path) and (not path.is_file() or path.read_bytes() != text.encode()):
        raise InputError(f"key_file {path} holds something else already; give the path of a new file")
    write_private(path, text)
    logger.info(f"the patients behind the names are in {path}: keep it apart from what you share")
