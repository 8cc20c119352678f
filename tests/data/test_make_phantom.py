"""The script that makes phantoms of 4D flow and contrast uptake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.phantom.make import main, make
from unet4d.errors import InputError


def test_the_script_writes_a_dataset_and_prints_its_path(tmp_path: Path, capsys: pytest.CaptureFixture):
    main(["--kind", "dce", "--out", str(tmp_path / "dce"), "--subjects", "1", "--frames", "1", "--labelled", "two"])
    path = Path(capsys.readouterr().out.strip())
    description = json.loads(path.read_text(encoding="utf-8"))
    assert description["channel_kinds"] == {"1": "map"}
    assert description["training"][0]["labelled_frames"] == [0]


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("flow", {"frames": 0}, "frames is 0"),
        ("flow", {"shape": (32, 23, 8)}, r"at least \(24, 24, 8\)"),
        ("dce", {"shape": (32, 32, 5)}, r"at least \(24, 20, 6\)"),
        ("dce", {"subjects": 0}, "subjects is 0"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path: Path, kind, arguments, says):
    with pytest.raises(InputError, match=says):
        make(kind, tmp_path / "out", **{"subjects": 1, "frames": 4, "shape": (32, 32, 8), **arguments})
    assert not (tmp_path / "out").exists()


def test_the_script_ends_with_code_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        main(["--kind", "flow", "--out", str(tmp_path / "flow"), "--subjects", "0", "--frames", "1"])
    assert ended.value.code == 2
    assert "subjects is 0" in capsys.readouterr().err
