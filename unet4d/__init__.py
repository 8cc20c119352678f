"""unet4d: segmentation of 4D MRI (3D + time) with a CLSTM-UNet.

    from unet4d import load_model, read_image, segment, write_image

    model = load_model("runs/heart")
    image = read_image("study.nii.gz")            # .array (C, T, X, Y, Z)
    label = segment(model, image)                 # (T, X, Y, Z)
    write_image("label.nii.gz", label, like=image)

Names are imported when they are first used, so that `unet4d --help` does not wait for torch. Commands are functions,
each in the module of its name, which is what `unet4d.inference.predict` always is: `from unet4d.inference.predict
import predict`. docs/how-to/python.md shows them all.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from unet4d.system.environment import VERSION as __version__

if TYPE_CHECKING:
    from unet4d.images.image4d import Image4D, read_image, write_image
    from unet4d.inference.segment import segment
    from unet4d.inference.streaming import StreamingSegmenter
    from unet4d.models.checkpoint import load_model
    from unet4d.models.clstm_unet import CLSTMUNet
    from unet4d.models.convlstm import ConvLSTM3d


logging.getLogger(__name__).addHandler(logging.NullHandler())

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Nothing is sent: ONNX Runtime, from its import on, would report sessions and names of models to Microsoft."""

__all__ = [
    "CLSTMUNet",
    "ConvLSTM3d",
    "Image4D",
    "StreamingSegmenter",
    "__version__",
    "load_model",
    "read_image",
    "segment",
    "write_image",
]

_HOMES = {
    "CLSTMUNet": "unet4d.models.clstm_unet",
    "ConvLSTM3d": "unet4d.models.convlstm",
    "Image4D": "unet4d.images.image4d",
    "load_model": "unet4d.models.checkpoint",
    "read_image": "unet4d.images.image4d",
    "StreamingSegmenter": "unet4d.inference.streaming",
    "segment": "unet4d.inference.segment",
    "write_image": "unet4d.images.image4d",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unet4d' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
