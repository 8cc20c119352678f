"""An experiment on resuming: a training that is killed several times against the same training without interruption.

    python experiments/kill_and_resume.py DATASET DIR [--config FILE] [--kills N] [--seed S]

Trains the same run twice: DIR/whole in one go; DIR/killed with SIGKILL at N moments drawn by the seed, and once SIGTERM, each time
continued with --resume. Then compares, to the bit, losses, gradient norms and Dice of every epoch, and all that the last and the
best checkpoint hold. DIR/summary.json lists the moment of each signal and the lost steps; DIR/curves.csv and curves.png show both
curves. Ends with 1 if anything differs. On a GPU sums are added in any order, so something will differ.
"""

from __future__ import annotations

import argparse
import csv
import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from killing import STARTING, VALIDATING, Doing, Life
from matplotlib.figure import Figure

from unet4d.errors import InputError, Unet4DError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from unet4d.system.files import read_json, replacing, write_json, write_text
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.monitoring.log_lines import log_lines

CONFIG = Path(__file__).with_name("kill_and_resume.yaml")
TIMES = ("seconds", "validation_seconds", "waited_seconds", "frames_per_second", "peak_memory_gb")
"""Fields of a log line that depend on the machine, not on the training."""
STOPPED = 75
MOMENT, VALIDATION, CHECKPOINT = "any moment", "the next validation", "the next checkpoint's writing"
AIMS = (MOMENT, VALIDATION, CHECKPOINT)


class Kill(NamedTuple):
    """One signal to send: `wait_s` seconds after training begins, then at the aimed moment."""

    number: signal.Signals
    wait_s: float
    aim: str
    delay_s: float


