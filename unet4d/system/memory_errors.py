"""The errors that mean that memory ran out: torch and the libraries below it raise them under several types and texts."""

from __future__ import annotations

import gc
import sys

CPU_ALLOCATOR = "DefaultCPUAllocator: "
"""Begins the errors of torch's allocator of main memory, which are plain RuntimeErrors."""
_NVML = "NVML_SUCCESS == "
"""Begins the error of torch's allocator where memory ran out and the driver refuses to report its size, as under MIG."""
_GPU_TEXTS = (
    "CUDA out of memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",  # pinned memory, events; torch.AcceleratorError
    "CUDA driver error: out of memory",  # expandable segments
    _NVML,
    "was unable to find an engine",  # cuDNN: no algorithm's workspace fits, or none supports the shape
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # no room for the library's own memory
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU, or main memory, ran out.

    cuDNN says "unable to find an engine" also of a convolution it does not support, whatever memory is free. Whoever tries again
    with less must therefore end after a number of tries.
    """
    return is_out_of_gpu_memory(error) or is_out_of_main_memory(error)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU ran out; torch is not imported for this."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _GPU_TEXTS)


def is_out_of_main_memory(error: BaseException) -> bool:
    """Return whether an error means that main memory ran out."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error))


def memory_error_reason(error: BaseException) -> str:
    """Return the part of such an error's text about the refused allocation, in one line."""
    text = str(error).split(CPU_ALLOCATOR)[-1].strip()
    if text.startswith(_NVML):  # "please report a bug to PyTorch"
        return "an allocation was refused"
    return text.splitlines()[0].split(". ")[0].split(";")[0] if text else "an allocation was refused"


def drop_failed_work() -> None:
    """Free what a failed computation held, so that the next try finds that memory.

    Call it outside the `except` block: inside, the error's traceback holds the frames, and these hold their tensors. Tensors that
    only cycles of references hold are freed too, and the GPU's allocator gives unused blocks back to the driver.
    """
    gc.collect()
    empty_gpu_caches()


def empty_gpu_caches() -> None:
    """Give blocks of GPU memory that hold nothing back to the driver; do nothing where torch is not imported."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
