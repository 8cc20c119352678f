"""Post-processing of the label maps of another arm, of whichever program, by the steps of its own arm."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from experiments.real_cine.protocol import write_label
from unet4d.datasets.dataset import read_dataset
from unet4d.inference.postprocessing_steps import Step, apply_steps
from unet4d.system.clocks import cpu_seconds
from unet4d.system.files import read_json, write_json


def postprocess(dataset: Path, predicted: Path, out: Path, steps: Sequence[Step]) -> float:
    """Write the label maps of a folder, post-processed, into another one; return the CPU seconds of reading, steps and writing."""
    begin_s, data = cpu_seconds(), read_dataset(dataset)
    for path in sorted(predicted.glob("*.nii.gz")):
        image = nib.load(path)
        label = np.moveaxis(np.asarray(image.dataobj, np.uint8), 3, 0)
        cleaned = apply_steps(label, steps, data.classes, data.time == "cyclic")
        write_label(out / path.name, np.moveaxis(cleaned, 0, 3), image)
    return cpu_seconds() - begin_s


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    spent_s = postprocess(
        Path(given["dataset"]), Path(given["predicted"]), Path(given["out"]), [Step(*step) for step in given["steps"]]
    )
    before = read_json(Path(given["facts_before"]))
    write_json(Path(given["facts"]), before | {"cpu_s": round(before["cpu_s"] + spent_s, 2)})
