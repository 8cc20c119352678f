"""Markdown of the generated pages."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from typing import Any

UNITS = {
    "_mm": "mm", "_ml": "mL", "_s": "s", "_percent": "%", "_g": "g", "_cm": "cm", "_kg": "kg", "_bpm": "beats per minute",
    "_ml_per_s": "mL/s", "_ml_per_m2": "mL/m²", "_g_per_m2": "g/m²", "_l_per_min": "L/min", "_l_per_min_per_m2": "L/min/m²",
    "_cm_per_s": "cm/s", "_m2": "m²", "_deg": "°", "_gb": "GB", "_frame": "frame, from 0",
}  # fmt: skip
"""Unit of a quantity by the end of its name."""


def code(text: str, language: str = "sh") -> str:
    """Return a block of code."""
    return f"```{language}\n{textwrap.dedent(text).strip()}\n```\n"


def definition(name: str, about: Iterable[str], text: str | None) -> str:
    """Return a definition: the name, what is known about it, and the text below."""
    head = " · ".join([", ".join(f"`{one}`" for one in name.split(", ")), *about])
    return f"{head}\n:   {prose(text or '')}\n"


def prose(text: str) -> str:
    """Return a text in one line, without characters that Markdown would take for its own."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("{", "&#123;")  # the end of a cell in braces would be its attributes
    return re.sub(r"([\\`*_|\[\]$])", r"\\\1", text)


def value(value: Any) -> str:
    """Return a value as a YAML file has it."""
    return json.dumps(value)


def unit(name: str) -> str:
    """Return the unit of a quantity by its name, or nothing."""
    return next((UNITS[end] for end in sorted(UNITS, key=len, reverse=True) if name.endswith(end)), "")
