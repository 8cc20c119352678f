"""nnU-Net v2 as an arm: its own planner, preprocessing, augmentation and mirroring; its schedule shortened to a budget of CPU time.

Run by `programs` in an environment with nnunetv2. The labelled frames are its 3D training cases; a study is predicted frame by
frame. Its learning rate falls by elapsed CPU time in place of epochs. It is not validated while it trains, so that its whole budget
is spent on steps; the last weights predict.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess_dataset,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from experiments.real_cine.protocol import (
    FOLDS,
    budget_seconds,
    held_out_cases,
    held_out_subjects,
    write_label,
)
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.system.clocks import cpu_seconds
from unet4d.system.files import read_json, write_json

NAME = "Dataset001_cine"
CONFIGURATIONS = {"nnunet_2d": "2d", "nnunet_3d": "3d_fullres"}
CHECKPOINT, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"
SAVE_EVERY_S = 120
REPORT_EVERY = 50


class BudgetTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a learning rate that reaches zero when a budget of CPU seconds is spent."""

    def train_for(self, budget_s: float) -> dict[str, float]:
        """Train until `budget_s` CPU seconds are spent, the start included; continue after a kill. Return steps and CPU seconds."""
        out, latest = Path(self.output_folder), Path(self.output_folder) / LATEST
        done = {"steps": 0, "cpu_s": 0.0}
        if latest.exists():
            self.load_checkpoint(str(latest))
            done = read_json(out / "state.json")
        before, saved_s = done["cpu_s"], done["cpu_s"]
        self.on_train_start()
        self.network.train()
        while (spent := before + cpu_seconds()) < budget_s:
            rate = self.initial_lr * (1 - spent / budget_s) ** 0.9
            self.optimizer.param_groups[0]["lr"] = rate
            loss = self.train_step(next(self.dataloader_train))["loss"]
            done = {"steps": done["steps"] + 1, "cpu_s": before + cpu_seconds()}
            if done["steps"] % REPORT_EVERY == 0:
                print(f"step {done['steps']}  loss {loss:.4f}  rate {rate:.5f}  CPU {done['cpu_s']:.0f} s", flush=True)
            if done["cpu_s"] - saved_s > SAVE_EVERY_S:
                self.save_checkpoint(str(out / "partial.pth"))
                os.replace(out / "partial.pth", latest)
                write_json(out / "state.json", done)
                saved_s = done["cpu_s"]
        self.on_train_end()
        return done


