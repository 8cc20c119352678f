"""Tests: messages about wrong command lines and config files."""

from __future__ import annotations

import pytest

from unet4d.cli.config_files import put_files_first, setting_types
from unet4d.cli.messages import reword
from unet4d.system.checks import describe_type


def test_every_setting_has_a_described_type():
    types = {name: describe_type(kind) for name, kind in setting_types().items()}
    assert types["train.epochs"] == "a whole number"
    assert types["train.schedule"] == "one of polynomial, cosine"
    assert types["data.slice_spacing_mm"] == "a finite number, or median, or null"
    assert types["model.lstm_channels"] == "a whole number, or a list of whole numbers [1, 2], or null"
    assert types["fold"] == "a whole number, or all"
    assert types["train"] == "settings under it, such as epochs"
    assert [name for name, text in types.items() if "<" in text or "typing" in text] == []


def test_a_message_without_a_better_wording_stays():
    assert reword("something\n  odd", [], {}) == "something odd"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trian:\n  epochs: 3\n", "line 1: trian is not known, expected perhaps train"),
        ("seed: 1\ntrain:\n  epoch: 3\n", "line 3: train.epoch is not known, expected perhaps train.epochs"),
        ("model:\n  lstm_layers: 1\nmodel:\n  channels: [4, 8]\n", "line 3: model comes twice"),
        ("train:\n  epochs: 1\n  epochs: 2\n", "line 3: train.epochs comes twice"),
        ("train: 3\n", "line 1: train is a value, expected settings under it, such as epochs"),
        ("train: [\n", "is not valid YAML"),
        ("just words\n", "holds no settings"),
        ("", "holds no settings"),
        ("# nothing but a comment\n", "holds no settings"),
        ("- train\n", "holds no settings"),
        (None, "is missing; give the path of an existing YAML file"),
    ],
)
def test_a_wrong_config_file_is_refused_by_name(command, tmp_path, text, line):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    for option in (["--config", file], [f"--config={file}"]):
        done = command("train", "--dataset", "d", "--out", tmp_path / "run", *option, "--train.epochs", 5)
        assert done.code == 2
        assert "mine.yaml" in done.line
        assert line in done.line
    assert not (tmp_path / "run").exists()


def test_a_folder_or_a_binary_file_is_no_config_file(command, tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path, "cannot be read"), (tmp_path / "binary.yaml", "is not valid YAML")):
        done = command("train", "--dataset", "d", "--out", "r", "--config", path)
        assert done.code == 2
        assert words in done.line


def test_a_right_config_file_passes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "dataset: d\nout: r\nresume: true\nfold: 1\ndata:\n  val_subjects: [a, b]\n  patch_size: [8, 8, 4]\ntrain: {epochs: 3}\n"
    )
    options = ["--dataset", "--out", "--resume", "--fold", "--data.val_subjects", "--data.patch_size", "--train.epochs"]
    assert put_files_first(["--seed", "1", "--config", str(file)], options) == [
        "--dataset=d", "--out=r", "--resume", "--fold=1", '--data.val_subjects=["a", "b"]', "--data.patch_size=[8, 8, 4]",
        "--train.epochs=3", "--seed", "1",
    ]  # fmt: skip
