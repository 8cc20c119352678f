"""A plan as a commented YAML file that `unet4d train --config` takes as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unet4d.config import Config
from unet4d.errors import InputError
from unet4d.system.files import check_file_writable, write_text
from unet4d.system.regular_files import open_regular

MARK = "# Planned by unet4d plan"
AS_GIVEN = "as given"


def check_replaceable(path: Path) -> None:
    """Check that a plan can be written there, and that nothing but an older plan would be lost.

    Raises:
        InputError: something else lies there, or its folder is a file.
        Unet4DError: its folder may not be written to.
    """
    check_file_writable(path)
    if path.exists() and not _is_plan(path):
        raise InputError(
            f"got --out {path}, which exists and is no plan, expected a new file or an older plan; choose another name"
        )


def _is_plan(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(len(MARK.encode())) == MARK.encode()


def write_plan(path: Path, config: Config, head: Sequence[str], reasons: Mapping[str, str]) -> None:
    """Write the configuration, whole or not at all, under the comment lines of `head`.

    Settings without a reason that have their default are left out.
    """
    lines, rows = [f"{MARK} {head[0]}", *(f"# {line}" for line in head[1:])], list[str]()
    values, default = dataclasses.asdict(config), dataclasses.asdict(Config())
    for section, settings in values.items():
        if not isinstance(settings, dict):
            if settings != default[section]:
                lines += ["", _line(section, settings, AS_GIVEN)]
            continue
        names = [n for n in settings if f"{section}.{n}" in reasons or settings[n] != default[section][n]]
        if names:
            rows += ["", f"{section}:"]
            rows += [f"  {_line(n, settings[n], reasons.get(f'{section}.{n}', AS_GIVEN))}" for n in names]
    write_text(path, "\n".join([*lines, *rows]) + "\n")


def _line(name: str, value: Any, reason: str) -> str:
    """Return a setting as YAML on one line, with its reason as a comment."""
    if isinstance(value, (list, tuple)):
        value = [list(item) if isinstance(item, tuple) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return f"{name}: {text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}  # {' '.join(reason.split())}"
