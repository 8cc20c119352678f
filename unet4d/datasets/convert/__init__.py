"""Layouts in which studies are found on disk, one module each; every one of them gives a `Source` of studies to read.

acdc.py        the ACDC challenge: patientNNN/patientNNN_4d.nii.gz, patientNNN_frameXX_gt.nii.gz, Info.cfg
nnunet.py      nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr; frames of one subject are joined
frames.py      folders of 3D files, one a frame: .nrrd with .seg.nrrd as 3D Slicer exports them, .nii.gz
sequence.py    3D Slicer sequences: .seq.nrrd, with .seg.seq.nrrd beside them
dicom.py       cine and dynamic series as scanners and PACS leave them, single-frame or enhanced multi-frame
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from unet4d.datasets.convert.frame_durations import check_durations
from unet4d.datasets.study import LONGEST_S, SHORTEST_S, Source, Study, is_frame_duration
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL, VELOCITIES
from unet4d.images.image4d import Image4D
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.system.class_values import BACKGROUND, class_fault
from unet4d.system.regular_files import check_file_or_folder
from unet4d.system.text import short_repr

KINDS = ("acdc", "nnunet", "frames", "sequence", "dicom")
"""`unet4d.datasets.convert.<kind>` has `find(root, options)` and `is_kind(root)`; the first that it is, is detected."""

_USED = {
    "acdc": (),
    "nnunet": ("pattern", "labels", "subject_per_case"),
    "frames": ("pattern", "labels"),
    "sequence": ("labels",),
    "dicom": ("labels", "keep_patient_ids"),
}
"""Kind to the options that say something of it, beside `time` and `frame_duration_s`, which any kind takes."""


@dataclass(frozen=True)
class Options:
    """What a user can say of a source where its files do not.

    Attributes:
        pattern: regular expression with the groups `subject` and `frame`, for file names relative to the source.
        labels: class name to value; maps segments by name, and names the values of plain label maps.
        time: "cyclic" or "open".
        frame_duration_s: seconds from frame to frame, where the files do not say.
        keep_patient_ids: name cases and subjects by the patient ids in the files, which are left out otherwise.
        frame_durations: case to its seconds from frame to frame; of every case, and before what the files say.
        subject_per_case: each case is a subject of its own, even where names look like frames of one subject.
        channels: channel name to what it holds (data/channels.py), in order; no map, for files with a frame axis hold none.

    Raises:
        InputError: one of them cannot be.
    """

    pattern: str | None = None
    labels: Mapping[str, int] | None = None
    time: TimeAxis | None = None
    frame_duration_s: float | None = None
    keep_patient_ids: bool = False
    channels: Mapping[str, str] | None = None
    frame_durations: Mapping[str, float] | None = None
    subject_per_case: bool = False

    def __post_init__(self) -> None:
        if self.time is not None:
            check_time_axis(self.time, "time", "give one of them, or none")
        if self.frame_duration_s is not None and not is_frame_duration(self.frame_duration_s):
            limits = f"seconds above 0, from {SHORTEST_S:g} to {LONGEST_S:g}"
            raise InputError(f"frame_duration_s is {short_repr(self.frame_duration_s)}; wanted {limits}")
        if self.frame_duration_s is not None and self.frame_durations is not None:
            raise InputError("got frame_duration_s and frame_durations, expected one of them; leave one out")
        if self.pattern is not None and self.subject_per_case:
            raise InputError("got pattern and subject_per_case, expected one of them; leave one out")
        if self.labels and (fault := class_fault({BACKGROUND: 0, **self.labels}.items())):
            wanted = "wanted for each class a whole number of its own, from 1 to 255"
            raise InputError(f"labels is {short_repr(dict(self.labels))}; {wanted}: {fault}")
        known = (SIGNAL, *VELOCITIES)
        if self.channels is not None and not (self.channels and set(self.channels.values()) <= set(known)):
            raise InputError(
                f"channels is {self.channels!r}; wanted a name and what it holds for each, of {', '.join(known)}"
            )
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise InputError(f"pattern {self.pattern!r} is no regular expression ({error}); correct it") from error
            if "subject" not in groups:
                wanted = r"wanted such as '(?P<subject>.+)_frame(?P<frame>\d+)'"
                raise InputError(f"pattern {self.pattern!r} has no group named subject; {wanted}")


NO_OPTIONS = Options()


@contextlib.contextmanager
def readable(root: Path) -> Iterator[None]:
    """Turn a folder or file that may not be read, at `root` or below, into an InputError."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{error.filename or root} may not be read: no permission; change its rights, or copy what you may read"
        ) from error


def find(kind: str, root: Path, options: Options) -> Source:
    """The studies of a source, in this layout; voxels are not read.

    What `options` says holds for all of them: `time` before what the files say, `frame_duration_s` and `labels` where they do not.

    Raises:
        InputError: no such layout; nothing of this layout is there, or what is there contradicts itself, may not be read, or
            would give two studies one name; `frame_durations` is not of its studies.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no layout; wanted one of {', '.join(KINDS)}")
    with readable(root):
        if not root.exists():
            raise InputError(f"{root} is missing; give the file or folder to read")
        check_file_or_folder(root)
    for name in ("pattern", "labels", "keep_patient_ids", "subject_per_case"):
        if getattr(options, name) and name not in _USED[kind]:
            raise InputError(f"{name} came for {kind}, which has no use for it; leave it out")
    with readable(root):
        source: Source = import_module(f"unet4d.datasets.convert.{kind}").find(root, options)
    names = Counter(study.name for study in source.studies)
    doubled = next((name for name, count in names.items() if count > 1), None)
    if doubled is not None:
        raise InputError(
            f"{root}: {names[doubled]} studies would be named {doubled}; wanted each name once; rename them"
        )
    labels = source.labels or ({"background": 0, **options.labels} if options.labels else {})
    time = options.time or source.time
    if options.frame_durations is not None:
        check_durations(options.frame_durations, [study.name for study in source.studies], root)
    studies = [_timed(study, options.time or study.time or source.time, options) for study in source.studies]
    source = replace(source, labels=labels, time=time, studies=tuple(studies))
    return _with_channels(source, options.channels, root) if options.channels else source


def detected(root: Path) -> str | None:
    """The layout that a file or folder is in; None for none of them."""
    return next((kind for kind in KINDS if import_module(f"unet4d.datasets.convert.{kind}").is_kind(root)), None)


def _with_channels(source: Source, channels: Mapping[str, str], root: Path) -> Source:
    if len(channels) != len(source.channel_names):
        raise InputError(
            f"channels names {len(channels)}, {', '.join(channels)}; {root} has {len(source.channel_names)}; name as many"
        )
    return replace(source, channel_names=tuple(channels), channel_kinds=tuple(channels.values()))


def _timed(study: Study, time: TimeAxis | None, options: Options) -> Study:
    if options.frame_durations is not None:
        return replace(
            study, time=time, image=partial(_read_as, study, options.frame_durations[study.name]), stream=None
        )
    if options.frame_duration_s is None:
        return replace(study, time=time)
    return replace(study, time=time, image=partial(_read_timed, study, options.frame_duration_s), stream=None)


def _read_as(study: Study, frame_duration_s: float) -> Image4D:
    return replace(study.image(), frame_duration_s=frame_duration_s)


def _read_timed(study: Study, frame_duration_s: float) -> Image4D:
    image = study.image()
    return replace(image, frame_duration_s=image.frame_duration_s or frame_duration_s)
