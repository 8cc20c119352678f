"""Tests: the site's navigation holds every page, links of pages lead somewhere, commands parse, generated pages are complete."""

from __future__ import annotations

import argparse
import functools
import posixpath
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from markdown.extensions.toc import slugify

import unet4d
from unet4d.cli import COMMANDS, main
from unet4d.config import Config
from unet4d.errors import InputError, Stopped
from unet4d.system.documents import load_schema, schema_names

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
from generate import api, files, messages, settings, stage  # noqa: E402
from generate import commands as command_pages  # noqa: E402

WRITTEN = {name: path.read_text(encoding="utf-8") for name, path in stage.written_pages().items()}
GENERATED = stage.generated_pages()
PAGES = {**GENERATED, **WRITTEN}
ELSEWHERE = ("start/", "how-to/", "explanation/", "evidence/experiments.md", "development/changelog.md")
"""Pages with commands that other tests parse, that tested programs ran once, or that belong to versions that are gone."""


def nav_pages(entries: list) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else nav_pages(value)


def test_the_navigation_holds_every_page_once():
    nav = tomllib.loads((ROOT / "docs/generate/zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    folders = (f"{command_pages.FOLDER}/", f"{api.FOLDER}/")
    pages = [page for name in nav_pages(nav) for page in (
        [page for page in GENERATED if page.startswith(name)] if name in folders else [name]
    )]  # fmt: skip
    assert sorted(pages) == sorted(PAGES), "docs/generate/zensical.toml lists all pages"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the site makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    found = {""}
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        named = re.search(r"\{ #(\S+) \}", heading)
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)|[`*]", r"\1", heading)
        found.add(named[1] if named else slugify(plain, "-"))
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_links_lead_somewhere(name):
    source = stage.written_pages()[name]
    places = {path.relative_to(ROOT).as_posix(): page for page, path in stage.written_pages().items()}
    wrong = []
    for _, link in stage.LINK.findall(re.sub(r"^```.*?^```$|`[^`\n]*`", "", WRITTEN[name], flags=re.M | re.S)):
        if ":" in link:
            continue
        target, _, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(source.parent.relative_to(ROOT).as_posix(), target)) if target else ""
        page = places.get(path, path.removeprefix("docs/")) if target else name
        is_anchor = not anchor or page not in PAGES or path == "README.md" or anchor in anchors(PAGES[page])
        if not is_anchor or (page not in PAGES and not (ROOT / path).exists()):
            wrong.append(link)
    assert wrong == []


def shown_commands(text: str) -> list[str]:
    """Return the lines of indented and fenced examples that call unet4d, continued lines joined, comments removed."""
    blocks = re.findall(r"^ *```(?:sh|bash|console)?\n(.*?)^ *```$", text, re.M | re.S)
    indented = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    lines = [*re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines(), *re.findall(r"^    (.+)$", indented, re.M)]
    calls = (re.sub(r"^\$ |\s+#.*|\s&$|\s*[<>|]\s.*", "", line.strip()) for line in lines)
    return sorted({call for call in calls if call.startswith("unet4d ") and not re.search(r"\$|\.\.\.", call)})


@pytest.fixture(scope="module")
def parsers() -> Iterator[None]:
    """Build the parser of each command once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "command_parser", functools.cache(main.command_parser))
        yield


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith(ELSEWHERE)])
@pytest.mark.usefixtures("parsers")
def test_the_commands_of_a_page_parse(name, tmp_path, monkeypatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for config in ("plan.yaml", "mine.yaml"):  # as `unet4d plan` leaves one
        (tmp_path / config).write_text("train: {epochs: 3}\n")
    monkeypatch.chdir(tmp_path)
    for line in shown_commands(PAGES[name]):
        words = shlex.split(line)[1:]
        if words[0] in COMMANDS and not {"--help"} & set(words):
            assert main._parse(words)[0] == words[0], line


def test_every_command_has_a_page_with_all_of_its_options():
    for name in COMMANDS:
        page = GENERATED[f"{command_pages.FOLDER}/{name}.md"]
        actions = [one for one in main.command_parser(name)._actions if one.help != argparse.SUPPRESS]
        options = [option for action in actions for option in action.option_strings]
        own = {one.rstrip("+") for one in options if one.strip("-").partition(".")[0] not in command_pages.SECTIONS}
        shown = {
            option for head in re.findall(r"^(`.*)\n:   ", page, re.M) for option in re.findall(r"`(-[^`]+)`", head)
        }
        assert own - shown == {"-h", "--help"}, name
        assert "default `[]`" not in page, name


def test_the_commands_that_print_json_are_listed_with_their_schemas():
    printing = {name for name in COMMANDS if "--json" in main.command_parser(name)._option_string_actions}
    assert command_pages.DOCUMENTS.keys() == printing
    assert set(command_pages.DOCUMENTS.values()) <= set(schema_names())


def test_every_setting_is_described():
    page = settings.page()
    for section, values in Config().as_dict().items():
        names = [section] if not isinstance(values, dict) else [f"{section}.{name}" for name in values]
        assert [name for name in names if f"### `{name}` {{ #{name} }}" not in page] == []


def test_every_table_and_document_is_described_with_all_of_its_keys():
    page = GENERATED["reference/files.md"]
    for table, command in files.written_tables():
        [section] = re.findall(rf"^### {table.file} of unet4d {command}\n(.*?)(?=^##|\Z)", page, re.M | re.S)
        assert re.findall(r"^\| `([^`]+)` \|", section, re.M) == list(table.columns)
    for name in set(schema_names()) - {"dataset"}:
        [section] = re.findall(rf"^### {name} {{ #schema-{name} }}\n(.*?)(?=^##|\Z)", page, re.M | re.S)
        assert [key for key in load_schema(name).get("properties", {}) if f"| `{key}` |" not in section] == []
    case = load_schema("dataset")["definitions"]["case"]["properties"]
    keys = {*load_schema("dataset")["properties"], *(f"training[].{key}" for key in case)}
    assert {key for key in keys if f"| `{key}` |" not in GENERATED["reference/dataset.md"]} == set()
    assert "| `labels` | " in GENERATED["reference/dataset.md"]


def test_every_public_name_is_in_the_python_reference():
    shown = [path for text in GENERATED.values() for path in re.findall(r"^::: (\S+)$", text, re.M)]
    assert len(shown) == len(set(shown))
    assert {path.rpartition(".")[2] for path in shown} >= set(unet4d.__all__) - {"__version__"}


def test_messages_are_found_in_the_code(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        'def f(x):\n    raise InputError(f"got {x}, expected "\n        f"a folder; see {x!r}") from None\n'
    )
    assert list(messages.messages(source)) == [("got …, expected a folder; see …", "exit code 2")]
    page = GENERATED["reference/messages.md"]
    assert page.count("| exit code 2 |") > 200
    for code in (InputError.exit_code, Stopped.exit_code, 130):
        assert f"\n| {code} | " in page


@pytest.fixture
def build() -> ModuleType:
    """The program that builds the site."""
    pytest.importorskip("zensical", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    from generate import __main__ as build

    return build


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_or_a_broken_link(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", ROOT / "build" / "test")
    assert build.main() == 0
    pages = {path.relative_to(ROOT / "build/test/site") for path in (ROOT / "build/test/site").rglob("*.html")}
    assert {Path(name).with_suffix(".html") for name in PAGES} <= pages


def test_help_offers_no_file_for_a_single_section():
    shown = main.command_parser("train").format_help()
    assert "--config FILE" in shown
    assert not [section for section in command_pages.SECTIONS if f"--{section} " in shown]
