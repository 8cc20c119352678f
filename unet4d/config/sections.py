"""Settings of a run, section by section: name, default, unit and check of each; training/resolve.py derives what is unset."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from unet4d.system.checks import check_ranges, check_types, require, require_class_path
from unet4d.system.clocks import SLURM, seconds_of

Size = tuple[int, int, int]
"""Per axis X, Y, Z."""
Precision = Literal["auto", "bf16", "fp16", "tf32", "fp32"]
MOST, MOST_CHANNELS, MOST_LEVELS, MOST_VOXELS = 10**6, 8192, 16, 2**28
"""The largest counts, channels of a layer, levels of a network and voxels of a patch that a setting may ask for."""
CHANNELS = (32, 64, 128, 256, 320)
FRAMES = 8
BATCH_SIZE = 2
FOLDS = 5
MOST_WORKERS = 8
"""Processes that read clips, or studies that are preprocessed at once, where `data.num_workers` is unset."""


def triple(values: Iterable[int]) -> Size:
    """Return three numbers as a tuple (X, Y, Z)."""
    x, y, z = values
    return x, y, z


@dataclass
class DataConfig:
    """The studies to train on, their grid, and how patches and clips are drawn from them."""

    val_subjects: list[str] | None = None
    """Subjects kept for validation, by name. Unset: those of the fold."""
    folds: int | None = None
    """Number of folds the subjects are split into. Unset: 5, or as many as there are subjects."""
    in_plane_spacing_mm: float | None = None
    """Pixel spacing every study is resampled to, in mm. Unset: the median of the training studies."""
    slice_spacing_mm: float | Literal["median"] | None = None
    """Slice spacing every study is resampled to, in mm. median: that of the training studies if it is at most 3 times the pixel
    spacing, else as unset. Unset: each study keeps its own."""
    interpolation: Literal["linear", "cubic"] = "linear"
    """Interpolation of images on the way to the network's grid. cubic: by splines, but linear across slices more than 3 times as
    thick as pixels, as nnU-Net does. Labels: the class with the largest linear share."""
    normalization: Literal["zscore", "none"] = "zscore"
    """zscore: over the whole study and per channel, clipped to its 0.5 and 99.5 percentiles, then mean 0 and deviation 1."""
    patch_size: Size | None = None
    """Voxels (X, Y, Z) of a training patch and of an inference window. Unset: on a GPU planned by its memory, see unet4d plan;
    on a CPU at most 64,000 voxels of the median study. Rounded up to what the strides divide."""
    frames: int | None = None
    """Frames of a training clip, at most those of the longest study. Unset: planned on a GPU, 4 on a CPU. At prediction
    the network sees every frame."""
    max_frame_stride: int = 1
    """A training clip's frames are 1 to this many study frames apart, drawn anew for each clip. Above 1 as few frames show a longer
    time, and the network learns more than one step; useful for long series. At prediction the step is 1."""
    foreground_fraction: float = 0.67
    """Share of patches centered on a voxel of a class drawn evenly among those present, 0 to 1; the others lie anywhere."""
    augmentation: Literal["off", "mild", "strong"] = "strong"
    """Strength of the augmentation of clips; one spatial warp and one contrast for all frames of a clip. Strong needs some thousand
    steps; a shorter training may do better with mild."""
    time_augmentation: Literal["off", "mild", "strong"] = "off"
    """Strength of the augmentation of time. mild: at times a clip runs 0.8 to 1.25 times as fast, misses a frame, repeats one or
    has a corrupted one. strong: more often and further, and half of the clips run backwards. A label stays that of its frame."""
    artifacts: float | None = None
    """Share of the frames of all training clips that have a severe artifact, 0 to 0.5: signal lost, ghosts, lines of a
    neighboring frame, or noise. Neighbors stay intact, and so does the label. Unset: as data.time_augmentation says."""
    augmenter: str | None = None
    """Class that augments clips by the settings above: a subclass of Augmentation as package.module.Class, see
    docs/how-to/own_classes.md. The class is imported. Unset: Augmentation."""
    flip_axes: list[int] = field(default_factory=list)
    """Axes (0 = X, 1 = Y, 2 = Z) that may be mirrored in training. Unset: none, because organs have a left and a right."""
    num_workers: int | None = None
    """Processes that read patches; 0: the main one. Unset: cores minus one, at most 8. Results do not depend on it."""
    cache_dir: str | None = None
    """Folder for preprocessed studies. Unset: .unet4d-cache in the dataset folder, or in the run where that is read-only."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_types(self, "data")
        spacing = (0.001, 10_000)
        check_ranges(
            self,
            "data",
            {"folds": (2, 10_000), "frames": (1, MOST), "max_frame_stride": (1, MOST), "num_workers": (0, 1024),
             "in_plane_spacing_mm": spacing, "slice_spacing_mm": spacing, "artifacts": (0, 0.5),
             "foreground_fraction": (0, 1)},
        )  # fmt: skip
        if self.patch_size is not None:
            fits = len(self.patch_size) == 3 and min(self.patch_size) >= 1
            require(fits, "data.patch_size", self.patch_size, "three sizes of 1 voxel or more")
            voxels = math.prod(self.patch_size)
            require(voxels <= MOST_VOXELS, "data.patch_size", self.patch_size, f"at most {MOST_VOXELS} voxels")
            self.patch_size = triple(self.patch_size)
        require_class_path("data.augmenter", self.augmenter)
        require(set(self.flip_axes) <= {0, 1, 2}, "data.flip_axes", self.flip_axes, "a list of axes among 0, 1 and 2")

    @property
    def mirrored_axes(self) -> list[int]:
        """Return the axes that training mirrors: `flip_axes`, but none where clips are not augmented."""
        return [] if self.augmentation == "off" else sorted(set(self.flip_axes))


