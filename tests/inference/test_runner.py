"""The runner computes with numpy and onnxruntime what `unet4d predict` computes with torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.graph_models import DEEP, HEART, make_image, make_model
from tests.sliding import sliding_window
from unet4d import segment
from unet4d.images.channels import mirror_signs
from unet4d.inference import runner
from unet4d.inference.graph_folder import write_graph_folder
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import prepare_image
from unet4d.inference.runner import Runner
from unet4d.inference.streaming import StreamingSegmenter
from unet4d.system.files import write_json

pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'unet4d[onnx]'")

VELOCITIES = ("signal", "velocity X", "velocity -Y", "velocity Z")
FORWARD = {"direction": "forward"}
TWO_LAYERS = {"direction": "bidirectional", "lstm_layers": 2}
CASES = {
    "forward": FORWARD,
    "forward, two layers, a loop": {**FORWARD, "lstm_layers": 2, "cyclic": True, "priming_frames": 2},
    "bidirectional": {"direction": "bidirectional"},
    "bidirectional, two layers, a primed loop": {**TWO_LAYERS, "cyclic": True, "priming_frames": 3},
    "bidirectional, a whole round": {"direction": "bidirectional", "cyclic": True, "priming_frames": None},
    "residual blocks, three levels, mirrored": {
        **DEEP,
        "blocks": "residual",
        "flip_axes": [0, 2],
        "mirror_axes": [0, 2],
    },
    "regions, splines": {"regions": HEART, "interpolation": "cubic", "direction": "bidirectional"},
    "a flow, mirrored": {"kinds": VELOCITIES, "mirror_axes": [1], "flip_axes": [1]},
    "frame-wise, not normalized": {"lstm_channels": 0, "normalization": "none"},
}
SLOW = ("forward", "bidirectional", "bidirectional, a whole round")
"""Cases that others hold in part."""


def write(model, out, **card):
    write_graph_folder(out, model, {"postprocessing": []} | card, "not stated", "onnx")
    return out


@pytest.mark.parametrize(
    "settings",
    [pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, case in CASES.items()],
)
def test_logits_and_labels_are_those_of_torch(settings, tmp_path):
    model = make_model(**settings)
    image = make_image(len(model.task.channel_names))
    found = Runner(write(model, tmp_path / "graphs"))
    prepared = prepare_image([model], image, InferenceOptions())
    grid = found.grid(image.affine, image.grid)
    pixels = found.to_grid(image.array, grid)
    scale = found.scale(pixels)
    np.testing.assert_allclose(runner.normalized(pixels, scale), prepared.image.numpy(), atol=1e-5)
    wanted = sliding_window(
        model.network, prepared.image, model.config.data.patch_size, model.config.inference, cyclic=model.task.cyclic,
        device=torch.device("cpu"), precision="fp32", signs=mirror_signs(prepared.kinds),
    )  # fmt: skip
    np.testing.assert_allclose(found.logits(pixels, scale, model.task.cyclic), wanted.numpy(), atol=1e-4)
    label = segment(model, image, precision="fp32")
    assert len(np.unique(label)) > 1
    assert (found.segment(image.array, image.affine) == label).mean() > 0.9999


def test_frames_one_after_the_other_are_those_of_a_stream(tmp_path):
    model, image = make_model(direction="forward", lstm_layers=2), make_image()
    live = StreamingSegmenter(model, image.affine, image.grid, precision="fp32")
    step = Runner(write(model, tmp_path / "graphs")).live(image.affine, image.grid)
    for t in range(image.frames):
        wanted = live.step(image.array[:, t])
        assert (step(image.array[:, t]) == wanted).mean() > 0.9999
    both = Runner(write(make_model(direction="bidirectional"), tmp_path / "both"))
    with pytest.raises(ValueError, match="bidirectional"):
        both.live(image.affine, image.grid)


def test_the_copy_beside_the_graphs_runs_without_torch(tmp_path):
    model, image = make_model(direction="bidirectional", cyclic=True), make_image()
    out = write(model, tmp_path / "graphs")
    np.savez(tmp_path / "study.npz", image=image.array, affine=image.affine)
    nib.save(nib.Nifti1Image(image.array[0].transpose(1, 2, 3, 0), image.affine), tmp_path / "study.nii.gz")
    # Importing torch, monai, scipy or this package ends the run.
    barred = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(('torch', 'monai', 'scipy', 'unet4d'))); del sys.argv[0]; "
    )
    for study, label in (("study.npz", "label.npy"), ("study.nii.gz", "label.nii.gz")):
        words = [out / "run.py", tmp_path / study, tmp_path / label]
        code = barred + "runpy.run_path(sys.argv[0], run_name='__main__')"
        subprocess.run([sys.executable, "-I", "-c", code, *map(str, words)], check=True)
    wanted = segment(model, image, precision="fp32")
    assert (np.load(tmp_path / "label.npy") == wanted).mean() > 0.9999
    label = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj).transpose(3, 0, 1, 2), np.load(tmp_path / "label.npy"))
    assert label.get_data_dtype() == np.uint8


def test_units_maps_and_frames_of_files_count(tmp_path, monkeypatch):
    """A file in meters is that in mm; a map is one frame for all."""
    model, image = make_model(kinds=("signal", "map")), make_image(2)
    image.array[1] = image.array[1, :1]
    out = write(model, tmp_path / "graphs")
    series = nib.Nifti1Image(image.array[0].transpose(1, 2, 3, 0), np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine)
    series.header.set_xyzt_units("meter", "sec")
    nib.save(series, tmp_path / "series.nii.gz")
    nib.save(nib.Nifti1Image(image.array[1, 0], image.affine), tmp_path / "map.nii.gz")
    monkeypatch.setattr(runner, "__file__", str(out / "run.py"))
    monkeypatch.setattr(
        sys, "argv", ["run.py", *(str(tmp_path / f"{name}.nii.gz") for name in ("series", "map", "label"))]
    )
    runner.main()
    label = np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj).transpose(3, 0, 1, 2)
    assert (label == segment(model, image, precision="fp32")).mean() > 0.9999
    missing = image.array.copy()
    missing[0, 0, 0, 0, 0] = np.nan
    for wrong in (missing, image.array[:1], np.concatenate([image.array, image.array])):
        with pytest.raises(ValueError, match="expected 2 channels of finite values"):
            Runner(out).segment(wrong, image.affine)


def test_steps_that_it_cannot_do_and_other_versions_are_refused(tmp_path):
    out = write(make_model(), tmp_path / "graphs", postprocessing=[{"operation": "fill_holes", "class": "myocardium"}])
    with pytest.raises(ValueError, match="fill_holes"):
        Runner(out)
    assert Runner(out, plain=True).model["postprocessing"]
    described = json.loads((out / "model.json").read_text())
    write_json(out / "model.json", described | {"schema": {"name": "graphs", "version": 99}})
    with pytest.raises(ValueError, match="99"):
        Runner(out)


def test_names_and_licences_in_any_script_are_read_where_files_have_another_encoding(tmp_path):
    out = write(make_model(), tmp_path / "graphs", name="серце")
    code = f"import sys; sys.path.insert(0, {str(out)!r}); import run; print(ascii(run.Runner({str(out)!r}).model['card']['name']))"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert done.stdout.strip() == ascii("серце"), done.stderr


def test_it_is_short():
    assert sum(bool(line.strip()) for line in Path(runner.__file__).read_text(encoding="utf-8").splitlines()) <= 200
