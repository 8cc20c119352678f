"""Checkpoints: files of tensors and plain Python values with all that prediction needs, written and loaded safely."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unet4d.config import ResolvedConfig
from unet4d.errors import InputError
from unet4d.models.model_file import is_model_file, is_network_of_file, only_network, read_network
from unet4d.models.task import Task
from unet4d.models.tensor_shapes import check_archive, load_with_shapes
from unet4d.system.checks import describe_value
from unet4d.system.files import replacing
from unet4d.system.regular_files import open_regular
from unet4d.system.text import shortened

if TYPE_CHECKING:  # torch takes seconds to import, which info and the early checks of paths do without
    import torch
    from torch import nn

    from unet4d.models.clstm_unet import CLSTMUNet

FORMAT = "unet4d checkpoint 2"
BEST, LAST, PREVIOUS = "checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_previous.pt"
RUN_SUMMARY = "summary.json"
"""The file beside the checkpoints of a run with its status, training time and hardware."""
_KEYS = {"format", "config", "task", "network", "training"}


class OtherVersion(InputError):
    """A checkpoint that another version of this package made."""


def _check_names(weights: Any) -> None:
    """Raise an InputError unless weights, or their shapes, are given by name."""
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights):
        raise InputError("got no weights by name, expected those of a network")


def _check_shapes(shapes: Mapping[str, Any]) -> None:
    """Raise an InputError where a weight is no tensor, and so came without a shape."""
    if other := [name for name, shape in shapes.items() if not isinstance(shape, tuple)]:
        raise InputError(f"got the weight {shortened(other[0])} of another type, expected a tensor")


def _check_weights(weights: Mapping[str, Any], size: int) -> None:
    """Check that the weights are plain dense tensors of finite real numbers, and no larger than the file of `size` bytes.

    Raises:
        InputError: names the one that is not.
    """
    import torch

    dtypes, total = (torch.float32, torch.float64, torch.float16, torch.bfloat16), 0
    for name, weight in weights.items():
        dense = isinstance(weight, torch.Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
        if not dense or weight.dtype not in dtypes or weight.is_quantized or not weight.is_contiguous():
            kind = weight.dtype if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise InputError(f"got the weight {shortened(name)} of {kind}, expected a dense tensor of real numbers")
        total += weight.numel() * weight.element_size()
        if total > size:
            raise InputError(f"got weights of {total} bytes and more in a file of {size}, expected all in it")
    broken = next((name for name, weight in weights.items() if not weight.float().isfinite().all()), None)
    if broken is not None:
        raise InputError(f"got NaN or infinity in the weight {shortened(broken)}, expected finite numbers")


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to segment, with its resolved configuration and task."""

    network: CLSTMUNet
    config: ResolvedConfig
    task: Task
    path: Path


