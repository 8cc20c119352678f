"""The formatter of `--help`: examples as they are written, and of each option the kind of its value and its default."""

from __future__ import annotations

import argparse
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

from unet4d.config import Size
from unet4d.system.checks import describe_type

_OF_TYPE = {
    int: "N", float: "X", Size: "[X,Y,Z]", list[int]: "[N,...]", list[str]: "[NAME,...]", list[Size]: "[[X,Y,Z],...]",
    dict: "'{NAME: VALUE}'",
}  # fmt: skip
_OF_TEXT = {
    name: place
    for place, names in {
        "DIR": ("dir", "dataset", "reference", "prediction", "evaluation", "predictions"),
        "FILE": ("file", "config", "terms", "durations", "licence", "rules"),
        "TIME": ("budget",),
        "CLASS": ("loss", "augmenter", "temporal"),
        "SIZE": ("memory",),
        "PATH": ("out", "image", "input"),
        "CASE": ("cases",),
        "METRIC": ("metrics",),
    }.items()
    for name in names
}
"""Last word of an option's name to what stands for its value; of other texts the name in capitals."""


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Formats a command's help. What the names of options show is not repeated: choices, switches, plain texts."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if isinstance(action, argparse._HelpAction):
            return "print this help and end"
        notes = [_describe_kind(action)]
        if action.option_strings:
            notes.append("required" if action.required else _describe_default(action))
        shown = ", ".join(filter(None, notes))
        return f"{text} ({shown})" if shown else text

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Return names and value once: "-o, --out DIR", without jsonargparse's second name that appends to a list."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.option_strings and action.choices is None and (place := _place(action)):
            several = f"[{place} ...]" if action.nargs == "*" else f"{place} [{place} ...]"
            return place if action.nargs is None else several
        return super()._format_args(action, default_metavar)


def _kind(action: argparse.Action) -> Any:
    return getattr(action, "_typehint", None) or action.type


def _place(action: argparse.Action) -> str:
    """Return what stands for the value of an option: "N", "[X,Y,Z]", "N|all", "DIR"; empty for the name in capitals."""
    kind = _without_none(_kind(action))
    if kind is str:
        return _OF_TEXT.get(action.dest.rpartition("_")[2].rpartition(".")[2], "")
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    places = [_OF_TYPE.get(get_origin(one) if get_origin(one) is dict else one, "") for one in parts]
    places = [place or "|".join(map(str, get_args(one))) for place, one in zip(places, parts, strict=True)]
    return "" if parts == (bool,) or (get_origin(kind) is Literal and len(get_args(kind)) > 1) else "|".join(places)


def _without_none(kind: Any) -> Any:
    """Return a type without None: what is unset is described by the help of the option itself."""
    if get_origin(kind) in (Union, UnionType):
        others = tuple(one for one in get_args(kind) if one is not NoneType)
        return others[0] if len(others) == 1 else Union[others]  # noqa: UP007
    return kind


def _describe_kind(action: argparse.Action) -> str:
    """Return a text on the kind of a value; empty where the name of the option shows it."""
    kind = _without_none(_kind(action))
    is_shown = action.nargs == 0 or action.choices or kind in (None, str, bool)
    is_shown = is_shown or get_origin(kind) is Literal
    return "" if is_shown else describe_type(kind).replace("a finite number", "a number")


def _describe_default(action: argparse.Action) -> str:
    """Return the default; empty where the help describes what holds without the option."""
    if action.nargs == 0 or action.default in (None, [], argparse.SUPPRESS):
        return ""
    if isinstance(action.default, bool):
        return f"default: {str(action.default).lower()}"
    if isinstance(action.default, list) and action.nargs is not None:
        return f"default: {' '.join(map(str, action.default))}"
    return "default: %(default)s"
