"""The simulated GPU, switched on by importing this module before torch, as `python -m pytest -p tests.simulated_gpu.plugin` does.

torch looks for its GPU once, while it is imported. So the device's library is loaded before, after the libraries of torch that it
needs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.simulated_gpu.build import LIBRARY, NAME

TOTAL_BYTES = int(float(os.environ.get("SIMULATED_GPU_GB", "24")) * 1e9)
TORCH_LIBRARIES = ("torch_global_deps", "c10", "torch_cpu", "torch", "torch_python")
WITHOUT_ANSWER = (
    *("_lazy_init", "set_device", "synchronize", "empty_cache"),
    *("manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all"),
)


class Event:
    """An event of a GPU that does all at once."""

    def __init__(self, **_: object):
        self.recorded_s = 0.0

    def record(self, *_: object) -> None:
        self.recorded_s = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.recorded_s - self.recorded_s)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Wait for nothing."""


def load_device() -> Any:
    """Load the device's library and return it as a module, before torch is imported."""
    if not LIBRARY.exists():
        sys.exit(f"{LIBRARY} is missing; make it: python -m tests.simulated_gpu.build")
    if "torch" in sys.modules:
        sys.exit("torch was imported before the simulated GPU; import it first")
    spec = importlib.util.find_spec("torch")
    assert spec
    assert spec.origin
    for name in TORCH_LIBRARIES:
        ctypes.CDLL(str(Path(spec.origin).parent / "lib" / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    import torch  # noqa: F401  # the module needs its types

    found = importlib.util.spec_from_file_location(NAME, LIBRARY)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def simulate() -> None:
    """Have `torch.cuda` answer for the simulated GPU."""
    device = load_device()
    import torch

    fraction = [1.0]

    def set_fraction(share: float, index: object = None) -> None:
        fraction[0] = share
        device.set_limit(int(share * TOTAL_BYTES))

    def answer(value: Any) -> Any:
        return lambda *_, **__: value

    set_fraction(1.0)
    properties = SimpleNamespace(
        name="simulated GPU", total_memory=TOTAL_BYTES, major=8, minor=0, multi_processor_count=1
    )
    answers = {  # each a function of its own, as torch._dynamo wants
        "is_available": answer(True),
        "is_initialized": answer(True),
        "is_bf16_supported": answer(True),
        "is_current_stream_capturing": answer(False),
        "device_count": answer(1),
        "current_device": answer(0),
        "current_stream": answer(None),
        "get_device_name": answer(properties.name),
        "get_device_properties": answer(properties),
        "get_device_capability": answer((properties.major, properties.minor)),
        "mem_get_info": lambda *_: (TOTAL_BYTES - device.allocated_bytes(), TOTAL_BYTES),
        "memory_allocated": lambda *_: device.allocated_bytes(),
        "memory_reserved": lambda *_: device.allocated_bytes(),
        "max_memory_allocated": lambda *_: device.peak_bytes(),
        "max_memory_reserved": lambda *_: device.peak_bytes(),
        "reset_peak_memory_stats": lambda *_: device.reset_peak(),
        "get_per_process_memory_fraction": lambda *_: fraction[0],
        "set_per_process_memory_fraction": set_fraction,
        "set_sync_debug_mode": lambda mode: device.set_may_wait(mode != "error"),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "Event": Event,
    } | {name: answer(None) for name in WITHOUT_ANSWER}
    for name, value in answers.items():
        setattr(torch.cuda, name, value)
    for name in ("_cuda_getDevice", "_cuda_exchangeDevice", "_cuda_maybeExchangeDevice", "_cuda_getCurrentRawStream"):
        setattr(torch._C, name, answer(0))
    torch.cuda.default_generators = (torch.default_generator,)


simulate()
