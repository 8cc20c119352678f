"""One study segmented, by one network or by several together, within a given main memory.

Names are imported when they are first used, so that settings can be checked before torch is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet4d.inference.prepare import Prepared, prepare
    from unet4d.inference.segment import Answer, answer, segment
    from unet4d.inference.settings import Models, Settings
    from unet4d.inference.streaming import StreamingSegmenter, scale_of

__all__ = ["Answer", "Models", "Prepared", "Settings", "StreamingSegmenter", "answer", "prepare", "scale_of", "segment"]

_HOMES = {
    "answering": ("Answer", "answer", "segment"),
    "prepared": ("Prepared", "prepare"),
    "settings": ("Models", "Settings"),
    "streaming": ("StreamingSegmenter", "scale_of"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
