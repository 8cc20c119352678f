"""A folder with a MONAI bundle of one network, which MONAI verifies and runs.

configs/metadata.json    what MONAI's schema asks for: versions, task, axes and classes of the network
configs/inference.json   a workflow of `monai.bundle run`: studies in, label maps out, equal to those of `unet4d predict`
configs/study.json       the settings and the task of the model, for `StudyInferer`
models/model.pt          the weights, a state dict
docs/README.md, LICENSE
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.system.environment import VERSION
from unet4d.system.files import (
    PathLike,
    check_writable,
    filling,
    is_unfinished,
    remove_partial,
    replacing,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from unet4d.config import ResolvedConfig
    from unet4d.models.checkpoint import TrainedModel
    from unet4d.models.task import Task

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
METADATA, INFERENCE, STUDY, WEIGHTS = (
    "configs/metadata.json", "configs/inference.json", "configs/study.json", "models/model.pt",
)  # fmt: skip
_CODE = "$@%"
"""First characters of texts that MONAI runs as code, or follows to other files."""


def check_bundle_folder(out: PathLike) -> None:
    """Check that a bundle can be written, without torch.

    Raises:
        InputError: `out` is a folder of something else.
        Unet4DError: nothing may be written there.
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not ((out / METADATA).is_file() or is_unfinished(out)):
        raise InputError(f"{out} is a folder of something else, expected a new one or an earlier bundle; give another")
    check_writable(out)


def write_bundle_folder(
    out: Path, model: TrainedModel, config: ResolvedConfig, task: Task, card: Mapping[str, Any], licence: str
) -> None:
    """Write a bundle; its files replace those of an older one there.

    Args:
        out: the folder.
        model: the network with the weights that are written.
        config: its settings, without what names folders or subjects.
        task: its task, without what names subjects.
        card: the model card.
        licence: the text of the licence of the weights.

    Raises:
        InputError: a class of the user's couples the network's frames; a text begins with a character that MONAI takes for code.
        Unet4DError: nothing may be written there.
    """
    import torch

    from unet4d.models.channel_first import ChannelFirst

    if config.model.temporal is not None:
        raise InputError(
            f"{model.path}: got a network with model.temporal {config.model.temporal}, expected one of this package alone in a "
            "bundle; export it with --format unet4d"
        )
    metadata = describe_bundle(config, task, card)
    _check_texts(metadata)
    weights, buffer = ChannelFirst(model.network).state_dict(), io.BytesIO()  # a file would have its own name inside
    torch.save({name: weight.cpu() for name, weight in weights.items()}, buffer)
    settings = {"config": config.as_dict(), "task": task.as_dict(), "postprocessing": card["postprocessing"]}
    with filling(out):
        (out / METADATA).unlink(missing_ok=True)  # last, so that a folder with it is whole
        for name in ("configs", "models", "docs"):
            (out / name).mkdir(exist_ok=True)
            remove_partial(out / name, "*")
        with replacing(out / WEIGHTS) as temporary:
            temporary.write_bytes(buffer.getvalue())
        write_json(out / STUDY, settings)
        write_json(out / INFERENCE, _workflow(config, task))
        write_text(out / "docs/README.md", _readme(metadata))
        write_text(out / "LICENSE", licence if licence.endswith("\n") else f"{licence}\n")
        write_json(out / METADATA, metadata)


