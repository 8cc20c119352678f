"""Checks of a study's image: one pass over its files, frame by frame, finds their issues and their properties."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet4d.datasets.cases import Case, channel_count_message
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.header_checks import check_header, check_space, find_grid_issue
from unet4d.datasets.verify.mirrored_labels import choose_frames, subsample
from unet4d.datasets.verify.misplaced_frames import describe_misplaced_frames, thumbnail
from unet4d.datasets.verify.study_properties import INTENSITY_PERCENTILES, StudyProperties
from unet4d.errors import InputError
from unet4d.images.channels import MAP, reorient_channels
from unet4d.images.grid import WorkingGrid
from unet4d.images.nifti import Header, open_nifti
from unet4d.images.time_axis import TimeAxis
from unet4d.system.text import count, describe_frames

SAMPLED_VOXELS = 1_000_000
"""Voxels of a larger channel, evenly spread, for its percentiles."""


@dataclass
class _FilePass:
    """The findings of one pass over a file: one entry per frame, and a sample of the voxels."""

    file: Path
    digests: list[str] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    bad: int = 0
    first_bad: str = ""

    def identical(self) -> list[list[int]]:
        """Group the frames with more than one value by their voxels."""
        frames: dict[str, list[int]] = {}
        for t, digest in enumerate(self.digests):
            if t not in self.constant:
                frames.setdefault(digest, []).append(t)
        return list(frames.values())


@dataclass
class CheckedImage:
    """A study's image after its pass.

    Attributes:
        issues: all that were found.
        properties: of the study; None where the first channel's file is missing or cannot be read.
        header: of that file, with `shape` (T, X, Y, Z); None likewise, and then nothing is compared with it.
        compared: frame to its subsampled voxels, of the frames to compare with their labels (mirrored_labels.py).
    """

    issues: list[Issue]
    properties: StudyProperties | None = None
    header: Header | None = None
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)
    compared: dict[int, np.ndarray] = field(default_factory=dict)


def check_image(
    case: Case, channel_names: tuple[str, ...], time: TimeAxis | None, array: np.ndarray | None = None
) -> CheckedImage:
    """Read every file of a study's image once; missing files are skipped.

    Where the image is in memory already, `array` (C, T, X, Y, Z) float32, only the headers of its files are read.
    """
    checked = CheckedImage([])
    passes: list[_FilePass] = []
    for place, file in enumerate(case.images):
        if file.is_file():
            passes.append(_FilePass(file))
            checked.issues += _check_file(case, place, checked, passes[-1], time, array)
    checked.issues += _repeated_channels(case, passes)
    if checked.header is None:
        return checked
    properties = StudyProperties.from_header(case, checked.header, checked.shape)
    grid = WorkingGrid.of(properties.matrix, properties.size)
    try:
        reorient_channels(case.channel_kinds, grid.order, grid.flips, case.images[0])
    except InputError as error:
        checked.issues.append(Issue("channels", str(error), str(case.images[0]), case.name))
    digest = hashlib.sha256(" ".join(one for seen in passes for one in seen.digests).encode()).hexdigest()[:32]
    varies = any(len(seen.constant) < len(seen.digests) for seen in passes)
    sampled = [[s] for s in passes[0].samples] if case.channels_last else [seen.samples for seen in passes]
    present = [name for name, file in zip(channel_names, case.images, strict=False) if file.is_file()]
    intensities = {
        name: tuple(float(f"{p:.6g}") for p in np.percentile(np.concatenate(samples), INTENSITY_PERCENTILES))
        for name, samples in zip(channel_names if case.channels_last else present, sampled, strict=False)
        if sum(map(len, samples))
    }
    checked.properties = replace(properties, intensities=intensities, voxels=digest if varies else "")
    return checked


def _check_file(
    case: Case, place: int, checked: CheckedImage, seen: _FilePass, time: TimeAxis | None, array: np.ndarray | None
) -> Iterator[Issue]:
    """Check the file at one place of a case's images. The first one gives `checked` its header."""
    file, is_map = seen.file, case.channel_kinds[place] == MAP
    try:
        with open_nifti(file, only_header=array is not None) as (header, shape, volumes):
            if place == 0:
                checked.header, checked.shape = header, shape
                yield from check_header(case, header, shape, time)
                if case.channels_last and shape[0] != case.channels:
                    yield Issue("channels", channel_count_message(case, shape[0]), str(file), case.name)
            else:
                yield from check_space(case, file, header, shape)
                yield from _check_beside(case, file, header, shape, is_map, checked)
            compared = choose_frames(_labelled(case, shape[0])) if place == 0 else ()
            frames: Iterable[np.ndarray] = volumes
            if array is not None:
                frames = array[:, 0] if case.channels_last else array[place, : shape[0]]
            for t, volume in enumerate(frames):
                _look_at_frame(t, volume, max(1, math.prod(shape) // SAMPLED_VOXELS), seen)
                if t in compared:
                    checked.compared[t] = subsample(volume).astype(np.float32)
    except InputError as error:
        yield Issue("unreadable", str(error), str(file), case.name)
    if seen.bad:
        text = (
            f"{seen.bad} of {math.prod(shape)} voxels are NaN or infinite, the first at {seen.first_bad}, expected finite values; "
            "replace them (by 0 outside the body, say) or export the study again"
        )
        yield Issue.of("not-finite", file, text, case.name)
    if seen.constant:
        which = describe_frames(seen.constant, "channel" if case.channels_last else "frame")
        what = f"{which} hold{'s' * (len(seen.constant) == 1)}"
        if len(seen.constant) == len(seen.digests):
            what = "the map is" if is_map else "the whole image is"
        text = f"{what} one single value; find out what went wrong, or leave out what was not acquired"
        yield Issue.of("constant-frame", file, text, case.name)
    if not (is_map or case.channels_last):
        yield from _check_frames(case, seen, time == "cyclic")


def _labelled(case: Case, frames: int) -> Sequence[int]:
    if case.label is None or case.channels_last:
        return ()
    return range(frames) if case.labelled_frames is None else case.labelled_frames


def _check_beside(
    case: Case, file: Path, header: Header, shape: tuple[int, int, int, int], is_map: bool, checked: CheckedImage
) -> Iterator[Issue]:
    """Check that a later channel has the grid of the first one, and as many frames, or one as a map."""
    issue = None
    if checked.header is not None:
        ours, theirs = (shape[1:], checked.shape[1:]) if is_map else (shape, checked.shape)
        issue = find_grid_issue(case, file, header, ours, checked.header, theirs)
    if issue and issue.kind == "frames" and shape[0] == 1:
        hint = 'if it holds for all frames, such as a T1 map, add "map" to channel_kinds of dataset.json'
        yield replace(issue, message=f"{issue.message}; {hint}")
    elif issue:
        yield issue
    elif is_map and shape[0] != 1:
        text = f"got {count(shape[0], 'frame')} for a map, expected one 3D image for all frames; correct it"
        yield Issue.of("frames", file, text, case.name)


def _look_at_frame(t: int, volume: np.ndarray, step: int, seen: _FilePass) -> None:
    """Note the digest, a sample and the defects of one frame (X, Y, Z)."""
    with np.errstate(over="ignore", invalid="ignore"):
        frame = np.asarray(volume, dtype=np.float32)
    finite = np.isfinite(frame)
    while math.gcd(step, frame.size) > 1:  # else the sample would keep to some of the slices
        step += 1
    flat = frame.reshape(-1, order="F")
    if finite.all():
        seen.samples.append(flat[::step].copy())
        seen.thumbnails.append(thumbnail(frame))
        if flat.max() == flat.min():
            seen.constant.append(t)
    else:
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        seen.first_bad = seen.first_bad or f"frame {t}, voxel {first}"
        seen.bad += int(np.count_nonzero(~finite))
    seen.digests.append(hashlib.sha256(flat.tobytes()).hexdigest()[:32])


def _repeated_channels(case: Case, passes: list[_FilePass]) -> Iterator[Issue]:
    """Yield an issue for each channel that repeats another one, in files of their own or in one."""
    todo = "put the right one in its place, or leave it out of all studies"
    if case.channels_last:
        for seen in passes:
            for same in seen.identical():
                if len(same) > 1:
                    text = f"{describe_frames(same, 'channel')} are the same voxel by voxel; {todo}"
                    yield Issue.of("image-twice", seen.file, text, case.name)
        return
    first: dict[tuple[str, ...], _FilePass] = {}
    for seen in passes:
        like = first.setdefault(tuple(seen.digests), seen)
        if like is not seen and seen.identical():
            text = f"this channel of case {case.name} holds the same voxels as {like.file}; {todo}"
            yield Issue.of("image-twice", seen.file, text, case.name)


def _check_frames(case: Case, seen: _FilePass, cyclic: bool) -> Iterator[Issue]:
    """Yield an issue for frames that repeat another one, and for frames at the wrong position."""
    last, frames = len(seen.digests) - 1, seen.identical()
    for same in frames:
        if len(same) > 1:
            what = f"{describe_frames(same)} are the same voxel by voxel"
            if cyclic and same == [0, last]:
                what = f"its last frame, {last}, repeats frame 0, and a cycle counts it once"
            text = f"{what}; leave out the repeated ones, or export the study again"
            yield Issue.of("duplicate-frame", seen.file, text, case.name)
    if seen.bad or len(seen.thumbnails) < len(seen.digests):
        return
    own = [same[0] for same in frames]
    wrong = describe_misplaced_frames(np.stack([seen.thumbnails[t] for t in own]), own, cyclic) if len(own) > 1 else ""
    if wrong:
        text = f"{wrong}; watch it as a film and put the frames in the order of their acquisition"
        yield Issue.of("frame-order", seen.file, text, case.name)
