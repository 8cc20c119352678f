"""A run's record: a line an epoch that any JSON reader takes, scalars and pictures in TensorBoard, none of them twice."""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import signal
import threading

import numpy as np
import pytest
from processes import exit_code, run_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from tests.builders import tiny_config
from unet4d.errors import InputError, ReportedByOtherRank, Unet4DError
from unet4d.system.distributed import ProcessGroup
from unet4d.training.monitoring.logger import BOARD, LOG, RunLogger, open_logger


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """TensorBoard reads the files of one second in the order of their names, and 10 comes before 9 there."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def recorded(folder, first: int, last: int, epochs_done: int = 0, loss: float = 0.5) -> None:
    record = RunLogger(folder, epochs_done)
    for epoch in range(first, last + 1):
        record.log_epoch({"epoch": epoch, "step": 10 * epoch, "loss": loss, "dice": {"left ventricle": 0.1 * epoch}})
    record.close()


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def board(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / BOARD)).Reload()


def test_numbers_and_pictures_can_be_read_back(tmp_path):
    recorded(tmp_path, 1, 2)
    record = RunLogger(tmp_path, 2)
    record.log_picture("validation/heart", np.full((6, 8, 3), 200, np.uint8), 20)
    record.close()
    assert [line["loss"] for line in lines(tmp_path)] == [0.5, 0.5]
    assert [event.step for event in board(tmp_path).Scalars("dice/left ventricle")] == [10, 20]
    assert [(image.width, image.height) for image in board(tmp_path).Images("validation/heart")] == [(8, 6)]


def test_a_number_that_is_not_finite_is_null(tmp_path):
    recorded(tmp_path, 1, 1, loss=float("inf"))
    assert "Infinity" not in (tmp_path / LOG).read_text()
    assert lines(tmp_path)[0]["loss"] is None


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    recorded(tmp_path, 1, 3)
    with open(tmp_path / LOG, "a", encoding="utf-8") as file:
        file.write('{"epoch": 4, "st')  # torn by a kill
    recorded(tmp_path, 3, 4, epochs_done=2, loss=0.25)
    assert [(line["epoch"], line["loss"]) for line in lines(tmp_path)] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]
    found = [(event.step, event.value) for event in board(tmp_path).Scalars("loss")]
    assert found == [(10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25)]


def test_a_new_run_begins_an_empty_log(tmp_path):
    recorded(tmp_path, 1, 3)
    recorded(tmp_path, 1, 1)
    assert [line["epoch"] for line in lines(tmp_path)] == [1]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    record = RunLogger(tmp_path)

    def refuse():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record.board, "flush", refuse)
    with pytest.raises(Unet4DError, match=r"could not write .*log\.jsonl: No space left"):
        record.log_epoch({"epoch": 1, "step": 1, "loss": 0.5})
    monkeypatch.undo()
    record.close()


@pytest.fixture
def full(tmp_path, monkeypatch) -> RunLogger:
    """Return a logger with a TensorBoard that is refused every byte, and an MLflow that notes when it is closed."""

    def refuse(*given, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Noted:
        closed = False

        def close(self):
            self.closed = True

    record = RunLogger(tmp_path, mlflow=Noted())
    for name in ("add_image", "flush", "close"):
        monkeypatch.setattr(record.board, name, refuse)
    return record


@pytest.mark.parametrize("late", [False, True], ids=["at once", "by the thread that writes"])
def test_a_full_disk_is_reported_for_a_picture(full, monkeypatch, late):
    if late:
        monkeypatch.setattr(full.board, "add_image", lambda *given, **named: None)
    with pytest.raises(Unet4DError, match=r"could not write .*tensorboard: No space left on device; free space"):
        full.log_picture("heart", np.zeros((2, 2, 3), np.uint8), 1)


def test_a_full_disk_at_the_end_is_logged_and_hides_no_error(full, tmp_path, capsys):
    """Pins that TensorBoard's own error took the place of the one that ended the run, and MLflow never heard of the end."""
    with pytest.raises(Unet4DError, match="of the run"), contextlib.closing(full):
        raise Unet4DError("of the run")
    assert capsys.readouterr().err == f"{tmp_path / BOARD} lacks what was logged last: No space left on device\n"
    assert full.mlflow.closed