def save_checkpoint(
    path: str | os.PathLike[str], config: ResolvedConfig, task: Task, network: nn.Module, training: dict[str, Any]
) -> None:
    """Write a checkpoint, whole or not at all; see `checkpoint_bytes` for the arguments."""
    data = checkpoint_bytes(config, task, network, training)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def checkpoint_bytes(config: ResolvedConfig, task: Task, network: nn.Module, training: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint.

    Args:
        config: of the run.
        task: what the network does.
        network: its weights are written as CPU tensors, so that any machine can read them.
        training: what resuming needs (empty for a model to predict with); tensors and plain values only.
    """
    import torch

    content = {
        "format": FORMAT,
        "config": config.as_dict(),
        "task": task.as_dict(),
        "network": {name: weight.detach().cpu() for name, weight in network.state_dict().items()},
        "training": training,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A view of it is as cheap, but Python 3.12.1 crashes where a garbage collection breaks a cycle with one (CPython 77894).
    return buffer.getvalue()


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU, with `weights_only=True`; there is no fallback to unsafe loading.

    Raises:
        InputError: missing, truncated, damaged, not a checkpoint of this package, or more than tensors and plain values.
    """
    import torch

    with _whole(Path(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files that are refused
        content = torch.load(file, map_location="cpu", weights_only=True)
        size = file.seek(0, io.SEEK_END)
    return _checked(content, Path(path), lambda weights: _check_weights(weights, size))


def load_outline(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint without torch, which takes seconds to import; each tensor becomes its shape, a tuple.

    Raises:
        InputError: as `load_checkpoint`.
    """
    with _whole(Path(path)) as file:
        content = load_with_shapes(file)
    return _checked(content, Path(path), _check_shapes)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a checkpoint; turn its faults, and errors of its reader inside the context, into an InputError.

    The checksums are compared first: torch writes them, and would load numbers with flipped bits.
    """
    try:
        with _opened(path) as file:
            check_archive(file)
            file.seek(0)
            yield file
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(_missing(path)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a run folder or a checkpoint file") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain values, which could run code and is not loaded; "
            "give a checkpoint written by unet4d train"
        ) from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(
            f"{path} is truncated, damaged or no checkpoint; give one written by unet4d train, or copy it again"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    """Open a checkpoint, of a model file too. Raises OSError and InputError as `open_regular`, and as `read_network`."""
    return io.BytesIO(read_network(path)) if is_network_of_file(path) else open_regular(path)


def _checked(content: Any, path: Path, check: Callable[[Any], None]) -> dict[str, Any]:
    """Return the content of a checkpoint file; raise InputError where it is not one of this package."""
    is_dict = type(content) is dict  # the methods of an OrderedDict may be replaced by what the file holds
    if not is_dict or content.get("format") != FORMAT or not content.keys() >= _KEYS:
        found = content.get("format", "something else") if is_dict else type(content).__name__
        if isinstance(found, str) and found.startswith("unet4d checkpoint") and found != FORMAT:
            raise OtherVersion(
                f"{path} does not fit this version of unet4d (got {describe_value(found)}, expected {FORMAT}), because another "
                "version made it; train again, or use that version"
            )
        raise InputError(f"{path} holds '{describe_value(found)}', expected {FORMAT!r} written by unet4d train")
    with _fitting(path):
        _check_names(content["network"])
        check(content["network"])
        if not isinstance(content["training"], dict):
            raise InputError("got no state of its training, expected values by name")
        ResolvedConfig.from_dict(content["config"])
        Task.from_dict(content["task"])
    return content


@contextlib.contextmanager
def _fitting(path: Path, temporal: str | None = None) -> Iterator[None]:
    """Turn errors about the content of a checkpoint, raised inside, into an InputError that names the file and `model.temporal`."""
    try:
        yield
    except (InputError, TypeError, ValueError, AttributeError, LookupError, RecursionError, RuntimeError) as error:
        reason = shortened(" ".join(str(error).split()).partition("; ")[0] or type(error).__name__, 300)
        fault, mend = "this version of unet4d", "because another version made it; train again, or use that version"
        if temporal is not None:
            fault, mend = (
                f"model.temporal {temporal}",
                "expected the class that it was trained with; restore it, or train again",
            )
        raise OtherVersion(f"{path} does not fit {fault} ({reason}), {mend}") from error


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file of a run folder to predict with or begin from: the best, else the last; a file as it is.

    Raises:
        InputError: the path does not exist, or the folder has none.
    """
    return _list_checkpoints(path)[0]


def _list_checkpoints(path: str | os.PathLike[str], names: Sequence[str] = (BEST, LAST, PREVIOUS)) -> list[Path]:
    """Return the checkpoint files of a run folder in the order of their names; a file as it is, of a model file its network."""
    path = Path(path)
    if is_network_of_file(path):
        return [path]
    if is_model_file(path):
        return [only_network(path)]
    if not path.exists():
        raise InputError(_missing(path))
    if not path.is_dir():
        return [path]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise InputError(f"{path} holds neither {BEST} nor {LAST}; give the --out folder of a finished unet4d train")
    return found


def _missing(path: Path) -> str:
    return f"{path} is missing; give a run folder or a checkpoint file"


def load_model(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", prefer_last: bool = False
) -> TrainedModel:
    """Load the model of a run folder (best checkpoint, else last, else previous) or of a checkpoint file, in evaluation mode.

    Args:
        path: a run folder or a checkpoint file.
        device: of the network.
        prefer_last: take the last checkpoint of a folder (else previous, else best), which no score has chosen.

    Raises:
        InputError: there is no checkpoint, or the preferred one is damaged; the next one is another model, so it is only named.
            It names a class that the user does not allow, see `allow_temporal`.
    """
    import torch

    from unet4d.models.clstm_unet import CLSTMUNet
    from unet4d.models.temporal import allow_temporal

    path, *others = _list_checkpoints(path, (LAST, PREVIOUS, BEST) if prefer_last else (BEST, LAST, PREVIOUS))
    try:
        content = load_checkpoint(path)
    except InputError as error:
        if not others or isinstance(error, OtherVersion):
            raise
        raise InputError(f"{error}, or take {others[0]}") from error
    config, task = ResolvedConfig.from_dict(content["config"]), Task.from_dict(content["task"])
    allow_temporal(config.model.temporal, path)
    with _fitting(path, config.model.temporal):
        with torch.device("meta"):  # so that no memory is allocated for a network that the weights do not fit
            network = CLSTMUNet(config.model, *task.channels)
        network.load_state_dict({name: weight.float() for name, weight in content["network"].items()}, assign=True)
    return TrainedModel(network.to(device).eval(), config, task, path)
