"""Tests: options named in docs/how-to/prediction.md and large_studies.md exist, and the Python of live.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from unet4d import load_model, read_image, segment
from unet4d.cli.prediction import PREDICT

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PAGE = "".join((HOW_TO / name).read_text(encoding="utf-8") for name in ("prediction.md", "large_studies.md"))


def test_every_flag_it_names_is_one_of_predict(capsys):
    named = {flag.split()[0] for flag in re.findall(r"`(--[^`]+)`", PAGE)}
    assert named >= {"--max_memory", "--continue", "--cyclic_shifts"}
    from unet4d.cli.main import run

    run(["predict", "--help"])
    known = capsys.readouterr().out
    assert [flag for flag in named if flag not in known] == []
    assert PREDICT.about


def test_the_python_runs_and_gives_what_it_says(tmp_path, monkeypatch, study, model_file):
    study(tmp_path / "study.nii.gz", frames=4)
    (tmp_path / "RUN").symlink_to(model_file(direction="forward"))
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(re.findall(r"```python\n(.*?)```", (HOW_TO / "live.md").read_text(encoding="utf-8"), re.S)[0], found)
    whole = segment(load_model("RUN"), read_image("study.nii.gz"), time="open")
    assert found["labels"].shape == whole.shape
    assert np.mean(found["labels"] == whole) > 0.999
