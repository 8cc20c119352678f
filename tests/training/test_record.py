"""A run's record: a line an epoch that any JSON reader takes, scalars and pictures in TensorBoard, none of them twice."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from unet4d.errors import Unet4DError
from unet4d.training.record import BOARD, LOG, Record


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """TensorBoard reads the files of one second in the order of their names, and 10 comes before 9 there."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def recorded(folder, first: int, last: int, epochs_done: int = 0, loss: float = 0.5) -> None:
    record = Record(folder, epochs_done)
    for epoch in range(first, last + 1):
        record.epoch({"epoch": epoch, "step": 10 * epoch, "loss": loss, "dice": {"left ventricle": 0.1 * epoch}})
    record.close()


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def board(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / BOARD)).Reload()


def test_numbers_and_pictures_can_be_read_back(tmp_path):
    recorded(tmp_path, 1, 2)
    record = Record(tmp_path, 2)
    record.picture("validation/heart", np.full((6, 8, 3), 200, np.uint8), 20)
    record.close()
    assert [line["loss"] for line in lines(tmp_path)] == [0.5, 0.5]
    assert [event.step for event in board(tmp_path).Scalars("dice/left ventricle")] == [10, 20]
    assert [(image.width, image.height) for image in board(tmp_path).Images("validation/heart")] == [(8, 6)]


def test_what_is_no_number_is_null_for_json_has_none(tmp_path):
    recorded(tmp_path, 1, 1, loss=float("inf"))
    assert "Infinity" not in (tmp_path / LOG).read_text()
    assert lines(tmp_path)[0]["loss"] is None


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    recorded(tmp_path, 1, 3)
    with open(tmp_path / LOG, "a") as file:
        file.write('{"epoch": 4, "st')  # torn by a kill
    recorded(tmp_path, 3, 4, epochs_done=2, loss=0.25)
    assert [(line["epoch"], line["loss"]) for line in lines(tmp_path)] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]
    found = [(event.step, event.value) for event in board(tmp_path).Scalars("loss")]
    assert found == [(10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25)]


def test_a_new_run_begins_an_empty_log(tmp_path):
    recorded(tmp_path, 1, 3)
    recorded(tmp_path, 1, 1)
    assert [line["epoch"] for line in lines(tmp_path)] == [1]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    record = Record(tmp_path)

    def refuse():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record.board, "flush", refuse)
    with pytest.raises(Unet4DError, match=r"could not write .*log\.jsonl: No space left"):
        record.epoch({"epoch": 1, "step": 1, "loss": 0.5})
    monkeypatch.undo()
    record.close()
