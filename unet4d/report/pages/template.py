"""Templates of the pages: all text is escaped, and a Content-Security-Policy forbids every connection."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML
from unet4d.system.text import printable

_MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp"}


class PageTable(NamedTuple):
    """Table of text: column names, cells, and the color of a dot before each row, if any."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    colors: Sequence[str] = ()


def render_page(template: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Return a whole page.

    The policy of the page allows only these scripts, which it knows by their hashes.

    Raises:
        ValueError: a script holds "</script", "<!--" or a carriage return, which would end it within the page.
    """
    for script in scripts:
        if "</script" in script.lower() or "<!--" in script or "\r" in script:
            raise ValueError("a script holds what would end it within a page")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    scripts = [Markup(script) for script in scripts]
    return _environment().get_template(template).render(values, scripts=scripts, script_sources=sources)


def picture_address(path: Path) -> str:
    """Return a picture file as a data: URI."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the names and values of nested objects, one pair for each value, such as ("settings, overlap", "0.5")."""
    pairs = []
    for key, value in values.items():
        name = ", ".join(filter(None, (prefix, str(key).replace("_", " "))))
        if isinstance(value, dict) and value:
            pairs += flatten(value, name)
        elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            for index, item in enumerate(value):
                pairs += flatten(item if isinstance(item, dict) else {"": item}, f"{name} {index}")
        elif isinstance(value, bool):  # before numbers: True equals 1
            pairs.append((name, "yes" if value else "no"))
        elif value is None or value == {} or value == []:
            pairs.append((name, "none"))
        else:
            pairs.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return pairs


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unet4d.report.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_visible,
    )
    style = (files("unet4d.report.pages") / "page.css").read_text(encoding="utf-8")
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.globals.update(density=MYOCARDIAL_DENSITY_G_PER_ML, style=Markup(style))
    return environment


def _make_visible(value: Any) -> Any:
    """Return text with escapes for characters that are not visible, such as those that change the direction of text."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value