def test_a_stdout_on_the_full_disk_hides_no_error_either(full, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", Full())
        full.close()
    assert full.mlflow.closed


def fill_disk(folder) -> None:
    """Run in a process of its own: no file may grow beyond 20 kB, which a picture does, by TensorBoard's thread."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    try:
        with contextlib.closing(RunLogger(folder)) as record:
            record.log_picture("heart", noise, 1)
    except Unet4DError as error:
        print(f"ended by: {error}")
    threading.Thread(target=lambda: 1 / 0).start()


def test_a_disk_that_is_full_for_the_thread_that_writes_ends_without_its_traceback(tmp_path, capfd):
    """The traceback of any other thread is printed as ever."""
    assert exit_code(fill_disk, tmp_path) == 0
    told = capfd.readouterr()
    assert f"ended by: could not write {tmp_path / BOARD}: File too large; free space" in told.out
    assert "OSError" not in told.err
    assert told.err.count("Exception in thread") == told.err.count("ZeroDivisionError") == 1


def test_every_number_of_a_line_is_plotted_and_the_length_of_a_list(tmp_path):
    line = {
        "epoch": 1,
        "step": 10,
        "loss": None,
        "learning_rate": 1e-3,
        "skipped": [{"step": 3, "loss": float("nan"), "cases": ["a", "b"]}],
        "predicted_voxels": {"left ventricle": 7},
        "case_dice": {"a": 0.5, "b": None},
    }
    record = RunLogger(tmp_path)
    record.log_epoch(line)
    record.close()
    assert sorted(board(tmp_path).Tags()["scalars"]) == ["learning_rate", "predicted_voxels/left ventricle", "skipped"]
    assert board(tmp_path).Scalars("skipped")[0].value == 1
    assert lines(tmp_path) == [line | {"skipped": [{"step": 3, "loss": None, "cases": ["a", "b"]}]}]


def test_the_lines_so_far_are_at_hand_also_after_a_resumption(tmp_path):
    recorded(tmp_path, 1, 3)
    record = RunLogger(tmp_path, 2)
    assert record.lines == lines(tmp_path)
    record.log_epoch({"epoch": 3, "step": 30, "loss": float("nan")})
    record.close()
    assert record.lines == lines(tmp_path)
    assert [line["epoch"] for line in record.lines] == [1, 2, 3]
    assert record.lines[-1]["loss"] is None


def recorded_by(ranks: ProcessGroup, folder) -> list[dict]:
    record = open_logger(folder / str(ranks.rank), 0, tiny_config(), ranks)
    if record is None:
        return []
    record.log_epoch({"epoch": 1, "step": 1, "loss": 0.5})
    record.log_picture("heart", np.zeros((2, 2, 3), np.uint8), 1)
    record.close()
    return record.lines


def test_only_rank_0_writes(tmp_path):
    """Each is given a folder of its own, to see who wrote."""
    first, second = run_ranks(2, recorded_by, tmp_path)
    assert ([line["epoch"] for line in first], second) == ([1], [])
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def opened_without_mlflow(ranks: ProcessGroup, folder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        open_logger(folder, 0, tiny_config(mlflow="hearts"), ranks)


def test_missing_mlflow_is_reported_by_one_and_ends_all(tmp_path):
    first, second = run_ranks(2, opened_without_mlflow, tmp_path, fails=True)
    assert isinstance(first, InputError)
    assert "pip install mlflow-skinny" in str(first)
    assert isinstance(second, ReportedByOtherRank)
    assert list(tmp_path.iterdir()) == []
