"""Classes of the user's that the settings of a training name: imported before a run, and the loss made of one."""

from __future__ import annotations

from collections.abc import Sequence

from unet4d.config import Config, TrainConfig
from unet4d.errors import InputError
from unet4d.models.temporal import import_temporal
from unet4d.pipeline.augmentation.compose import AUGMENTER, Augmentation
from unet4d.system.named_class import find_class, import_class
from unet4d.training.loss import LabelledFramesLoss
from unet4d.training.region_loss import RegionsLoss

LOSS = "train.loss"


def import_own_classes(config: Config) -> None:
    """Import the classes that the user named: `model.temporal`, `data.augmenter` and `train.loss`.

    Raises:
        InputError: one cannot be imported, or is of another kind.
    """
    import_temporal(config.model.temporal)
    import_class(AUGMENTER, config.data.augmenter, Augmentation)
    import_class(LOSS, config.train.loss, LabelledFramesLoss)


def build_loss(config: TrainConfig, regions: Sequence[Sequence[int]] = ()) -> LabelledFramesLoss:
    """Return the loss of labelled frames: of `train.loss`, else Dice + cross-entropy.

    Args:
        config: of the training; the class that it names is imported.
        regions: class indices of each region that the network has an output for; empty: an output per class.

    Raises:
        InputError: the class is not one for regions, or for classes; it has weights, or no rows for `consistency_weight`.
    """
    base = RegionsLoss if regions else LabelledFramesLoss
    if config.loss is None:
        return RegionsLoss(regions) if regions else LabelledFramesLoss()
    kind = find_class(LOSS, config.loss, base)
    loss = kind(regions) if regions else kind()  # a loss of classes takes no argument
    if loss.of_regions != bool(regions):
        raise InputError(f"got {LOSS} {config.loss} for regions, expected one for the classes of this dataset")
    if any(True for _ in loss.parameters()):
        raise InputError(f"got {LOSS} {config.loss} with weights to train, expected none; make them buffers")
    if config.consistency_weight and loss.rows < 3:
        raise InputError(
            f"got {LOSS} {config.loss} of {loss.rows} rows with train.consistency_weight, expected the rows of LabelledFramesLoss "
            "first; add them, or leave the weight out"
        )
    return loss
