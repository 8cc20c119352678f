"""Commands are stopped by SIGTERM and Ctrl-C at an event: exit code 75, whole files, and the next run completes the result."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.builders import skip_drawing
from tests.cli.stops import Arm, at_call, hanging, run_armed, signalled
from tests.datasets.convert.layouts import write_patient
from tests.predictions import check_whole, json_of
from tests.processes import exit_code
from unet4d.cli.main import run
from unet4d.errors import Stopped
from unet4d.evaluation.evaluate import evaluate
from unet4d.images.dicom import volume4d
from unet4d.images.nifti import open_nifti
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import BEST, LAST
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import stop_signals

TERM, INT = signal.SIGTERM, signal.SIGINT
STOPS: dict[str, tuple[str, Arm]] = {
    "predict, reading": ("predict", signalled("unet4d.inference.batch.run.prepare_study", 3, INT)),
    "predict, a window": ("predict", signalled("unet4d.inference.window_predictor.WindowPredictor.logits", 3, TERM)),
    "predict, a rename": ("predict", signalled("os.replace", 5, TERM)),
    "predict, a sync": ("predict", signalled("os.fsync", 8, INT)),
    "convert, a study": ("convert", signalled("unet4d.datasets.convert.convert._write_study", 2, TERM)),
    "convert, a rename": ("convert", signalled("os.replace", 3, INT)),
    "verify, a study": ("verify", signalled("unet4d.datasets.verify.run_checks.check_image", 2, TERM)),
    "verify, a study's labels": ("verify", signalled("unet4d.datasets.verify.run_checks.check_label", 1, INT)),
    "report, a study": ("report", signalled("unet4d.report.report._read_study", 2, TERM)),
    "report, a rename": ("report", signalled("os.replace", 2, INT)),
    "evaluate, a study": ("evaluate", signalled("unet4d.evaluation.evaluate.score_case", 2, TERM)),
    "evaluate, the last study": ("evaluate", signalled("unet4d.evaluation.evaluate.score_case", 3, INT)),
    "train, verifying": ("train", signalled("unet4d.datasets.verify.run_checks.check_image", 1, TERM)),
    "train, preprocessing": ("train", signalled("unet4d.pipeline.cache._StudyCache.build", 2, INT)),
    "train, a step": ("train", signalled("unet4d.training.step.TrainingStep.update", 3, TERM)),
}


@pytest.fixture(scope="module", autouse=True)
def plain_pictures():
    with pytest.MonkeyPatch.context() as patch:
        skip_drawing(patch, "unet4d.report.report")
        yield


@pytest.fixture(scope="module")
def predicted(phantom, trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    assert run([str(word) for word in _predict(trained, phantom, out)]) == 0
    return out


def _predict(trained: Path, dataset: Path, out: Path) -> list[object]:
    return ["predict", trained, "-i", dataset, "-o", out, "--continue", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> dict[str, Path]:
    """The folder of each command's result that nothing stopped."""
    return {}


@pytest.fixture
def words(phantom, own_phantom, trained, predicted, tiny_options, tmp_path):
    """Give the words of a command that writes to a folder."""
    for number in (1, 2, 3):
        write_patient(tmp_path / "acdc" / f"patient00{number}", number)
    two = shutil.copytree(predicted, tmp_path / "two")  # a page of the report takes seconds
    (two / "phantom003.nii.gz").unlink()

    def of(name: str, out: Path) -> list[object]:
        resumed = ["--resume"] * (out / LAST).exists()
        return {
            "predict": _predict(trained, own_phantom, out),
            "convert": ["convert", "acdc", tmp_path / "acdc", "--out", out],
            "verify": ["verify", own_phantom, "--out", out / "fingerprint.json"],
            "report": ["report", "--image", phantom, "--prediction", two, "--out", out],
            "evaluate": ["evaluate", "--reference", phantom, "--prediction", predicted, "--out", out],
            "train": ["train", "--dataset", own_phantom, "--out", out, "--device", "cpu", *tiny_options, *resumed],
        }[name]

    return of


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a command's result that do not depend on when they were written."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in found.items()
        if name.suffix in (".csv", ".gz", ".nii", ".png") and not any(part.startswith(".") for part in name.parts)
    }


