"""The CLSTM-UNet on the axes of MONAI, channels before frames, for its trainers, losses and inferers."""

from __future__ import annotations

from monai.data import MetaTensor
from torch import Tensor, nn

from unet4d.models.clstm_unet import CLSTMUNet


class ChannelFirst(nn.Module):
    """A CLSTM-UNet on (B, C, T, X, Y, Z), giving logits (B, K, T, X, Y, Z).

    MONAI takes time for the first axis of space. So a `SlidingWindowInferer` slides in space only where its `roi_size` begins with
    -1, and each window sees all frames.

    Args:
        network: its weights are those of this module, as `network.NAME`.
        cyclic: the last frame leads into the first, see `CLSTMUNet.step`.
        priming_frames: of a cyclic study, see `InferenceConfig`.
    """

    def __init__(self, network: CLSTMUNet, cyclic: bool = False, priming_frames: int | None = None):
        super().__init__()
        self.network, self.cyclic, self.priming_frames = network, cyclic, priming_frames

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; of a MetaTensor with its meta data. Raise InputError for a wrong shape."""
        frames_first = x.as_subclass(Tensor).transpose(1, 2)  # no layer copies meta data
        logits = self.network(frames_first, cyclic=self.cyclic, priming_frames=self.priming_frames).transpose(1, 2)
        return MetaTensor(logits).copy_meta_from(x) if isinstance(x, MetaTensor) else logits
