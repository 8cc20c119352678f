"""ARCHITECTURE.md lists every module of the package once, in its room, and no other; the rows of imports are those of the test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.test_architecture import ROWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "unet4d"


def listed() -> list[str]:
    """Return the modules that the page lists, as paths in the package."""
    found, room = [], ""
    for line in PAGE.splitlines():
        if heading := re.match(r"### `unet4d/(.*?)/?`", line):
            room = heading[1] + "/" if heading[1] else ""
        found += [room + name for name in re.findall(r"^\| `([\w/.]+\.py)` \|", line)]
    return found


def test_every_module_is_listed_once_in_its_room():
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")}
    assert sorted(listed()) == sorted(modules)


def test_a_module_is_described_as_its_docstring_begins():
    rows = re.findall(r"^\| `[\w/.]+\.py` \| (.+) \|$", PAGE, re.M)
    for path, row in zip(listed(), rows, strict=True):
        docstring = ast.get_docstring(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
        assert docstring, path
        assert " ".join(docstring.split()).startswith(row.replace("\\|", "|")), path


def test_the_rows_of_imports_are_those_that_the_test_holds():
    rows = re.findall(r"^    (\w+) +<-", PAGE, re.M)
    assert rows == [room for row in ROWS for room in row if room not in ("system.text", "__main__")][::-1]


def test_links_and_figures_are_there():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PAGE)]
    assert not [link for link in links if link and not link.startswith("http") and not (ROOT / link).exists()]


def test_files_that_the_pages_for_developers_name_are_there():
    pages = PAGE.split("## Modules")[0] + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+(?:\.py|\.md|/))`", pages)) | set(
        re.findall(r"\btests/[\w/]+\.py", pages)
    )
    missing = [name for name in named if not any((root / name).exists() for root in (ROOT, PACKAGE))]
    own = {
        "clstm_unet.py",
        "utils.py",
        "dist/",
    }  # named without their room, one that there is not, and one that `make release` makes
    assert sorted(set(missing) - own) == []