@dataclass(kw_only=True)
class ResolvedDataConfig(DataConfig):
    """The data with all derived settings known. None stays where it is a choice: the fold's subjects, each study's own slices."""

    folds: int
    in_plane_spacing_mm: float
    slice_spacing_mm: float | None = None
    patch_size: Size
    frames: int
    num_workers: int


@dataclass
class ModelConfig:
    """The CLSTM-UNet. With lstm_channels 0 it is the frame-wise baseline: the same network without recurrence."""

    channels: list[int] | None = field(default_factory=lambda: list(CHANNELS))
    """Channels of each level, from full resolution to the bottleneck; their number is the number of levels. null: as many levels
    as pool the patch until each edge has 4 to 7 voxels; 32 channels, doubled level by level, at most 320."""
    lstm_channels: int | list[int] | None = None
    """Hidden channels of each level's ConvLSTM. 0: none, the frame-wise baseline. A list: level by level; an eighth of the level's
    channels beyond it, so []: at every level. Unset: [0], none at full resolution alone."""
    strides: list[Size] | None = None
    """Stride (X, Y, Z) between each level and the next, one fewer than levels. Unset: from the spacing, so that thick slices are
    not pooled while the plane is finer."""
    kernel_size: list[Size] | None = None
    """Kernel (X, Y, Z) of each level. Unset: from the spacing, so that thick slices are not convolved across too early."""
    direction: Literal["forward", "bidirectional"] = "bidirectional"
    """forward: a frame depends on itself and earlier ones only, so the network can run live. bidirectional: on all frames."""
    lstm_layers: int = 1
    """ConvLSTM layers stacked at each level that has any."""
    dropout: float = 0.0
    """Share of each level's channels that training drops, the same ones in all frames of a clip, 0 to below 1."""
    deep_supervision: bool = False
    """Train the decoder's lower levels, too, through heads of their own that prediction does without."""
    blocks: Literal["plain", "residual"] = "plain"
    """Blocks of the encoder. plain: two convolutions per level. residual: 1, 3, 4, then 6 residual blocks per
    level, as in nnU-Net's ResEnc: two to three times the work, four times the weights."""
    temporal: str | None = None
    """Class that couples frames in place of the ConvLSTM, at the levels of lstm_channels: a subclass of TemporalBlock as
    package.module.Class, see docs/how-to/python.md. The class is imported. Unset: the ConvLSTM."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_types(self, "model")
        channels, lstm = self.channels, self.lstm_channels
        if channels is not None:
            is_deep = len(channels) >= 2 and min(channels) >= 1
            require(is_deep, "model.channels", channels, "two or more levels of 1 channel or more")
            require(len(channels) <= MOST_LEVELS, "model.channels", channels, f"at most {MOST_LEVELS} levels")
        ranges = {"channels": (1, MOST_CHANNELS), "lstm_channels": (0, MOST_CHANNELS), "lstm_layers": (1, 64)}
        check_ranges(self, "model", {**ranges, "strides": (1, 64), "kernel_size": (1, 31)})
        if isinstance(lstm, list) and channels is not None:
            most = len(channels)
            require(len(lstm) <= most, "model.lstm_channels", lstm, f"one number per level, at most {most}")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a share from 0 to below 1")
        require_class_path("model.temporal", self.temporal)
        for name, fewer in (("strides", 1), ("kernel_size", 0)):
            sizes = getattr(self, name)
            if sizes is not None:
                levels = len(sizes) + fewer if channels is None else len(channels)
                count = levels - fewer
                fits = len(sizes) == count and all(len(size) == 3 and min(size) >= 1 for size in sizes)
                require(fits, f"model.{name}", sizes, f"{count} triples (X, Y, Z) of 1 or more for {levels} levels")
                setattr(self, name, [triple(size) for size in sizes])
        odd = all(k % 2 for size in self.kernel_size or () for k in size)
        require(odd, "model.kernel_size", self.kernel_size, "odd sizes")

    def lstm_channels_per_level(self) -> list[int]:
        """Return the hidden channels of every level's ConvLSTM; all 0 for the frame-wise baseline. `channels` must be set."""
        channels, given = self.channels or [], self.lstm_channels
        if isinstance(given, int):
            return [given] * len(channels)
        given = [0] if given is None else given
        return [*given, *(max(1, n // 8) for n in channels[len(given) :])]


@dataclass(kw_only=True)
class ResolvedModelConfig(ModelConfig):
    """The CLSTM-UNet with all its layers known: what a network is built from."""

    channels: list[int]
    lstm_channels: list[int]
    strides: list[Size]
    kernel_size: list[Size]

    @property
    def kind(self) -> str:
        """Return the kind of the network as text for messages."""
        if not any(self.lstm_channels):
            return "frame-wise baseline (no recurrence)"
        return f"{self.direction} {'CLSTM-UNet' if self.temporal is None else f'U-Net with {self.temporal}'}"


@dataclass
class TrainConfig:
    """The training loop."""

    epochs: int = 200
    """Epochs; an epoch is steps_per_epoch optimizer steps. Not used with a time_budget."""
    time_budget: str | None = None
    """Time that the whole run takes, start, validations and resumed parts included: 90s, 40m, 8h, 1h30m; slurm: until a minute
    before the job ends. The learning rate falls to 0 within it. Unset: epochs count."""
    budget_clock: Literal["wall", "cpu"] = "wall"
    """Clock of time_budget. cpu: CPU seconds of the process and its workers, for fair comparisons on a shared machine; of several
    processes, those of the first."""
    steps_per_epoch: int = 100
    """Optimizer steps per epoch."""
    batch_size: int | None = None
    """Clips of a batch; several processes share them, at least one each. Unset: 2 per process."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    lstm_lr_factor: float = 1.0
    """Learning rate of the layers that couple frames, over that of all others. The log has the rate of the others."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW (Loshchilov & Hutter 2019); norms and biases are spared."""
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    """Fall of the learning rate to 0: polynomial with power 0.9 (Chen et al. 2018), or a half cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises to its peak; at most a tenth of all steps are used."""
    gradient_clip: float = 1.0
    """Norm the gradient is clipped to; 0 turns clipping off."""
    precision: Precision = "auto"
    """auto: bf16 where the device computes in it, else fp16 with a loss scaler on a GPU, else fp32. tf32: float32
    with products that a GPU rounds to 10 bits; fp32 never does."""
    accumulate_batches: int = 1
    """Batches of one optimizer step, each with a loss of its own; the step's loss is their mean."""
    validate_every: int = 5
    """Epochs between validations on whole studies; the last epoch is always validated. With a time_budget there are fewer, where
    they would take more than a tenth of it."""
    skip_limit: int = 10
    """Steps in a row without finite loss and gradient that are skipped and reported; one more stops the run."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is validated and kept to predict with, 0 to below 1; 0: the weights as they
    are."""
    consistency_weight: float = 0.0
    """Weight of a loss that unlabelled frames have, too: the jitter of each structure's area in a slice over neighboring frames,
    relative to the area and squared, once the structure is learned. 0: none."""
    consistency_frames: int = 3
    """Neighboring frames of each clip, 3 or more, that are decoded to compare their areas, drawn anew for each clip."""
    loss: str | None = None
    """Class of the loss of labelled frames: a subclass of LabelledFramesLoss as package.module.Class, see
    docs/how-to/own_classes.md. The class is imported. Unset: Dice + cross-entropy."""
    framewise_fraction: float | None = None
    """Share of the training, 0 to 1, that comes first and is frame-wise: no recurrence, labelled frames alone, at a fraction
    of the work per step, in whole epochs. The rest trains recurrence, too, on whole clips. 0: none. Unset: 0.5 of a
    time_budget; 0 without one, with init_from, and with what single frames do not teach: consistency_weight, data.artifacts,
    data.time_augmentation."""
    init_from: str | None = None
    """Run folder, checkpoint or model file with the weights to begin with, of this network or of another: what fits is taken,
    outputs by the names of classes; all else begins at random. Unset: random weights."""
    init_outputs: Literal["overlap", "name"] = "overlap"
    """Outputs that come from init_from. name: those of classes of the same name. overlap: a class of a new name also begins as the
    output that overlaps it most in 16 training clips, if any has a Dice of 0.25 or more; costs their segmentation."""
    init_lr_factor: float | None = None
    """Learning rate of the weights that come from init_from, over that of those that begin at random. Unset: 0.3."""
    init_hold_steps: int = 0
    """Steps at the start in which the weights that come from init_from stay as they are and only the others train."""
    freeze: Literal["encoder"] | None = None
    """Part of the network that stays as init_from gives it: no gradient and no weight decay, less work and memory. Unset: none."""
    mlflow: str | None = None
    """Name of the MLflow experiment to log to, at MLFLOW_TRACKING_URI or else in the run; needs mlflow. Unset: none."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_types(self, "train")
        require_class_path("train.loss", self.loss)
        counts = ("epochs", "steps_per_epoch", "batch_size", "accumulate_batches", "validate_every")
        check_ranges(self, "train", dict.fromkeys(counts, (1, MOST)))
        check_ranges(self, "train", {"weight_decay": (0, 1000), "gradient_clip": (0, 1e30)})
        check_ranges(self, "train", {"consistency_weight": (0, MOST), "consistency_frames": (3, MOST)})
        endless = (0, MOST**2)
        check_ranges(self, "train", {"warmup_steps": endless, "skip_limit": endless, "init_hold_steps": endless})
        budget = self.time_budget
        is_time = budget is None or budget == SLURM or seconds_of(budget) is not None
        require(
            is_time, "train.time_budget", budget, f"a time from 1s to 366d, such as 90s, 40m, 8h or 1h30m, or {SLURM}"
        )
        is_wall = budget != SLURM or self.budget_clock == "wall"
        require(is_wall, "train.budget_clock", self.budget_clock, f"wall with train.time_budget {SLURM}")
        rate = self.learning_rate
        require(0 < rate <= 1000, "train.learning_rate", rate, "a number above 0, at most 1000")
        for name in ("lstm_lr_factor", "init_lr_factor"):
            factor = getattr(self, name)
            require(factor is None or 0 < factor <= 1000, f"train.{name}", factor, "a number above 0, at most 1000")
        for name, off in (("init_lr_factor", (None, 1.0)), ("init_hold_steps", (0,)), ("freeze", (None,))):
            is_off = self.init_from is not None or getattr(self, name) in off
            require(is_off, f"train.{name}", getattr(self, name), f"{off[0]} without train.init_from")
        check_ranges(self, "train", {"framewise_fraction": (0, 1)})
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "a decay from 0 to below 1, such as 0.999")


@dataclass(kw_only=True)
class ResolvedTrainConfig(TrainConfig):
    """The training loop with its batch size, precision and rates known."""

    batch_size: int
    init_lr_factor: float = 1.0
    framewise_fraction: float = 0.0


@dataclass
class RecomputeConfig:
    """The activations that a training step keeps for its backward pass; it recomputes the rest. Results do not depend on it."""

    chunk_frames: int | None = None
    """Frames computed at once. Between chunks of them only the ConvLSTMs' states are kept; the rest is recomputed in the
    backward pass. 0: all frames at once, nothing recomputed. Unset: the most that fit the GPU's free memory; 0 on a CPU."""
    group_chunks: int = 1
    """Above 1, for long series: states are kept between groups of this many chunks only, those inside a group recomputed."""
    stages: bool = False
    """Within a chunk, keep only what passes between the stages of the encoder, and recompute their inner layers."""
    lstm: Literal["gates", "hidden"] = "hidden"
    """Tensors that a ConvLSTM keeps of a chunk. gates: all its backward pass needs. hidden: inputs and hidden states; the gates are
    recomputed."""

    def __post_init__(self) -> None:
        """Check every value."""
        check_types(self, "recompute")
        check_ranges(self, "recompute", {"chunk_frames": (0, MOST), "group_chunks": (1, MOST)})
