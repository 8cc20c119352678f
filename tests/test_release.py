"""Tests: what is published is whole and small, versions agree, workflows are pinned, recipe and compose files fit the package."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from deploy import check_release
from deploy.absolute_links import absolute_links
from deploy.chroot import JOB, Image, instructions, write_context
from unet4d.cli.main import _parse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def checkout(tmp_path):
    """Return a project of one module with a version, a changelog and a citation."""
    (tmp_path / "unet4d" / "__pycache__").mkdir(parents=True)
    (tmp_path / "unet4d" / "__init__.py").write_text("x = 1\n")
    (tmp_path / "unet4d" / "__pycache__" / "__init__.pyc").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2030-01-31\n")
    (tmp_path / "CITATION.cff").write_text("type: software\nversion: 1.2.3\nlicense: Apache-2.0\n")
    return tmp_path


def make_wheel(folder: Path, *names: str) -> Path:
    with zipfile.ZipFile(folder / "unet4d-1.2.3-py3-none-any.whl", "w") as wheel:
        for name in names:
            wheel.writestr(name, "x = 1\n")
    return folder / "unet4d-1.2.3-py3-none-any.whl"


def make_sdist(folder: Path, *names: str) -> Path:
    with tarfile.open(folder / "unet4d-1.2.3.tar.gz", "w:gz") as sdist:
        for name in names:
            member = tarfile.TarInfo(f"unet4d-1.2.3/{name}")
            member.size = 6
            sdist.addfile(member, io.BytesIO(b"x = 1\n"))
    return folder / "unet4d-1.2.3.tar.gz"


def test_the_version_of_this_checkout_is_the_same_everywhere():
    assert list(check_release.version_faults(ROOT)) == []


def test_versions_that_differ_are_reported(checkout):
    assert list(check_release.version_faults(checkout, "v1.2.3")) == []
    assert len(list(check_release.version_faults(checkout, "v1.2.4"))) == 1
    (checkout / "CHANGELOG.md").write_text("## [1.2.3] (unreleased)\n")
    (checkout / "CITATION.cff").write_text("version: 1.2.30\n")
    assert [fault.split()[0] for fault in check_release.version_faults(checkout)] == ["CHANGELOG.md", "CITATION.cff"]


def test_whole_archives_have_no_fault(checkout):
    wheel = make_wheel(checkout, "unet4d/__init__.py", "unet4d-1.2.3.dist-info/METADATA")
    sdist = make_sdist(checkout, "unet4d/__init__.py", "pyproject.toml", "unet4d.egg-info/SOURCES.txt")
    assert [*check_release.archive_faults(wheel, checkout), *check_release.archive_faults(sdist, checkout)] == []
    assert check_release.files_of(sdist)["pyproject.toml"] == 6


@pytest.mark.parametrize("make", [make_wheel, make_sdist])
def test_what_lacks_and_what_does_not_belong_is_reported(checkout, make):
    archive = make(checkout, "unet4d/old.py", "tests/test_a.py")
    faults = list(check_release.archive_faults(archive, checkout))
    assert [fault.split()[1:3] for fault in faults] == [
        ["lacks", "unet4d/__init__.py"],
        ["has", "tests/test_a.py,"],
        ["has", "unet4d/old.py,"],
    ]


def test_an_archive_that_is_too_large_is_reported(checkout, monkeypatch):
    wheel = make_wheel(checkout, "unet4d/__init__.py")
    monkeypatch.setattr(check_release, "MOST_BYTES", wheel.stat().st_size)
    assert "expected less than" in "".join(check_release.archive_faults(wheel, checkout))


def test_links_to_files_become_absolute_and_others_stay():
    text = "![a](docs/a.webp) [b](docs/b.md#c) [d](https://example.org) [e](#f)"
    assert absolute_links(text, "https://host/owner/name", "v1") == (
        "![a](https://host/owner/name/raw/v1/docs/a.webp) [b](https://host/owner/name/blob/v1/docs/b.md#c) "
        "[d](https://example.org) [e](#f)"
    )


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_is_pinned_limited_and_calls_what_is_there(file):
    text = file.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}  # each job names its own
    assert all({"permissions", "timeout-minutes"} <= job.keys() for job in workflow["jobs"].values())
    actions = re.findall(r"uses: (\S+)", text)
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []
    assert text.count("uses: actions/checkout@") == text.count("persist-credentials: false")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"run: make ([a-z]+)", text)) <= targets | {"docs"}
    assert all((ROOT / script).is_file() for script in re.findall(r"python (\S+\.py)", text))


def test_the_suite_runs_on_three_systems_and_every_version_of_python_that_is_named():
    matrix = yaml.safe_load((WORKFLOWS[0].parent / "tests.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    systems = {*matrix["system"], *(row["system"] for row in matrix["include"])}
    assert {system.split("-")[0] for system in systems} == {"ubuntu", "macos", "windows"}
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one) for one in PROJECT["classifiers"]]
    assert {match[1] for match in named if match} <= set(
        matrix["python"]
    )  # named are those that were run, see systems.md
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"


def test_the_recipe_asks_for_what_the_package_asks_for():
    recipe = yaml.safe_load((ROOT / "deploy" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    asked = {re.sub(r"\[.*\]|;.*", "", dependency) for dependency in PROJECT["dependencies"]}
    names = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-fastjsonschema": "fastjsonschema"}
    given = {
        names.get(name, name) + limit for name, _, limit in (r.partition(" ") for r in recipe["requirements"]["run"])
    }
    assert given == asked | {"python>=${{ python_min }}", "docstring_parser", "typeshed_client"}
    assert recipe["context"] == {"version": PROJECT["version"], "python_min": PROJECT["requires-python"][2:]}
    [script] = recipe["build"]["python"]["entry_points"]
    assert script == f"unet4d = {PROJECT['scripts']['unet4d']}"


def test_the_services_for_a_gpu_train_and_predict(tmp_path, monkeypatch):
    services = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yaml").read_text(encoding="utf-8"))["services"]
    monkeypatch.chdir(tmp_path)
    for name, service in services.items():
        arguments = shlex.split(service["command"].replace("${RESUME:-}", "--resume"))
        assert _parse(arguments)[0] == name
        mounts = [volume.rpartition("}:")[2].split(":")[0] for volume in service["volumes"]]
        assert [path for path in arguments if path.startswith("/") and not path.startswith(tuple(mounts))] == []


def test_a_dockerfile_is_read_and_its_settings_followed(tmp_path):
    text = (
        'ARG BASE=a\n# no\nFROM ${BASE}\nARG KEY\nENV PATH=/b:${PATH} \\\n    NAME="c d"\nUSER 1:1\nENTRYPOINT ["e"]\n'
    )
    image = Image(tmp_path, {"KEY": "given"})
    for name, rest in instructions(text):
        image.carry_out(name, rest)
    assert (image.arguments, image.user, image.entrypoint) == ({"BASE": "a", "KEY": "given"}, "1:1", ["e"])
    assert (image.environment["PATH"][:4], image.environment["NAME"]) == ("/b:/", "c d")


def test_the_trial_makes_trains_and_predicts():
    assert [_parse(list(words))[0] for words in JOB] == ["phantom", "train", "predict"]


def test_the_context_of_the_trial_is_what_enters_the_image(tmp_path):
    write_context(tmp_path / "context")
    assert {path.name for path in (tmp_path / "context").iterdir()} == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "unet4d",
    }  # fmt: skip
    assert list((tmp_path / "context").rglob("__pycache__")) == []
