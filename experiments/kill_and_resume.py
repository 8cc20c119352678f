"""Is a training that is killed again and again the training that nobody killed?

    python experiments/kill_and_resume.py DATASET DIR [--config FILE] [--kills N] [--seed S]

Trains the same run twice: DIR/whole in one go; DIR/killed with SIGKILL at N moments drawn by the seed, and once SIGTERM, each time
gone on with by --resume. Then compares, to the bit, losses, gradient norms and Dice of every epoch, and all that the last and the
best checkpoint hold. DIR/summary.json says where each signal fell and what it cost; DIR/curves.csv and curves.png show the two
curves. Ends with 1 if anything differs. On a GPU, whose sums come in any order, something will.
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
"""What a log line says of the machine, not of the training."""
STOPPED = 75
MOMENT, VALIDATION, CHECKPOINT = "any moment", "the next validation", "the next checkpoint's writing"
AIMS = (MOMENT, VALIDATION, CHECKPOINT)


class Death(NamedTuple):
    """One signal to be sent: so many seconds after training begins, at once or when the aim comes."""

    number: signal.Signals
    wait_s: float
    aim: str
    delay_s: float


def main(dataset: Path, out: Path, config: Path = CONFIG, kills: int = 6, seed: int = 0) -> bool:
    """Train both runs, compare them, write what came of it under `out`; gives whether they are equal."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is in use; wanted a new or empty folder; choose another")
    out.mkdir(parents=True, exist_ok=True)
    words = ["train", "--dataset", str(dataset), "--config", str(config)]
    whole = _whole([*words, "--out", str(out / "whole")], out)
    about = read_json(out / "whole" / "summary.json")
    epochs, steps = about["epochs"]["of"], about["steps"]["of"]
    ends = killed(words, out, deaths(kills, seed, whole["training_s"]), steps // epochs)
    found = [*differing(logged(out / "whole"), logged(out / "killed"), "log")]
    for name in (LAST, BEST):
        found += differing(content(out / "whole" / name), content(out / "killed" / name), name)
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
    for line in [*map(told, ends), *found[:20]]:
        print(line)
    print(f"{'equal to the bit' if not found else f'{len(found)} things differ'}: {out / 'summary.json'}")
    return not found


def deaths(kills: int, seed: int, training_s: float) -> list[Death]:
    """When and how the run is to die: `kills` times by SIGKILL, aimed in turn, and in the middle once by SIGTERM.

    The waits are drawn so that together they take about as long as the training does; what a kill costs is taken again.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for place in range(kills + 1):
        is_term = place == kills // 2
        aim = MOMENT if is_term else AIMS[(place - (place > kills // 2)) % len(AIMS)]
        wait_s = float(rng.uniform(0, 2 * training_s / (kills + 2)))
        number = signal.SIGTERM if is_term else signal.SIGKILL
        drawn.append(Death(number, wait_s, aim, float(rng.uniform(0, 0.3 if aim == VALIDATION else 0.01))))
    return drawn


def _whole(words: list[str], out: Path) -> dict[str, float]:
    """The run that nobody kills; gives seconds of all of it, and of its training."""
    with Life(words, out / "whole", out / "whole.txt") as life:
        life.until(lambda: life.doing.what != STARTING)
        begun_s = life.lasted_s
        _check(life.ended(), 0, life)
        return {"whole_s": life.lasted_s, "training_s": life.lasted_s - begun_s}


def killed(words: list[str], out: Path, planned: list[Death], epoch_steps: int) -> list[dict[str, Any]]:
    """The run that dies as planned, and then is left alone to its end; gives a row a signal."""
    run = out / "killed"
    rows: list[dict[str, Any]] = []
    words = [*words, "--out", str(run)]
    for death in planned:
        with Life(_resumed(words, run), run, out / "killed.txt") as life:
            if not _lived_until(life, death):
                _check(life.ended(), 0, life)
                return rows
            code, doing = life.end(death.number)
            if read_json(run / "summary.json")["state"] == "finished":  # it was, when the signal came
                return rows
            _check(code, STOPPED if death.number == signal.SIGTERM else -signal.SIGKILL, life)
        rows.append(_row(death, code, doing, run, epoch_steps))
    with Life(_resumed(words, run), run, out / "killed.txt") as life:
        _check(life.ended(), 0, life)
    return rows


def _lived_until(life: Life, death: Death) -> bool:
    """Wait for the moment of a death; False if the training is over before."""
    life.until(lambda: life.doing.what != STARTING)
    life.until(lambda: False, death.wait_s)
    if death.aim == VALIDATION:
        life.until(lambda: life.doing.what == VALIDATING)
    elif death.aim == CHECKPOINT:
        life.until(lambda: life.writes_checkpoint)
    life.until(lambda: False, death.delay_s)
    return life.process.poll() is None


def _begun(run: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any((run / name).is_file() for name in (LAST, PREVIOUS))


def _resumed(words: list[str], run: Path) -> list[str]:
    return [*words, "--resume"] if _begun(run) else words


def _row(death: Death, code: int, doing: Doing, run: Path, epoch_steps: int) -> dict[str, Any]:
    """What a signal met, and how many steps go from there back to the checkpoint that is left."""
    epochs, steps = kept(run)
    step = max(0, doing.epoch - 1) * epoch_steps + doing.steps
    return {
        "signal": death.number.name,
        "exit_code": code,
        "aimed_at": death.aim,
        "doing": doing.what,
        "epoch": doing.epoch,
        "step": step,
        "checkpoint_epochs": epochs,
        "checkpoint_step": steps,
        "steps_lost": max(0, step - steps),
    }


def kept(run: Path) -> tuple[int, int]:
    """Epochs and steps done in the checkpoint that the run would be gone on with; nothing without one."""
    if not _begun(run):
        return 0, 0
    state = Checkpoints(run).newest(print)["training"]
    return state["epoch"], state["step"]


def told(row: dict[str, Any]) -> str:
    """A row in words."""
    return (
        f"{row['signal']} in epoch {row['epoch']} after step {row['step']}, {row['doing']} (aimed at {row['aimed_at']}): exit code "
        f"{row['exit_code']}, {row['steps_lost']} steps lost"
    )


def logged(run: Path) -> list[dict[str, Any]]:
    """The log's lines without times."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in log_lines(run)]


def content(path: Path) -> dict[str, Any]:
    """A checkpoint's content without times."""
    found = load_checkpoint(path)
    found["training"].pop("spent", None)
    return found


def differing(one: Any, other: Any, name: str) -> Iterator[str]:
    """Where two nests of tensors and plain values are not the same to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key in one and key in other:
                yield from differing(one[key], other[key], f"{name}/{key}")
            else:
                yield f"{name}/{key} is in one alone"
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differing(*pair, f"{name}/{index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            yield f"{name} is {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
        elif not torch.equal(one, other):
            yield f"{name} differs by {(one.double() - other.double()).abs().max():.3g}"
    elif one != other:
        yield f"{name} is {str(one)[:60]} and {str(other)[:60]}"


def write_curves(out: Path, ends: list[dict[str, Any]]) -> None:
    """curves.csv and curves.png: loss and Dice of both runs over the epochs."""
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
            f"the training ended with {code}; wanted {wanted}; {life.transcript} ends: {' / '.join(tail)}"
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
