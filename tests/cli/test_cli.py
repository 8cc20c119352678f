"""Tests: names of commands and options, help, and wrong usage, which is one line and exit code 2."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import unet4d
from unet4d.cli import COMMANDS, main
from unet4d.cli.options import nothing_to_check
from unet4d.config import Config, DataConfig
from unet4d.errors import InputError, Unet4DError
from unet4d.system.distributed import ALONE

EXPERIMENTS = sorted((Path(unet4d.__file__).parent.parent / "experiments").glob("*.yaml"))


@pytest.fixture
def unchecked(monkeypatch):
    """Leave out the checks of paths, for runs and datasets that are only names."""
    for name, one in COMMANDS.items():
        monkeypatch.setitem(COMMANDS, name, one._replace(check=nothing_to_check))


@pytest.fixture
def train_called(monkeypatch, unchecked):
    """Return the calls of `unet4d train`, which runs nothing."""
    import unet4d.training.train

    calls: list[tuple] = []
    monkeypatch.setattr(unet4d.training.train, "train", lambda *given: calls.append(given) or Path("best.pt"))
    return calls


@pytest.fixture
def predict_raises(monkeypatch, unchecked):
    """Makes `unet4d predict` raise an error of the test's choice."""
    import unet4d.inference.predict

    def chosen(error: BaseException) -> None:
        def fail(*given, **named):
            raise error

        monkeypatch.setattr(unet4d.inference.predict, "predict", fail)

    return chosen


TRAIN = ("train", "--dataset", "d", "--out", "r")
PREDICT = ("predict", "run", "-i", "study.nii.gz", "-o", "out")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("phantom", ["--out", "--subjects", "--frames", "--labelled", "--ambiguous", "--seed"]),
        ("train", ["--dataset", "--out", "--config", "--fold", "--seed", "--device", "--resume", "--train.epochs"]),
        ("predict", ["RUN_OR_MODEL", "-i", "-o", "--input", "--out", "--cases", "--held_out", "--device", "--time"]),
        ("evaluate", ["--reference", "--prediction", "--out", "--cases", "--predicted_only", "--tolerance_mm"]),
        ("compare", ["A", "B", "--out", "--metrics", "--shared_only"]),
        ("postprocess", ["RUN", "--dataset", "--predictions", "--device", "--dry_run"]),
        ("report", ["--image", "--prediction", "--out", "--evaluation"]),
    ],
)
def test_the_help_of_a_command_names_its_options_and_shows_how_it_is_called(command, name, options):
    done = command(name, "--help")
    assert (done.code, done.error) == (0, "")
    assert [option for option in options if option not in done.told] == []
    assert f"\n  unet4d {name} " in done.told


def test_the_help_has_types_in_words(command):
    words = " ".join(command("train", "--help").told.split())
    assert "Union" not in words
    assert (
        "--train.epochs N Epochs; an epoch is steps_per_epoch optimizer steps. Not used with a time_budget. (a whole"
        in words
    )
    assert "--train.schedule {polynomial,cosine} Fall of" in words
    assert "--data.patch_size [X,Y,Z] Voxels (X, Y, Z)" in words
    assert "--model.lstm_channels N|[N,...] Hidden channels" in words
    assert "--fold N|all fold with the subjects" in words
    assert "--model.deep_supervision {true,false}" in words


def test_the_help_shows_which_options_may_be_named_without_a_value():
    words = " ".join(main.command_parser("predict").format_help().split())
    assert "--mirror_axes [N ...] mirror" in words
    assert "--input PATH [PATH ...] NIfTI" in words


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_repeats_nothing_that_the_names_of_options_show(command, name):
    words = " ".join(command(name, "--help").told.split())
    noise = ("type:", "null)", "a text", "default: False", "default: ['", "default: []", "+ [")
    assert not [one for one in noise if one in words]
    options = [action for action in main.command_parser(name)._actions if action.help != argparse.SUPPRESS]
    assert all(action.help and len(action.help) > 10 for action in options)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_the_commands_are_listed(command, arguments):
    done = command(*arguments)
    assert done.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.told] == []


