"""The messages of errors that tests look at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unet4d.errors import InputError


def error_of(call: Callable[..., object], *given: object, **options: object) -> str:
    """Return the message of the `InputError` that a call raises, and assert that it is one line."""
    with pytest.raises(InputError) as error:
        call(*given, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
