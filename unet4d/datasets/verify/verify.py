"""`unet4d verify`: every fault of a dataset in one pass, and its fingerprint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from unet4d.datasets.dataset import choose_cache_dir, open_dataset
from unet4d.datasets.issues import ISSUE_KINDS, Issue
from unet4d.datasets.verify.checks import check_verify
from unet4d.datasets.verify.run_checks import Verification, verify_dataset
from unet4d.datasets.verify.summary import describe_summary
from unet4d.errors import InputError
from unet4d.system.files import write_json
from unet4d.system.text import count, printable


def verify(
    dataset: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, as_json: bool = False
) -> Verification:
    """Look for everything that is wrong with a dataset, print it and what the studies are like.

    Args:
        dataset: folder with dataset.json.
        out: a further file for the fingerprint.
        as_json: print one JSON object, {"dataset", "errors", "warnings", "faults", "fingerprint"}, and nothing else.

    Returns:
        What was found, where none of it is an error.

    Raises:
        InputError: there is no dataset, or errors were found; what was found is printed before.
        Unet4DError: `out` cannot be written.
    """
    check_verify(dataset, out)
    found = _verification(Path(dataset))
    fingerprint = found.fingerprint()
    if as_json:
        faults = [fault.as_dict() for fault in found.faults]
        counts = {"dataset": str(dataset), "errors": found.errors, "warnings": found.warnings}
        print(json.dumps({**counts, "faults": faults, "fingerprint": fingerprint}, indent=1, ensure_ascii=False))
    else:
        lines = [*format_issues(found.faults), *describe_summary(fingerprint["summary"]), "", _counted(found)]
        print("\n".join(lines))
    if out is not None:
        write_json(out, fingerprint)
    if found.errors:
        raise InputError(
            f"{dataset}: {_faults(found.errors, 'error')} came; wanted none; correct what is told and verify again"
        )
    return found


def format_issues(faults: Sequence[Issue]) -> list[str]:
    """The faults by kind, a line a fault."""
    lines = []
    for kind, alike in groupby(faults, key=lambda fault: fault.kind):
        severity, meaning = ISSUE_KINDS[kind]
        lines += [f"{severity} {kind}: {meaning}", *(f"  {printable(fault.message)}" for fault in alike), ""]
    return lines


def _verification(dataset: Path) -> Verification:
    """What was found; a dataset.json that cannot be understood is one fault."""
    try:
        opened = open_dataset(dataset)
    except InputError as error:
        json_file = dataset / "dataset.json" if dataset.is_dir() else dataset
        fault = Issue("dataset-json", str(error), str(json_file)).below(json_file.parent)
        return Verification(json_file.parent, (fault,), ())
    return verify_dataset(opened, choose_cache_dir(opened.root))


def _counted(found: Verification) -> str:
    if not found.faults:
        counts = "nothing is wrong"
    else:
        counts = f"{_faults(found.errors, 'error')}, {_faults(found.warnings, 'warning')}"
    known = f" ({len(found.studies) - found.opened} as known)" if found.opened < len(found.studies) else ""
    kept = (
        f"; fingerprint: {found.kept}" if found.kept else "; the folder is read-only, --out FILE keeps the fingerprint"
    )
    return f"{count(len(found.studies), 'study', 'studies')}{known}: {counts}{kept if found.studies else ''}"


def _faults(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
