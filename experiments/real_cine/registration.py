"""Registration as an arm: the label of one labelled frame of a study is carried to its other one by Greedy; nothing is trained.

Run by `programs` in an environment with picsl-greedy. This arm sees a label of the held-out patient, which no other arm does.
Yushkevich et al., "Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in 3 Tesla and 7 Tesla
T2-weighted MRI", Alzheimer's & Dementia 2016.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from picsl_greedy import Greedy3D

from experiments.real_cine.protocol import held_out_cases, write_label
from unet4d.datasets.dataset import read_dataset
from unet4d.system.clocks import cpu_seconds
from unet4d.system.files import write_json

REGISTER = "-threads 1 -i fixed moving -m NCC 2x2x2 -n 100x50x10 -o warp"
WARP = "-threads 1 -rf fixed -rm class carried -r warp"
PAD = 6
"""Slices repeated beyond the first and the last: Greedy's coarsest level is a quarter of the size and needs four slices."""


def predict(dataset: Path, fold: int, out: Path, facts: Path) -> None:
    """Write a 4D label map per held-out study with two labelled frames, each of them carried from the other, others empty."""
    content, used_s = read_dataset(dataset), 0.0
    cases = held_out_cases(content, fold)
    for case in cases:
        image, label = nib.load(case.images[0]), nib.load(case.label)
        carried = np.zeros(image.shape, np.uint8)
        first, last = case.labelled_frames
        begin_s = cpu_seconds()
        for source, target in ((first, last), (last, first)):
            carried[..., target] = carry(image, label, source, target, content.label_values)
        used_s += cpu_seconds() - begin_s
        write_label(out / f"{case.name}.nii.gz", carried, image)
    write_json(facts, {"studies": len(cases), "frames": 2 * len(cases), "cpu_s": round(used_s, 2)})


def carry(
    image: nib.Nifti1Image, label: nib.Nifti1Image, source: int, target: int, values: Sequence[int]
) -> np.ndarray:
    """Return the label (X, Y, Z) of one frame moved to another: each class is resampled linearly, and the largest one taken."""
    spacing = [float(size) for size in image.header.get_zooms()[:3]]
    fixed, moving = (_volume(np.asarray(image.dataobj[..., t]), spacing) for t in (target, source))
    greedy = Greedy3D()
    greedy.execute(REGISTER, fixed=fixed, moving=moving, warp=None)
    drawn = np.asarray(label.dataobj[..., source])
    shares = []
    for value in values:
        greedy.execute(WARP, **{"class": _volume(drawn == value, spacing), "carried": None})
        shares.append(sitk.GetArrayFromImage(greedy["carried"]).T[..., PAD:-PAD])
    return np.asarray(values)[np.argmax(shares, axis=0)]


def _volume(voxels: np.ndarray, spacing: list[float]) -> sitk.Image:
    """Return voxels (X, Y, Z) for Greedy, with the outer slices repeated."""
    padded = np.pad(voxels.astype(np.float32), ((0, 0), (0, 0), (PAD, PAD)), "edge")
    volume = sitk.GetImageFromArray(padded.T)
    volume.SetSpacing(spacing)
    return volume


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="registration as an arm of the benchmark")
    parser.add_argument("command", choices=("predict",))
    parser.add_argument("arguments", type=json.loads)
    given = parser.parse_args().arguments
    predict(Path(given["dataset"]), given["fold"], Path(given["out"]), Path(given["facts"]))
