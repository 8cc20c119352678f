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
    """See that a plan can be written there, and that nothing but an older plan would be lost.

    Raises:
        InputError: something else lies there, or its folder is a file.
        Unet4DError: its folder may not be written to.
    """
    check_file_writable(path)
    if path.exists() and not _is_plan(path):
        raise InputError(
            f"--out {path} is there and is no plan; wanted a new file, or an older plan; choose another name"
        )


def _is_plan(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(len(MARK.encode())) == MARK.encode()


def write_plan(path: Path, config: Config, head: Sequence[str], reasons: Mapping[str, str]) -> None:
    """Write the configuration, whole or not at all, under the comment lines of `head`.

    Only what has a reason, or differs from the default, is written: nothing else bears on the run.

    Args:
        path: the file.
        config: what was chosen.
        head: what the file is, a line each.
        reasons: why, by the setting's dotted name.
    """
    lines = [f"{MARK} {head[0]}", *(f"# {line}" for line in head[1:])]
    plain = Config()
    for part in sorted(
        dataclasses.fields(Config), key=lambda part: dataclasses.is_dataclass(getattr(plain, part.name))
    ):
        value = getattr(config, part.name)
        if not dataclasses.is_dataclass(value):
            if value != getattr(plain, part.name):
                lines += ["", _line(part.name, value, reasons.get(part.name, AS_GIVEN))]
            continue
        default, rows = getattr(plain, part.name), []
        for setting in dataclasses.fields(value):
            name, chosen = f"{part.name}.{setting.name}", getattr(value, setting.name)
            if name in reasons or chosen != getattr(default, setting.name):
                rows.append("  " + _line(setting.name, chosen, reasons.get(name, AS_GIVEN)))
        lines += ["", f"{part.name}:", *rows] if rows else []
    write_text(path, "\n".join(lines) + "\n")


def _line(name: str, value: Any, why: str) -> str:
    return f"{name}: {_flow(value)}  # {' '.join(why.split())}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list):
        value = [list(item) if isinstance(item, tuple) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
