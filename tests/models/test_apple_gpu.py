"""Apple's GPU (MPS), without one: its selection, its precision, and torch's own table of the operations that it has there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import build_network, collect_log, tiny_config
from unet4d.errors import InputError
from unet4d.models.device import MPS_FALLBACK, find_device, resolve_precision, to_device
from unet4d.system import memory_errors
from unet4d.system.distributed import ProcessGroup
from unet4d.system.environment import check_device_name, gpu_words, hardware
from unet4d.training.loss import LabelledFramesLoss

MPS = torch.device("mps")


@pytest.fixture
def mac(monkeypatch):
    """A machine on which torch finds Apple's GPU; nothing can be computed on it."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 10**9)


def test_apples_gpu_is_used_where_it_is_asked_for_and_said_to_be_untested(mac, monkeypatch):
    monkeypatch.delenv(MPS_FALLBACK, raising=False)
    said = collect_log()
    assert find_device("mps") == MPS
    [line] = said
    for words in ("float32", "never tested", "--device cpu", f"set {MPS_FALLBACK}=1"):
        assert words in line
    monkeypatch.setenv(MPS_FALLBACK, "1")
    find_device("mps")
    assert f"{MPS_FALLBACK}=1 runs on the CPU" in said[1]


def test_auto_stays_on_the_cpu_and_names_apples_gpu(mac, monkeypatch):
    monkeypatch.setattr("unet4d.models.device.nvidia.given_gpus", list)
    monkeypatch.setattr("unet4d.models.device.nvidia.driver_version", lambda: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    said = collect_log()
    assert find_device("auto") == torch.device("cpu")
    assert "--device mps" in said[0]


@pytest.mark.parametrize("name", ["mps:0", "mps0", "MPS"])
def test_there_is_one_apple_gpu(name):
    with pytest.raises(InputError, match="cuda:N or mps"):
        check_device_name(name)


def test_several_processes_cannot_share_apples_gpu():
    with pytest.raises(InputError, match=r"2 processes.*without torchrun"):
        ProcessGroup(0, 2, 0, 2).device_name("mps")
    assert ProcessGroup().device_name("mps") == "mps"


def test_apples_gpu_computes_in_float32_alone():
    assert resolve_precision("auto", MPS) == resolve_precision("tf32", MPS) == resolve_precision("fp32", MPS) == "fp32"
    for half in ("bf16", "fp16"):
        with pytest.raises(InputError, match=f"precision {half} on Apple's GPU, expected fp32"):
            resolve_precision(half, MPS)


def test_records_name_apples_gpu(mac):
    assert hardware(MPS)["gpu"] == {"name": "Apple GPU (MPS)", "memory_gb": 12.0}
    assert gpu_words(MPS).startswith("Apple GPU (MPS), torch")


def test_memory_that_ran_out_on_apples_gpu_is_known_as_such(mac, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    error = RuntimeError(
        "MPS backend out of memory (MPS allocated: 9.06 GB, other allocations: 1 MB, max allowed: 9.07 GB)."
    )
    assert memory_errors.is_out_of_gpu_memory(error)
    memory_errors.drop_failed_work()
    assert emptied == [True]


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("mps", True), ("cpu", True)])
def test_a_copy_is_waited_for_where_its_source_could_be_freed_before(device, waits):
    class Tensor:
        def to(self, device, non_blocking):
            return non_blocking

    assert to_device(Tensor(), torch.device(device)) is not waits


# Operations


class Recorder(TorchDispatchMode):
    """Records the operations that run within, and which of them give float64, which Apple's GPU lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.wide = set[str](), set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        self.names.add(name)
        made = out if isinstance(out, (tuple, list)) else [out]
        self.wide |= {name for one in made if isinstance(one, torch.Tensor) and one.dtype == torch.float64}
        return out


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Any]]:
    """Torch's table of its operations, by name, with the devices that each has a kernel for."""
    import torchgen
    import yaml

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    if not path.is_file():
        pytest.skip("this torch ships no table of its operations")
    rows = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {row["func"].partition("(")[0]: row for row in rows}


def has_mps(table: dict[str, dict[str, Any]], name: str) -> bool:
    """Return whether an operation has a kernel for MPS, or is made of others."""
    row = table[name]
    if delegate := row.get("structured_delegate"):
        return has_mps(table, delegate)
    keys = [key.strip() for keys in row.get("dispatch", {}) for key in keys.split(",")]
    return not keys or any(key == "MPS" or key.startswith("Composite") for key in keys)


@pytest.mark.parametrize("lstm_channels", [0, 4])
def test_a_training_step_has_only_operations_that_torch_has_for_apples_gpu(table, lstm_channels):
    """On the device "meta", which computes nothing and, like a GPU, takes none of the ways of a CPU."""
    config = tiny_config(direction="bidirectional", lstm_channels=lstm_channels)
    network = build_network(config.model, 1, 4).to("meta")
    optimizer = torch.optim.AdamW(network.parameters())
    image, label = (
        torch.zeros(1, 3, 1, 16, 16, 4, device="meta"),
        torch.zeros(3, 16, 16, 4, dtype=torch.uint8, device="meta"),
    )
    with Recorder() as recorder:
        found = network(image)
        logits = found[0] if isinstance(found, tuple) else found
        LabelledFramesLoss.from_sums(LabelledFramesLoss.sums(logits.flatten(0, 1), label)).backward()
        optimizer.step()
    assert {"convolution", "convolution_backward"} <= recorder.names
    known = [name for name in recorder.names if name in table]
    assert len(known) > 20
    assert [name for name in known if not has_mps(table, name)] == []
    assert recorder.wide == set()


def test_the_table_of_operations_tells_what_apples_gpu_lacks(table):
    assert not has_mps(table, "slow_conv3d_forward")
    assert has_mps(table, "add.Tensor")
