"""`StudyInferer`: MONAI's inferer of a bundle, which segments whole studies as `unet4d predict` does; and the studies of a folder.

STUDY.json, which export writes into the bundle, has all but the weights: {"config": ..., "task": ..., "postprocessing": [...]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer
from torch import Tensor

from unet4d.config import ResolvedConfig
from unet4d.datasets.find_studies import find_studies
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import Image4D
from unet4d.images.monai_transforms import info_of
from unet4d.images.time_axis import time_axis
from unet4d.inference.postprocessing_steps import apply_steps, steps_of_card
from unet4d.inference.segment import segment
from unet4d.models.channel_first import ChannelFirst
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.task import Task
from unet4d.system.files import PathLike, read_json


class StudyInferer(Inferer):
    """Segments studies that `LoadStudyd` read: resampling, normalization, windows, post-processing and the way back to their grid.

    Args:
        settings: STUDY.json of the bundle.

    Raises:
        InputError: it is not what export writes.
    """

    def __init__(self, settings: PathLike):
        super().__init__()
        self.path = Path(settings)
        values = _read_settings(self.path)
        self.config, self.task = ResolvedConfig.from_dict(values["config"]), Task.from_dict(values["task"])
        self.steps = steps_of_card(values, self.path)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the label maps (B, 1, T, X, Y, Z) uint8 of studies (B, C*T, X, Y, Z), each on its own grid.

        Raises:
            InputError, Unet4DError: as `segment`.
        """
        assert isinstance(network, ChannelFirst)
        model = TrainedModel(network.network, self.config, self.task, self.path)
        labels = []
        for study in decollate_batch(inputs):
            info = info_of(study)
            array = study.as_tensor().cpu().unflatten(0, (info.channels, info.frames)).numpy()
            image = Image4D(array, info.header, info.frame_duration_s, info.source)
            label = apply_steps(segment(model, image), self.steps, self.task.classes, self.task.cyclic)
            labels.append(torch.from_numpy(label)[None])
        return MetaTensor(torch.stack(labels)).copy_meta_from(inputs)


def list_studies(folder: PathLike, settings: PathLike) -> list[dict[str, list[str]]]:
    """Return the NIfTI studies of a folder, as `unet4d predict` finds them: the files of each one's channels as "image".

    Args:
        folder: of files, one per study, or one per channel (CASE_0000.nii.gz, ...); or with a dataset.json.
        settings: STUDY.json of the bundle.

    Raises:
        InputError: there are no studies, or studies in another format, of another time, or with other channel kinds.
    """
    task = Task.from_dict(_read_settings(Path(settings))["task"])
    studies = find_studies([Path(folder)], task.channel_names, channel_kinds=task.channel_kinds)
    if other := [study.name for study in studies if not study.nifti]:
        raise InputError(f"{folder}: got {other[0]} in another format, expected 4D NIfTI; use unet4d predict for it")
    known = time_axis(task.cyclic), task.channel_kinds or (SIGNAL,) * len(task.channel_names)
    for study in studies:
        kinds = study.stream.info().kinds if study.stream else ()
        if (found := (study.time or known[0], kinds or known[1])) != known:
            raise InputError(
                f"{folder}: got {study.name} with {found[0]} time and channels of the kinds {', '.join(found[1])}, expected "
                f"{known[0]} time and {', '.join(known[1])}; use unet4d predict for it"
            )
    return [{"image": [str(file) for file in study.nifti]} for study in studies]


def _read_settings(path: Path) -> Mapping[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict) or not values.keys() >= {"config", "task", "postprocessing"}:
        raise InputError(f"{path} is not what unet4d export writes; export the bundle again")
    return values
