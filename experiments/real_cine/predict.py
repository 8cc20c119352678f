"""`unet4d predict` with a record of its CPU seconds without those of importing, as nnU-Net's are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib

import unet4d.inference.predict  # noqa: F401  imported before the clock starts
from unet4d.cli.main import run
from unet4d.system.clocks import cpu_seconds
from unet4d.system.files import write_json

if __name__ == "__main__":
    facts, out, *options = sys.argv[1:]
    begin_s = cpu_seconds()
    code = run(["predict", *options, "-o", out])
    used_s = cpu_seconds() - begin_s
    if not code:
        frames = [nib.load(path).shape[3] for path in Path(out).glob("*.nii.gz")]
        write_json(Path(facts), {"studies": len(frames), "frames": sum(frames), "cpu_s": round(used_s, 2)})
    sys.exit(code)
