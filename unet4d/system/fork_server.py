"""The process that worker processes are forked from where the main process must not be forked."""

from __future__ import annotations

import multiprocessing

_PRELOADED = ["__main__", "unet4d.pipeline.clip_dataset"]
"""Modules the fork server imports once, so that no worker has to."""


def has_fork_server() -> bool:
    """Return whether this system can start processes by a fork server; Windows cannot."""
    return "forkserver" in multiprocessing.get_all_start_methods()


def prepare_fork_server() -> None:
    """Set up what the fork server is started with; call it before the signals are blocked that it must not die of.

    The fork server starts with its first worker and inherits the signals that are blocked then. Starting the resource tracker,
    which Python does on the way, would unblock them again; so it is started first.
    """
    from multiprocessing import resource_tracker

    multiprocessing.set_forkserver_preload(_PRELOADED)
    resource_tracker.ensure_running()
