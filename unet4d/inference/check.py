"""The check that a GPU computes a model's convolutions right."""

from __future__ import annotations

from unet4d.config import Precision
from unet4d.inference.settings import Models
from unet4d.models.conv_check import check_convolutions
from unet4d.models.device import resolve_precision


def check_models(models: Models, precision: Precision) -> None:
    """Refuse a GPU that computes the models' convolutions wrong, see `check_convolutions`; each model is checked once.

    Args:
        models: on the device that they compute on.
        precision: as asked for.

    Raises:
        InputError: the GPU does.
    """
    for model in models:
        device = next(model.network.parameters()).device
        channels = len(model.task.channel_names), len(model.task.labels)
        patch = model.config.data.patch_size
        check_convolutions(model.config.model, channels, patch, device, resolve_precision(precision, device))
