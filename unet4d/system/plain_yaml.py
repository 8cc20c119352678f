"""YAML of settings, read in one pass that refuses all else: aliases, tags, deep nesting and values without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from unet4d.errors import InputError

_DEEPEST, _LONGEST = 10, 4000
"""Levels of a configuration in YAML, and characters of a value in it."""


class _PlainLoader(yaml.SafeLoader):
    """A loader that checks each node before anything is built from it: an alias may stand for far more than is seen."""

    path, depth = Path(), 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        where = f"{self.path}, line {event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{where}: got an alias (*{event.anchor}), expected its value; write it there")
        if tag := getattr(event, "tag", None):
            raise InputError(f"{where}: got the tag {tag}, expected a plain value; remove the tag")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST:
            got = f"a value of {len(event.value)} characters"
            raise InputError(f"{where}: got {got}, expected at most {_LONGEST}; shorten it")
        self.depth += isinstance(event, yaml.CollectionStartEvent)
        if self.depth > _DEEPEST:
            raise InputError(f"{where}: got settings nested too deep, expected at most {_DEEPEST} levels; correct it")
        node = super().compose_node(parent, index)
        self.depth -= isinstance(event, yaml.CollectionStartEvent)
        return node


def compose_yaml(path: Path, text: str) -> yaml.Node | None:
    """Return the tree of a YAML text, with the lines of its parts; None for an empty one. Messages name `path`.

    Raises:
        InputError: it is more than plain settings; names the line.
        yaml.YAMLError: it is not YAML.
    """
    loader = _PlainLoader(text)
    loader.path = path
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def node_value(node: yaml.Node | None) -> Any:
    """Return the Python value of a tree."""
    return None if node is None else yaml.SafeLoader("").construct_document(node)
