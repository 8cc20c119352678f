"""One pass over the files of a study's image, frame by frame: what is wrong with them, and what they hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet4d.data.channels import MAP, turned
from unet4d.data.dataset_json import Case, other_channels
from unet4d.data.grid import WorkingGrid
from unet4d.data.nifti import Header, opened
from unet4d.data.verification.faults import Fault, frames_in_words
from unet4d.data.verification.frame_order import misplaced, thumbnail
from unet4d.data.verification.header_checks import check_header, check_space, grid_fault
from unet4d.data.verification.study_facts import PERCENTILES, StudyFacts
from unet4d.errors import InputError

SAMPLE = 1_000_000
"""Voxels of a channel, evenly spread, that its percentiles are taken from when it has more."""

Shape = tuple[int, int, int, int]


@dataclass
class _Seen:
    """What one pass over a file leaves: a row or a word a frame, and a sample of the voxels."""

    digests: list[str] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    bad: int = 0
    first_bad: str = ""


@dataclass
class CheckedImage:
    """A study's image after its pass.

    Attributes:
        faults: all that was found.
        facts: what it is like; None where the first file cannot be read.
        header: of the first file, with `shape` (T, X, Y, Z); None likewise.
    """

    faults: list[Fault]
    facts: StudyFacts | None = None
    header: Header | None = None
    shape: Shape = (0, 0, 0, 0)


def check_image(case: Case, channel_names: tuple[str, ...], time: str | None) -> CheckedImage:
    """Read every file of a study's image once; files that are not there are passed by."""
    checked = CheckedImage([])
    passes: list[_Seen] = []
    for file, kind in zip(case.images, case.channel_kinds, strict=False):
        if file.is_file():
            seen = _Seen()
            checked.faults += _check_file(case, file, kind == MAP, checked, seen, time)
            passes.append(seen)
    if checked.header is None:
        return checked
    checked.facts = facts = StudyFacts.of_header(case, checked.header, checked.shape)
    grid = WorkingGrid.of(facts.matrix, facts.size)
    try:
        turned(case.channel_kinds, grid.order, grid.flips, case.images[0])
    except InputError as error:
        checked.faults.append(Fault("channels", str(error), str(case.images[0]), case.name))
    digest = hashlib.sha256(" ".join(one for seen in passes for one in seen.digests).encode()).hexdigest()[:32]
    tells = any(len(seen.constant) < len(seen.digests) for seen in passes)
    sampled = [[s] for s in passes[0].samples] if case.channels_last else [seen.samples for seen in passes]
    names = [name for name, file in zip(channel_names, case.images, strict=False) if file.is_file()]
    intensities = {
        name: tuple(float(f"{p:.6g}") for p in np.percentile(np.concatenate(samples), PERCENTILES))
        for name, samples in zip(channel_names if case.channels_last else names, sampled, strict=False)
        if sum(map(len, samples))
    }
    checked.facts = replace(facts, intensities=intensities, voxels=digest if tells else "")
    return checked


def _check_file(
    case: Case, file: Path, is_map: bool, checked: CheckedImage, seen: _Seen, time: str | None
) -> Iterator[Fault]:
    """One channel's file. The first one that can be read gives `checked` its header."""
    try:
        with opened(file) as (header, shape, volumes):
            if checked.header is None:
                checked.header, checked.shape = header, shape
                yield from check_header(case, header, shape, time)
                if case.channels_last and shape[0] != case.channels:
                    yield Fault("channels", other_channels(case, shape[0]), str(file), case.name)
            else:
                yield from check_space(case, file, header, shape)
                ours, wanted = (shape[1:], checked.shape[1:]) if is_map else (shape, checked.shape)
                fault = grid_fault(case, file, header, ours, case.images[0], checked.header, wanted)
                if fault and fault.kind == "frames" and shape[0] == 1:
                    hint = 'if it holds for all frames, such as a T1 map, say "map" in channel_kinds of dataset.json'
                    yield replace(fault, message=f"{fault.message}; {hint}")
                elif fault:
                    yield fault
                elif is_map and shape[0] != 1:
                    message = f"{file}: {shape[0]} frames came for a map; wanted one 3D image that holds for all frames"
                    yield Fault("frames", message, str(file), case.name)
            for t, volume in enumerate(volumes):
                _look(t, volume, max(1, math.prod(shape) // SAMPLE), seen)
    except InputError as error:
        yield Fault("unreadable", str(error), str(file), case.name)
    if seen.bad:
        message = (
            f"{file}: {seen.bad} of {math.prod(shape)} voxels are NaN or infinite, the first at {seen.first_bad}; wanted "
            "finite values; replace them (by 0 outside the body, say) or export the study again"
        )
        yield Fault("not-finite", message, str(file), case.name)
    if not (is_map or case.channels_last):
        yield from _check_frames(case, file, seen, time == "cyclic")


def _look(t: int, volume: np.ndarray, step: int, seen: _Seen) -> None:
    """Note what one frame (X, Y, Z) holds."""
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


def _check_frames(case: Case, file: Path, seen: _Seen, cyclic: bool) -> Iterator[Fault]:
    """Frames that hold nothing, repeat another one, or stand at the wrong place."""
    if seen.constant:
        all_of_them = len(seen.constant) == len(seen.digests)
        what = "the whole image is" if all_of_them else f"{frames_in_words(seen.constant)} hold"
        what = what if all_of_them or len(seen.constant) > 1 else what.replace(" hold", " holds")
        message = f"{file}: {what} one single value; see what went wrong, or leave out what was not acquired"
        yield Fault("constant-frame", message, str(file), case.name)
    frames: dict[str, list[int]] = {}
    for t, digest in enumerate(seen.digests):
        if t not in seen.constant:
            frames.setdefault(digest, []).append(t)
    last = len(seen.digests) - 1
    for alike in frames.values():
        if len(alike) > 1:
            what = f"{frames_in_words(alike)} are the same voxel by voxel"
            if cyclic and alike == [0, last]:
                what = f"its last frame, {last}, repeats frame 0, and a cycle counts it once"
            message = f"{file}: {what}; leave out the repeated ones, or export the study again"
            yield Fault("duplicate-frame", message, str(file), case.name)
    if seen.bad or len(seen.thumbnails) < len(seen.digests):
        return
    own = [alike[0] for alike in frames.values()]
    wrong = misplaced(np.stack([seen.thumbnails[t] for t in own]), own, cyclic) if len(own) > 1 else ""
    if wrong:
        message = f"{file}: {wrong}; watch it as a film and put the frames in the order of their acquisition"
        yield Fault("frame-order", message, str(file), case.name)
