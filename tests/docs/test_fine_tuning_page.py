"""Tests: the commands of docs/how-to/fine_tuning.md parse, its settings exist, and its line is the one that a training prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from unet4d.cli.main import _parse
from unet4d.config import TrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "fine_tuning.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^    (unet4d .+)$", PAGE, re.M)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line):
    words = shlex.split(line)[1:]
    assert _parse(words)[0] == words[0]


def test_the_settings_that_it_names_exist():
    named = set(re.findall(r"`train\.(\w+)", PAGE))
    assert named >= {"init_from", "init_hold_steps", "init_lr_factor", "freeze"}
    assert named <= set(vars(TrainConfig()))