def test_the_examples_in_the_help_are_valid(monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    for file in ("mine.yaml", "run/config.yaml"):
        (tmp_path / file).write_text("train: {epochs: 3}\n")
    monkeypatch.chdir(tmp_path)
    examples = [line for entry in COMMANDS.values() for line in entry.examples.splitlines()]
    examples += [line for line in main.DESCRIPTION.splitlines() if line.startswith("  unet4d ")]
    assert len(examples) > len(COMMANDS)
    for line in examples:
        words = shlex.split(line.split("   (")[0])
        assert words[0] == "unet4d"
        assert main._parse(words[1:])[0] == words[1]


def test_python_m_unet4d_is_unet4d():
    done = subprocess.run(
        [sys.executable, "-m", "unet4d", "--version"], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == f"unet4d {unet4d.__version__}\n"


def test_the_console_script_gives_the_exit_code():
    script = Path(sys.executable).with_name("unet4d")
    done = subprocess.run([script, "predct"], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "unet4d: 'predct' is not a command, expected one of phantom, convert, verify, propagate, plan, train"
    )


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--train.epoch", "3"], "--train.epoch is not known, expected perhaps --train.epochs"),
        (["--trian.epochs=3"], "--trian.epochs is not known, expected perhaps --train.epochs"),
        (["--datase", "d"], "--datase is not known, expected perhaps --dataset"),
        (["--train.ep", "3"], "--train.ep is not known, expected perhaps --train.epochs"),
        (["--train.epochs", "many"], "train.epochs is many, expected a whole number"),
        (["--train.epochs", "2.5"], "train.epochs is 2.5, expected a whole number"),
        (["--train.epochs"], "--train.epochs: expected one argument"),
        (["--train.learning_rate", "fast"], "train.learning_rate is fast, expected a finite number"),
        (["--train.schedule", "step"], "train.schedule is step, expected one of polynomial, cosine"),
        (["--data.patch_size", "[1,2]"], "data.patch_size is [1, 2], expected three whole numbers [X, Y, Z], or null"),
        (["--data.val_subjects", "a"], "data.val_subjects is a, expected a list of names [a, b], or null"),
        (["--model.strides", "[[2,2]]"], "model.strides is [[2, 2]], expected a list of triples"),
        (["--train", '{"epochs": 3, "epoch": 3}'], "train.epoch is not known, expected perhaps train.epochs"),
        (["--train", "3"], "Unable to load config"),
        (["extra"], "extra is not known"),
        (["--data.frames", "0"], "data.frames is 0, expected 1 or more"),
        (["--train.time_budget", "-3m"], "train.time_budget is -3m, expected a time from 1s to 366d"),
        (["--fold", "5"], "fold is 5, expected a number from 0 to 4"),
    ],
)
def test_a_wrong_setting_of_train_is_one_line_and_exit_code_2(command, train_called, arguments, wanted):
    done = command("train", "--dataset", "d", "--out", "r", *arguments)
    assert done.code == 2
    assert wanted in done.line
    assert train_called == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["train"], "--dataset, --out are missing; see unet4d train --help"),
        (["train", "--dataset", "d"], "--out is missing"),
        (["predict"], "model, --input, --out are missing; see unet4d predict --help"),
        ([*PREDICT, "--time", "closed"], "--time is closed, expected one of cyclic, open"),
        ([*PREDICT, "--overlap", "half"], "overlap is half, expected a finite number"),
        (["phantom", "--out", "p", "--subjects", "two", "--frames", "3"], "subjects is two, expected a whole number"),
        (["phantom", "--out", "p", "--subjects", "0", "--frames", "3"], "subjects is 0"),
        (["evaluate", "--reference", "a", "--out", "b"], "--prediction is missing; see unet4d evaluate --help"),
        (["publish"], "'publish' is not a command, expected one of "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command, tmp_path, monkeypatch, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.code == 2
    assert wanted in done.line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["tune", "run"], "postprocess"),
        ([*PREDICT, "--memory", "8GB"], "--max_memory"),
        ([*PREDICT, "--kind", "acdc"], "--layout"),
        ([*PREDICT, "--with-ids"], "--keep_patient_ids"),
        ([*TRAIN, "--memory.chunk_frames", 2], "--recompute.chunk_frames"),
        ([*TRAIN, "--data.held_out=[a]"], "--data.val_subjects"),
        ([*TRAIN, "--train.ema", 0.9], "--train.ema_decay"),
        ([*TRAIN, "--train.growth", "clips"], "it was removed"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(command, arguments, new):
    done = command(*arguments)
    assert done.code == 2
    assert new in done.line


def test_settings_are_printed_as_a_config_file(command, tmp_path):
    printed = command("train", "--print_config", "--data.frames", 5, "--seed", 3)
    assert printed.code == 0
    (tmp_path / "mine.yaml").write_text(printed.told)
    again = command("plan", "--config", tmp_path / "mine.yaml", "--print-config")
    assert (again.code, again.told) == (0, printed.told)
    assert Config.from_dict(yaml.safe_load(again.told)) == Config(data=DataConfig(frames=5), seed=3)


@pytest.mark.parametrize("words", [["phantom", "--kind", "flow"], ["convert", "--kind", "acdc", "x"]])
def test_an_option_is_not_renamed_to_one_that_its_command_lacks(command, words, tmp_path):
    done = command(*words, "--out", tmp_path / "out")
    assert done.code == 2
    assert "--layout" not in done.line
    assert "data/phantom/make.py" in done.line


def test_an_old_name_in_a_config_file_is_refused_with_the_new_one(command, tmp_path):
    for text, new in (
        ("memory: {chunk_frames: 2}\n", "line 1: memory is not known, it is called recompute now"),
        ("train:\n  start_from: run\n", "line 2: train.start_from is not known, it is called train.init_from now"),
        (
            "memory:\n  lstm: gates\ntrain:\n  ema: 0.9\n",
            "recompute now; line 4: train.ema is not known, it is called train.ema_decay",
        ),
        ("recompute:\n  lstm: borders\n", "recompute.lstm is borders, which was removed; choose hidden"),
    ):
        (tmp_path / "old.yaml").write_text(text)
        assert new in command(*TRAIN, "--config", tmp_path / "old.yaml").line


def test_dashes_and_underscores_are_the_same_in_options(command, train_called):
    command("train", "--dataset", "d-1", "--out=r-1", "--skip-verify", "--data.max-frame-stride=2")
    assert (train_called[0][0], train_called[0][1], train_called[0][5]) == ("d-1", "r-1", True)
    assert config_of(train_called[0]).data.max_frame_stride == 2


def config_of(call: tuple) -> Config:
    return call[2]


def test_the_command_line_wins_over_files_wherever_it_stands_and_a_later_file_over_an_earlier(
    command, train_called, tmp_path
):
    (tmp_path / "one.yaml").write_text("train: {epochs: 11, batch_size: 3}\nseed: 5\n")
    (tmp_path / "two.yaml").write_text("train: {epochs: 22}\n")
    files = ["--config", tmp_path / "one.yaml", f"--config={tmp_path / 'two.yaml'}"]
    base = ["train", "--dataset", "d", "--out", "r"]
    assert command(*base, "--train.epochs", 1, *files).code == 0
    assert command(*base, *files, "--train.epochs", 1, "--model.lstm_channels", 0).code == 0
    assert command(*base, *files, "--seed", 6).code == 0
    assert command(*base, "--seed", 6, *files).code == 0
    assert [config_of(call).seed for call in train_called[2:]] == [6, 6]
    assert [config_of(call).train.epochs for call in train_called] == [1, 1, 22, 22]
    del train_called[2:]
    assert [config_of(call).train.batch_size for call in train_called] == [3, 3]
    assert [config_of(call).seed for call in train_called] == [5, 5]
    assert config_of(train_called[1]).model.lstm_channels_per_level() == [0] * 5


def test_what_is_not_given_has_the_default_of_the_config(command, train_called):
    command("train", "--dataset", "d", "--out", "r")
    assert train_called == [("d", "r", Config(), "auto", False, False, ALONE)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_shipped_config_loads(command, train_called, path):
    assert command("train", "--dataset", "d", "--out", "r", "--config", path).code == 0
    assert config_of(train_called[0]) != Config()


def test_there_are_shipped_configs():
    assert EXPERIMENTS


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("it is wrong;\n mend it"), 2, "unet4d: it is wrong; mend it"),
        (Unet4DError("the disk is full"), 1, "unet4d: the disk is full"),
        (KeyboardInterrupt(), 130, "unet4d: interrupted; whatever is written is whole"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            1,
            "; use --device cpu, or another GPU",
        ),
        (
            RuntimeError("FIND was unable to find an engine to execute this computation"),
            1,
            "the GPU is out of memory (FIND was unable",
        ),
        (MemoryError(), 1, "the main memory is too small"),
    ],
)
def test_an_expected_failure_is_one_line_and_its_exit_code(command, predict_raises, error, code, line):
    predict_raises(error)
    done = command(*PREDICT)
    assert done.code == code
    assert line in done.line


