"""One study segmented, by one network or by several together, within a given main memory."""

from unet4d.segmentation.answering import Answer, answer, segment
from unet4d.segmentation.prepared import Prepared, prepare
from unet4d.segmentation.settings import Models, Settings
from unet4d.segmentation.streaming import StreamingSegmenter, scale_of

__all__ = ["Answer", "Models", "Prepared", "Settings", "StreamingSegmenter", "answer", "prepare", "scale_of", "segment"]
