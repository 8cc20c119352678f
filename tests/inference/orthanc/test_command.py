"""Tests of the command `unet4d orthanc` against a server in this process."""

from __future__ import annotations

import base64

import pytest

from tests.inference.orthanc.fake_server import serving
from tests.inference.orthanc.stand_in import RESULTS, cine, stand_in
from unet4d.errors import Unet4DError


@pytest.fixture
def server():
    with serving() as fake:
        fake.add(*cine("anna"))
        yield fake


@pytest.fixture
def run(command, server, model_file, monkeypatch):
    """Run the command with a model and this server."""
    monkeypatch.setattr("unet4d.inference.orthanc.orthanc.predict_answer", lambda *given: stand_in)

    def called(*arguments):
        return command("orthanc", model_file(), "--url", server.url, "--settle_s", "0", *arguments)

    return called


def test_a_round_answers_what_is_there_and_the_status_shows_it(run, server):
    assert "1 to do, 0 to do later, 0 answered, 0 failed, 0 ignored" in run("--dry_run").told
    done = run("--once")
    assert (done.code, done.error) == (0, "")
    assert "1 answer, 0 left for later" in done.told
    assert len(server.of_modality("OT")) == RESULTS
    shown = run("--status", "--quiet")
    assert "0 to do, 0 to do later, 1 answered, 0 failed, 1 ignored" in shown.told


def test_a_round_with_a_failure_ends_with_1_and_names_it(run, monkeypatch):
    def failing(*given):
        raise Unet4DError("the wrong channels")

    monkeypatch.setattr("unet4d.inference.orthanc.orthanc.predict_answer", lambda *given: failing)
    done = run("--once")
    assert done.code == 1
    assert "1 could not be answered: series" in done.error
    assert "the wrong channels" in done.error


def test_a_login_comes_from_the_environment_or_a_file(run, server, monkeypatch, tmp_path):
    server.login = "Basic " + base64.b64encode(b"worker:sec:ret").decode()
    assert run("--dry_run").code == 2
    monkeypatch.setenv("UNET4D_ORTHANC_USER", "worker")
    assert "UNET4D_ORTHANC_PASSWORD" in run("--dry_run").line
    monkeypatch.setenv("UNET4D_ORTHANC_PASSWORD", "sec:ret")
    assert run("--dry_run").code == 0
    monkeypatch.delenv("UNET4D_ORTHANC_USER")
    (tmp_path / "login").write_text("worker:sec:ret\n")
    assert run("--dry_run", "--login_file", tmp_path / "login").code == 0
    monkeypatch.setenv("UNET4D_ORTHANC_LOGIN_FILE", str(tmp_path / "login"))
    assert run("--dry_run").code == 0
    (tmp_path / "login").write_text("worker\n")
    assert "user:password" in run("--dry_run").line


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--once", "--status"], "--once"),
        (["--state_key", "12"], "--state_key"),
        (["--lease_s", "0"], "lease_s"),
        (["--attempts", "0"], "attempts"),
        (["--settle_s", "-1"], "--settle_s"),
        (["--poll_s", "0"], "--poll_s"),
        (["--ca_file", "gone.pem", "--url", "https://localhost"], "--ca_file"),
    ],
)
def test_a_wrong_option_is_one_line(run, more, why):
    done = run(*more)
    assert done.code == 2
    assert why in done.line