def main(dataset: Path, out: Path, config: Path = CONFIG, kills: int = 6, seed: int = 0) -> bool:
    """Train both runs, compare them, write the results under `out`; return whether they are equal."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is in use; expected a new or empty folder; choose another")
    out.mkdir(parents=True, exist_ok=True)
    words = ["train", "--dataset", str(dataset), "--config", str(config)]
    whole = _whole([*words, "--out", str(out / "whole")], out)
    about = read_json(out / "whole" / "summary.json")
    epochs, steps = about["epochs"]["of"], about["steps"]["of"]
    ends = train_killed(words, out, plan_kills(kills, seed, whole["training_s"]), steps // epochs)
    found = [*differences(log_without_times(out / "whole"), log_without_times(out / "killed"), "log")]
    for name in (LAST, BEST):
        found += differences(content(out / "whole" / name), content(out / "killed" / name), name)
    summary = {
        "equal": not found,
        "differing": found[:20],
        "compared": f"log.jsonl but for {', '.join(TIMES)}; {LAST} and {BEST} but for the seconds spent",
        "config": config.name,
        "epochs": epochs,
        "steps": steps,
        "seed": seed,
        "seconds": {name: round(value, 1) for name, value in whole.items()},
        "signals": ends,
        **{name: about[name] for name in ("versions", "commit", "hardware")},
        "threads": torch.get_num_threads(),
    }
    write_json(out / "summary.json", summary)
    write_curves(out, ends)
    for line in [*map(describe_row, ends), *found[:20]]:
        print(line)
    print(f"{'equal to the bit' if not found else f'{len(found)} things differ'}: {out / 'summary.json'}")
    return not found


def plan_kills(kills: int, seed: int, training_s: float) -> list[Kill]:
    """Return the signals to send: `kills` times SIGKILL, aimed in turn, and in the middle SIGTERM once.

    The waits are random and together take about as long as the training; lost steps are trained again.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for place in range(kills + 1):
        is_term = place == kills // 2
        aim = MOMENT if is_term else AIMS[(place - (place > kills // 2)) % len(AIMS)]
        wait_s = float(rng.uniform(0, 2 * training_s / (kills + 2)))
        number = signal.SIGTERM if is_term else signal.SIGKILL
        drawn.append(Kill(number, wait_s, aim, float(rng.uniform(0, 0.3 if aim == VALIDATION else 0.01))))
    return drawn


def _whole(words: list[str], out: Path) -> dict[str, float]:
    """Train without interruption; return the seconds of the whole run and of its training."""
    with Life(words, out / "whole", out / "whole.txt") as life:
        life.until(lambda: life.doing.what != STARTING)
        begun_s = life.lasted_s
        _check(life.wait(), 0, life)
        return {"whole_s": life.lasted_s, "training_s": life.lasted_s - begun_s}


def train_killed(words: list[str], out: Path, planned: list[Kill], epoch_steps: int) -> list[dict[str, Any]]:
    """Train with the planned signals, then to the end; return a row per signal."""
    run = out / "killed"
    rows: list[dict[str, Any]] = []
    words = [*words, "--out", str(run)]
    for kill in planned:
        with Life(_resumed(words, run), run, out / "killed.txt") as life:
            if not _wait_for(life, kill):
                _check(life.wait(), 0, life)
                return rows
            code, doing = life.end(kill.number)
            if read_json(run / "summary.json")["state"] == "finished":  # it was, when the signal came
                return rows
            _check(code, STOPPED if kill.number == signal.SIGTERM else -signal.SIGKILL, life)
        rows.append(_row(kill, code, doing, run, epoch_steps))
    with Life(_resumed(words, run), run, out / "killed.txt") as life:
        _check(life.wait(), 0, life)
    return rows


def _wait_for(life: Life, kill: Kill) -> bool:
    """Wait for the moment of a signal; return False if the training is over before."""
    life.until(lambda: life.doing.what != STARTING)
    life.until(lambda: False, kill.wait_s)
    if kill.aim == VALIDATION:
        life.until(lambda: life.doing.what == VALIDATING)
    elif kill.aim == CHECKPOINT:
        life.until(lambda: life.writes_checkpoint)
    life.until(lambda: False, kill.delay_s)
    return life.process.poll() is None


def _has_checkpoint(run: Path) -> bool:
    """Return whether there is a checkpoint to resume from."""
    return any((run / name).is_file() for name in (LAST, PREVIOUS))


def _resumed(words: list[str], run: Path) -> list[str]:
    return [*words, "--resume"] if _has_checkpoint(run) else words


def _row(kill: Kill, code: int, doing: Doing, run: Path, epoch_steps: int) -> dict[str, Any]:
    """Return the state of the training at a signal, and the steps since the last checkpoint."""
    epochs, steps = checkpoint_progress(run)
    step = max(0, doing.epoch - 1) * epoch_steps + doing.steps
    return {
        "signal": kill.number.name,
        "exit_code": code,
        "aimed_at": kill.aim,
        "doing": doing.what,
        "epoch": doing.epoch,
        "step": step,
        "checkpoint_epochs": epochs,
        "checkpoint_step": steps,
        "steps_lost": max(0, step - steps),
    }


def checkpoint_progress(run: Path) -> tuple[int, int]:
    """Return epochs and steps of the checkpoint that the run would resume from; 0 without one."""
    if not _has_checkpoint(run):
        return 0, 0
    state = Checkpoints(run).newest()["training"]
    return state["epoch"], state["step"]


def describe_row(row: dict[str, Any]) -> str:
    """Return a line for a row."""
    return (
        f"{row['signal']} in epoch {row['epoch']} after step {row['step']}, {row['doing']} (aimed at {row['aimed_at']}): exit code "
        f"{row['exit_code']}, {row['steps_lost']} steps lost"
    )


def log_without_times(run: Path) -> list[dict[str, Any]]:
    """Return the log's lines without times."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in log_lines(run)]


def content(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content without times."""
    found = load_checkpoint(path)
    found["training"].pop("timer", None)
    return found


def differences(one: Any, other: Any, name: str) -> Iterator[str]:
    """Yield the differences of two nested values, tensors compared to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{name}/{key}")
            else:
                yield f"{name}/{key} is in one alone"
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{name}/{index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            yield f"{name} is {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
        elif not torch.equal(one, other):
            yield f"{name} differs by {(one.double() - other.double()).abs().max():.3g}"
    elif one != other:
        yield f"{name} is {str(one)[:60]} and {str(other)[:60]}"


def write_curves(out: Path, ends: list[dict[str, Any]]) -> None:
    """Write curves.csv and curves.png: loss and Dice of both runs over the epochs."""
    runs = [{line["epoch"]: line for line in log_lines(out / name)} for name in ("whole", "killed")]
    keys = [("loss", "loss"), ("dice", "mean_foreground_dice")]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["epoch", *(f"{name}_{run}" for name, _ in keys for run in ("uninterrupted", "resumed"))])
    for epoch in runs[0]:
        writer.writerow([epoch, *(run.get(epoch, {}).get(key) for _, key in keys for run in runs)])
    write_text(out / "curves.csv", table.getvalue())

    steps = next(iter(runs[0].values()))["step"]
    figure = Figure((9, 3.4), layout="constrained")
    for axes, (name, key) in zip(figure.subplots(1, 2), keys, strict=True):
        for row in ends:
            of = "#D55E00" if row["signal"] == "SIGKILL" else "#009E73"
            axes.axvline(row["step"] / steps, color=of, linewidth=1, alpha=0.6)
        for run, style, label in zip(runs, ("-", "o"), ("uninterrupted", "killed and resumed"), strict=True):
            points = [(epoch, line[key]) for epoch, line in run.items() if line.get(key) is not None]
            axes.plot(*zip(*points, strict=True), style, color="#0072B2" if style == "-" else "#333333", label=label,
                      markerfacecolor="none")  # fmt: skip
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle("lines: SIGKILL (orange), SIGTERM (green)", fontsize=9)
    with replacing(out / "curves.png") as temporary:
        figure.savefig(temporary, dpi=110)


def _check(code: int, wanted: int, life: Life) -> None:
    if code != wanted:
        tail = life.transcript.read_text(errors="replace").strip().splitlines()[-3:]
        raise Unet4DError(
            f"the training ended with {code}, expected {wanted}; {life.transcript} ends: {' / '.join(tail)}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path, help="dataset folder; its preprocessed studies are kept in it")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML file of the run's settings")
    parser.add_argument("--kills", type=int, default=6, help="how often SIGKILL is sent")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        given = _arguments()
        sys.exit(0 if main(given.dataset, given.out, given.config, given.kills, given.seed) else 1)
    except Unet4DError as error:
        print(f"kill_and_resume: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
