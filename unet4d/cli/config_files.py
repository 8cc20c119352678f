"""Config files, read once: each setting becomes an option of the command line, before those that were given there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from unet4d.cli.messages import describe_unknown
from unet4d.config import Config
from unet4d.errors import InputError
from unet4d.system.checks import describe_type
from unet4d.system.plain_yaml import compose_yaml, node_value
from unet4d.system.regular_files import open_regular


def setting_types() -> dict[str, Any]:
    """Return the type of every setting by its dotted name; a section alone has the type of its dataclass."""
    found: dict[str, Any] = {"dataset": str, "out": str, "device": str, "resume": bool}
    for name, kind in get_type_hints(Config).items():
        found[name] = kind
        if dataclasses.is_dataclass(kind):
            found.update({f"{name}.{key}": inner for key, inner in get_type_hints(kind).items()})
    found["fold"] = int | Literal["all"]
    return found


def put_files_first(given: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the command line with the settings of its --config files in front, so that what was given itself wins.

    A resumed run begins with its own settings. Settings of other commands, which are not among `options`, are skipped.

    Raises:
        InputError: a file is missing or no YAML, or a setting in it is unknown or comes twice; names the line.
    """
    others, files = take_option(given, "--config")
    if "--resume" in others:
        own = [Path(run, "config.yaml") for run in take_option(others, "--out")[1][-1:]]
        files = [str(path) for path in own if path.is_file()] + files
    options_of_files = [word for file in files for word in _file_options(Path(file))]
    return [word for word in options_of_files if word.partition("=")[0] in options] + others


def take_option(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Return the words of a command line without an option, and the option's values."""
    others, values = [], []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != option:
            others.append(word)
        elif equals:
            values.append(value)
        else:
            values += [found for found in [next(rest, None)] if found is not None]
    return others, values


def _file_options(path: Path) -> Iterator[str]:
    """Yield the settings of a file as options, --train.epochs=3."""
    root, types = _read(path), setting_types()
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path} holds no settings, expected YAML such as train: {{epochs: 100}}")
    settings, seen = list(_settings(root)), set[str]()
    if unknown := {key: line for key, _, line in settings if key not in types}:
        faults = [f"line {line}: {describe_unknown(key, types)}" for key, line in unknown.items()
                  if key.rpartition(".")[0] not in unknown]  # fmt: skip
        raise InputError(f"{path}, {'; '.join(faults)}; see unet4d train --help")
    for key, node, line in settings:
        if key in seen:
            raise InputError(f"{path}, line {line}: {key} comes twice, expected it once; remove the other one")
        seen.add(key)
        if dataclasses.is_dataclass(types[key]):
            if not isinstance(node, yaml.MappingNode):
                raise InputError(f"{path}, line {line}: {key} is a value, expected {describe_type(types[key])}")
        elif key == "resume":
            yield from ["--resume"] * bool(node_value(node))
        else:
            yield f"--{key}={_option_value(node)}"


def _option_value(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "null" if node.tag == "tag:yaml.org,2002:null" else node.value
    return json.dumps(node_value(node), ensure_ascii=False, default=str)


def _settings(node: yaml.MappingNode, section: str = "") -> Iterator[tuple[str, yaml.Node, int]]:
    """Yield the dotted name, the value and the line of all in a mapping, two levels deep."""
    for key, value in node.value:
        yield f"{section}{key.value}", value, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode) and not section:
            yield from _settings(value, f"{key.value}.")


def _read(path: Path) -> yaml.Node | None:
    try:
        with open_regular(path) as file:
            return compose_yaml(path, file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--config {path} is missing; give the path of an existing YAML file") from error
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}); correct it there") from error
