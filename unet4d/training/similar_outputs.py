"""The outputs of an earlier network that resemble new classes: a class of another name need not be learned anew.

Training clips are segmented by the earlier network with its own outputs. A class of a name that it does not know is given the
output that overlaps it most, in Dice, so that "LV cavity" begins as the "left ventricle" that it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unet4d.config import ResolvedConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.task import Task
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import collate
from unet4d.training.batches import training_clips
from unet4d.training.loss import ClipLoss, FrameTeaching, LabelledFramesLoss, Teaching
from unet4d.training.warm_start import load_initial_weights

LEAST_OVERLAP = 0.25
"""Dice below which a class begins at random."""
CLIPS = 16
"""Clips that are segmented, of as many studies as there are."""


class OverlapCounts(LabelledFramesLoss):
    """Voxels that each new class shares with each output of the earlier network, in place of a loss; they add up over frames.

    Args:
        classes: the class indices of each new output.
        num_labels: classes of the label, background included.
        of_regions: the outputs are regions, which overlap.
    """

    def __init__(self, classes: Sequence[Sequence[int]], num_labels: int, of_regions: bool):
        super().__init__()
        self.classes, self.num_labels = classes, num_labels
        self.rows, self.of_regions = 3 * len(classes), of_regions

    def num_classes(self, outputs: int) -> int:
        """Return the number of classes of the label, with the background."""
        return self.num_labels

    def sums(  # type: ignore[override]  # that of classes needs no instance
        self, logits: Tensor, label: Tensor, teaching: FrameTeaching | None = None
    ) -> Tensor:
        """Return three rows per new class (3 J, K) float32: voxels shared with each of K outputs, of the output, of the class.

        Voxels that were not drawn are in none, and frames in which the class was not drawn. The arguments are those of a loss.
        """
        found = logits > 0 if self.of_regions else one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).bool()
        rows = []
        for classes in self.classes:
            true = torch.stack([label == k for k in classes]).any(0)
            counted = label < self.num_labels
            if teaching is not None:
                counted = counted & teaching.annotated[:, list(classes)].all(1)[:, None, None, None]
            true = true & counted
            shared, of_output = ((found & where[:, None]).sum((0, 2, 3, 4)) for where in (true, counted))
            rows += [shared, of_output, true.sum().expand_as(shared)]
        return torch.stack(rows).float()

    @staticmethod
    def from_sums(sums: Tensor) -> Tensor:
        """Return the sums as they are."""
        return sums


def find_similar_outputs(
    config: ResolvedConfig, task: Task, studies: Sequence[CachedStudy], device: torch.device,
    content: Mapping[str, Any], path: Path,
) -> dict[str, str]:  # fmt: skip
    """Return for each class, or region, of a name that a checkpoint does not know the output that is most like it, if any is.

    Args:
        config: of the training to come.
        task: of the training to come.
        studies: to train on.
        device: where to compute.
        content: of the checkpoint, see `load_checkpoint`.
        path: of the checkpoint, for messages.

    Raises:
        InputError: no convolution of the encoder fits.
    """
    before = Task.from_dict(content["task"])
    known, own = before.output_names, task.region_classes or [(k,) for k in range(len(task.labels))]
    classes = {name: own[k] for k, name in enumerate(task.output_names) if name not in known and own[k] != (0,)}
    if not classes or bool(before.regions) != bool(task.regions):  # their outputs are different numbers
        return {}
    former = replace(task, labels=before.labels, regions=before.regions, roles={})
    network = CLSTMUNet(replace(config.model, deep_supervision=False), *former.channels).to(device).eval()
    if "head.weight" not in load_initial_weights(network, former, content, path).whole:
        return {}
    counts = OverlapCounts(list(classes.values()), len(task.labels), bool(task.regions))
    schedule = replace(config.recompute, chunk_frames=config.recompute.chunk_frames or 0)
    dice = _dice(ClipLoss(network, schedule, loss=counts), config, task, studies, device)
    first = 0 if task.regions else 1  # no class begins as the background
    best, place = dice[:, first:].max(1)
    pairs = zip(classes, best.tolist(), (place + first).tolist(), strict=True)
    return {name: known[at] for name, overlap, at in pairs if overlap >= LEAST_OVERLAP}


@torch.no_grad()
def _dice(
    counting: ClipLoss, config: ResolvedConfig, task: Task, studies: Sequence[CachedStudy], device: torch.device
) -> Tensor:
    """Return the Dice (J, K) of each new class with each output, over clips that are not augmented."""
    plain = replace(config.data, augmentation="off", time_augmentation="off", artifacts=None, augmenter=None)
    clips = training_clips(studies, replace(config, data=plain), task)
    total = torch.zeros(counting.loss.rows, counting.network.out_channels, device=device)
    for number in range(CLIPS):
        batch = collate([clips[number]])
        teaching = None if batch.weights is None else Teaching(batch.weights.tolist(), batch.annotated)
        image, label = batch.image.to(device), batch.label.to(device)
        with autocast(device, config.train.precision):
            total += counting(image, label, batch.labelled.tolist(), teaching=teaching)
    shared, of_output, of_class = total.unflatten(0, (-1, 3)).unbind(1)
    return 2 * shared / (of_output + of_class).clamp(min=1)
