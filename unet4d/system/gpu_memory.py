"""The free memory of a GPU, and the part of a memory that a computation may plan to take."""

from __future__ import annotations

import contextlib
import functools

import torch

from unet4d.system.byte_sizes import GB

SPARE_SHARE = 0.09
"""Share of a memory that stays free, because blocks of many sizes do not fill it without gaps, and libraries need workspaces."""
LEAST_SPARE_BYTES = int(1.5 * GB)
"""The least that stays free..."""
MOST_SPARE_SHARE = 0.25
"""... unless the memory is so small (below 6 GB) that this would be more than this share of it."""
NCCL_BYTES = GB
"""Memory set aside on each GPU where several train together, for NCCL's buffers and the buckets of gradients; an assumption."""
CONTEXT_BYTES = int(0.8 * GB)
"""Memory of the driver and the libraries before the first tensor; a running process does not see it as free."""


def usable_bytes(budget_bytes: float) -> float:
    """Return what a step may take of a memory: all but the spare, 9 % and at least 1.5 GB; of a small memory, a quarter."""
    spare_bytes = min(max(SPARE_SHARE * budget_bytes, LEAST_SPARE_BYTES), MOST_SPARE_SHARE * budget_bytes)
    return budget_bytes - spare_bytes


def sufficient_bytes(needed_bytes: float) -> float:
    """Return the smallest memory of which a step may take this much: the inverse of `usable_bytes`."""
    ample_bytes = max(needed_bytes / (1 - SPARE_SHARE), needed_bytes + LEAST_SPARE_BYTES)
    return min(needed_bytes / (1 - MOST_SPARE_SHARE), ample_bytes)


@functools.cache
def warm_up(device: torch.device) -> None:
    """Create the driver's context and the handles of cuBLAS and cuDNN, so that their memory no longer counts as free."""
    # A GPU without room for them has next to nothing free, which is then read.
    with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
        image = torch.ones(2, 8, 8, 8, 8, device=device, requires_grad=True)
        weight = torch.ones(8, 8, 3, 3, 3, device=device, requires_grad=True)
        features = torch.nn.functional.conv3d(image, weight, padding=1).flatten(2)
        (features @ features.mT).sum().backward()
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> int:
    """Return what a GPU has left for this process now, right under MIG and within `set_per_process_memory_fraction`, too.

    Blocks that this process holds unused count as free.
    """
    warm_up(device)
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    index = torch.cuda.current_device() if device.index is None else device.index  # "cuda" alone is refused here
    allowed = int(torch.cuda.get_per_process_memory_fraction(index) * total) - reserved
    return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)


def peak_allocated_bytes(device: torch.device) -> int:
    """Return the most that a GPU's allocator has handed out at once since `reset_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of a GPU's memory; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
