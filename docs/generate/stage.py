"""The tree of pages that the site is built from: those of docs/, generated ones, and pages and files of the repository."""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

from generate import api, commands, files, messages, settings
from unet4d.system.documents import SCHEMAS

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "experiments/README.md": "evidence/experiments.md",
    "data/README.md": "evidence/data.md",
    "ARCHITECTURE.md": "development/architecture.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "CHANGELOG.md": "development/changelog.md",
}
"""Pages outside of docs/: their path in the repository, and in the site. The README's place is the site's own first page."""
NOT_PAGES = {"generate", "drawing", "accessibility"}
"""Folders of docs/ that hold programs."""
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^()\s]+)\)")


def written_pages() -> dict[str, Path]:
    """Return the pages that people write, by their path in the site."""
    own = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    own = {name: path for name, path in own.items() if name.partition("/")[0] not in NOT_PAGES}
    return {target: ROOT / source for source, target in ELSEWHERE.items()} | own


def generated_pages() -> dict[str, str]:
    """Return the pages that are made from the code, as Markdown by their path in the site."""
    return {
        **commands.pages(),
        **api.pages(),
        **files.pages(),
        "reference/settings.md": settings.page(),
        "reference/messages.md": messages.page(),
    }


def stage(folder: Path) -> None:
    """Write all pages, pictures and linked files into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("pictures", "assets"):
        shutil.copytree(ROOT / "docs" / name, folder / name)
    shutil.copytree(SCHEMAS, folder / files.SCHEMAS)
    written, linked = written_pages(), set[str]()
    places = {path.relative_to(ROOT).as_posix(): name for name, path in written.items()} | ELSEWHERE
    pages = generated_pages()
    for name, path in written.items():
        pages[name] = _with_links(path.read_text(encoding="utf-8"), path, name, places, linked)
    for name, text in pages.items():
        _write(folder / name, text)
    for file in linked:
        (folder / "files" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / "files" / file)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _with_links(text: str, path: Path, name: str, places: dict[str, str], linked: set[str]) -> str:
    """Return a page with its links as its place in the site needs them; links to folders become plain text.

    Other files of the repository that it links to are added to `linked`, which the site has under files/.
    """

    def moved(match: re.Match[str]) -> str:
        words, (target, hash_, anchor) = match[1], match[2].partition("#")
        if not target or ":" in target:
            return match[0]
        source = posixpath.normpath(posixpath.join(path.parent.relative_to(ROOT).as_posix(), target))
        if (ROOT / source).is_dir():
            return words.strip("[]")
        if source == "README.md":
            anchor = hash_ = ""
        place = places.get(source) or (source.removeprefix("docs/") if source.startswith("docs/") else "")
        if not place:
            linked.add(source)
            place = f"files/{source}"
        return f"{words}({posixpath.relpath(place, posixpath.dirname(name) or '.')}{hash_}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)
