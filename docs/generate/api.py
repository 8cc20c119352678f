"""Pages of the Python API, one per room: the names that users import, rendered from the code by mkdocstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "reference/python"
ABOUT = """\
# Python API

What the package has for Python, room by room; [a whole session](../../how-to/python.md) shows it at work. Names that `unet4d`
itself has are imported from there: `from unet4d import segment`. All others are imported from their module.

| room | what is in it |
|---|---|
"""


def pages() -> dict[str, str]:
    """Return a page per room, and their index, as Markdown by path."""
    rooms: dict[str, list[str]] = {}
    for path in public_names():
        rooms.setdefault(path.split(".")[1], []).append(path)
    docstrings = {room: _docstring(room) for room in rooms}
    rows = "".join(f"| [{room}]({room}.md) | {docstrings[room].splitlines()[0]} |\n" for room in sorted(rooms))
    found = {f"{FOLDER}/index.md": ABOUT + rows}
    for room, paths in sorted(rooms.items()):
        found[f"{FOLDER}/{room}.md"] = f"# unet4d.{room}\n\n{docstrings[room]}\n\n" + "".join(
            f"::: {path}\n" for path in paths
        )
    return found


def public_names() -> list[str]:
    """Return the full names that `unet4d` has, that commands call, and that pages and examples import, in order."""
    sources = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    blocks = [block for page in sources for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)]
    own = dict(homes())
    named = {f"{module}.{name}" for name, module in own.items()}
    for block in blocks:
        named |= {f"{own.get(name, module)}.{name}" for module, name in _imports(block)}
    for path in (ROOT / "unet4d" / "cli").glob("*.py"):
        named |= {
            f"{module}.{name}" for module, name in _imports(path.read_text("utf-8")) if module.endswith(f".{name}")
        }
    modules = {path for path in named if _is_module(path)}
    return sorted(path for path in named - modules if path.count(".") > 1)


def homes() -> Iterator[tuple[str, str]]:
    """Yield the names of the package and the modules that define them."""
    for node in ast.walk(ast.parse((ROOT / "unet4d" / "__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES":
            yield from ast.literal_eval(node.value).items()


def _imports(text: str) -> Iterator[tuple[str, str]]:
    try:
        nodes = ast.walk(ast.parse(text))
    except SyntaxError:  # a part of a program
        return
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "unet4d":
            yield from ((str(node.module), alias.name) for alias in node.names)


def _is_module(path: str) -> bool:
    base = ROOT.joinpath(*path.split("."))
    return base.is_dir() or base.with_suffix(".py").exists()


def _docstring(room: str) -> str:
    path = ROOT / "unet4d" / room
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
