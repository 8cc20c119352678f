"""Messages about wrong command lines: those of the parser reworded, unknown names, and values given by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unet4d.errors import InputError
from unet4d.system.checks import describe_type
from unet4d.system.old_names import REMOVED, describe_renamed
from unet4d.system.plain_yaml import compose_yaml
from unet4d.system.text import short_repr, shortened

_BAD_VALUE = re.compile(r'Parser key "(?P<key>[^"]+)": (?P<why>.*)(?:Got value|Given value): (?P<value>.*)$')
_BAD_KEY = re.compile(r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<key>.+?)'(?: is not accepted)?$")
_BAD_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: '?(?P<value>.*?)'? \(choose from (?P<known>.*)\)")


def reword(message: str, options: Sequence[str], types: Mapping[str, Any]) -> str:
    """Return a message of the parser as what it got and what it expected; one it does not know stays as it is."""
    message = " ".join(message.split())
    if found := _BAD_VALUE.match(message):
        plain = re.search(r"<class '(int|float|dict)'>", found["why"])
        kind = types.get(found["key"]) or {"int": int, "float": float, "dict": dict}.get(plain[1] if plain else "")
        if removed := REMOVED.get(f"{found['key']} {found['value']}"):
            return f"{found['key']} is {found['value']}, which was removed; {removed}"
        if kind is not None:
            return f"{found['key']} is {shortened(found['value'], 200) or 'empty'}, expected {describe_type(kind)}"
    if found := _BAD_KEY.match(message):
        return describe_unknown(".".join(filter(None, (found["group"], found["key"]))), types)
    if found := _BAD_CHOICE.match(message):
        known = found["known"].replace("'", "")
        return f"{found['name']} is {shortened(found['value'], 200)}, expected one of {known}"
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return describe_unknown(shortened(found[1].partition("=")[0], 200), options)
    if found := re.match(r"the following arguments are required: (.+)", message):
        names = [f"--{name}" if f"--{name}" in options else name for name in found[1].split(", ")]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return message


def describe_unknown(name: str, known: Iterable[str]) -> str:
    """Return that a name is unknown, with what it is called now or the nearest of those that are known."""
    names = list(known)
    if renamed := describe_renamed(name, names):
        return f"{name} is not known{renamed}"
    longer = [one for one in names if one.startswith(name)]  # what is cut short is likelier than what is misspelt
    near = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"{name} is not known{f', expected perhaps {near[0]}' if near else ''}"


def check_values_by_name(option: str, text: str) -> None:
    """Check a value such as '{a: 1, b: 2}': plain YAML that names nothing twice. Raises InputError: names the option."""
    try:
        root = compose_yaml(Path(option), text)
    except yaml.YAMLError:  # the parser reports it
        return
    names = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{option} names {short_repr(doubled[0])} twice, expected each name once; remove one")
