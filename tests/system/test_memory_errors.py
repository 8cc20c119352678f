"""Every text under which memory runs out is known, and no other error is taken for it."""

from __future__ import annotations

import pytest
import torch

from unet4d.errors import InputError, Unet4DError
from unet4d.system.memory_errors import (
    drop_failed_work,
    is_out_of_gpu_memory,
    is_out_of_main_memory,
    is_out_of_memory,
    memory_error_reason,
)

ENGINE = "unable to find an engine to execute this computation"
NVML = RuntimeError(
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1165, please report a bug to PyTorch.'
)
"""Torch's error in place of "out of memory" in an instance of MIG."""
GPU = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.5 GiB"),
    RuntimeError(f"FIND was {ENGINE}"),
    RuntimeError(f"GET was {ENGINE}"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA driver error: out of memory"),
    NVML,
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    torch.AcceleratorError("Caught AcceleratorError in pin memory thread for device 0.\nCUDA error: out of memory"),
]
MAIN = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."
    ),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("out of memory, it says"),
    RuntimeError("CUDA driver error: operation not supported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    InputError("case CUDA out of memory is missing"),
    Unet4DError("DefaultCPUAllocator: is no study"),
    OSError(28, "No space left on device"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", GPU, ids=lambda error: str(error)[:40])
def test_gpu_memory_that_ran_out_is_known_by_every_text(error):
    assert is_out_of_memory(error)
    assert is_out_of_gpu_memory(error)
    assert not is_out_of_main_memory(error)


@pytest.mark.parametrize("error", MAIN, ids=lambda error: repr(error)[:40])
def test_main_memory_that_ran_out_is_known_and_told_apart(error):
    assert is_out_of_memory(error)
    assert is_out_of_main_memory(error)
    assert not is_out_of_gpu_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: repr(error)[:40])
def test_no_other_error_is_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_the_cpu_allocator_itself_says_what_is_expected():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_main_memory(caught.value)


def test_the_reason_is_one_line_of_what_was_refused():
    for error in (*GPU, *MAIN):
        reason = memory_error_reason(error)
        assert reason
        assert "\n" not in reason
    assert memory_error_reason(GPU[0]) == "CUDA out of memory"
    assert "bug" not in memory_error_reason(NVML)
    assert memory_error_reason(MAIN[1]).startswith("can't allocate memory")


def test_what_only_a_cycle_of_references_holds_is_freed():
    import gc
    import weakref

    class Holder:
        """Refers to itself."""

    holder = Holder()
    holder.me, holder.tensor = holder, torch.zeros(3)
    tensor = weakref.ref(holder.tensor)
    gc.disable()
    try:
        del holder
        drop_failed_work()
        assert tensor() is None
    finally:
        gc.enable()
