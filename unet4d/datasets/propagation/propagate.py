"""`unet4d propagate`: from a dataset with some drawn frames per study to one in which every frame has a label and a weight."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.carry import CarriedFrame, propagate_labels
from unet4d.datasets.propagation.case_files import CaseFiles
from unet4d.datasets.propagation.checks import DEFAULTS, RECORDS, PropagationOptions, check_propagate
from unet4d.datasets.propagation.registration import Greedy, MakeRegistration
from unet4d.errors import InputError
from unet4d.system.class_values import IGNORE_NAME
from unet4d.system.csv_file import Table
from unet4d.system.digests import stamp
from unet4d.system.documents import write_document
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import PathLike, check_disk_space, read_json, replacing, write_text
from unet4d.system.lock import exclusive_lock
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import blocked_stop_signals, ignore_stop_signals, stop_signals
from unet4d.system.text import count
from unet4d.system.threads import each_done

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same studies would get other labels."""
PROPAGATION = Table(
    "propagation.csv",
    "case, frame and class",
    {
        "case": "name of the study",
        "frame": "number of the frame, from 0",
        "label": "drawn, corrected or propagated",
        "class": "name of the class",
        "confidence": "of a propagated label, 0 to 1",
    },
)


@stop_signals("finished studies are kept; run the same command again")
def propagate(
    dataset: PathLike,
    out_dir: PathLike,
    options: PropagationOptions = DEFAULTS,
    jobs: int = 1,
    make_registration: MakeRegistration = Greedy,
) -> Path:
    """Write a dataset in which the unlabelled frames of training studies have labels carried from drawn ones.

    Called again it skips what is finished. A label map that was corrected meanwhile counts as drawn, and its study is propagated
    anew, see case_files.py. Test studies are copied as they are.

    Args:
        dataset: folder with dataset.json.
        out_dir: a new folder, or one of an earlier call.
        options: of the propagation.
        jobs: number of processes, one study each.
        make_registration: of the frames of a study.

    Returns:
        The path of dataset.json.

    Raises:
        InputError: as `check_propagate`; another call writes to `out_dir`; or, after all other studies are written, some have no
            drawn frame or cannot be read.
        Stopped: a stop signal came.
        Unet4DError: the disk is full, or the folder cannot be written to.
    """
    check_propagate(dataset, out_dir, options, jobs, make_registration)
    out = Path(out_dir)
    (out / RECORDS).mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / RECORDS / "lock") as is_held:
        if is_held is False:
            raise InputError(
                f"{out} is being written to by another unet4d propagate; wait for it or stop it, or choose another --out"
            )
        return _propagate(read_dataset(dataset), out, options, jobs, make_registration)


def _propagate(
    source: Dataset, out: Path, options: PropagationOptions, jobs: int, make_registration: MakeRegistration
) -> Path:
    """Write the dataset, of which the folder is held; the arguments, result and errors are those of `propagate`."""
    given = read_json(source.root / "dataset.json")
    needed = sum(file.stat().st_size for case in source.cases for file in case.images)
    check_disk_space(
        out, needed * (not (out / "dataset.json").exists()), "copies of the images", "choose another --out"
    )
    items = [(case, dict(item)) for case, item in zip(source.training, given.get("training", []), strict=True)]
    work = partial(_try_case, dataset=source, out=out, options=options, make_registration=make_registration)
    done = dict(ProgressBar(_each(work, items, jobs), "propagating", len(items), unit="study"))
    failed = {case.name: done[case.name] for case, _ in items if isinstance(done[case.name], str)}
    records = {name: result for name, result in done.items() if not isinstance(result, str)}
    ordered = [(case.name, records[case.name]) for case, _ in items if case.name in records]
    if ordered:
        tests = [_copy_test(case, item, out) for case, item in zip(source.test, given.get("test", []), strict=True)]
        labels = given["labels"]
        if _has_ignored(source) and source.ignore is None:
            named = given["labels"] if source.regions else dict(source.labels)
            labels = {**named, IGNORE_NAME: source.ignored_value}
        write_text(
            out / PROPAGATION.file, PROPAGATION.text((name, *row) for name, (_, rows) in ordered for row in rows)
        )
        entries = [entry for _, (entry, _) in ordered]
        written = {**given, "labels": labels, "training": entries, "test": tests}
        write_document(out / "dataset.json", "dataset", written)
        _print_summary([rows for _, (_, rows) in ordered], out)
    raise_failed(failed, len(items), "propagated", out)
    return out / "dataset.json"


