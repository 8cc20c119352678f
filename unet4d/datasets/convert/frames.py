"""Folders of 3D files, one per frame: NRRD with segmentations beside as 3D Slicer saves them, or NIfTI with label maps.

anna/frame_000.nrrd                        one folder is one study, its frames in natural order (frame_2 before frame_10), or,
                                           where every name ends in another number, by its value (t_0.25 before t_0.5)
     frame_000.seg.nrrd                    its segmentation, segments mapped by their names
     frame_001.nii.gz
     frame_001_seg.nii.gz                  or _label, or -label: a label map; its values are named by the option `labels`
ben/day1/0.nrrd                            the outermost folder is the subject; the study is named ben_day1

With a pattern, folders mean nothing: it is matched against a file's whole path below the source, with "/", without suffix
(.nrrd, .seg.nrrd, .nii.gz, ...) and without the mark of a label (_seg, _label, -label). Its group `subject` names the study of
a file, and `frame`, a whole number, its position in it; other files are left out. Both the image ben/Volume_3.nrrd and its
segmentation ben/Segmentation_3.seg.nrrd match

    (?P<subject>[^/]+)/(Volume|Segmentation)_(?P<frame>[0-9]+)

Frame numbers rise by 1 or, three frames or more, by another constant step. A frame without a segmentation is unlabelled.
Such files have no frame duration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.convert.file_names import (
    SEGMENTATION,
    SEQUENCE,
    NamedFile,
    find_named_files,
    find_nearby_files,
    missing_numbers,
    natural_key,
    sort_by_time,
)
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.study import Source, Study, StudyLabel
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.images.nifti import NIFTI_SUFFIXES, check_same_grid, is_nifti
from unet4d.images.nrrd import nrrd_dimension, nrrd_files, read_nrrd_image
from unet4d.images.segmentations import label_values, read_label_map, read_segmentation
from unet4d.system.text import count, shorten_list

_FRAME = re.compile(
    r"((.*[^a-z])?(frame|phase|time|timepoint|volume|vol|image|img|t|f)[^a-z0-9]*)?[0-9]+(\.[0-9]+)?", re.IGNORECASE
)


@dataclass(frozen=True)
class _FrameFiles:
    """The files of one frame."""

    image: Path
    label: Path | None


@dataclass(frozen=True)
class _Group:
    """The frames of one study, and the error message where some are missing."""

    name: str
    subject: str
    frames: Sequence[_FrameFiles]
    fault: str = ""


def is_frames(root: Path) -> bool:
    """Return whether a folder, or the first folder in it, has 3D NRRD images that are all named as frames.

    Named as frames: equal except for numbers, and by a number alone or behind frame, phase, time, timepoint, volume, vol, image,
    img, t or f (7.nrrd, frame_007.nrrd, anna_t7.nrrd). patient7.nrrd may be a study of its own, and so may each NIfTI file of a
    folder: for these the user names the layout.
    """
    if not root.is_dir() or (root / "dataset.json").is_file():
        return False
    files = [file for file in find_nearby_files(root) if not (file.is_label or file.suffix in NIFTI_SUFFIXES)]
    first = [file for file in files if file.path.parent == files[0].path.parent]
    alike = {re.sub("[0-9]+", "#", file.path.name) for file in first}
    is_one = len(alike) == 1 and all(_FRAME.fullmatch(Path(file.stem).name) for file in first)
    return is_one and first[0].suffix not in SEQUENCE and nrrd_dimension(first[0].path) == 3


def find_frames(root: Path, options: LayoutOptions) -> Source:
    """Find the studies of a folder; of segmentations the headers are read, because they name their segments.

    Raises:
        InputError: no 3D image; a label without its image; two files for one frame; a segment that `labels` does not name.
    """
    if not root.is_dir():
        raise InputError(f"{root} is a file, expected a folder of 3D files, one per frame; give the folder")
    files = [file for file in find_named_files(root) if file.suffix not in SEQUENCE]
    if not files:
        raise InputError(f"{root} holds no .nrrd, .nhdr, .nii.gz or .nii file; give a folder of 3D files")
    groups = _by_pattern(files, options.pattern, root) if options.pattern else _by_folder(files, root)
    labels = label_values([frame.label for group in groups for frame in group.frames if frame.label], options.labels)
    studies = tuple(_study(group, labels) for group in sorted(groups, key=lambda group: natural_key(group.name)))
    return Source(root.resolve().name, ("MRI",), labels, studies)


def _by_folder(files: Sequence[NamedFile], root: Path) -> list[_Group]:
    """Group the files into one study per folder: its images, by stem."""
    groups = []
    for folder in dict.fromkeys(file.path.parent for file in files):
        parts = folder.relative_to(root).parts or (root.resolve().name,)
        inside = [(file.stem, file) for file in files if file.path.parent == folder]
        frames = dict(_paired(inside))
        groups.append(_Group("_".join(parts), parts[0], [frames[stem] for stem in sort_by_time(list(frames))]))
    return groups


def _by_pattern(files: Sequence[NamedFile], pattern: str, root: Path) -> list[_Group]:
    """Group the files into one study per subject: its files, by frame number."""
    if not {"subject", "frame"} <= set(re.compile(pattern).groupindex):
        raise InputError(rf"pattern {pattern!r} lacks subject or frame; give both: (?P<subject>.+)_(?P<frame>\d+)")
    subjects: dict[str, list[tuple[str, NamedFile]]] = {}
    for file in files:
        match = re.fullmatch(pattern, file.stem)
        if match is None:
            continue
        subject, frame = match["subject"], match["frame"]
        if not subject or not (frame or "").isdecimal():
            raise InputError(
                f"{file.path}: pattern {pattern!r} finds the subject {subject!r} and the frame {frame!r}, expected a name and "
                "a whole number; correct the pattern"
            )
        subjects.setdefault(subject, []).append((str(int(frame)), file))
    if not subjects:
        raise InputError(
            f"{root}: pattern {pattern!r} matches none of {count(len(files), 'file')}, expected a match of whole paths such as "
            f"{files[0].stem}; correct it"
        )
    groups = []
    for subject, found in subjects.items():
        frames = {int(number): frame for number, frame in _paired(found)}
        numbers, fault = sorted(frames), ""
        if missing := missing_numbers(numbers):
            fault = (
                f"{root}: {subject} has the frames {numbers[0]} to {numbers[-1]} without {shorten_list(missing, 10)}, expected "
                "every frame; add them, or number the frames without gaps"
            )
        name = subject.replace("/", "_")
        groups.append(_Group(name, name, [frames[number] for number in numbers], fault))
    return groups


def _paired(files: Iterable[tuple[str, NamedFile]]) -> list[tuple[str, _FrameFiles]]:
    """Pair images with the labels of the same key, in the order of the images."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    double: list[Path] = []
    for key, file in files:
        side = labels if file.is_label else images
        double += [side[key], file.path] if key in side else []
        side.setdefault(key, file.path)
    if double:
        raise InputError(
            f"{shorten_list(dict.fromkeys(double))} are of the same frame, expected one; remove the others"
        )
    alone = [path for key, path in labels.items() if key not in images]
    if alone:
        raise InputError(
            f"{shorten_list(alone)}: no image of the same name is beside, expected frame_3.nrrd beside frame_3.seg.nrrd; rename "
            "one, or give a pattern that finds both"
        )
    return [(key, _FrameFiles(path, labels.get(key))) for key, path in images.items()]


