"""Checks of predict and postprocess before torch is imported, which takes seconds: what must exist, and what must be writable.

The command line runs them first. The functions behind the commands run them again, because Python code may call those directly.
This module and all that it imports are light; a test holds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.find_studies import check_case_choice, check_input_exists, expand_input_lists
from unet4d.datasets.key_file import check_key_file
from unet4d.datasets.label_maps import find_label_maps
from unet4d.errors import InputError
from unet4d.models.folds import check_model_files
from unet4d.system.environment import check_device_name
from unet4d.system.files import PathLike, check_writable


def check_predict(
    models: Sequence[PathLike],
    inputs: Sequence[PathLike],
    out_dir: PathLike,
    device: str,
    cases: Sequence[str] | None,
    held_out: bool,
    scratch_dir: PathLike | None = None,
    key_file: PathLike | None = None,
) -> None:
    """Check what `predict` is given. Raises InputError, or Unet4DError where a folder may not be written to."""
    check_device_name(device)
    check_case_choice(cases, held_out)
    check_model_files(models)
    sources = expand_input_lists(inputs)
    for path in sources:
        check_input_exists(path)
    check_writable(out_dir)
    if key_file is not None:
        check_key_file(Path(key_file), Path(out_dir), sources)
    if scratch_dir is not None:
        check_writable(scratch_dir)


def check_postprocess(run: Path, dataset: PathLike, predictions: PathLike | None, device: str, dry_run: bool) -> None:
    """Check what `postprocess` is given. Raises InputError, or Unet4DError where the run may not be written to."""
    check_device_name(device)
    if run.is_file():
        raise InputError(
            f"{run} is a file; expected the folder of a run, or of folds, to record the steps in; give that folder"
        )
    check_model_files([run])
    if not dry_run:
        check_writable(run)
    open_dataset(dataset)
    if predictions is not None:
        find_label_maps(Path(predictions))
