"""YAML that is nothing but settings, checked before anything is built from it."""

from __future__ import annotations

from pathlib import Path

import yaml

from unet4d.errors import InputError

_DEEPEST, _LONGEST = 10, 4000
"""Levels of a configuration in YAML, and characters of a value in it."""


def check_plain_yaml(path: Path, text: str) -> None:
    """Check that YAML is plain settings, before anything is built from it: no aliases, which may stand for far more than is seen,
    no tags, not nested deep, and no number that Python cannot hold.

    Raises:
        InputError: names the line.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        where = f"{path}, line {event.start_mark.line + 1 if event.start_mark else 1}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise InputError(
                f"{where}: got settings nested too deep, expected at most {_DEEPEST} levels; correct it there"
            )
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{where}: got an alias (*{event.anchor}), expected its value; write it there")
        if tag := getattr(event, "tag", None):
            raise InputError(f"{where}: got the tag {tag}, expected a plain value; remove the tag")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST:
            raise InputError(
                f"{where}: got a value of {len(event.value)} characters, expected at most {_LONGEST}; shorten it"
            )