Result = tuple[dict[str, Any], list[list[Any]]]
"""The entry of a case in dataset.json, and its rows of the table."""


def _each(
    work: Callable[[tuple[Case, dict[str, Any]]], tuple[str, Result | str]],
    items: Sequence[tuple[Case, dict[str, Any]]],
    jobs: int,
) -> Iterator[tuple[str, Result | str]]:
    """Yield name and result of each study, as they get done; Greedy holds Python's lock, so that only processes are parallel."""
    if jobs == 1 or len(items) < 2:
        yield from map(work, items)
        return
    with blocked_stop_signals():
        pool = ProcessPoolExecutor(min(jobs, len(items)), get_context("spawn"), ignore_stop_signals)
    try:
        for _, result in each_done(lambda item: pool.submit(work, item).result(), items, jobs):
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _try_case(
    item: tuple[Case, dict[str, Any]],
    dataset: Dataset,
    out: Path,
    options: PropagationOptions,
    make_registration: MakeRegistration,
) -> tuple[str, Result | str]:
    """Propagate one study; return its name with the result, or the reason why there is none."""
    case, given = item
    try:
        return case.name, _propagate_case(case, given, dataset, out, options, make_registration)
    except Exception as error:
        return case.name, str(failure_of_study(error))


def _propagate_case(
    case: Case,
    given: dict[str, Any],
    dataset: Dataset,
    out: Path,
    options: PropagationOptions,
    make_registration: MakeRegistration,
) -> Result:
    image, files = case.image(), CaseFiles(out, case.name)
    ignored = dataset.ignored_value if _has_ignored(dataset) else None
    names = dict(dataset.labels) | ({} if ignored is None else {IGNORE_NAME: ignored})
    corrected = files.read_corrected(image, names)
    key = _key(case, given, dataset, options, corrected)
    if files.is_done(key):
        return dict(files.record.entry), files.record.rows
    label, labelled = read_labelled(case, dataset, image)
    drawn = {int(t): label[t] for t in np.flatnonzero(labelled) if t not in case.partial.propagated} | corrected
    if not drawn:
        raise InputError(f"case {case.name}: got no drawn frame, expected one or more; draw one, or leave the case out")
    registration = make_registration(image.spacing)
    found = dict(propagate_labels(image.array[0], drawn, dataset.cyclic, registration, image.spacing, ignored))
    kept = {t: frame for t, frame in found.items() if _mean(frame) >= max(options.min_confidence, 1e-3)}
    labels = drawn | {t: frame.label for t, frame in kept.items()}
    weights = {t: case.partial.weight(t) for t in drawn if t not in corrected and case.partial.weight(t) != 1}
    weights |= {t: round(options.weight * _mean(frame), 3) for t, frame in kept.items()}
    entry = {key: value for key, value in given.items() if key not in _REPLACED} | {
        "image": _copy_images(case, out),
        "label": {str(t): files.path(t).relative_to(out).as_posix() for t in sorted(labels)},
        "frame_weights": {str(t): weights[t] for t in sorted(weights)},
        "propagated_frames": sorted(kept),
    }
    entry = {key: value for key, value in entry.items() if value not in ({}, [])}
    files.write(key, entry, _rows(drawn, corrected, found, kept, names), labels, corrected, image)
    return entry, files.record.rows


_REPLACED = ("label", "labelled_frames", "labelled_slices", "frame_weights", "propagated_frames")
"""Keys of a case that follow from its new label maps; slices that were not drawn are "ignore" in these."""


def _has_ignored(dataset: Dataset) -> bool:
    """Return whether some voxels of labelled frames were not drawn."""
    return dataset.ignore is not None or any(case.partial.has_slices for case in dataset.training)


