"""A table of frame durations, one row per case, for files without a frame duration or with a wrong one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from unet4d.datasets.study import FRAME_DURATION_LIMITS, is_frame_duration
from unet4d.errors import InputError
from unet4d.system.csv_file import read_table
from unet4d.system.files import PathLike
from unet4d.system.text import count, short_repr, shorten_list

DURATION_COLUMNS = ("case", "frame_duration_s")


def read_durations(table: PathLike) -> dict[str, float]:
    """Read a CSV file with the columns case and frame_duration_s.

    Commas or semicolons separate the columns; between semicolons 0,04 is 0.04.

    Raises:
        InputError: the file cannot be read or has no row; a case is empty or comes twice; a duration is no possible number
            of seconds.
    """
    path = Path(table)
    rows = read_table(path, DURATION_COLUMNS, "one row per case, such as: patient001,0.04", written_whole=False)
    found: dict[str, float] = {}
    for number, row in enumerate(rows, 2):
        case, text = row["case"].strip(), row["frame_duration_s"].strip()
        if not case:
            raise InputError(f"{path}: row {number} names no case, expected a case of the source; correct it")
        where = f"{path}: row {number}, case {short_repr(case)}"
        if case in found:
            raise InputError(f"{where} comes again, expected each case once; remove one")
        try:
            seconds = float(text.replace(",", "."))
        except ValueError:
            seconds = float("nan")
        if not is_frame_duration(seconds):
            raise InputError(f"{where}: got {short_repr(text)}, expected {FRAME_DURATION_LIMITS}; correct it")
        found[case] = seconds
    if not found:
        raise InputError(f"{path} has no row below its header, expected one per case; add them: patient001,0.04")
    return found


def check_durations(durations: Mapping[str, float], cases: Collection[str], root: Path) -> None:
    """Raise InputError unless the durations are those of exactly the cases of a source."""
    unknown = [case for case in durations if case not in cases]
    if unknown:
        raise InputError(
            f"frame_durations names {count(len(unknown), 'case')} that {root} does not have: "
            f"{shorten_list(map(short_repr, unknown))}; expected its {count(len(cases), 'case')}, such as "
            f"{shorten_list(cases, 3)}; correct the names"
        )
    missing = [case for case in cases if case not in durations]
    if missing:
        raise InputError(
            f"frame_durations lacks {count(len(missing), 'case')} of {root}: {shorten_list(missing)}; expected one row per case; "
            "add them"
        )
