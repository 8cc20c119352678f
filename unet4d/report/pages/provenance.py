"""How a segmentation was made, as the prediction.json beside it says; whatever stands there is shown."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unet4d.datasets.label_maps import PREDICTION
from unet4d.report.pages import html
from unet4d.system.files import read_json
from unet4d.system.version import VERSION

UNKNOWN = "Nothing is recorded of how this label map was made: no prediction.json that names the case lies beside it."


def recorded(folders: list[Path], case: str) -> dict[str, Any]:
    """What the first prediction.json found in `folders` says of a case, before it what it says of all; empty where there is none.

    Raises:
        InputError: a prediction.json that is no JSON.
    """
    for folder in folders:
        if (folder / PREDICTION).is_file():
            said = read_json(folder / PREDICTION)
            cases = said.get("cases") if isinstance(said, dict) else None
            entry = cases.get(case) if isinstance(cases, dict) else None
            if not isinstance(entry, dict):
                return {}
            common = {name: value for name, value in said.items() if name not in ("cases", "labels")}
            return common | entry
    return {}


def of_study(about: Mapping[str, Any]) -> list[str]:
    """The table of what is recorded, and when and by what the page was written."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    written = html.text(f"This page was written by unet4d {VERSION} on {now}.", kind="soft")
    if not about:
        return [html.text(UNKNOWN), written]
    rows = [[name, words] for name, words in _flat(about)]
    words = html.explained(name.rpartition(", ")[2] for name, _ in rows)
    return [html.table([], rows, kind="facts"), words, written]


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested objects, one line each: ("settings, overlap", "0.5")."""
    for name, one in value.items():
        name = f"{above}, {name}" if above else str(name)
        name = name.replace("_", " ")
        if isinstance(one, dict) and one:
            yield from _flat(one, name)
        elif isinstance(one, list) and any(isinstance(item, (dict, list)) for item in one):
            for index, item in enumerate(one):
                yield from _flat(item if isinstance(item, dict) else {"": item}, f"{name} {index}")
        elif isinstance(one, list):
            yield name, ", ".join(map(str, one)) or "none"
        else:
            yield name, _said(one)


def _said(value: Any) -> str:
    """One plain value; numbers stay numbers, though 1 equals True."""
    if value is None or value == {}:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