def describe_bundle(config: ResolvedConfig, task: Task, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MONAI's schema asks for, in plain values; MONAI takes time for the first axis of space."""
    versions = {name: _version(name) for name in ("monai", "torch", "numpy", "nibabel", "pytorch-ignite")}
    window = ["*", *config.data.patch_size]
    of_both = {"type": "image", "spatial_shape": window, "dtype": "float32", "value_range": [], "is_patch_data": True}
    channels = {str(i): name for i, name in enumerate(task.channel_names)}
    outputs = {str(k): name for k, name in enumerate(task.output_names)}
    best = next((network["validated"] for network in card["networks"].values()), None) or {}
    score = (best.get("best") or {}).get("mean_foreground_dice")
    names = ", ".join(task.classes)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported by unet4d {VERSION}"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {"unet4d": VERSION} | {name: versions[name] for name in ("nibabel", "pytorch-ignite")},
        "name": card["name"],
        "task": f"Segmentation of 4D MRI (3D and time): {names}",
        "description": f"{config.model.kind}; every window sees all frames of a study. Axes (B, C, T, X, Y, Z).",
        "authors": "not stated",
        "copyright": "see LICENSE",
        "intended_use": card["intended_use"],
        "data_source": card["training_data"],
        "data_type": "4D NIfTI",
        "image_classes": ", ".join(task.channel_names),
        "pred_classes": ", ".join(f"{k}: {name}" for k, name in outputs.items()),
        "eval_metrics": {} if score is None else {"mean_foreground_dice": score},
        "network_data_format": {
            "inputs": {
                "image": of_both | {
                    "format": "magnitude", "modality": "MR", "num_channels": len(channels), "channel_def": channels,
                },
            },
            "outputs": {
                "pred": of_both | {"format": "segmentation", "num_channels": len(outputs), "channel_def": outputs},
            },
        },
    }  # fmt: skip


def _version(package: str) -> str:
    """Return the version of a package without the build of its wheel; "unknown" where it is not installed."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _check_texts(values: Any) -> None:
    """Raise InputError for a text that MONAI would not take for one; names of classes may come from anywhere."""
    if isinstance(values, dict):
        values = [*values, *values.values()]
    if isinstance(values, list):
        for value in values:
            _check_texts(value)
    elif isinstance(values, str) and values[:1] and values[0] in _CODE:
        raise InputError(
            f"got the text {values!r}, expected one that does not begin with {values[0]}, because MONAI would run it; change it"
        )


def _workflow(config: ResolvedConfig, task: Task) -> dict[str, Any]:
    """Return inference.json: a `SupervisedEvaluator` over the studies of `dataset_dir`."""
    inputs, outputs = task.channels
    network = {
        "_target_": "unet4d.models.clstm_unet.CLSTMUNet",
        "config": {"_target_": "unet4d.config.ResolvedModelConfig", **config.as_dict()["model"]},
        "in_channels": inputs,
        "out_channels": outputs,
    }
    kinds = list(task.channel_kinds)
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/studies'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": f"$@bundle_root + '/{WEIGHTS}'",
        "settings": f"$@bundle_root + '/{STUDY}'",
        "network_def": {
            "_target_": "unet4d.models.channel_first.ChannelFirst",
            "network": network,
            "cyclic": task.cyclic,
            "priming_frames": config.inference.priming_frames,
        },
        "network": "$@network_def.to(@device)",
        "datalist": {
            "_target_": "unet4d.inference.study_inferer.list_studies", "folder": "@dataset_dir", "settings": "@settings",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "unet4d.images.monai_transforms.LoadStudyd", "keys": "image", "kinds": kinds}],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "unet4d.inference.study_inferer.StudyInferer", "settings": "@settings"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "unet4d.images.monai_transforms.SaveStudyd", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _readme(metadata: Mapping[str, Any]) -> str:
    """Return the text of docs/README.md."""
    return f"""# {metadata["name"]}

{metadata["task"]}.

- Intended use: {metadata["intended_use"]}
- Training data: {metadata["data_source"]}
- Outputs: {metadata["pred_classes"]}
- Network: {metadata["description"]}

    pip install 'unet4d[monai]'
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir STUDIES --output_dir OUT

STUDIES is a folder of 4D NIfTI files, one per study, or one per channel (CASE_0000.nii.gz, ...). The label maps are those of
`unet4d predict`, under each study's own header.

    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath schema.json
    python -m monai.bundle verify_net_in_out network_def --meta_file configs/metadata.json --config_file configs/inference.json

The first command downloads MONAI's schema to schema.json, or takes the one that is there.
"""
