"""Check of what is published: `python deploy/check_release.py dist [--files] [--tag v0.1.0]`; `make release` runs it.

It ends with 1 where an archive is too large, lacks a file of the package or has one that
does not belong there, or where version, changelog, citation and tag differ.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES = 5_000_000
BESIDE = {
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md"),
    *("constraints.txt", "pyproject.toml", "setup.cfg"),
}
"""Files of the sdist outside of the package and of unet4d.egg-info."""


def version_faults(root: Path, tag: str | None = None) -> Iterator[str]:
    """Yield where a version is not that of pyproject.toml, which is the only one that a release changes by hand."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", _text(root / "CHANGELOG.md"), re.M):
        yield f"CHANGELOG.md has no section [{version}] with a date; cut one"
    if f"\nversion: {version}\n" not in _text(root / "CITATION.cff"):
        yield f"CITATION.cff has another version than {version}; change it"
    if tag not in (None, f"v{version}"):
        yield f"got the tag {tag}, expected v{version}; change the version in pyproject.toml, or the tag"


def files_of(archive: Path) -> dict[str, int]:
    """Return the files of a wheel or of an sdist with their sizes in bytes; an sdist's without its outer folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {info.filename: info.file_size for info in wheel.infolist()}
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2]: member.size for member in sdist if member.isfile()}


def archive_faults(archive: Path, root: Path) -> Iterator[str]:
    """Yield what an archive lacks of the package, what does not belong into it, and its size if that is too large."""
    found = set(files_of(archive))
    package = {name for name in found if name.startswith("unet4d/")}
    wanted = {path.relative_to(root).as_posix() for path in (root / "unet4d").rglob("*") if _is_published(path)}
    other = found - package
    if archive.suffix == ".whl":
        other = {name for name in other if not re.match(r"unet4d-[^/]+\.dist-info/", name)}
    else:
        other = {name for name in other - BESIDE if not name.startswith("unet4d.egg-info/")}
    yield from (f"{archive.name} lacks {name}" for name in sorted(wanted - package))
    yield from (f"{archive.name} has {name}, which is not published" for name in sorted((package - wanted) | other))
    if archive.stat().st_size >= MOST_BYTES:
        yield f"{archive.name} has {archive.stat().st_size} bytes, expected less than {MOST_BYTES}"


def _is_published(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main() -> int:
    """List the archives of a folder, print the faults and return the exit code."""
    parser = argparse.ArgumentParser(description="check of what is published")
    parser.add_argument("dist", type=Path, metavar="DIST")
    parser.add_argument("--files", action="store_true", help="list the files of each archive")
    parser.add_argument("--tag", help="the release's tag, such as v0.1.0")
    given = parser.parse_args()
    archives = [*given.dist.glob("unet4d-*.tar.gz"), *given.dist.glob("unet4d-*.whl")]
    faults = list(version_faults(ROOT, given.tag))
    if len(archives) != 2:
        faults.append(f"got {len(archives)} archives in {given.dist}, expected one sdist and one wheel")
    for archive in archives:
        files = files_of(archive)
        print(f"{archive.name}: {archive.stat().st_size} bytes, {len(files)} files")
        if given.files:
            print(*(f"  {size:9,d}  {name}" for name, size in sorted(files.items())), sep="\n")
        faults += archive_faults(archive, ROOT)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