def _key(
    case: Case,
    given: Mapping[str, Any],
    dataset: Dataset,
    options: PropagationOptions,
    corrected: Mapping[int, np.ndarray],
) -> str:
    """Return a key of all that the labels of a case are made from."""
    stamps = [stamp(file) for file in case.files]
    drawn = [[t, hashlib.sha256(label.tobytes()).hexdigest()] for t, label in sorted(corrected.items())]
    of_all = [VERSION, dataset.labels, dataset.ignore, dataset.time, asdict(options)]
    return hashlib.sha256(json.dumps([stamps, given, drawn, of_all]).encode()).hexdigest()[:32]


def _mean(frame: CarriedFrame) -> float:
    """Return the mean confidence over the classes of a frame; 0 where it has none."""
    return float(np.mean(list(frame.confidence.values()))) if frame.confidence else 0.0


def _rows(
    drawn: Mapping[int, np.ndarray],
    corrected: Mapping[int, np.ndarray],
    found: Mapping[int, CarriedFrame],
    kept: Mapping[int, CarriedFrame],
    names: Mapping[str, int],
) -> list[list[Any]]:
    """Return frame, kind, class and confidence of every frame; a drawn one has neither class nor confidence."""
    rows: list[list[Any]] = [[t, "corrected" if t in corrected else "drawn", "", ""] for t in drawn]
    for t, frame in found.items():
        kind = "propagated" if t in kept else "left out"
        rows += [[t, kind, name, round(frame.confidence[v], 4)] for name, v in names.items() if v in frame.confidence]
    return sorted(rows, key=lambda row: row[0])


def _copy_images(case: Case, out: Path) -> str | list[str]:
    """Copy the image files of a case that are not there yet; return their paths in the new dataset."""
    suffixes = [
        "".join(file.suffixes[-2:]) if file.name.lower().endswith(".gz") else file.suffix for file in case.images
    ]
    several = len(case.images) > 1
    paths = [f"images/{case.name}{f'_{i:04d}' if several else ''}{suffix}" for i, suffix in enumerate(suffixes)]
    for file, path in zip(case.images, paths, strict=True):
        _copy(file, out / path)
    return paths if several else paths[0]


def _copy_test(case: Case, given: Any, out: Path) -> dict[str, Any]:
    """Copy a test case with its label, and return its entry."""
    entry = {**(given if isinstance(given, dict) else {}), "image": _copy_images(case, out)}
    if isinstance(case.label, Path):
        entry["label"] = f"labels/{case.name}.nii.gz"
        _copy(case.label, out / entry["label"])
    elif case.label:
        files = CaseFiles(out, case.name)
        for t, file in case.label.items():
            _copy(file, files.path(t))
        entry["label"] = {str(t): files.path(t).relative_to(out).as_posix() for t in case.label}
    return entry


def _copy(source: Path, target: Path) -> None:
    """Copy a file unless it is there with the same size and no earlier change."""
    old, new = source.stat(), target.stat() if target.exists() else None
    if new is None or new.st_size != old.st_size or new.st_mtime_ns < old.st_mtime_ns:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _print_summary(rows: Sequence[Sequence[Sequence[Any]]], out: Path) -> None:
    """Print how many frames got a label, and how certain their classes are."""
    frames = [{(row[0], row[1]) for row in of_case} for of_case in rows]
    number = {
        kind: sum(k == kind for case in frames for _, k in case)
        for kind in ("drawn", "corrected", "propagated", "left out")
    }
    logger.info(
        f"{count(len(rows), 'study', 'studies')}: {number['propagated']} frames propagated from {number['drawn']} drawn and "
        f"{number['corrected']} corrected ones, {number['left out']} left out for low confidence"
    )
    confidences: dict[str, list[float]] = {}
    for row in (row for of_case in rows for row in of_case if row[1] == "propagated"):
        confidences.setdefault(row[2], []).append(row[3])
    for name, values in confidences.items():
        logger.info(f"{name}: confidence {np.mean(values):.3f}, lowest {min(values):.3f}")
    logger.info(
        f"written: {out / 'dataset.json'}, {out / PROPAGATION.file}; to correct a frame, edit its label map and call this again"
    )