def _study(group: _Group, labels: Mapping[str, int]) -> Study:
    frames = group.frames
    is_labelled = any(frame.label for frame in frames)
    return Study(
        group.name,
        group.subject,
        tuple(file for frame in frames for path in (frame.image, frame.label) if path for file in nrrd_files(path)),
        partial(_image, group),
        partial(_label, frames, labels) if is_labelled else None,
    )


def _image(group: _Group) -> Image4D:
    """Read all frames on the grid of the first. Raises InputError for missing frames, another grid, and a file of 4D."""
    if group.fault:
        raise InputError(group.fault)
    frames = group.frames
    first = _volume(frames[0].image)
    array = np.empty((len(frames), *first.grid), dtype=np.float32)
    for t, path in enumerate(frame.image for frame in frames):
        image = _volume(path) if t else first
        check_same_grid(path, image.header, image.grid, frames[0].image, first.header, first.grid)
        array[t] = image.array[0, 0]
    return replace(Image4D.from_array(array, first.affine), source=frames[0].image)


def _volume(path: Path) -> Image4D:
    """Read one frame, of one channel."""
    image = read_image(path) if is_nifti(path) else read_nrrd_image(path)
    if image.frames > 1:
        raise InputError(
            f"{path} has {count(image.frames, 'frame')}, expected 3D files, one per frame; read 4D NIfTI as it is, and a NRRD of "
            "four axes as the layout sequence"
        )
    return image


def _label(frames: Sequence[_FrameFiles], labels: Mapping[str, int], image: Image4D) -> StudyLabel:
    label = np.zeros((image.frames, *image.grid), dtype=np.uint8)
    labelled = tuple(t for t, frame in enumerate(frames) if frame.label)
    for t in labelled:
        label[t] = _read_frame_label(frames[t], labels, image)
    return label, None if len(labelled) == len(frames) else labelled


def _read_frame_label(frame: _FrameFiles, labels: Mapping[str, int], image: Image4D) -> np.ndarray:
    """Read the label of one frame, (X, Y, Z) uint8."""
    assert frame.label is not None
    if frame.label.name.lower().endswith(SEGMENTATION):
        return read_segmentation(frame.label, labels, image)
    volumes = read_label_map(frame.label, labels, image)
    if len(volumes) != 1:
        raise InputError(
            f"{frame.label} has {count(len(volumes), 'frame')}, expected one; give {frame.image} its own label"
        )
    return volumes[0]
