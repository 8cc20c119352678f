"""Tests: what the package logs and where it is printed."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

import unet4d
from unet4d.cli.console import start_logging
from unet4d.system.progress_bar import RESULT, ProgressBar

PACKAGE = Path(unet4d.__file__).parent
PRINTING = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if "cli" not in path.relative_to(PACKAGE).parts and path.name != "__main__.py"
)
LOGGER = logging.getLogger("unet4d.somewhere")


@pytest.mark.parametrize("path", PRINTING, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_but_the_command_line_prints(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"] == []


def log_all() -> None:
    LOGGER.debug("a detail")
    LOGGER.info("a note")
    LOGGER.warning("a warning")


def test_notes_go_to_stdout_and_warnings_to_stderr(capsys):
    log_all()
    assert capsys.readouterr() == ("a note\n", "a warning\n")


def test_verbose_adds_details_with_time_and_module(capsys):
    start_logging(verbose=True)
    log_all()
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "unet4d.somewhere: a detail",
        "unet4d.somewhere: a note",
    ]


def test_quiet_leaves_results_and_warnings_and_no_bars(capsys):
    start_logging(quiet=True)
    log_all()
    logging.getLogger("unet4d.somewhere").log(RESULT, "a result")
    assert capsys.readouterr() == ("a result\n", "a warning\n")
    assert ProgressBar(disable=False).disable
    start_logging()
    assert not ProgressBar(disable=False, file=open("/dev/null", "w", encoding="utf-8")).disable  # noqa: SIM115


def test_all_but_the_first_process_are_silent(capsys):
    start_logging(silent=True)
    log_all()
    assert capsys.readouterr() == ("", "")


def test_a_caller_can_silence_the_package(capsys):
    logging.getLogger("unet4d").setLevel(logging.CRITICAL)
    log_all()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("option", ["--quiet", "--verbose"])
def test_every_command_has_the_option(command, tmp_path, option):
    done = command("phantom", "--out", tmp_path / "p", "--subjects", 1, "--frames", 2, option)
    assert (done.code, bool(done.told)) == (0, option == "--verbose")
