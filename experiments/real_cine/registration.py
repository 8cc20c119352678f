"""Registration as an arm: the label of one labelled frame of a study is carried to its other one by Greedy; nothing is trained.

Run by `programs` in an environment with picsl-greedy. This arm sees a label of the held-out patient, which no other arm does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from experiments.real_cine.protocol import held_out_cases, write_label
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.carry import carry_label, find_box
from unet4d.datasets.propagation.cross_frames import deformation_between, neighbors
from unet4d.datasets.propagation.registration import Greedy
from unet4d.images.image4d import Image4D
from unet4d.system.clocks import cpu_seconds
from unet4d.system.files import write_json


def predict(dataset: Path, fold: int, out: Path, facts: Path) -> None:
    """Write a 4D label map per held-out study with two labelled frames, each of them carried from the other, others empty."""
    content, used_s = read_dataset(dataset), 0.0
    cases = held_out_cases(content, fold)
    for case in cases:
        image = case.image()
        label, _ = read_labelled(case, content, image)
        carried, begin_s = np.zeros_like(label), cpu_seconds()
        ((first, second),) = neighbors(case.labelled_frames, image.frames, content.cyclic)
        for source, target in ((first, second), (second, first)):
            carried[target] = carry(image, label[source], source, target, source == first)
        used_s += cpu_seconds() - begin_s
        write_label(out / f"{case.name}.nii.gz", np.moveaxis(carried, 0, -1), nib.load(case.images[0]))
    write_json(facts, {"studies": len(cases), "frames": 2 * len(cases), "cpu_s": round(used_s, 2)})


def carry(image: Image4D, drawn: np.ndarray, source: int, target: int, later: bool) -> np.ndarray:
    """Return the label (X, Y, Z) of one frame moved to another, which is later in time or round the cycle, or else earlier."""
    box, registration = find_box([drawn], image.spacing, None), Greedy(image.spacing)
    deformation = deformation_between(image.array[(0, slice(None), *box)], source, target, later, registration)
    carried = np.zeros_like(drawn)
    carried[box] = carry_label(drawn[box], np.unique(drawn[box]), deformation, registration)
    return carried


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="registration as an arm of the benchmark")
    parser.add_argument("command", choices=("predict",))
    parser.add_argument("arguments", type=json.loads)
    given = parser.parse_args().arguments
    predict(Path(given["dataset"]), given["fold"], Path(given["out"]), Path(given["facts"]))
