"""The runner: trains, predicts and scores jobs one after the other; what is finished is kept, what was cut off is continued.

    python -m experiments.real_cine.run DATASET WORK --all
    python -m experiments.real_cine.run DATASET WORK --arm nnunet_2d --fold 0 --seed 0 --budget 30m
    python -m experiments.real_cine.run DATASET WORK --all --suite ablations
    python -m experiments.real_cine.run SPOILED WORK --arm clstm --view spoiled      (trained before, scored on a copy of DATASET)

Two runners may share WORK: a job that another one works on is passed over. nnunet_* and registration need WORK/venv, an environment
with nnunetv2 and picsl-greedy beside the packages of this project; see experiments/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.real_cine.programs import PROGRAMS, RECORD, Command, environment, evaluate
from experiments.real_cine.protocol import (
    CHECKOUT,
    CLEAN,
    SUITES,
    Job,
    budget_seconds,
    held_out_cases,
    read_suite,
    select_jobs,
)
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError, Unet4DError
from unet4d.system.environment import hardware, installed
from unet4d.system.files import read_json, write_json
from unet4d.system.lock import exclusive_lock

PR_SET_PDEATHSIG = 1


def run_jobs(jobs: list[Job], dataset: Path, work: Path, view: str) -> None:
    """Run the jobs that are not finished; report at the end which ones failed.

    Raises:
        Unet4DError: a job failed.
    """
    failed = []
    for job in jobs:
        try:
            outcome = run_job(job, dataset, work, view)
            print(f"{_now()}  {job}: {outcome}", flush=True)
        except subprocess.CalledProcessError as error:
            failed.append(f"{job} (exit code {error.returncode})")
            print(f"{_now()}  {job}: failed, see its logs", flush=True)
    if failed:
        raise Unet4DError(f"failed: {', '.join(failed)}; the logs are in {work}; run the command again to continue")


def run_job(job: Job, dataset: Path, work: Path, view: str) -> str:
    """Run what is missing of a job, and write its record; return what was done in a word or two.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    folder, program = job.folder(work), PROGRAMS[job.arm.program]
    here = folder / view
    here.mkdir(parents=True, exist_ok=True)
    if (here / RECORD).exists():
        return "finished before"
    with exclusive_lock(folder / "lock") as is_held:
        if is_held is False:
            return "another runner works on it"
        if (here / RECORD).exists():
            return "finished before"
        if not program.begin(job, work, view):
            return f"{job.arm.network_of} is not done yet"
        if program.train and view != CLEAN and not (folder / "train.json").exists():
            return "not trained yet"
        if program.prepare and not _prepare(job, dataset, work):
            return "another runner prepares its data"
        trained = _train(folder, job, dataset, work, view)
        predicted = _step(here, "predict", program.predict(job, dataset, work, here / "predicted", here / "facts.json"))
        cases = [case.name for case in held_out_cases(read_dataset(dataset), job.fold)]
        _step(here, "evaluate", evaluate(dataset, here / "predicted", here / "scores", cases))
        if program.train:
            trained |= program.trained(job, work)
        predicted |= read_json(here / "facts.json")
        write_json(here / RECORD, _about(job, view) | {"cases": cases, "train": trained, "predict": predicted})
    return "finished"


def _train(folder: Path, job: Job, dataset: Path, work: Path, view: str) -> dict[str, Any]:
    """Train a job on the studies as they are, unless it is trained; return the record of the step."""
    program = PROGRAMS[job.arm.program]
    if not program.train:
        return {}
    if view != CLEAN:
        return read_json(folder / "train.json")
    if program.preprocess:
        _step(folder, "preprocess", program.preprocess(job, dataset, work))
    return _step(folder, "train", program.train(job, dataset, work))


def _prepare(job: Job, dataset: Path, work: Path) -> bool:
    """Prepare the data of the job's program once; return False where another runner does so."""
    folder = work / "prepared" / job.arm.program
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / "lock") as is_held:
        if is_held is not False:
            _step(folder, "prepare", PROGRAMS[job.arm.program].prepare(dataset, work))
    return is_held is not False


def _step(folder: Path, name: str, command: Command) -> dict[str, Any]:
    """Run a step unless its record NAME.json is there; return the record.

    It has the CPU and wall seconds of the process and its children, and the number of starts; the seconds are those of the last
    one. The process ends with its runner. Its output goes to NAME.log.
    """
    record, attempts = folder / f"{name}.json", folder / f"{name}.attempts"
    if record.exists():
        return read_json(record)
    number = int(attempts.read_text()) + 1 if attempts.exists() else 1
    attempts.write_text(str(number))
    print(f"{_now()}  $ {' '.join(command.words)}", flush=True)
    begin_s = time.monotonic()
    with open(folder / f"{name}.log", "a", encoding="utf-8") as log:
        child = subprocess.Popen(
            command.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=CHECKOUT, env=environment(command),
            preexec_fn=_end_with_parent,
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command.words)
    seconds = {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "wall_s": round(time.monotonic() - begin_s, 1)}
    write_json(record, {"process": seconds, "attempts": number})
    return read_json(record)


def _end_with_parent() -> None:
    """Ask Linux to end this process by SIGTERM when its parent ends, however that ends: its lock is free then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _about(job: Job, view: str) -> dict[str, Any]:
    """Return the job, the code and the machine for a record."""
    import torch

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()

    changed = "changed" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "suite": job.suite, "arm": job.arm.name, "fold": job.fold, "seed": job.seed, "budget": job.budget, "view": view,
        "options": job.arm.options, "commit": " ".join([git("rev-parse", "--short", "HEAD"), changed]).strip(),
        "date": _now(), "hardware": hardware(torch.device("cpu")), "versions": installed(),
    }  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def main() -> None:
    """Run the jobs that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument(
        "work", type=Path, metavar="WORK", help="folder of all files of the runs; holds patients' label maps"
    )
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--all", action="store_true", help="every arm")
    parser.add_argument("--arm", nargs="+", help="these arms")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--budget", help="CPU time of a training, in place of the suite's; for a trial, 30s")
    parser.add_argument("--view", default=CLEAN, help=f"name of the copy that DATASET is; default {CLEAN}: as it is")
    given = parser.parse_args()
    if given.all == bool(given.arm):
        parser.error("give either --all or --arm")
    try:
        budget_seconds(given.budget or "1s")
        jobs = select_jobs(read_suite(given.suite), given.arm, given.fold, given.seed, given.budget)
        run_jobs(jobs, given.dataset.resolve(), given.work.resolve(), given.view)
    except (InputError, Unet4DError) as error:
        print(f"real_cine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