def test_train_out_of_memory_is_told_the_options_of_train(command, monkeypatch, unchecked):
    import unet4d.training.train

    def fail(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(unet4d.training.train, "train", fail)
    done = command("train", "--dataset", "d", "--out", "r")
    assert done.code == 1
    assert (
        "(CUDA out of memory); let unet4d plan choose, or lower --train.batch_size, --data.frames, --data.patch_size"
        in done.line
    )


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), KeyError("bug")])
def test_an_unexpected_exception_is_not_swallowed(command, predict_raises, error):
    predict_raises(error)
    with pytest.raises(type(error)):
        command(*PREDICT)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EIO, "I/O error", "/data/a.nii"), 1, "/data/a.nii: I/O error"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/data/a.nii"), 2, "choose shorter names"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_a_traceback_on_request(
    command, predict_raises, monkeypatch, error, code, words
):
    predict_raises(error)
    done = command(*PREDICT)
    assert (done.code, words in done.line) == (code, True)
    monkeypatch.setenv("UNET4D_DEBUG", "1")
    assert "Traceback" in command(*PREDICT).error


def test_what_steers_a_terminal_is_escaped_in_every_message(command):
    done = command("predict", "\x1b[2Jrun\u202e", "-i", "in\udcff", "-o", "o")
    assert done.code == 2
    assert r"\x1b[2Jrun\u202e" in done.line
    assert command("\x1b]0;title\x07").line.isprintable()


