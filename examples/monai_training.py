"""A CLSTM-UNet trained and evaluated by MONAI, on FOLDER/images and FOLDER/labels: python examples/monai_training.py FOLDER."""

import sys
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose, NormalizeIntensityd, RandRotated, RandSpatialCropd

from unet4d.config import ModelConfig
from unet4d.images.monai_transforms import LoadStudyd, SaveStudyd, SplitFramesd
from unet4d.models.channel_first import ChannelFirst
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.topology import resolve_model

BOTH = ["image", "label"]


def run(folder, classes=4, patch=(32, 32, 4), spacing_mm=(1.5, 1.5, 8.0), epochs=2, device="cpu"):
    """Train on all studies but the first; segment that one into FOLDER/found, and return its mean Dice."""
    files = sorted(Path(folder, "images").iterdir())
    studies = [{"image": file, "label": Path(folder, "labels", file.name)} for file in files]
    # (C*T, X, Y, Z): what is drawn at random is the same in all frames. Last (C, T, X, Y, Z), for the network.
    load = [LoadStudyd(BOTH), NormalizeIntensityd("image")]
    rotate = RandRotated(BOTH, range_z=0.3, prob=0.5, mode=("bilinear", "nearest"))
    # No flips, because a heart has a left and a right.
    vary = [RandSpatialCropd(BOTH, patch, random_size=False), rotate]
    training = CacheDataset(studies[1:], Compose([*load, *vary, SplitFramesd(BOTH)]), progress=False)
    held_out = CacheDataset(studies[:1], Compose([*load, SplitFramesd(BOTH)]), progress=False)

    model = resolve_model(ModelConfig(channels=[8, 16]), spacing_mm, patch)  # strides and kernels that suit the spacing
    network = ChannelFirst(CLSTMUNet(model, in_channels=1, out_channels=classes), cyclic=True).to(device)
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=epochs,
        train_data_loader=DataLoader(training, batch_size=2, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), 1e-3),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
    )
    trainer.run()

    label_map = [AsDiscreted("pred", argmax=True), SaveStudyd("pred", Path(folder, "found"))]
    evaluator = SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=DataLoader(held_out, batch_size=1),
        network=network,
        inferer=SlidingWindowInferer((-1, *patch), overlap=0.25, mode="gaussian"),  # -1: every window sees all frames
        postprocessing=Compose([*label_map, AsDiscreted(["pred", "label"], to_onehot=classes)]),
        key_val_metric={"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
    )
    evaluator.run()
    return evaluator.state.metrics["dice"]


if __name__ == "__main__":
    print(run(sys.argv[1]))
