"""The errors a user can meet. Each message is one line: what came, what was wanted, what to do."""

from __future__ import annotations


class Unet4DError(Exception):
    """Something failed that is not the input's fault (a full disk, no memory). Ends the command with exit code 1."""

    exit_code = 1


class InputError(Unet4DError, ValueError):
    """The input or its usage is wrong. Ends the command with exit code 2."""

    exit_code = 2