@pytest.mark.parametrize("where", STOPS)
def test_a_stop_ends_with_75_leaves_whole_files_and_the_next_run_completes_the_result(
    words, wholes, tmp_path, capfd, where
):
    name, arm = STOPS[where]
    out = tmp_path / "out"
    assert exit_code(run_armed, arm, *words(name, out)) == 75
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("unet4d: stopped by SIG")
    assert not [path for path in tmp_path.rglob("*.partial.*") if name != "train"]
    if out.exists() and name != "train":
        check_whole_pages(out)
    assert run(list(map(str, words(name, out)))) == 0
    if name == "train":
        assert (out / BEST).is_file()
        return
    if name not in wholes:
        assert run(list(map(str, words(name, tmp_path / "whole")))) == 0
    whole = wholes.setdefault(name, tmp_path / "whole")
    assert files_of(out) == files_of(whole)
    assert {path.name for path in out.rglob("*")} == {path.name for path in whole.rglob("*")}


def check_whole_pages(out: Path) -> None:
    pages = list(out.rglob("*.html"))
    for page in pages:
        assert page.read_text().rstrip().endswith("</html>")
    if not pages:
        check_whole(out)


# At the places where earlier versions hung, or went on -----------------------------------------------------------------


class SignallingLock:
    """A bar's lock, inside of which the main thread is sent SIGTERM when it has taken it for the `number`-th time."""

    def __init__(self, number: int):
        self.lock, self.number = threading.RLock(), number

    def acquire(self, *given) -> bool:
        taken = self.lock.acquire(*given)
        if threading.current_thread() is threading.main_thread():
            self.number -= 1
            if not self.number:
                os.kill(os.getpid(), signal.SIGTERM)
        return taken

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *failure: object) -> None:
        self.release()


def signalled_in_lock(number: int) -> Arm:
    def arm() -> None:
        ProgressBar._lock = SignallingLock(number)

    return arm


@pytest.mark.parametrize("number", [1, 4, 9, 14])
def test_a_stop_inside_the_lock_of_a_bar_while_another_thread_writes(trained, phantom, tmp_path, number):
    """Pins a hang: the handler raised between two acquires, and the lock was never released."""
    words = _predict(trained, phantom, tmp_path / "out")
    assert exit_code(_on_terminal, signalled_in_lock(number), *words) == 75


def _fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _on_terminal(arm: Arm, *words: object) -> None:
    run_armed(arm, *words, terminal=True)


def _signalled_where_all_is_caught() -> None:
    """Be sent SIGTERM inside an `except Exception`, as a library has them."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
    except Exception as error:
        print("caught", type(error))


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_inside_an_except_exception_of_a_library_is_obeyed(trained, phantom, tmp_path, number):
    """Pins a stop that was swallowed: all studies were computed, and the exit code was 0."""
    arm = at_call("unet4d.inference.batch.run.segment_study", number, _signalled_where_all_is_caught)
    assert exit_code(_on_terminal, arm, *_predict(trained, phantom, tmp_path / "out")) == 75
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) < 3


def test_the_reason_stands_on_a_line_of_its_own_below_the_bar(words, tmp_path, capfd):
    """Pins a bar that was closed after the message, and so was drawn once more below it."""
    for arm, code in (
        (signalled("unet4d.evaluation.evaluate.score_case", 2), 75),
        (at_call("unet4d.evaluation.evaluate.score_case", 2, _fail), 1),
    ):
        assert exit_code(_on_terminal, arm, *words("evaluate", tmp_path / "out")) == code
        shown = capfd.readouterr().err
        assert shown.splitlines()[-1].startswith("unet4d: ")
        assert "evaluating:" in shown


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("predict", "unet4d.inference.batch.run.prepare_study"),
        ("verify", "unet4d.datasets.verify.run_checks.check_image"),
        ("train", "unet4d.system.digests._digest"),
    ],
)
def test_a_stop_does_not_wait_for_a_thread_that_hangs(words, tmp_path, name, target):
    """A thread that reads, as from a network disk that answers nothing more."""
    for path in (tmp_path / "phantom").rglob("*"):
        os.utime(path, (2**32, 2**32))  # never old enough to be known by its times: `train` always reads it once more
    assert exit_code(run_armed, hanging(target, 1), *words(name, tmp_path / "out")) == 75


IN_TORCH = """
import io, sys, threading, torch
from unet4d.cli import main as cli
from unet4d.system.threads import started

def work():
    image = torch.ones(1, 1, 8, 64, 64)
    while True:
        torch.nn.functional.interpolate(image, scale_factor=1.5, mode="trilinear")
        begun.set()

def run(words):
    started(work)
    assert begun.wait(60)
    return 75

class Closed(io.StringIO):
    def flush(self):
        raise BrokenPipeError

