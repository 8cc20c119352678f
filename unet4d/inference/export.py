"""`unet4d export`: a trained network, or the folds of a cross-validation, as one model file to hand on, as graphs, or as a
MONAI bundle.

What names a subject or a folder of this machine is left out: `data.val_subjects`, `data.cache_dir`, `train.mlflow`, the held-out
subjects, and the folders of `train.init_from`. So --held_out is for the run, and not for the file.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.images.time_axis import time_axis
from unet4d.inference.bundle_folder import check_bundle_folder, write_bundle_folder
from unet4d.inference.graph_folder import SUFFIXES, check_graph_folder, write_graph_folder
from unet4d.inference.postprocessing_steps import OtherCheckpoints, check_steps, find_steps
from unet4d.models.checkpoint import RUN_SUMMARY, checkpoint_bytes
from unet4d.models.folds import check_model_files, load_models
from unet4d.models.model_file import (
    NOT_STATED,
    SUFFIX,
    TRAINING_DATA,
    ModelFile,
    checkpoint_sha256,
    is_model_file,
    is_network_of_file,
    read_model_file,
    write_model_file,
)
from unet4d.system.environment import VERSION
from unet4d.system.files import PathLike, check_file_writable, read_json
from unet4d.system.regular_files import open_regular
from unet4d.system.text import short_repr

if TYPE_CHECKING:
    from unet4d.config import ResolvedConfig
    from unet4d.models.checkpoint import TrainedModel
    from unet4d.models.task import Task

logger = logging.getLogger(__name__)

BUNDLE = "bundle"
FORMATS = ("unet4d", *SUFFIXES, BUNDLE)
MOST_LICENCE_BYTES = 10**6
_SCORES = "epoch", "mean_foreground_dice", "dice"


def check_export(
    model: PathLike, out: PathLike, licence: PathLike | None, format: str = "unet4d", half: bool = False
) -> None:
    """Check what `export` is given, without torch. Raises InputError, or Unet4DError where nothing may be written."""
    if format not in FORMATS:
        raise InputError(f"got --format {short_repr(format)}, expected one of {', '.join(FORMATS)}; correct it")
    check_model_files([model])
    read_licence(licence)
    if half and format != "unet4d":
        raise InputError(f"got --half with --format {format}, expected it with unet4d alone; leave it out")
    if format in SUFFIXES:
        return check_graph_folder(out, format)
    if format == BUNDLE:
        return check_bundle_folder(out)
    if Path(out).suffix != SUFFIX:
        raise InputError(f"got --out {out}, expected a name that ends in {SUFFIX}; give one, such as model{SUFFIX}")
    check_file_writable(out)


def export(
    model: PathLike,
    out: PathLike,
    *,
    format: str = "unet4d",
    name: str = NOT_STATED,
    intended_use: str = NOT_STATED,
    training_data: str = NOT_STATED,
    licence: PathLike | None = None,
    half: bool = False,
) -> Path:
    """Write a model file, a folder of graphs or a MONAI bundle; an older one there is replaced.

    The same arguments give the same bytes.

    Args:
        model: run folder (its best checkpoint), folder of folds (the last checkpoint of each), checkpoint; or a model file,
            or a network of one, of which licence and card stay where nothing else is given.
        out: the model file, NAME.unet4d; or a folder, see graph_folder.py and bundle_folder.py.
        format: "unet4d"; or "onnx", "openvino" or "bundle", of one network.
        name: of the model.
        intended_use: what the model is for, and what it is not for.
        training_data: description of the data it was trained on; the numbers of studies and frames are those of the run.
        licence: a text file with the licence of the weights; None: not stated.
        half: write the weights in half precision, which halves the file.

    Returns:
        The path of the file or folder.

    Raises:
        InputError: there is no model; the name, the format or the licence is not usable; a package is missing.
        Unet4DError: the file or folder cannot be written.
    """
    check_export(model, out, licence, format, half)
    models = load_models([model])
    names = ["model"] if len(models) == 1 else [f"fold_{one.config.fold}" for one in models]
    if len(set(names)) < len(names):
        raise InputError(
            f"{model} holds two networks of one fold, expected one of each; give a run, or a folder of folds"
        )
    first, before = models[0].task, _model_file(model)
    stated = {"name": name, "intended_use": intended_use, "training_data": training_data}
    card = {
        **{key: before.card.get(key, text) if text == NOT_STATED else text for key, text in stated.items()},
        "labels": first.labels,
        "outputs": first.output_names,
        "channel_names": list(first.channel_names),
        "time": time_axis(first.cyclic),
        "postprocessing": _steps(model, models),
        "networks": {key: _record(one, before) for key, one in zip(names, models, strict=True)},
        "exported_by": f"unet4d {VERSION}",
    }
    text = before.licence if licence is None else read_licence(licence)
    if format != "unet4d":
        if len(models) > 1:
            raise InputError(
                f"got {len(models)} networks in {model}, expected one for --format {format}; export each, such as "
                f"{models[0].path}"
            )
        if format == BUNDLE:
            write_bundle_folder(Path(out), models[0], *_to_hand_on(models[0]), card, text)
        else:
            write_graph_folder(Path(out), models[0], card, text, format)
        return Path(out)
    networks = {key: _network(one, half) for key, one in zip(names, models, strict=True)}
    write_model_file(out, ModelFile(card, text, networks))
    return Path(out)


def _model_file(model: PathLike) -> ModelFile:
    """Return the content of the model file that is exported again, without networks; one that states nothing where it is none."""
    file = Path(model).parent if is_network_of_file(model) else Path(model)
    if not is_model_file(file):
        return ModelFile({}, NOT_STATED, {})
    return read_model_file(file)._replace(networks={})


def read_licence(path: PathLike | None) -> str:
    """Return the text of a licence; "not stated" without a file.

    Raises:
        InputError: the file is missing, empty, too long, or no text in UTF-8.
    """
    if path is None:
        return NOT_STATED
    try:
        with open_regular(path) as file:
            text = file.read(MOST_LICENCE_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the text of the licence as a file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8, expected that of the licence; convert it") from error
    if not text.strip() or len(text) > MOST_LICENCE_BYTES:
        raise InputError(
            f"{path} is empty or longer than a million letters, expected the text of the licence; correct it"
        )
    return text


def _network(model: TrainedModel, half: bool) -> bytes:
    """Return the checkpoint of a model without its training, and without what names subjects or folders."""
    network = model.network.half() if half else model.network
    return checkpoint_bytes(*_to_hand_on(model), network, {})


def _to_hand_on(model: TrainedModel) -> tuple[ResolvedConfig, Task]:
    """Return the settings and the task of a model without what names subjects or folders."""
    data, train = model.config.data, model.config.train
    started = train.init_from and Path(train.init_from).name
    config = replace(
        model.config,
        data=replace(data, val_subjects=data.val_subjects and None, cache_dir=None),
        train=replace(train, init_from=started, mlflow=None),
    )
    return config, replace(model.task, held_out=())


def _record(model: TrainedModel, before: ModelFile) -> dict[str, Any]:
    """Return what the run of a model, or the file before, recorded: its training data and scores. None where nothing is known."""
    networks, run = before.card.get("networks"), model.path.parent
    if isinstance(networks, dict) and isinstance(found := networks.get(model.path.name), dict):
        return found
    data, summary = (_read_record(run / name) for name in (TRAINING_DATA, RUN_SUMMARY))
    scores = {which: summary.get(which) for which in ("best", "last")}
    return {
        "checkpoint": model.path.name,
        "trained_on": {name: value for name, value in data.items() if name != "schema"} or None,
        "validated": {
            which: {key: score.get(key) for key in _SCORES}
            for which, score in scores.items()
            if isinstance(score, dict)
        }
        or None,
        "versions": summary.get("versions"),
    }


def _read_record(path: Path) -> Mapping[str, Any]:
    """Return the values of a JSON file in a run; none where there is no such file, as beside a copied checkpoint."""
    with contextlib.suppress(InputError):
        found = read_json(path) if path.is_file() else {}
        return found if isinstance(found, dict) else {}
    return {}


def _steps(model: PathLike, models: list[TrainedModel]) -> list[dict[str, str]]:
    """Return the post-processing steps that were recorded for these very checkpoints. Raise InputError for unknown classes."""
    try:
        steps, record = find_steps(model, {one.path: checkpoint_sha256(one.path) for one in models})
    except OtherCheckpoints as error:
        logger.info(str(error))
        return []
    check_steps(steps, models[0].task.classes, record)
    return [step.as_dict() for step in steps]
