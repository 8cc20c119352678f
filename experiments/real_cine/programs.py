"""The programs behind the arms: the command lines that prepare, train and predict."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.real_cine.protocol import BASE, CHECKOUT, Job, held_out_cases, held_out_subjects
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.checks import PropagationOptions
from unet4d.datasets.propagation.propagate import propagate
from unet4d.models.checkpoint import LAST, RUN_SUMMARY
from unet4d.system.files import read_json, write_json
from unet4d.system.safe_paths import ALLOWED

RECORD = "record.json"
"""Written last, in the folder of a job's scores of a view."""
TRAINED = "trained"
"""Folder of a training within that of its job."""


class Command(NamedTuple):
    """A command line and what its environment has beside that of the runner."""

    words: list[str]
    environment: Mapping[str, str] = {}


class Program(NamedTuple):
    """The steps of a program; None where it has no such step.

    Attributes:
        predict: of (job, dataset, work, folder of label maps, file of facts).
        train: of (job, dataset, work).
        prepare: of (dataset, work), once for all jobs.
        preprocess: of (job, dataset, work), before its training and outside of its budget.
        begin: of (job, work, view), makes what a job with `network_of` needs of that one; returns False where it is not there yet.
        trained: facts of a training, of (job, work): number of steps, CPU seconds with those before a kill, and more.
    """

    predict: Callable[[Job, Path, Path, Path, Path], Command]
    train: Callable[[Job, Path, Path], Command] | None = None
    prepare: Callable[[Path, Path], Command] | None = None
    preprocess: Callable[[Job, Path, Path], Command] | None = None
    begin: Callable[[Job, Path, str], bool] = lambda job, work, view: True
    trained: Callable[[Job, Path], dict[str, Any]] = lambda job, work: {}


def _train_unet4d(job: Job, dataset: Path, work: Path) -> Command:
    length: dict[str, Any] = {"train.time_budget": job.budget, "train.budget_clock": "cpu"}
    if job.arm.epochs is not None:
        length = {"train.epochs": job.arm.epochs}
    return _training_unet4d(job, dataset, work, TRAINED, length)


def _preprocess_unet4d(job: Job, dataset: Path, work: Path) -> Command:
    """Return a training of one step, thrown away: the preprocessed studies that it leaves behind are those that the job needs."""
    return _training_unet4d(job, dataset, work, "preprocessed", {"train.epochs": 1, "train.steps_per_epoch": 1})


