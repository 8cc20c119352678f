"""A loss and an augmentation of one's own, to be named in the settings of a training; docs/how-to/own_classes.md shows them."""

from dataclasses import dataclass

import torch
from monai.losses import FocalLoss
from monai.transforms import Compose, RandGibbsNoise, RandHistogramShift

from unet4d.pipeline.augmentation.compose import Augmentation, AugmentationParams
from unet4d.training.loss import LabelledFramesLoss


class Tversky(LabelledFramesLoss):
    """Tversky loss (Salehi et al. 2017): a missed voxel costs more than one too many. The sums are those of Dice."""

    @staticmethod
    def from_sums(sums):
        """Return the loss, a scalar, from the sums (4, K) over all labelled frames of a batch."""
        hit, predicted, true, _ = sums[:, 1:]  # without the background
        return (1 - (hit + 1e-5) / (hit + 0.3 * (predicted - hit) + 0.7 * (true - hit) + 1e-5)).mean()


class Focal(LabelledFramesLoss):
    """Focal loss (Lin et al. 2017) by MONAI: any mean over voxels is a sum of values and a number of them."""

    rows = 2

    def __init__(self):
        super().__init__()
        self.focal = FocalLoss(to_onehot_y=True, use_softmax=True, reduction="none")

    def sums(self, logits, label, teaching=None):
        """Return the sums (2, K) of labelled frames: logits (N, K, X, Y, Z), class indices (N, X, Y, Z)."""
        if teaching is not None:
            raise ValueError("got partly drawn labels, expected whole ones")
        values = self.focal(logits.float(), label.unsqueeze(1)).movedim(1, 0).flatten(1)
        return torch.stack((values.sum(1), torch.full_like(values[:, 0], values.shape[1])))

    @staticmethod
    def from_sums(sums):
        """Return the loss, a scalar."""
        values, voxels = sums
        return (values / voxels).mean()


@dataclass(frozen=True)
class SeededParams(AugmentationParams):
    """The parameters of the package's augmentation, and the seed of MONAI's."""

    seed: int = 0


class WithMonai(Augmentation):
    """The augmentation that the settings name, then transforms of MONAI: the same ones in all frames of a clip."""

    def __init__(self, *given):
        super().__init__(*given)
        self.transforms = Compose([RandGibbsNoise(0.3, (0.2, 0.6)), RandHistogramShift(5, 0.3)])

    def sample(self, rng, frames):
        """Return random parameters for a clip; every random number comes from `rng`."""
        return SeededParams(**vars(super().sample(rng, frames)), seed=int(rng.integers(2**31)))

    def apply(self, image, label, params):
        """Return the patch (C, T, X, Y, Z) and its label (L, X, Y, Z)."""
        image, label = super().apply(image, label, params)
        self.transforms.set_random_state(params.seed)
        frames = self.transforms(image.flatten(0, 1))  # MONAI's channels are channels and frames here
        return torch.as_tensor(frames).unflatten(0, image.shape[:2]), label
