"""The answer to a series: DICOM files in one folder, results in another, by the function behind `unet4d predict`."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unet4d.errors import InputError
from unet4d.images.dicom.file_search import files_under, is_dicom
from unet4d.system.files import PathLike
from unet4d.system.lock import exclusive_lock
from unet4d.system.text import printable

if TYPE_CHECKING:
    from unet4d.inference.options import InferenceOptions

Answer = Callable[[Path, Path, Sequence[Path]], Sequence[Path]]
"""Segments the DICOM files in a folder: (folder, empty folder for results, models) -> the DICOM files to store, in that order."""

RESULT_FORMATS = ("dicom-seg", "dicom-sr", "dicom-sc")
_SHORTEST = 4
"""Characters of the shortest identifier that is replaced in texts: a shorter one is part of too many words."""
_IDENTIFYING = (
    "PatientID", "PatientName", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber", "StudyID", "StudyInstanceUID",
    "StudyDescription", "ReferringPhysicianName", "SeriesInstanceUID", "SeriesDescription", "ProtocolName", "OperatorsName",
)  # fmt: skip
_STEM = "unet4d-orthanc-"


def predict_answer(
    options: InferenceOptions | None,
    device: str = "auto",
    formats: Sequence[str] = RESULT_FORMATS,
    postprocess: Literal["auto", "off"] = "auto",
    dicom_terms: PathLike | None = None,
) -> Answer:
    """Return the answer of `unet4d predict`.

    Args:
        options: of the computation.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        formats: of the results, those of `predict` that are DICOM.
        postprocess: "auto" or "off".
        dicom_terms: a table of the codes of classes, as of `predict`.
    """

    def answer(folder: Path, out: Path, models: Sequence[Path]) -> list[Path]:
        from unet4d.inference.predict import predict

        predict(
            models,
            [folder],
            out,
            options,
            device=device,
            layout="dicom",
            formats=formats,
            postprocess=postprocess,
            dicom_terms=dicom_terms,
        )
        return [file for file in files_under(out) if is_dicom(file)]

    return answer


def result_uids(files: Sequence[Path], source: Path) -> list[str]:
    """Return the SOPInstanceUID of each result.

    Raises:
        InputError: there is no result, or one that belongs to another patient or study than the source.
    """
    import pydicom

    def read(file: Path) -> Any:
        return pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=["PatientID", "StudyInstanceUID", "SOPInstanceUID"]
        )

    if not files:
        raise InputError("the segmentation gave no DICOM file, expected one or more; see --format")
    wanted = read(source)
    results = [read(file) for file in files]
    for file, found in zip(files, results, strict=True):
        for keyword in ("PatientID", "StudyInstanceUID"):
            if str(found.get(keyword) or "") != str(wanted.get(keyword) or ""):
                raise InputError(
                    f"{file.name} has another {keyword} than its source, expected the same; it is not stored"
                )
    return [str(found.SOPInstanceUID) for found in results]


@contextlib.contextmanager
def private_folder(scratch_dir: Path | None) -> Iterator[Path]:
    """Give a folder that only this user may read, and remove it afterwards. On Windows a killed worker leaves its own for good."""
    parent = Path(scratch_dir or tempfile.gettempdir())
    made = Path(tempfile.mkdtemp(prefix=f".{_STEM}", dir=parent))
    folder = made
    try:
        with exclusive_lock(made):  # before it has a name that other workers look for
            with contextlib.suppress(PermissionError):  # Windows renames no folder in which a file is open
                folder = made.rename(made.with_name(made.name[1:]))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_folders_of_killed(scratch_dir: Path | None) -> None:
    """Remove what killed workers on this machine left of `private_folder`; a worker that lives holds a lock on its own."""
    for left in Path(scratch_dir or tempfile.gettempdir()).glob(f"{_STEM}*"):
        with contextlib.suppress(OSError), exclusive_lock(left, patience_s=0) as is_held:
            if is_held:
                shutil.rmtree(left, ignore_errors=True)


def identifiers(tags: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the values of DICOM tags that name a patient or a study, and the parts of names, the longest first."""
    found: set[str] = set()
    for one in tags:
        for keyword in _IDENTIFYING:
            value = str(one.get(keyword) or "").strip()
            line = " ".join(value.split())  # as messages have it
            found |= {value, line, printable(value), printable(line)}
            found |= set(re.split(r"[\s^=]+", value) if keyword.endswith("Name") else ())
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)


def redact(text: str, values: Sequence[str]) -> str:
    """Return a text without these values."""
    for value in values:
        text = text.replace(value, "[removed]")
    return text


@contextlib.contextmanager
def redacted_log(values: Sequence[str]) -> Iterator[None]:
    """Replace these values in all that the package logs within, and drop warnings of other packages, which quote headers."""

    def clean(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), values), ()
        return True

    handlers = [*logging.getLogger("unet4d").handlers, *logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(clean)
    try:
        with warnings.catch_warnings():
            if values:
                warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(clean)