begun, cli.run, sys.stdout = threading.Event(), run, Closed()
torch.set_num_threads(1)
cli.main([])
"""


def test_a_thread_inside_torch_does_not_abort_the_process_at_its_end():
    """Pins SIGABRT in place of exit code 75, where a study was being read; the reader of the output is gone."""
    done = subprocess.run([sys.executable, "-c", IN_TORCH], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (75, "")


def _signalled_at_the_first_call(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Be sent SIGTERM at the first call of a function; return the list of all calls."""
    calls: list[object] = []
    usual = getattr(sys.modules[module], name)

    def called(*given, **named):
        calls.append(given)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return usual(*given, **named)

    monkeypatch.setattr(sys.modules[module], name, called)
    return calls


def test_a_stop_is_obeyed_between_the_files_in_which_evaluate_looks_for_classes(predicted, tmp_path, monkeypatch):
    labels = shutil.copytree(predicted, tmp_path / "labels", ignore=shutil.ignore_patterns("*.json"))
    calls = _signalled_at_the_first_call("unet4d.evaluation.evaluate", "read_label", monkeypatch)
    with pytest.raises(Stopped), stop_signals(passed_on=False):
        evaluate(labels, labels, tmp_path / "out")
    assert len(calls) == 1


def test_a_stop_is_obeyed_between_the_headers_that_predict_reads_beforehand(trained, phantom, tmp_path, monkeypatch):
    calls = _signalled_at_the_first_call("unet4d.inference.predict", "_read_info", monkeypatch)
    with pytest.raises(Stopped), stop_signals(passed_on=False):
        predict(trained, [phantom], tmp_path / "out", device="cpu")
    assert len(calls) == 1


def test_a_stop_is_obeyed_between_two_frames_that_are_read(phantom):
    read = []

    def read_all() -> None:
        with open_nifti(phantom / "images/phantom001.nii.gz") as (_, _, volumes):
            for volume in volumes:
                read.append(volume)
                if len(read) == 1:
                    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), stop_signals(passed_on=False):
        read_all()
    assert len(read) == 1


def test_a_stop_is_obeyed_between_two_files_of_dicom(monkeypatch):
    planes = [SimpleNamespace(file=Path(str(z)), index=0, slope=1, intercept=0, tile=None) for z in range(5)]
    decoded = []

    def decode(file, indices):
        decoded.append(file)
        if len(decoded) == 1:
            signal.raise_signal(signal.SIGTERM)
        return [np.zeros((4, 3))]

    monkeypatch.setattr(volume4d, "decode_frames", decode)
    with pytest.raises(Stopped), stop_signals(passed_on=False):
        volume4d.read_dicom_voxels(SimpleNamespace(planes=[planes], shape=(1, 3, 4, 5)))
    assert len(decoded) == 1


def test_a_stop_is_obeyed_between_two_frames_whose_surfaces_are_compared(predicted, phantom, tmp_path, monkeypatch):
    calls = _signalled_at_the_first_call("unet4d.evaluation.case_scores", "surface_scores", monkeypatch)
    with pytest.raises(Stopped), stop_signals(passed_on=False):
        evaluate(phantom, predicted, tmp_path / "out")
    assert len(calls) == 1
    assert len(calls[0][0]) == 1


def _signalled_twice_while_stuck() -> None:
    """Be sent SIGTERM twice while the main thread waits for ever; nothing in this process could note the second one in time."""
    stuck = threading.Lock()
    stuck.acquire()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM), daemon=True).start()
    stuck.acquire()


def test_a_second_signal_ends_predict_at_once_and_files_are_whole(trained, own_phantom, tmp_path):
    words = _predict(trained, own_phantom, tmp_path / "out")
    arm = at_call("unet4d.inference.batch.run.segment_study", 3, _signalled_twice_while_stuck)
    assert exit_code(run_armed, arm, *words) == -signal.SIGTERM
    check_whole(tmp_path / "out")
    assert run(list(map(str, words))) == 0
    assert len(json_of(tmp_path / "out" / "prediction.json")["cases"]) == 3


def test_workers_that_preprocess_leave_a_signal_to_the_main_process(own_phantom, tiny_options, tmp_path, capfd):
    """Ctrl-C reaches the whole group; pins workers that died of it, which was reported as a want of memory."""
    words = ["train", "--dataset", own_phantom, "--out", tmp_path / "run", "--device", "cpu", *tiny_options]
    at = words.index("--data.num_workers")
    words[at + 1] = "1"
    arm = at_call("unet4d.pipeline.cache._StudyCache.build", 1, _interrupt_group)
    assert exit_code(run_armed, arm, *words) == 75
    assert "stopped by SIGINT" in capfd.readouterr().err
    assert not (tmp_path / "run" / LAST).exists()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert run(list(map(str, words))) == 0


def _interrupt_group() -> None:
    os.killpg(0, signal.SIGINT)
