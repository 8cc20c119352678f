"""Dictionary transforms of MONAI that read 4D studies with their frame times, and write them back under the header of the file.

    LoadStudyd("image")     a path, or a list with a path per channel, to a MetaTensor (C*T, X, Y, Z)
    SplitFramesd("image")   (C*T, X, Y, Z) to (C, T, X, Y, Z), as models.channel_first.ChannelFirst takes it in batches
    SaveStudyd("pred")      (T, X, Y, Z), or (1, T, X, Y, Z), to a NIfTI file

Channels and frames share the first axis, channel by channel, until `SplitFramesd`. So MONAI's transforms of three axes see a volume
of many channels: what they do in space is the same in all frames, is recorded, and is undone by `Invertd`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor

from unet4d.errors import InputError
from unet4d.images.image4d import ImageInfo, read_image, write_image
from unet4d.images.nifti import (
    GRID_TOLERANCE,
    NIFTI_SUFFIXES,
    case_name,
    corners_apart_mm,
    frame_duration_s_of,
    parse_header,
)
from unet4d.system.files import PathLike

HEADER, FRAMES, CHANNELS, TIMES = "header", "frames", "channels", "frame_times_s"
"""Keys of a study in the meta data of its tensor: bytes of the NIfTI header, T, C, and the seconds (T,) of the frames."""


class LoadStudyd(MapTransform):
    """Loads 4D studies from NIfTI as MetaTensor (C*T, X, Y, Z) float32: channel 0 with all its frames first.

    The meta data are those of MONAI's loaders (`affine`, `original_affine`, `spatial_shape`, `filename_or_obj`, `space`), and
    `header`, `frames`, `channels` and `frame_times_s`, which is NaN where the header has no time. A 3D file is one frame.

    Args:
        keys: of items that are a path, or a list with a path per channel.
        channels_last: the fourth axis of the file holds channels of one frame, see `read_image`.
        kinds: of the channels, see `read_image`; empty: all are signal.
        allow_missing_keys: skip keys that an item lacks.

    Raises:
        InputError: a file cannot be read; names it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels_last: bool = False,
        kinds: Sequence[str] = (),
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.channels_last, self.kinds = channels_last, tuple(kinds)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with a MetaTensor at each key."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = read_image(item[key], channels_last=self.channels_last, kinds=self.kinds)
            step = float("nan") if image.frame_duration_s is None else image.frame_duration_s
            affine = torch.from_numpy(image.affine)
            meta = {
                "affine": affine,
                "original_affine": affine.clone(),
                "spatial_shape": np.array(image.grid),
                "filename_or_obj": str(image.source),
                "space": "RAS",
                "original_channel_dim": 0,
                HEADER: bytes(image.header.binaryblock),
                FRAMES: image.frames,
                CHANNELS: image.channels,
                TIMES: torch.arange(image.frames, dtype=torch.float64) * step,
            }
            item[key] = MetaTensor(torch.from_numpy(image.array).flatten(0, 1), meta=meta)
        return item


class SplitFramesd(MapTransform, InvertibleTransform):
    """Splits channels from frames: MetaTensor (C*T, X, Y, Z) to (C, T, X, Y, Z); the inverse joins them again.

    T is that of the meta data, so labels (T, X, Y, Z) become (1, T, X, Y, Z), and logits (K*T, X, Y, Z) become (K, T, X, Y, Z).
    The last transform before batches are made: MONAI's transforms of space would take frames for an axis of space.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with axes C and T at each key."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = item[key].unflatten(0, (-1, int(item[key].meta[FRAMES])))
            self.push_transform(item[key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with channels and frames in one axis at each key."""
        item = dict(data)
        for key in self.key_iterator(item):
            self.pop_transform(item[key])
            item[key] = item[key].flatten(0, 1)
        return item


class SaveStudyd(MapTransform):
    """Writes label maps, or other maps, of studies that `LoadStudyd` read: `output_dir/<case>[_postfix].nii.gz`.

    Of several channels the case is the name of the first one's file without its number, _0000.

    Every field of geometry and time is that of the study's header to the bit, see `write_image`. Integers are stored in the
    smallest type; floating point in the type of the study's file where it holds all values, else as float32.

    Args:
        keys: of MetaTensors (T, X, Y, Z) or (1, T, X, Y, Z), on the grid of the file.
        output_dir: the folder; made where it is missing. Older files there are replaced.
        output_postfix: put behind the name of the case after an underscore; empty: nothing.
        allow_missing_keys: skip keys that an item lacks.

    Raises:
        InputError: no study of `LoadStudyd`, or another grid, shape or number of frames.
        Unet4DError: the file cannot be written.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: PathLike, output_postfix: str = "", allow_missing_keys: bool = False
    ):
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.output_postfix = Path(output_dir), output_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item; `saved_to` in the meta data of each tensor is its file."""
        item = dict(data)
        for key in self.key_iterator(item):
            info = info_of(item[key])
            assert info.source is not None
            case = case_name(info.source).removesuffix("_0000" * (info.channels > 1))
            name = "_".join(filter(None, (case, self.output_postfix)))
            path = self.output_dir / f"{name}{NIFTI_SUFFIXES[0]}"
            array = item[key].detach().cpu().numpy()
            array = array[0] if array.ndim == 5 and len(array) == 1 else array
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_image(path, array, like=info, dtype=_dtype_of_file(array, info))
            item[key].meta["saved_to"] = str(path)
        return item


def info_of(tensor: Tensor) -> ImageInfo:
    """Return the study that `LoadStudyd` read into a tensor, without its voxels.

    Raises:
        InputError: it read none, or the tensor lies on another grid than the file.
    """
    meta = tensor.meta if isinstance(tensor, MetaTensor) else {}
    if HEADER not in meta:
        raise InputError("got a tensor without the header of its study, expected a MetaTensor of LoadStudyd")
    source = Path(meta["filename_or_obj"])
    header = parse_header(meta[HEADER], source)
    x, y, z = (int(n) for n in header["dim"][1:4])
    shape = int(meta[CHANNELS]), int(meta[FRAMES]), (x, y, z)
    info = ImageInfo(header, *shape, frame_duration_s_of(header), source)
    grid, affine = tuple(tensor.shape[-3:]), np.asarray(torch.as_tensor(meta["affine"]).cpu(), dtype=np.float64)
    if grid != info.grid or not corners_apart_mm(affine, info.affine, grid) <= GRID_TOLERANCE * min(info.spacing):
        raise InputError(
            f"{source}: got a tensor on another grid, {grid} and not {info.grid}, or with another affine, expected that of the "
            "file; undo its transforms first, with monai.transforms.Invertd"
        )
    return info


def _dtype_of_file(array: np.ndarray, info: ImageInfo) -> np.dtype | None:
    """Return the data type of a study's file if it holds floating-point values without a change; else None."""
    stored = info.header.get_data_dtype()
    if array.dtype.kind != "f":
        return None
    with np.errstate(invalid="ignore"):
        return stored if np.array_equal(array.astype(stored), array) else None
