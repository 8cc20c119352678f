"""Settings of torch's CUDA memory allocator."""

from __future__ import annotations

import os

_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that configure the allocator; torch 2.13 reads the first one that is set when CUDA is first used."""


def use_expandable_segments() -> None:
    """Set the allocator to grow its segments, which leaves fewer gaps in a GPU's memory, unless the user has configured it.

    It has an effect only before CUDA is first used in this process.
    """
    if not any(name in os.environ for name in _VARIABLES):
        os.environ[_VARIABLES[0]] = "expandable_segments:True"
