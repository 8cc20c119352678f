"""What is wrong with a command line or a config file, in our words: the parser's own name Python types and no file."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from unet4d.config import Config, Size
from unet4d.errors import InputError
from unet4d.system.plain_yaml import check_plain_yaml
from unet4d.system.regular_files import open_regular
from unet4d.system.text import short_repr, shortened

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    Size: "three whole numbers [X, Y, Z]",
    dict: "values by name {a: 1, b: 2}",
    list[int]: "a list of whole numbers [1, 2]",
    list[str]: "a list of names [a, b]",
    list[Size]: "a list of triples [[2, 2, 1], [2, 2, 2]]",
}
_BAD_VALUE = re.compile(r'Parser key "(?P<key>[^"]+)": (?P<why>.*)(?:Got value|Given value): (?P<value>.*)$')
_BAD_KEY = re.compile(r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<key>.+?)'(?: is not accepted)?$")


def settings() -> dict[str, Any]:
    """Every setting of `unet4d train` by its dotted name, with its type; a section alone has the type of its dataclass."""
    found: dict[str, Any] = {"dataset": str, "out": str, "device": str, "resume": bool}
    for name, kind in get_type_hints(Config).items():
        found[name] = kind
        if dataclasses.is_dataclass(kind):
            found.update({f"{name}.{key}": inner for key, inner in get_type_hints(kind).items()})
    found["fold"] = int | Literal["all"]
    return found


def wanted(kind: Any) -> str:
    """A type in words: "a whole number or null"."""
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        choices = ", ".join(map(str, get_args(kind)))
        return choices if len(get_args(kind)) == 1 else f"one of {choices}"
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(wanted(one) for one in get_args(kind))
    return f"settings under it, such as {next(iter(get_type_hints(kind)))}"


def reworded(message: str, options: Sequence[str]) -> str:
    """A message of the parser as what came and what was wanted; one it does not know stays as it is.

    Args:
        message: the parser's.
        options: the command's options (--out, --train.epochs, ...), to name the nearest.
    """
    message = " ".join(message.split())
    if found := _BAD_VALUE.match(message):
        known = settings().get(found["key"])
        plain = re.search(r"<class '(int|float|dict)'>", found["why"])
        kind = known or {"int": int, "float": float, "dict": dict}.get(plain[1] if plain else "")
        if kind is not None:
            return f"{found['key']} is {shortened(found['value'], 200) or 'empty'}; wanted {wanted(kind)}"
    if found := _BAD_KEY.match(message):
        return _unknown(".".join(filter(None, (found["group"], found["key"]))), settings())
    if found := re.match(
        r"argument (?P<name>\S+): invalid choice: '?(?P<value>.*?)'? \(choose from (?P<known>.*)\)", message
    ):
        return (
            f"{found['name']} is {shortened(found['value'], 200)}; wanted one of {found['known'].replace(chr(39), '')}"
        )
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown(shortened(found[1].partition("=")[0], 200), options)
    if found := re.match(r"the following arguments are required: (.+)", message):
        names = [f"--{name}" if f"--{name}" in options else name for name in found[1].split(", ")]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return message


def check_values_by_name(arguments: Sequence[str], options: Sequence[str]) -> None:
    """Check the values of options such as --labels '{a: 1, b: 2}': plain YAML that names nothing twice.

    Args:
        arguments: of the command line.
        options: of which to check the values.

    Raises:
        InputError: names the option.
    """
    for option, text in _given(arguments, options):
        try:
            check_plain_yaml(Path(option), text)
            root = yaml.compose(text, yaml.SafeLoader)
        except yaml.YAMLError:  # the parser reports it
            continue
        names = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        if doubled := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{option} names {short_repr(doubled[0])} twice, expected each name once; remove one")


def _given(arguments: Sequence[str], options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options that were given, each with its value."""
    for option in options:
        yield from ((option, value) for name, value in pairwise(arguments) if name == option)
        start = f"{option}="
        yield from ((option, one.removeprefix(start)) for one in arguments if one.startswith(start))


def check_config_files(arguments: Sequence[str]) -> None:
    """Check the YAML files that come behind --config: there, YAML, each setting known and given once.

    Raises:
        InputError: names the file, the line and the nearest setting.
    """
    for path in (Path(file) for _, file in _given(arguments, ["--config"])):
        root = _composed(path)
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path} holds no settings; wanted YAML such as train: {{epochs: 100}}")
        seen: set[str] = set()
        for key, line, is_section in _keys(root):
            if key not in settings():
                raise InputError(f"{path}, line {line}: {_unknown(key, settings())}")
            if key in seen:
                raise InputError(f"{path}, line {line}: {key} comes twice; wanted it once; remove the other one")
            if dataclasses.is_dataclass(settings()[key]) and not is_section:
                raise InputError(f"{path}, line {line}: {key} is a value; wanted {wanted(settings()[key])}")
            seen.add(key)


def _composed(path: Path) -> yaml.Node | None:
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
        check_plain_yaml(path, text)
        return yaml.compose(text, yaml.SafeLoader)
    except FileNotFoundError as error:
        raise InputError(f"--config {path} is missing; give the path of an existing YAML file") from error
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}); correct it there") from error


def _keys(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int, bool]]:
    """Every dotted key of a YAML mapping, two levels deep, its line, and whether settings of its own lie under it."""
    for key, value in node.value:
        is_section = isinstance(value, yaml.MappingNode)
        yield f"{prefix}{key.value}", key.start_mark.line + 1, is_section
        if is_section and not prefix:
            yield from _keys(value, f"{key.value}.")


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    begun = [one for one in names if one.startswith(name)]  # what is cut short is likelier than what is misspelt
    near = begun or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"{name} is not known{f'; wanted perhaps {near[0]}' if near else ''}"
