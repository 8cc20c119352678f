"""Tests: calls of unet4d behind torchrun, docker and in scripts parse, settings exist, pictures have a text, programs run."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch.distributed.run

from unet4d.cli import COMMANDS
from unet4d.cli.main import _parse
from unet4d.config import Config
from unet4d.datasets.dataset import read_dataset
from unet4d.phantom import write_phantom

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for part in ("start", "how-to", "explanation") for path in (DOCS / part).rglob("*.md"))
CALL = re.compile(rf"(?P<before>.*?)\bunet4d (?P<words>(?:{'|'.join(sorted(COMMANDS))})\b.*)")
VARIABLES = {"$resume": "--resume", "$SLURM_ARRAY_TASK_ID": "0", "$PWD": "."}
LARGEST_PICTURES = {"augmentation.webp": 140_000}
"""Bytes: a sheet of all effects. All others have 60,000 at most."""


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def calls(page: Path) -> list[tuple[str, str]]:
    """Return what precedes each call of unet4d in the blocks of commands, fenced or indented, and its words."""
    blocks = [*re.findall(r"^ *```sh\n(.*?)```", text(page), re.S | re.M), *re.findall(r"^    (.+)$", text(page), re.M)]
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    found = [CALL.match(re.sub(r"(^|\s+)#.*|\s&$", "", line)) for line in lines]
    return [(match["before"], match["words"]) for match in found if match]


CALLS = sorted({call for page in PAGES for call in calls(page) if call[0].strip() or "$" in call[1]})
"""Those behind another program or with a variable; test_site.py tests all others."""


def test_torchrun_docker_and_scripts_are_shown():
    assert [sum(name in before for before, _ in CALLS) for name in ("torchrun", "docker")] >= [4, 2]
    assert sum("$" in call for _, call in CALLS) >= 3


@pytest.mark.parametrize(("before", "words"), CALLS, ids=[words[:60] for _, words in CALLS])
def test_a_command_parses(before, words, tmp_path, monkeypatch):
    (tmp_path / "plan.yaml").write_text("train: {epochs: 3}\n")  # as `unet4d plan` leaves one
    monkeypatch.chdir(tmp_path)
    for name, value in VARIABLES.items():
        words = words.replace(name, value)
    given = shlex.split(words)
    assert _parse(given)[0] == given[0]
    if "torchrun" in before:
        options = shlex.split(before.partition("torchrun ")[2])
        parser = torch.distributed.run.get_args_parser()
        if "--shutdown-timeout" in options and "--shutdown-timeout" not in parser.format_help():
            pytest.skip("torch's torchrun has no --shutdown-timeout, as the page notes for torch 2.10")
        parsed = parser.parse_args([*options, "unet4d", *given])
        assert parsed.module
        assert parsed.training_script_args == given


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_it_names_is_one(page):
    config = Config().as_dict()
    sections = "|".join(name for name, value in config.items() if isinstance(value, dict))
    named = re.findall(rf"[`-]({sections})\.(\w+)", text(page))
    assert [f"{section}.{name}" for section, name in named if name not in config[section]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_a_text_and_are_small(page):
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text(page))
    assert pictures or page.parent.name not in ("how-to", "explanation"), "expected a picture"
    for words, path in pictures:
        assert len(words) > 30, path
        assert (page.parent / path).stat().st_size <= LARGEST_PICTURES.get(Path(path).name, 60_000), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_begins_with_its_purpose(page):
    title, purpose = text(page).split("\n\n")[:2]
    assert title.startswith("# ")
    assert not purpose.startswith(("```", "![", "[![", "|", "    ")), "expected a sentence below the title"


def test_the_first_dataset_is_described_by_its_program(tmp_path, monkeypatch, capsys):
    write_phantom(tmp_path / "studies", subjects=2, frames=4, labelled="two", shape=(40, 36, 5))
    known = read_dataset(tmp_path / "studies").training
    (tmp_path / "studies" / "dataset.json").unlink()
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"```python\n(.*?)```", text(DOCS / "start" / "first_dataset.md"), re.S)
    exec(program, {})
    found = read_dataset("studies")
    assert capsys.readouterr().out == "2 studies\n"
    assert [case.labelled_frames for case in found.training] == [case.labelled_frames for case in known]
    assert found.cyclic


def test_the_dataset_of_the_page_is_read(tmp_path):
    [example] = re.findall(r"```json\n(\{\n  \"name.*?)```", text(DOCS / "how-to" / "data.md"), re.S)
    (tmp_path / "dataset.json").write_text(example)
    for name in re.findall(r'"((?:images|labels)/[^"]+)"', example):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = read_dataset(tmp_path)
    anna, ben = dataset.training
    assert (dataset.cyclic, anna.labelled_frames, ben.labelled_frames) == (True, (0, 11), (0, 9))
    assert len(dataset.test) == 1
