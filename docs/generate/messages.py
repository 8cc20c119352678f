"""The page of exit codes, environment variables and messages, found in the code itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from generate.text import prose
from unet4d.cli.main import INTERRUPTED
from unet4d.errors import InputError, Stopped, Unet4DError

PACKAGE = Path(__file__).parents[2] / "unet4d"
ENDS = {"InputError": "exit code 2", "Unet4DError": "exit code 1", "warning": "a warning"}
BEFORE = """\
# Exit codes and messages

## Exit codes

The same for every command. A batch continues with the other studies after a failure, lists what failed, and ends with a code that
is not 0.

| code | meaning |
|---|---|
"""
BETWEEN = """\

## Environment variables

| variable | where |
|---|---|
"""
AFTER = """\

## Messages

A message is one line on stderr: what was got, what was expected, what to do. `UNET4D_DEBUG=1` adds the traceback of an error.
These are all of them, by the room of the package that they come from; `…` stands for what varies.
"""


class Message(NamedTuple):
    """A message of the code: its text with … for what varies, and how it ends the command."""

    text: str
    end: str


def page() -> str:
    """Return the page as Markdown."""
    codes = {0: "done", **{kind.exit_code: _summary(kind) for kind in (Unet4DError, InputError, Stopped)}}
    codes[INTERRUPTED] = "Interrupted (Ctrl-C); whatever is written is whole"
    lines = [BEFORE, *(f"| {code} | {meaning} |\n" for code, meaning in sorted(codes.items())), BETWEEN]
    lines += [f"| `{name}` | {', '.join(f'`{path}`' for path in paths)} |\n" for name, paths in variables().items()]
    lines.append(AFTER)
    for room in sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()):
        if found := sorted({message for path in (PACKAGE / room).rglob("*.py") for message in messages(path)}):
            rows = (f"| {prose(message.text)} | {message.end} |\n" for message in found)
            lines += [f"\n### {room}\n\n| message | ends with |\n|---|---|\n", *rows]
    return "".join(lines)


def variables() -> dict[str, list[str]]:
    """Return the environment variables that the package reads, each with the modules that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in set(re.findall(r"\"(UNET4D_[A-Z_]+)\"", path.read_text(encoding="utf-8"))):
            found.setdefault(name, []).append(path.relative_to(PACKAGE.parent).as_posix())
    return dict(sorted(found.items()))


def messages(path: Path) -> Iterator[Message]:
    """Yield the messages of the errors that a module raises and of the warnings that it logs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ENDS and (text := _text(node.args[0])):
                yield Message(text, ENDS[name])


def _text(node: ast.expr) -> str:
    """Return a text with … for its expressions; nothing where it has no words of its own."""
    match node:
        case ast.Constant(value=str(text)):
            found = text
        case ast.JoinedStr(values=parts):
            found = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            found = (_text(left) or "…") + (_text(right) or "…")
        case _:
            found = ""
    return " ".join(found.split()) if re.search(r"\w", found) else ""


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0].replace("`", "").replace("--", r"\--")
