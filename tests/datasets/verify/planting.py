"""Faults to plant into a dataset: what is done to its files, by hand, and nothing that the package would repair."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.builders import change_dataset
from unet4d.images.image4d import Image4D, write_image
from unet4d.images.nifti import Header, header_for, open_nifti, write_nifti

Array = np.ndarray
Spoil = Callable[[Path], object]


def image(number: int) -> str:
    return f"images/phantom{number:03d}.nii.gz"


def label(number: int) -> str:
    return f"labels/phantom{number:03d}.nii.gz"


def rewrite(
    path: Path,
    voxels: Callable[[Array], Array] = lambda v: v,
    header: Callable[[Header], object] = lambda h: None,
    dtype: type | None = None,
) -> None:
    """Write a NIfTI file anew with other voxels (T, X, Y, Z), header fields or type."""
    with open_nifti(path) as (source, _, volumes):
        array = np.stack(list(volumes))
    array = voxels(array.astype(dtype or array.dtype))
    array = array.astype(dtype or array.dtype)
    new = header_for(source, (*array.shape[1:], len(array)), array.dtype)
    header(new)
    write_nifti(path, new, array)


def put(value: float, frame: int = 2) -> Callable[[Array], Array]:
    """This value into one voxel of a frame."""

    def change(array: Array) -> Array:
        array = array.copy()
        array[frame, 3, 4, 1] = value
        return array

    return change


def frames(change: Callable[[list[int]], object]) -> Callable[[Array], Array]:
    """The frames in another order, which `change` makes of their numbers in place."""

    def reordered(array: Array) -> Array:
        order = list(range(len(array)))
        change(order)
        return array[order]

    return reordered


def blank(*which: int, value: int = 0) -> Callable[[Array], Array]:
    """These frames filled with one value."""

    def change(array: Array) -> Array:
        array = array.copy()
        array[list(which)] = value
        return array

    return change


def forms(change: Callable[[Array], object]) -> Callable[[Header], None]:
    """The affine changed in place, in sform, qform and voxel size."""

    def changed(header: Header) -> None:
        affine, step = header.get_sform(), header["pixdim"][4].copy()
        change(affine)
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1)
        header["pixdim"][4] = step

    return changed


def field(name: str, place: int | None, value: float) -> Callable[[Header], None]:
    """One header field, or one place of it."""

    def changed(header: Header) -> None:
        if place is None:
            header[name] = value
        else:
            header[name][place] = value

    return changed


def at_once(*changes: Callable[[Header], object]) -> Callable[[Header], None]:
    def changed(header: Header) -> None:
        for change in changes:
            change(header)

    return changed


def both(number: int, header: Callable[[Header], object]) -> Spoil:
    """The same to the headers of a study's image and of its label."""
    return lambda root: [rewrite(root / file, header=header) for file in (image(number), label(number))]


def case(number: int, **values: object) -> Spoil:
    """Set keys of a case's entry in dataset.json; ... removes one."""

    def change(entry: dict) -> None:
        one = entry["training"][number - 1]
        one.update(values)
        for key in [key for key, value in one.items() if value is ...]:
            del one[key]

    return lambda root: change_dataset(root, change)


def duration(number: int, step: float, unit: int = 8, **said: object) -> Spoil:
    """Give a study this header, and no frame duration (or another one) in dataset.json."""

    def spoil(root: Path) -> None:
        case(number, **({"frame_duration_s": ...} | said))(root)
        rewrite(root / image(number), header=at_once(field("pixdim", 4, step), field("xyzt_units", None, 2 | unit)))

    return spoil


def to_test(entry: dict, number: int, **values: object) -> None:
    """Move a case to the test part."""
    one = entry["training"].pop(number - 1)
    entry["test"] = [{key: one[key] for key in ("case", "subject", "image")} | values]


def by_frame(root: Path, number: int, *which: int) -> None:
    """One 3D label file for each of these frames in place of the 4D one."""
    with open_nifti(root / label(number)) as (header, _, volumes):
        whole = np.stack(list(volumes))
    affine = header.get_sform()
    files = {}
    for t in which:
        files[str(t)] = f"labels/phantom{number:03d}_f{t}.nii.gz"
        write_image(root / files[str(t)], whole[t][None], like=Image4D.from_array(whole[t][None], affine))
    case(number, label=files)(root)


def channels(root: Path, kinds: dict[str, str] | None = None) -> None:
    """A second channel for every study, the first one backwards in intensity; a map has one frame."""

    def change(entry: dict) -> None:
        entry["channel_names"] = {"0": "cine MRI", "1": "other"}
        entry.update({"channel_kinds": kinds} if kinds else {})
        for one in entry["training"]:
            second = one["image"].replace("images", "second")
            (root / "second").mkdir(exist_ok=True)
            shutil.copy(root / one["image"], root / second)
            rewrite(root / second, lambda v: (v.max() - v)[: 1 if kinds else None])
            one["image"] = [one["image"], second]

    change_dataset(root, change)


def channels_last(root: Path) -> None:
    """Three channels along the fourth axis of each file, as in the Medical Segmentation Decathlon, and a label of one frame."""

    def change(entry: dict) -> None:
        del entry["channel_names"], entry["time"]
        entry["modality"] = {"0": "T1", "1": "T2", "2": "FLAIR"}
        for one in entry["training"]:
            one.pop("frame_duration_s", None)
            one.pop("labelled_frames", None)
            rewrite(root / one["image"], lambda v: v[[0, 4, 8]])
            rewrite(root / one["label"], lambda v: v[:1])

    change_dataset(root, change)


def shortened(number: int, to: int) -> Spoil:
    """The first frames only of a study and its label."""
    return lambda root: [rewrite(root / file, lambda v: v[:to]) for file in (image(number), label(number))]


def quaternion(value: float) -> Callable[[Header], None]:
    """Set all fields of the qform's rotation."""
    return at_once(*(field(f"quatern_{letter}", None, value) for letter in "bcd"))


def second(number: int) -> str:
    return image(number).replace("images", "second")


def voxels_of(number: int, of: Callable[[int], str], dtype: type | None = None, to: int = 2) -> Spoil:
    """Put the voxels of one study's file into another's, which keeps its header."""

    def spoil(root: Path) -> None:
        with open_nifti(root / of(number)) as (_, _, volumes):
            array = np.stack(list(volumes))
        rewrite(root / of(to), lambda v: array, dtype=dtype)

    return spoil


def scaled(factor: float, columns: slice) -> Callable[[Header], None]:
    """These columns of the affine times a factor."""
    return forms(lambda a: a.__setitem__((slice(3), columns), a[:3, columns] * factor))


def moved(mm: float) -> Callable[[Header], None]:
    """The study moved along x."""
    return forms(lambda a: a.__setitem__((0, 3), a[0, 3] + mm))


FLIPPED = forms(lambda a: a.__setitem__((slice(3), 0), -a[:3, 0]))
"""The first axis the other way round."""


def together(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils]
