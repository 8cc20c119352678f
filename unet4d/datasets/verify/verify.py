"""`unet4d verify`: every issue of a dataset in one pass, printed with its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from unet4d.datasets.dataset import choose_cache_dir, open_dataset
from unet4d.datasets.issues import ISSUE_KINDS, Issue, sort_issues
from unet4d.datasets.propagation.cross_frames import check_cross_frames
from unet4d.datasets.verify.checks import check_verify
from unet4d.datasets.verify.dataset_summary import describe_summary
from unet4d.datasets.verify.run_checks import Verification, verify_dataset
from unet4d.errors import InputError
from unet4d.system.documents import document_text, write_document
from unet4d.system.files import PathLike
from unet4d.system.text import count, printable


def verify(dataset: PathLike, out: PathLike | None = None, cross_frames: bool = False) -> Verification:
    """Find every mistake in a dataset, and describe its studies.

    Args:
        dataset: folder with dataset.json.
        out: a further file for the fingerprint.
        cross_frames: whether drawn frames are compared with one another, which takes seconds for each study and is not kept.

    Raises:
        InputError: there is no dataset; Greedy is missing, which `cross_frames` needs.
        Unet4DError: `out` cannot be written.
    """
    check_verify(dataset, out, cross_frames)
    found = _verify(Path(dataset))
    if cross_frames and found.studies:
        more = [issue.below(found.root) for issue in check_cross_frames(open_dataset(dataset))]
        found = replace(found, issues=tuple(sort_issues([*found.issues, *more])))
    if out is not None:
        write_document(out, "fingerprint", found.dataset_summary())
    return found


def verification_json(found: Verification, dataset: PathLike) -> str:
    """Return a verification as one JSON object: dataset, errors, warnings, faults and fingerprint."""
    counts = {"dataset": str(dataset), "errors": found.errors, "warnings": found.warnings}
    issues = [issue.as_dict() for issue in found.issues]
    return document_text("verification", {**counts, "faults": issues, "fingerprint": found.dataset_summary()})


def format_verification(found: Verification) -> str:
    """Return a verification for a terminal: the issues, a summary of the studies, and the counts."""
    summary = describe_summary(found.dataset_summary()["summary"])
    return "\n".join([*format_issues(found.issues), *summary, "", _last_line(found)])


def check_no_errors(found: Verification, dataset: PathLike) -> None:
    """Raise InputError if a verification found errors."""
    if found.errors:
        raise InputError(f"{dataset}: got {count(found.errors, 'error')}, expected none; correct them and verify again")


def format_issues(issues: Sequence[Issue]) -> list[str]:
    """Format the issues by kind, one line per issue."""
    lines = []
    for kind, group in groupby(issues, key=lambda issue: issue.kind):
        severity, meaning = ISSUE_KINDS[kind]
        lines += [f"{severity} {kind}: {meaning}", *(f"  {printable(issue.message)}" for issue in group), ""]
    return lines


def _verify(dataset: Path) -> Verification:
    """Verify a dataset; a dataset.json that cannot be parsed is one issue."""
    try:
        opened = open_dataset(dataset)
    except InputError as error:
        json_file = dataset / "dataset.json" if dataset.is_dir() else dataset
        issue = Issue("dataset-json", str(error), str(json_file)).below(json_file.parent)
        return Verification(json_file.parent, (issue,), ())
    return verify_dataset(opened, choose_cache_dir(opened.root))


def _last_line(found: Verification) -> str:
    studies = count(len(found.studies), "study", "studies")
    known = f" ({len(found.studies) - found.opened} as known)" if found.opened < len(found.studies) else ""
    counts = (
        f"{count(found.errors, 'error')}, {count(found.warnings, 'warning')}" if found.issues else "nothing is wrong"
    )
    path = f"fingerprint: {found.kept}" if found.kept else "the folder is read-only, --out FILE keeps the fingerprint"
    return f"{studies}{known}: {counts}" + (f"; {path}" if found.studies else "")
