"""The lines of a log: whole ones are read, the best is found, and one on the terminal can be taken apart again."""

from __future__ import annotations

import pytest

from unet4d.training.monitoring.log_lines import LOG, best_epoch, epoch_line, log_lines, log_totals, seconds_left

TIMED = {"epoch": 20, "loss": 0.21137, "seconds": 61.2, "frames_per_second": 412.04}


def parsed(line: str) -> tuple[list[tuple[str, str]], bool]:
    """Split a line as the docstring of `epoch_line` describes: pairs two spaces apart, a remark in brackets."""
    parts = line.split("  ")
    remarked = parts[-1].startswith("(")
    pairs = [part.rpartition(" ") for part in (parts[:-1] if remarked else parts)]
    return [(key, value) for key, _, value in pairs], remarked


def test_a_line_can_be_taken_apart():
    classes = {"right ventricle": 0.84, "loss": None, "a  b": 1.0}
    pairs, best = parsed(epoch_line(TIMED | {"mean_foreground_dice": 0.87114, "dice": classes}, 11016.0, True))
    assert best
    assert pairs == [
        ("epoch", "20"),
        ("loss", "0.2114"),
        ("seconds", "61.2"),
        ("ETA", "3:03:36"),
        ("frames/s", "412.0"),
        ("Dice", "0.8711"),
        ("right ventricle", "0.840"),
        ("loss", "-"),
        ("a b", "1.000"),
    ]


def test_an_unknown_value_is_a_dash():
    pairs, best = parsed(epoch_line({"epoch": 1, "loss": None}, None))
    assert pairs == [("epoch", "1"), ("loss", "-"), ("seconds", "-"), ("ETA", "-"), ("frames/s", "-")]
    assert not best
    undefined = {"mean_foreground_dice": None, "dice": {"wall": None}}
    assert parsed(epoch_line({"epoch": 1, **undefined}, 0))[0][3:] == [
        ("ETA", "00:00"),
        ("frames/s", "-"),
        ("Dice", "-"),
        ("wall", "-"),
    ]


def test_days_have_no_space():
    assert dict(parsed(epoch_line(TIMED, 200_000.0))[0])["ETA"] == "55:33:20"


@pytest.mark.parametrize(
    "torn", ['{"epoch": 2, "st', "3", '{"loss": 1}', '\x00\x00\x00\n{"epoch": 2, "step": 20}\n', "\n"]
)
def test_reading_ends_at_a_torn_line(tmp_path, torn):
    (tmp_path / LOG).write_text('{"epoch": 1, "step": 10}\n' + torn)
    assert log_lines(tmp_path) == [{"epoch": 1, "step": 10}]
    (tmp_path / LOG).write_bytes(b'{"epoch": 1, "step": 10}\n\xff\xfe')
    assert log_lines(tmp_path) == [{"epoch": 1, "step": 10}]


def test_no_log_has_no_lines(tmp_path):
    assert log_lines(tmp_path) == []


def test_the_best_epoch_is_the_later_of_equals():
    scores = [None, 0.5, 0.7, None, 0.7, 0.6]
    lines = [{"epoch": i, "mean_foreground_dice": score} for i, score in enumerate(scores, 1)]
    assert best_epoch([*lines, {"epoch": 7}])["epoch"] == 5
    assert best_epoch([{"epoch": 1}, {"epoch": 2, "mean_foreground_dice": None}]) is None
    assert best_epoch([{"epoch": 1, "mean_foreground_dice": 0.0}])["epoch"] == 1


def test_the_remaining_time_follows_the_median_epoch():
    """One epoch that waited for a disk changes nothing."""
    lines = [{"epoch": i, "seconds": 10.0} for i in range(1, 7)]
    lines[3]["seconds"] = 500.0
    assert seconds_left(lines, 10, 5) == 40.0
    assert seconds_left([], 10, 5) is None


def test_the_remaining_time_counts_the_remaining_validations():
    """Every third epoch of eleven is validated, and the last: after 4 these are 6, 9 and 11."""
    lines = [{"epoch": i, "seconds": 10.0} for i in range(1, 5)]
    assert seconds_left(lines, 11, 3) == 70.0, "none has been timed"
    lines[2]["validation_seconds"] = 100.0
    assert seconds_left(lines, 11, 3) == 70.0 + 300.0
    assert seconds_left(lines, 11, 50) == 70.0 + 100.0, "the last one"
    assert seconds_left(lines, 4, 3) == 0.0


def test_validations_are_timed_by_the_last_ten_of_them_however_far_apart():
    lines = [{"epoch": i, "seconds": 1.0} | ({"validation_seconds": i} if i % 20 == 0 else {}) for i in range(1, 231)]
    assert seconds_left(lines, 231, 20) == 1.0 + 130.0  # the median of 40, 60, ..., 220


def test_the_steps_of_the_running_epoch_can_be_left_out():
    """Epoch 2 of 3 runs, and is validated."""
    lines = [{"epoch": 1, "seconds": 10.0, "validation_seconds": 7.0}]
    assert seconds_left(lines, 3, 2, running=True) == 10.0 + 14.0
    assert seconds_left(lines, 2, 2, running=True) == 7.0
    assert seconds_left([], 3, 2, running=True) is None


def test_totals_of_a_log():
    lines = [
        {"epoch": 1, "seconds": 1.5, "skipped": [{"step": 2}], "validation_seconds": 4.0, "mean_foreground_dice": 0.5,
         "dice": {"wall": 0.5}},
        {"epoch": 2, "seconds": 2.0, "skipped": [{"step": 7}, {"step": 8}]},
        {"epoch": 3, "seconds": None},
    ]  # fmt: skip
    assert log_totals(lines) == {
        "epochs_done": 3,
        "seconds": 7.5,
        "skipped_steps": 3,
        "best": {"epoch": 1, "mean_foreground_dice": 0.5, "dice": {"wall": 0.5}},
        "last": {"epoch": 1, "mean_foreground_dice": 0.5, "dice": {"wall": 0.5}},
    }
    assert log_totals([]) == {"epochs_done": 0, "seconds": 0, "skipped_steps": 0, "best": None, "last": None}
