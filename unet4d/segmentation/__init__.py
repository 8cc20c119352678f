"""One study segmented, by one network or by several together, within a given main memory."""

from unet4d.segmentation.answering import Answer, answer, segment
from unet4d.segmentation.prepared import Prepared, prepare
from unet4d.segmentation.settings import Models, Settings

__all__ = ["Answer", "Models", "Prepared", "Settings", "answer", "prepare", "segment"]
