"""Settings of torch's CUDA memory allocator."""

from __future__ import annotations

import os
import sys

from unet4d.system.operating_system import IS_LINUX

_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that configure the allocator; torch reads them when it is loaded, or when CUDA is first used."""
_EXPANDABLE, _FIXED = "expandable_segments:True", "expandable_segments:False"


def use_expandable_segments() -> None:
    """Set the allocator to grow its segments, which leaves fewer gaps in a GPU's memory, unless the user has configured it.

    Call it before torch is imported; the setting also reaches a torch that is imported already. Linux alone has such segments.
    """
    if IS_LINUX and all(os.environ.get(name, _EXPANDABLE) == _EXPANDABLE for name in _VARIABLES):
        _set(_EXPANDABLE)


def give_up_expandable_segments() -> bool:
    """Set the allocator back to segments of fixed size; return False where it had these."""
    if os.environ.get(_VARIABLES[0]) != _EXPANDABLE:
        return False
    _set(_FIXED)
    return True


def _set(setting: str) -> None:
    os.environ[_VARIABLES[0]] = setting
    library = getattr(sys.modules.get("torch"), "_C", None)
    # The only way to change a loaded torch; a release without it still reads the variable.
    change = getattr(library, "_accelerator_setAllocatorSettings", None)
    if change is not None:
        change(setting)
