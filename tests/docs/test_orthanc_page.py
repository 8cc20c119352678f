"""Tests: the options on the page on Orthanc exist; the files of deploy/ fit together and fit the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from unet4d.cli.main import _parse
from unet4d.cli.orthanc import LOGIN_FILE, PASSWORD, USER
from unet4d.inference.orthanc.claims import ClaimOptions
from unet4d.inference.orthanc.rules import read_rules
from unet4d.inference.orthanc.worker import WorkerOptions

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "how-to" / "orthanc.md").read_text(encoding="utf-8")


def server_settings() -> dict:
    text = (DEPLOY / "orthanc.json").read_text(encoding="utf-8")
    return json.loads(re.sub(r"^\s*//.*$|\s//\s.*$", "", text, flags=re.M))


def test_every_option_it_names_is_one_of_the_command(command):
    known = command("orthanc", "--help").told
    assert [flag for flag in re.findall(r"`(--\w+)", PAGE) if flag not in known] == []
    assert [name for name in (USER, PASSWORD, LOGIN_FILE) if name not in PAGE] == []


def test_the_composition_starts_a_worker_that_reads_the_files_beside_it():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert _parse(services["worker"]["command"])[0] == "orthanc"
    mounts = [mount for service in services.values() for mount in service["volumes"] if mount.startswith("./")]
    files = {mount.split(":")[0].removeprefix("./") for mount in mounts}
    assert files == {"orthanc.json", "route.lua", "rules.yaml", "models"}
    assert [name for name in files - {"models"} if not (DEPLOY / name).is_file()] == []
    [model] = read_rules(DEPLOY / "rules.yaml", [])[0].models
    assert model == Path("/models/run")
    assert services["worker"]["environment"].keys() == {USER, PASSWORD}
    assert list(server_settings()["RegisteredUsers"]) == [services["worker"]["environment"][USER]]


def test_the_server_is_open_to_this_machine_alone_until_an_address_is_set():
    """DICOM knows no password: a port without an address would be open to every network of the machine."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    hosts = [port.rsplit(":", 2)[0] for service in services.values() for port in service.get("ports", [])]
    assert sorted(hosts) == ["${DICOM_ADDRESS:-127.0.0.1}", "127.0.0.1"]
    assert "DICOM_ADDRESS=" in PAGE


def test_the_settings_of_the_server_fit_the_worker():
    settings = server_settings()
    assert settings["CheckRevisions"] is True
    assert settings["UserMetadata"]["unet4d"] == ClaimOptions().key
    assert settings["StableAge"] <= WorkerOptions().settle_s


def test_links_and_files_it_names_are_there():
    named = re.findall(r"`(deploy/[\w./]+?)`", PAGE)
    generated = {"deploy/models/run", "deploy/.env"}
    assert [name for name in named if name not in generated and not (ROOT / name).exists()] == []
