"""3D Slicer sequences, one per study: .seq.nrrd, and any NRRD that has an axis of frames beside three of space.

anna/cine.seq.nrrd               the frames are along the axis of kind list or time, the first or the last
     cine.seg.seq.nrrd           (or cine_seg, cine_label, cine-label) a label map sequence on the same grid, as many frames
     cine_3.seg.nrrd             or segmentations of single frames, numbered from 0 as 3D Slicer numbers them (cine_0003)
ben.seq.nrrd                     the outermost folder is the subject, or the file where it is in none
flow_0000.seq.nrrd               channels of one study, from 0000 on: magnitude and velocities, say; labels are named flow
flow_0001.seq.nrrd

A sequence may be named .nrrd alone if its header has four axes; other .nrrd files are ignored. Frame duration: from the
index values and their unit; unknown where there is no unit of time, or where frames are spaced unevenly. In a label map
sequence a frame without any label counts as unlabelled, because a sequence has an item for every frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.convert.file_names import (
    SEGMENTATION,
    SEQUENCE,
    NamedFile,
    find_named_files,
    find_nearby_files,
    natural_key,
    parse_file_name,
)
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.nifti_studies import CHANNEL_NUMBER
from unet4d.datasets.study import Source, Study, StudyLabel
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.images.nifti import NIFTI_SUFFIXES
from unet4d.images.nrrd import import_pynrrd, nrrd_dimension, nrrd_files, read_nrrd_header, read_nrrd_image
from unet4d.images.segmentations import label_values, read_label_map, read_segmentation
from unet4d.system.text import count, shorten_list


def is_sequence(root: Path) -> bool:
    """Return whether a path is a sequence, or a folder with one in it or in a folder of it."""
    if root.is_file():
        file = parse_file_name(root, root.parent)
        return file is not None and _is_sequence(file)
    return root.is_dir() and not (root / "dataset.json").is_file() and any(map(_is_sequence, find_nearby_files(root)))


def find_sequence(root: Path, options: LayoutOptions) -> Source:
    """Find the sequences below a folder, or one sequence; headers are read, voxels are not.

    Raises:
        InputError: no sequence; labels without their sequence, or twice; a segment that `labels` does not name; pynrrd is
            not installed. A mistake in one sequence alone is raised where it is read.
    """
    folder = root.parent if root.is_file() else root
    beside = [file for path in folder.iterdir() if (file := parse_file_name(path, folder))]
    files = beside if root.is_file() else find_named_files(folder)
    sequences = [file for file in files if _is_sequence(file)]
    images = [file for file in sequences if not file.is_label and (root == folder or file.path == root)]
    if not images:
        raise InputError(f"{root} holds no sequence, expected .seq.nrrd, or a .nrrd of four axes; save one in Slicer")
    import_pynrrd(images[0].path)
    channels = _by_channel(images, root)
    labels = {stem: _labels_of(stem, files) for stem in channels}
    if root == folder:
        known = {file.path for files_of_stem in labels.values() for file in files_of_stem.values()}
        drawings = [f for f in files if f.suffix in SEGMENTATION or (f.is_label and _is_sequence(f))]
        alone = [file.path for file in drawings if file.path not in known]
        if alone:
            raise InputError(
                f"{shorten_list(alone)}: no sequence of this name is beside, expected cine.seq.nrrd beside cine_3.seg.nrrd or "
                "cine.seg.seq.nrrd; rename one, or move it away"
            )
    values = label_values([file.path for found in labels.values() for file in found.values()], options.labels)
    studies = [_study(stem, channels[stem], labels[stem], values) for stem in sorted(channels, key=natural_key)]
    many = len(next(iter(channels.values())))
    channel_names = tuple(f"channel {number}" for number in range(many)) if many > 1 else ("MRI",)
    return Source(root.resolve().name if root == folder else images[0].stem, channel_names, values, tuple(studies))


def _is_sequence(file: NamedFile) -> bool:
    if file.suffix in (*SEGMENTATION, *NIFTI_SUFFIXES):
        return False
    return file.suffix in SEQUENCE or nrrd_dimension(file.path) == 4


def _by_channel(images: Sequence[NamedFile], root: Path) -> dict[str, list[NamedFile]]:
    """Map the stem of each study to its files: flow_0000 and flow_0001 are channels of flow, cine_0003 alone is a study."""
    stems = {file.stem: file for file in images}
    found: dict[str, list[NamedFile]] = {}
    for stem, file in stems.items():
        numbered = CHANNEL_NUMBER.fullmatch(stem)
        is_channel = numbered is not None and {f"{numbered[1]}_0000", f"{numbered[1]}_0001"} <= stems.keys()
        found.setdefault(numbered[1] if numbered and is_channel else stem, []).append(file)
    for stem, files in found.items():
        numbered_stems = [f"{stem}_{number:04d}" for number in range(len(files))]
        if len(files) > 1 and [file.stem for file in files] != numbered_stems:
            got = shorten_list(file.path for file in files)
            raise InputError(f"{got}: expected the channels of {stem} numbered from 0000 on without gaps; rename them")
    counts = {stem: len(files) for stem, files in found.items()}
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise InputError(
            f"{root}: {few} has {counts[few]} channel(s), {many} {counts[many]}, expected equal numbers; add some"
        )
    return found


def _labels_of(stem: str, files: Sequence[NamedFile]) -> dict[int | None, NamedFile]:
    """Map each frame to its segmentation; None to a label map sequence of all frames."""
    labels: dict[int | None, NamedFile] = {}
    for file in files:
        frame = re.fullmatch(re.escape(stem) + "_([0-9]+)", file.stem) if file.suffix in SEGMENTATION else None
        whole = file.is_label and file.stem == stem and _is_sequence(file)
        if not frame and not whole:
            continue
        place = int(frame[1]) if frame else None
        if place in labels or (labels and None in (*labels, place)):
            other = next(iter(labels.values())).path
            raise InputError(f"{file.path} and {other} are both for {stem}, expected one label per frame; remove one")
        labels[place] = file
    return labels


def _study(
    stem: str, images: Sequence[NamedFile], labels: Mapping[int | None, NamedFile], values: Mapping[str, int]
) -> Study:
    parts = stem.split("/")
    return Study(
        "_".join(parts),
        parts[0],
        (
            *(file for image in images for file in nrrd_files(image.path)),
            *(file for label in labels.values() for file in nrrd_files(label.path)),
        ),
        partial(_image, [image.path for image in images]),
        partial(_label, {frame: file.path for frame, file in labels.items()}, values) if labels else None,
    )


def _check_header(path: Path) -> None:
    """Raise InputError unless it is the header of a sequence in time."""
    header = read_nrrd_header(path)
    if header.list_axis is None:
        raise InputError(f"{path} has no axis of frames, expected one of kind list; try the layout frames")
    if header.fields.get("modality") == "DWMRI":
        raise InputError(f"{path} holds diffusion gradients, not frames (modality DWMRI), expected time; leave it out")


def _image(paths: Sequence[Path]) -> Image4D:
    """Read the channels of a study, on one grid."""
    for path in paths:
        _check_header(path)
    first, *others = map(read_nrrd_image, paths)
    for other, path in zip(others, paths[1:], strict=True):
        if other.array.shape != first.array.shape or not np.allclose(other.affine, first.affine, atol=1e-3):
            raise InputError(
                f"{path}: {count(other.frames, 'frame')} of {other.grid} voxels, affine {other.affine.tolist()}; {paths[0]}: "
                f"{first.frames} of {first.grid}, {first.affine.tolist()}; bring both to one grid"
            )
    return replace(first, array=np.concatenate([image.array for image in (first, *others)])) if others else first


def _label(files: Mapping[int | None, Path], values: Mapping[str, int], image: Image4D) -> StudyLabel:
    if None in files:
        path = files[None]
        label = read_label_map(path, values, image)
        if len(label) != image.frames:
            raise InputError(f"{path} has {count(len(label), 'frame')}, {image.source} {image.frames}; export it again")
        drawn = tuple(int(t) for t in np.flatnonzero(label.any(axis=(1, 2, 3))))
        if not drawn:
            raise InputError(
                f"{path}: no voxel of any frame has a label, expected one or more; label one, or remove it"
            )
    else:
        outside = [path for frame, path in files.items() if frame is not None and frame >= image.frames]
        if outside:
            raise InputError(
                f"{shorten_list(outside)}: {image.source} has the frames 0 to {image.frames - 1}, expected one of them; rename it"
            )
        label = np.zeros((image.frames, *image.grid), dtype=np.uint8)
        drawn = tuple(sorted(frame for frame in files if frame is not None))
        for frame in drawn:
            label[frame] = read_segmentation(files[frame], values, image)
    return label, None if len(drawn) == image.frames else drawn