def test_a_null_byte_in_an_argument_is_one_line(command):
    done = command("predict", "run", "-i", "a\0b", "-o", "o")
    assert (done.code, "null byte" in done.line) == (2, True)


@pytest.mark.parametrize("where", [">&-", "2>&-", ">/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize(("words", "ends"), [("--version", 0), ("info /missing", 2)])
def test_closed_and_full_outputs_keep_the_exit_code_and_are_no_traceback(where, words, ends):
    command = f"{sys.executable} -m unet4d {words} {where}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)
    assert done.returncode == ends
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("No space left" in done.stderr) == (where == ">/dev/full" and not ends)


def test_output_that_is_the_result_and_is_lost_is_a_failure(predict_raises, monkeypatch):
    import unet4d.training.monitoring.info

    monkeypatch.setattr(unet4d.training.monitoring.info, "info", lambda run: ({"versions": {}}, []))
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main.run(["info", "run", "--json"]) == 1


@pytest.mark.parametrize("words", ["['--version']", "['train', '--help']"])
def test_a_reader_that_leaves_is_no_traceback(words):
    """`unet4d train --help | head -1`."""
    source = f"from unet4d.cli.main import main; main({words})"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", source], env=buffered, **pipes) as process:
        try:
            process.stdout.close()
            assert process.stderr.read() == b""
        finally:
            process.kill()


MANY = str(10**30)
PREDICT_NUMBERS = "predict run -i in -o out"
WRONG_NUMBERS = {
    "phantom --out p --frames 2 --subjects": ["-1", "0", "nan", "inf", str(10**12), MANY],
    "phantom --out p --subjects 1 --frames": ["-1", "0", "nan", "inf", str(10**9), MANY],
    "phantom --out p --subjects 1 --frames 2 --seed": ["-1", "nan", MANY],
    "phantom --out p --subjects 1 --frames 2 --ambiguous": ["-1", "nan", "inf", "1e308", MANY],
    f"{PREDICT_NUMBERS} --cyclic_shifts": ["-1", "0", "nan", "inf", MANY],
    f"{PREDICT_NUMBERS} --priming_frames": ["-1", "nan", "inf", MANY],
    f"{PREDICT_NUMBERS} --temporal_smoothing": ["-1", "nan", "inf", "1e308", MANY],
    f"{PREDICT_NUMBERS} --sw_batch_size": ["-1", "0", "nan", "inf", MANY],
    f"{PREDICT_NUMBERS} --overlap": ["-1", "nan", "inf", "1e308", MANY],
    f"{PREDICT_NUMBERS} --max_memory": ["-1", "0", "nan", "inf", "1e308"],
    f"{PREDICT_NUMBERS} --mirror_axes": ["-1", "nan", MANY],
    f"{PREDICT_NUMBERS} --part-id 0 --num-parts": ["-1", "0", "nan", "inf"],
    f"{PREDICT_NUMBERS} --num-parts 2 --part-id": ["-1", "nan", "inf", MANY],
    "plan data --gpu-memory 24 --gpus": ["-1", "0", "nan", "inf", MANY],
    "plan data --gpu-memory": ["-1", "0", "nan", "inf", "1e308", MANY],
    "evaluate --reference a --prediction b --out c --tolerance_mm": ["-1", "nan", "inf", "1e308", MANY],
    "convert frames a --out c --frame_duration_s": ["-1", "0", "nan", "inf", "1e308", MANY],
}


@pytest.mark.parametrize("words", WRONG_NUMBERS)
def test_a_number_that_cannot_be_is_one_line_that_names_its_option(command, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    option = words.split()[-1].removeprefix("--").replace("-", "_")
    for value in WRONG_NUMBERS[words]:
        done = command(*f"{words}={value}".split())
        assert (done.code, option in done.line.replace("-", "_")) == (2, True), value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--labels", "--channels"])
@pytest.mark.parametrize(
    ("value", "reason"), [("{a: 1, b: 2, a: 3}", "twice"), ("{a: &x [1, 1], b: [*x, *x]}", "alias")]
)
def test_values_by_name_name_nothing_twice_and_refer_to_nothing(command, tmp_path, option, value, reason):
    for words in ([option, value], [f"{option}={value}"]):
        done = command("convert", "frames", tmp_path, "--out", tmp_path / "out", *words)
        assert done.code == 2
        assert option in done.line
        assert reason in done.line
