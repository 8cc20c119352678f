"""Tests: the Dockerfile agrees with the files it repeats, and nothing private enters the image."""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest

from deploy.chroot import instructions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = list(instructions((ROOT / "Dockerfile").read_text()))


def _last(name: str) -> str:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name][-1]


def _enters_the_image(path: str) -> bool:
    """Return whether .dockerignore lets a file through; the last pattern that matches it, or a folder above it, counts."""
    parts = path.split("/")
    here = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    enters = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        names = parts if pattern.startswith("**/") else here
        if line and not line.startswith("#") and any(fnmatch.fnmatch(n, pattern.removeprefix("**/")) for n in names):
            enters = line.startswith("!")
    return enters


def test_base_image_brings_the_pinned_torch():
    version = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version
    bases = [rest for name, rest in INSTRUCTIONS if name == "ARG" and rest.startswith("BASE=")]
    assert len(bases) == 1
    assert f":{version[1]}-cuda" in bases[0]


def test_label_has_the_version_and_the_licence_of_the_package():
    assert f'image.version="{PROJECT["version"]}"' in _last("LABEL")
    assert f'image.licenses="{PROJECT["license"]}"' in _last("LABEL")


def test_entrypoint_is_the_console_script():
    (command,) = json.loads(_last("ENTRYPOINT"))
    assert command in PROJECT["scripts"]


def test_user_is_not_root():
    assert all(int(number) > 0 for number in _last("USER").split(":"))


@pytest.mark.parametrize(
    "path", ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "unet4d/images/nifti.py"]
)
def test_what_the_build_needs_enters(path):
    assert (ROOT / path).is_file()
    assert _enters_the_image(path)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/acdc/patient001.nii.gz",
        "demo/summary.json",
        "runs/first/checkpoint_best.pt",
        "build/lib/unet4d/cli/main.py",
        "unet4d.egg-info/PKG-INFO",
        "unet4d/__pycache__/cli.cpython-311.pyc",
        ".env",
    ],
)
def test_nothing_else_enters(path):
    assert not _enters_the_image(path)