def _training_unet4d(job: Job, dataset: Path, work: Path, name: str, length: Mapping[str, Any]) -> Command:
    run = job.folder(work) / name
    patients = job.arm.patients
    folder = f"fold_{job.fold}" if patients is None else f"fold_{job.fold}_patients_{patients}"
    if job.arm.propagated is not None:
        dataset = _propagated(dataset, work / job.suite / job.arm.name / "dataset", job.arm.propagated)
        folder = f"{folder}_{job.arm.name}"
    training = write_training_set(dataset, work / "folds" / folder, job.fold, patients)
    options: dict[str, Any] = {
        "seed": job.seed,
        "data.val_subjects": [],
        **length,
        **job.arm.options,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", _text(value))]
    resume = ["--resume"] if (run / LAST).exists() else []
    command = _unet4d("train", "--dataset", training, "--out", run, "--config", BASE, *words, *resume)
    return command._replace(environment={ALLOWED: str(dataset)})


def _propagated(dataset: Path, out: Path, options: dict[str, float]) -> Path:
    """Return a dataset with labels on all frames, each patient's from his own drawn ones; it is made where it is not there."""
    if not (out / "dataset.json").exists():
        propagate(dataset, out, PropagationOptions(**options))
    return out


def write_training_set(dataset: Path, out: Path, fold: int, patients: int | None = None) -> Path:
    """Write a dataset of the subjects that a fold trains on, with links to the files, so that nothing is spent on validation.

    Args:
        dataset: all subjects.
        out: a folder.
        fold: number of the fold.
        patients: number of them, the first by name; None: all.
    """
    content, held_out = read_dataset(dataset), held_out_subjects(read_dataset(dataset), fold)
    chosen = sorted(set(content.subjects) - set(held_out))[:patients]
    entries = read_json(content.root / "dataset.json")
    cases = zip(entries["training"], content.training, strict=True)
    entries |= {"training": [entry for entry, case in cases if case.subject in chosen], "test": []}
    write_json(out / "dataset.json", entries)
    for folder in {path.relative_to(content.root).parts[0] for case in content.training for path in case.files}:
        if not (out / folder).exists():
            (out / folder).symlink_to(content.root / folder)
    return out


def borrow_network(job: Job, work: Path, view: str) -> bool:
    """Link the network of another arm as if the job had trained it; return whether it is trained."""
    own, other = job.folder(work), job.trained_folder(work)
    if own == other:
        return True
    if not (other / "train.json").exists():
        return False
    (own / TRAINED).mkdir(parents=True, exist_ok=True)
    for name in ("preprocess.json", "train.json", f"{TRAINED}/{LAST}", f"{TRAINED}/{RUN_SUMMARY}"):
        if not (own / name).exists():
            (own / name).symlink_to(other / name)
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _unet4d(*words: object) -> Command:
    return Command([sys.executable, "-m", "unet4d", *map(str, words)])


def _predict_unet4d(job: Job, dataset: Path, work: Path, out: Path, facts: Path) -> Command:
    model = job.folder(work) / TRAINED / LAST
    cases = [case.name for case in held_out_cases(read_dataset(dataset), job.fold)]
    given = {"temporal_smoothing": 0, **job.arm.predict}
    options: list[str] = []
    for key, value in given.items():
        if value is not None:  # a list is given as several words
            options += [f"--{key}", *map(_text, value if isinstance(value, list) else [value])]
    words = [facts, out, model, "-i", dataset, *options, "--cases", *cases]
    block = {"UNET4D_ALLOW_TEMPORAL": job.arm.options.get("model.temporal", "")}
    return Command([sys.executable, "-m", "experiments.real_cine.predict", *map(str, words)], block)


def _trained_unet4d(job: Job, work: Path) -> dict[str, Any]:
    summary = read_json(job.folder(work) / TRAINED / RUN_SUMMARY)
    budget = summary["time_budget"]  # None where the length is in epochs
    return {"steps": summary["steps"]["done"], "cpu_s": budget and budget["spent_seconds"]}


def _outside(module: str, command: str, work: Path, **arguments: object) -> Command:
    """Return a command line of a module that runs in the environment WORK/venv."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    words = [str(work / "venv" / "bin" / "python"), "-m", f"experiments.real_cine.{module}", command, json.dumps(given)]
    return Command(words)


def _nnunet(command: str, job: Job | None, work: Path, **arguments: object) -> Command:
    base = work / "nnunet"
    results = base if job is None else job.folder(work) / TRAINED
    folders = {"raw": base / "raw", "preprocessed": base / "preprocessed", "results": results}
    loaders = "1" if job is None else "0"  # the planner takes it for a number of threads
    alone = {"nnUNet_n_proc_DA": loaders, "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    if job is not None:
        arguments |= {"arm": job.arm.name, "fold": job.fold}
    words = _outside("nnunet", command, work, base=base, **arguments).words
    return Command(words, {f"nnUNet_{name}": str(folder) for name, folder in folders.items()} | alone)


def _train_nnunet(job: Job, dataset: Path, work: Path) -> Command:
    facts = job.folder(work) / TRAINED / "facts.json"
    return _nnunet("train", job, work, seed=job.seed, budget=job.budget, facts=facts)


def _predict_nnunet(job: Job, dataset: Path, work: Path, out: Path, facts: Path) -> Command:
    return _nnunet("predict", job, work, dataset=dataset, out=out, facts=facts)


def _postprocess(job: Job, dataset: Path, work: Path, out: Path, facts: Path) -> Command:
    source = job.trained_folder(work) / out.parent.name
    given = {
        "dataset": dataset,
        "predicted": source / out.name,
        "facts_before": source / facts.name,
        "out": out,
        "facts": facts,
    }
    words = json.dumps({key: str(path) for key, path in given.items()} | {"steps": job.arm.steps})
    return Command([sys.executable, "-m", "experiments.real_cine.postprocessing", words])


def _register(job: Job, dataset: Path, work: Path, out: Path, facts: Path) -> Command:
    return _outside("registration", "predict", work, dataset=dataset, fold=job.fold, out=out, facts=facts)


PROGRAMS = {
    "unet4d": Program(
        _predict_unet4d, _train_unet4d, preprocess=_preprocess_unet4d, begin=borrow_network, trained=_trained_unet4d
    ),
    "postprocessing": Program(
        _postprocess, begin=lambda job, work, view: (job.trained_folder(work) / view / RECORD).exists()
    ),
    "nnunet": Program(
        _predict_nnunet,
        _train_nnunet,
        lambda dataset, work: _nnunet("prepare", None, work, dataset=dataset),
        trained=lambda job, work: read_json(job.folder(work) / TRAINED / "facts.json"),
    ),
    "registration": Program(_register),
}


def evaluate(dataset: Path, predicted: Path, out: Path, cases: Sequence[str]) -> Command:
    """Return the command that scores these cases."""
    return _unet4d("evaluate", "--reference", dataset, "--prediction", predicted, "--out", out, "--cases", *cases)


def environment(command: Command) -> dict[str, str]:
    """Return the environment of a command: one thread, and the checkout's modules."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)} | dict(command.environment)