def prepare(dataset: Dataset, base: Path) -> None:
    """Write the labelled frames as 3D cases, plan and preprocess them, and write the folds."""
    raw = base / "raw" / NAME
    frames: dict[str, list[str]] = {}
    for case in dataset.training:
        image, label = nib.load(case.images[0]), nib.load(case.label)
        for t in case.labelled_frames or range(image.shape[3]):
            name = f"{case.name}_frame{t:02d}"
            frames.setdefault(case.subject, []).append(name)
            _write_frame(raw / "imagesTr" / f"{name}_0000.nii.gz", image, t, np.float32)
            _write_frame(raw / "labelsTr" / f"{name}.nii.gz", label, t, np.uint8)
    every = [name for names in frames.values() for name in names]
    contents = {
        "channel_names": {"0": "cine MRI"}, "labels": dict(dataset.labels), "numTraining": len(every), "file_ending": ".nii.gz",
    }  # fmt: skip
    write_json(raw / "dataset.json", contents)
    extract_fingerprints([1], num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    plan_experiments([1])
    preprocess_dataset(1, configurations=list(CONFIGURATIONS.values()), num_processes=[1], show_progress_bar=False)
    splits = []
    for fold in range(FOLDS):
        out = {name for subject in held_out_subjects(dataset, fold) for name in frames[subject]}
        splits.append({"train": sorted(set(every) - out), "val": sorted(out)})
    write_json(base / "preprocessed" / NAME / "splits_final.json", splits)


def trainer(base: Path, arm: str, fold: int) -> BudgetTrainer:
    """Return a trainer that writes below the folder in nnUNet_results."""
    folder = base / "preprocessed" / NAME
    plans = read_json(folder / "nnUNetPlans.json") | {"continue_training": False}
    return BudgetTrainer(plans, CONFIGURATIONS[arm], fold, read_json(folder / "dataset.json"), torch.device("cpu"))


def train(base: Path, arm: str, fold: int, seed: int, budget: str, facts: Path) -> None:
    """Train one network, and write its steps and CPU seconds to `facts`."""
    np.random.seed(seed)  # noqa: NPY002  its augmentation draws from the global generator
    torch.manual_seed(seed)
    own = trainer(base, arm, fold)
    done = own.train_for(budget_seconds(budget))
    plan = {key: own.configuration_manager.configuration[key] for key in ("patch_size", "batch_size", "spacing")}
    parameters = sum(p.numel() for p in own.network.parameters())
    version = importlib.metadata.version("nnunetv2")
    write_json(facts, {**done, "nnunetv2": version, "plan": plan, "parameters": parameters})


def predict(base: Path, arm: str, fold: int, dataset: Dataset, out: Path, facts: Path) -> None:
    """Segment every frame of the held-out studies with mirroring, then once more without, and time both.

    Cases that are done are skipped. CPU seconds are those of nnU-Net's own prediction, from files to files.
    """
    own = trainer(base, arm, fold)
    own.initialize()
    own.load_checkpoint(str(Path(own.output_folder) / CHECKPOINT))
    own.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        own.network, own.plans_manager, own.configuration_manager, [own.network.state_dict()], own.dataset_json,
        type(own).__name__, own.inference_allowed_mirroring_axes,
    )  # fmt: skip
    cases = held_out_cases(dataset, fold)
    done = read_json(facts) if facts.exists() else {}
    for name, folder in (("cases", out), ("unmirrored", out.parent / "unmirrored")):
        predictor.use_mirroring = name == "cases"
        timed = done.setdefault(name, {})
        for case in cases:
            if case.name not in timed:
                timed[case.name] = _predict_case(predictor, case, folder)
                write_json(facts, done)
                print(case.name, timed[case.name], flush=True)
    totals = {key: sum(about[key] for about in done["cases"].values()) for key in ("cpu_s", "frames")}
    unmirrored = sum(about["cpu_s"] for about in done["unmirrored"].values())
    write_json(facts, done | totals | {"studies": len(cases), "unmirrored_cpu_s": round(unmirrored, 2)})


def _predict_case(predictor: nnUNetPredictor, case: Case, out: Path) -> dict[str, float]:
    """Segment the frames of a study and write `<case>.nii.gz`; return the frames and the CPU seconds."""
    image = nib.load(case.images[0])
    scratch = out.parent / f"frames_{case.name}"
    files = [scratch / f"frame{t:03d}_0000.nii.gz" for t in range(image.shape[3])]
    for t, file in enumerate(files):
        _write_frame(file, image, t, np.float32)
    ends = [str(scratch / f"out{t:03d}") for t in range(len(files))]
    begin_s = cpu_seconds()
    predictor.predict_from_files_sequential([[str(file)] for file in files], ends)
    used_s = cpu_seconds() - begin_s
    label = np.stack([np.asarray(nib.load(f"{end}.nii.gz").dataobj) for end in ends], axis=-1).astype(np.uint8)
    write_label(out / f"{case.name}.nii.gz", label, image)
    shutil.rmtree(scratch)
    return {"frames": len(files), "cpu_s": round(used_s, 2)}


def _write_frame(path: Path, image: nib.Nifti1Image, frame: int, kind: type) -> None:
    """Write one frame of a 4D file as a 3D file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.asarray(image.dataobj[..., frame]).astype(kind)
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


def main() -> None:
    """Run one command: prepare, train or predict, with a JSON object of its arguments."""
    parser = argparse.ArgumentParser(description="nnU-Net as an arm of the benchmark")
    parser.add_argument("command", choices=("prepare", "train", "predict"))
    parser.add_argument("arguments", type=json.loads)
    given = parser.parse_args()
    arguments = {
        key: Path(value) if key in ("base", "out", "facts") else value for key, value in given.arguments.items()
    }
    if "dataset" in arguments:
        arguments["dataset"] = read_dataset(arguments["dataset"])
    {"prepare": prepare, "train": train, "predict": predict}[given.command](**arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
