"""The layouts that `unet4d convert` knows: how each is detected and opened, and the options that it uses."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from unet4d.datasets.convert.acdc import find_acdc, is_acdc
from unet4d.datasets.convert.dicom import find_dicom, is_dicom_source
from unet4d.datasets.convert.frame_durations import check_durations
from unet4d.datasets.convert.frames import find_frames, is_frames
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.nnunet import find_nnunet, is_nnunet
from unet4d.datasets.convert.sequence import find_sequence, is_sequence
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.images.time_axis import TimeAxis
from unet4d.system.regular_files import check_file_or_folder


@dataclass(frozen=True)
class Layout:
    """One layout of studies on disk."""

    detect: Callable[[Path], bool]  # whether a file or folder is in this layout
    find: Callable[[Path, LayoutOptions], Source]  # its studies, voxels unread; raises InputError
    options: tuple[str, ...] = ()  # that it uses, besides those that every layout takes


LAYOUTS: Mapping[str, Layout] = {
    "acdc": Layout(is_acdc, find_acdc),
    "nnunet": Layout(is_nnunet, find_nnunet, ("pattern", "labels", "subject_per_case")),
    "frames": Layout(is_frames, find_frames, ("pattern", "labels")),
    "sequence": Layout(is_sequence, find_sequence, ("labels",)),
    "dicom": Layout(is_dicom_source, find_dicom, ("labels", "keep_patient_ids", "segments")),
}
"""By name; the first that detects a source is taken for it."""


@contextlib.contextmanager
def report_unreadable(root: Path) -> Iterator[None]:
    """Turn a folder or file that may not be read, at `root` or below, into an InputError."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{error.filename or root} may not be read: no permission; change its rights, or copy what you may read"
        ) from error


def detect_layout(root: Path) -> str | None:
    """Return the layout of a file or folder; None for none of them."""
    return next((name for name, layout in LAYOUTS.items() if layout.detect(root)), None)


def open_layout(name: str, root: Path, options: LayoutOptions) -> Source:
    """Return the studies of a source in the layout of this name; voxels are not read.

    The options hold for all studies: `time` overrides the files, `frame_duration_s` and `labels` fill what they lack.

    Raises:
        InputError: no such layout; nothing of this layout is there, or what is there contradicts itself, may not be read, or
            would give two studies one name; `frame_durations` is not of its studies.
    """
    if name not in LAYOUTS:
        raise InputError(f"{name!r} is no layout, expected one of {', '.join(LAYOUTS)}; correct it")
    with report_unreadable(root):
        if not root.exists():
            raise InputError(f"{root} is missing; give the file or folder to read")
        check_file_or_folder(root)
    for option in ("pattern", "labels", "keep_patient_ids", "subject_per_case", "segments"):
        if getattr(options, option) and option not in LAYOUTS[name].options:
            raise InputError(f"got {option} for {name}, which has no use for it; leave it out")
    with report_unreadable(root):
        source = LAYOUTS[name].find(root, options)
    names = Counter(study.name for study in source.studies)
    double = next((study for study, times in names.items() if times > 1), None)
    if double is not None:
        raise InputError(f"{root}: {names[double]} studies would be named {double}, expected one; rename them")
    if options.frame_durations is not None:
        check_durations(options.frame_durations, list(names), root)
    labels = source.labels or ({"background": 0, **options.labels} if options.labels else {})
    studies = tuple(_with_time(study, options.time or study.time or source.time, options) for study in source.studies)
    source = replace(source, labels=labels, time=options.time or source.time, studies=studies)
    channels = options.channels
    if not channels:
        return source
    if len(channels) != len(source.channel_names):
        raise InputError(f"channels names {len(channels)}, {root} has {len(source.channel_names)}; name as many")
    return replace(source, channel_names=tuple(channels), channel_kinds=tuple(channels.values()))


def _with_time(study: Study, time: TimeAxis | None, options: LayoutOptions) -> Study:
    study = replace(study, time=time)
    if options.frame_durations is not None:
        read = partial(_read_with_duration, study, options.frame_durations[study.name], True)
    elif options.frame_duration_s is not None:
        read = partial(_read_with_duration, study, options.frame_duration_s, False)
    else:
        return study
    return replace(study, image=read, stream=None)


def _read_with_duration(study: Study, frame_duration_s: float, overrides: bool) -> Image4D:
    image = study.image()
    own = None if overrides else image.frame_duration_s
    return replace(image, frame_duration_s=own or frame_duration_s)
