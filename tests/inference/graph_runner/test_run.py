"""The runner computes with numpy and onnxruntime what `unet4d predict` computes with torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.builders import OBLIQUE
from tests.graph_models import DEEP, HEART, make_image, make_model
from tests.sliding import sliding_window
from unet4d import segment
from unet4d.images.channels import mirror_signs
from unet4d.inference.export import export
from unet4d.inference.graph_folder import RUNNER, write_graph_folder
from unet4d.inference.graph_runner import run as runner
from unet4d.inference.graph_runner.preprocessing import Grid, find_scale, normalized
from unet4d.inference.graph_runner.run import Runner
from unet4d.inference.options import InferenceOptions
from unet4d.inference.postprocessing_steps import Step, apply_steps, write_steps
from unet4d.inference.prepare import prepare_image
from unet4d.inference.streaming import StreamingSegmenter
from unet4d.models.checkpoint import BEST, save_checkpoint
from unet4d.system.files import write_json

pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'unet4d[onnx]'")

VELOCITIES = ("signal", "velocity X", "velocity -Y", "velocity Z")
FORWARD = {"direction": "forward"}
TWO_LAYERS = {"direction": "bidirectional", "lstm_layers": 2}
CASES = {
    "forward": FORWARD,
    "forward, two layers, a loop": {**FORWARD, "lstm_layers": 2, "cyclic": True, "priming_frames": 2},
    "bidirectional": {"direction": "bidirectional"},
    "bidirectional, two layers, a primed loop": {
        **TWO_LAYERS,
        "cyclic": True,
        "priming_frames": 3,
        "temporal_smoothing": 0.7,
    },
    "bidirectional, a whole round": {"direction": "bidirectional", "cyclic": True, "priming_frames": None},
    "residual blocks, three levels, mirrored": {
        **DEEP,
        "blocks": "residual",
        "flip_axes": [0, 2],
        "mirror_axes": [0, 2],
    },
    "regions, splines": {
        "regions": HEART,
        "interpolation": "cubic",
        "direction": "bidirectional",
        "temporal_smoothing": 0.6,
    },
    "a flow, mirrored": {"kinds": VELOCITIES, "mirror_axes": [1], "flip_axes": [1]},
    "frame-wise, not normalized": {"lstm_channels": 0, "normalization": "none"},
}
SLOW = ("forward", "bidirectional", "bidirectional, a whole round")
"""Cases that others hold in part."""


def write(model, out, format="onnx", **card):
    write_graph_folder(out, model, {"postprocessing": []} | card, "not stated", format)
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
    pixels = Grid(image.affine, image.grid, found.settings).image(image.array, found.kinds)
    pixels = normalized(pixels, find_scale(pixels, found.kinds, found.settings))
    np.testing.assert_allclose(pixels, prepared.image.numpy(), atol=1e-5)
    wanted = sliding_window(
        model.network, prepared.image, model.config.data.patch_size, model.config.inference, cyclic=model.task.cyclic,
        device=torch.device("cpu"), precision="fp32", signs=mirror_signs(prepared.kinds),
    )  # fmt: skip
    np.testing.assert_allclose(found.logits(pixels, model.task.cyclic), wanted.numpy(), atol=1e-4)
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
    found = Runner(tmp_path / "graphs")
    scale = find_scale(
        Grid(image.affine, image.grid, found.settings).image(image.array[:, :1], found.kinds),
        found.kinds,
        found.settings,
    )
    again = found.live(image.affine, image.grid, np.array(scale))
    step = found.live(image.affine, image.grid)
    assert np.array_equal(again(image.array[:, 0]), step(image.array[:, 0])), (
        "the scale of the first frame, given as an array"
    )
    both = Runner(write(make_model(direction="bidirectional"), tmp_path / "both"))
    with pytest.raises(ValueError, match="bidirectional"):
        both.live(image.affine, image.grid)


def test_the_copy_beside_the_graphs_runs_without_torch(tmp_path):
    model, image = make_model(direction="bidirectional", cyclic=True), make_image()
    steps = [Step("largest_component", "myocardium")]
    out = write(model, tmp_path / "graphs", postprocessing=[step.as_dict() for step in steps])
    np.savez(tmp_path / "study.npz", image=image.array, affine=image.affine)
    nib.save(nib.Nifti1Image(image.array[0].transpose(1, 2, 3, 0), image.affine), tmp_path / "study.nii.gz")
    # Importing torch, monai, scipy or this package ends the run.
    barred = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(('torch', 'monai', 'scipy', 'unet4d'))); del sys.argv[0]; "
        "sys.path.insert(0, sys.argv[0].removesuffix('run.py')); "
    )
    for study, label in (("study.npz", "label.npy"), ("study.nii.gz", "label.nii.gz")):
        words = [out / "run.py", tmp_path / study, tmp_path / label]
        code = barred + "runpy.run_path(sys.argv[0], run_name='__main__')"
        subprocess.run([sys.executable, "-I", "-c", code, *map(str, words)], check=True)
    wanted = apply_steps(segment(model, image, precision="fp32"), steps, model.task.classes, True)
    assert (np.load(tmp_path / "label.npy") == wanted).mean() > 0.9999
    label = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj).transpose(3, 0, 1, 2), np.load(tmp_path / "label.npy"))
    assert label.get_data_dtype() == np.uint8


FILES = {
    "a flow, mirrored, a loop": (
        {"kinds": VELOCITIES, "mirror_axes": [1], "flip_axes": [1], "cyclic": True},
        [("signal", 4), ("signal", 4), ("signal", 4), ("signal", 4)],
    ),
    "regions of a series and a map, splines": (
        {"kinds": ("signal", "map"), "regions": HEART, "interpolation": "cubic", "direction": "bidirectional"},
        [("in meters", 3), ("signal", None)],
    ),
    "one frame": ({"kinds": ("signal",)}, [("scaled", None)]),
}
STEPS = {True: ["heart", "left"], False: ["myocardium", "left ventricle"]}


def write_file(path, form, frames, seed):
    noise = np.random.default_rng(seed).normal(100, 30, (21, 18, 3) if frames is None else (21, 18, 3, frames))
    if form == "scaled":
        file = nib.Nifti2Image(noise.astype(">i2"), OBLIQUE)
        file.header.set_slope_inter(0.5, 7)
    else:
        file = nib.Nifti1Image(noise.astype(np.float32), OBLIQUE)
    if form == "in meters":
        file = nib.Nifti1Image(noise.astype(np.float32), np.diag([1e-3, 1e-3, 1e-3, 1]) @ OBLIQUE)
        file.header.set_xyzt_units("meter", "msec")
    file.set_qform(file.affine, 1)
    file.header.set_intent("estimate", name="signal")
    file.header["cal_min"], file.header["cal_max"] = 20, 180
    file.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name"))
    nib.save(file, path)


def balanced(model):
    """Return a model changed so that noise gets all of its classes or regions."""
    clip = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, model.task.channels[0], 16, 16, 4)))
    with torch.no_grad():
        model.network.head.bias -= model.network(clip.float()).mean((0, 1, 3, 4, 5))
    return model


@pytest.fixture
def called(monkeypatch):
    """Return a function that calls the program beside graphs with arguments."""

    def run(out, *words):
        monkeypatch.setattr(runner, "__file__", str(out / "run.py"))
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
        runner.main()

    return run


@pytest.mark.parametrize(("settings", "channels"), list(FILES.values()), ids=list(FILES))
def test_files_get_the_label_map_and_the_header_that_predict_writes(settings, channels, tmp_path, called, command):
    model = balanced(make_model(**settings))
    save_checkpoint(tmp_path / "run" / BEST, model.config, model.task, model.network, {})
    one, other = STEPS["regions" in settings]
    steps = [Step("largest_component", one), Step("fill_holes", other), Step("majority_over_time", "*")]
    write_steps(tmp_path / "run", steps, [tmp_path / "run" / BEST], {})
    (tmp_path / "in").mkdir()
    files = [tmp_path / f"in/a_{n:04}.nii.gz" for n in range(len(channels))]
    for seed, (file, (form, frames)) in enumerate(zip(files, channels, strict=True)):
        write_file(file, form, frames, seed)
    done = command("predict", tmp_path / "run", "-i", tmp_path / "in", "-o", tmp_path / "out", "--precision", "fp32")
    assert done.code == 0, done.error
    [predicted] = (tmp_path / "out").glob("*.nii.gz")
    out = export(tmp_path / "run", tmp_path / "graphs", format="onnx")
    called(out, *files, tmp_path / "label.nii.gz")
    called(out, *files, tmp_path / "plain.nii.gz", "--plain")
    wanted, label, plain = (
        nib.load(path) for path in (predicted, tmp_path / "label.nii.gz", tmp_path / "plain.nii.gz")
    )
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(wanted.dataobj))
    assert (np.asarray(label.dataobj) != np.asarray(plain.dataobj)).any()
    assert label.get_data_dtype() == np.uint8
    assert label.header.get_xyzt_units() == wanted.header.get_xyzt_units()
    for of in (lambda file: file.affine, lambda file: file.header["pixdim"], lambda file: file.header["dim"]):
        np.testing.assert_array_equal(of(label), of(wanted))
    known = "qform_code", "sform_code", "toffset", "slice_code", "scl_slope", "scl_inter"
    for name in (*known, "cal_min", "cal_max", "intent_code", "intent_name"):
        np.testing.assert_array_equal(label.header[name], wanted.header[name], name)
    assert not label.header.extensions


def test_plain_label_maps_are_those_before_the_steps(tmp_path):
    model, image = balanced(make_model(regions=HEART)), make_image()
    steps = [
        Step("largest_component", "*"),
        Step("majority_over_time", "*"),
        Step("fill_holes", next(iter(model.task.classes))),
    ]
    out = write(model, tmp_path / "graphs", postprocessing=[step.as_dict() for step in steps])
    plain, label = (Runner(out, plain).segment(image.array, image.affine) for plain in (True, False))
    np.testing.assert_array_equal(label, apply_steps(plain, steps, model.task.classes, model.task.cyclic))
    assert (label != plain).any()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda array, affine: (np.full_like(array, np.nan), affine), "NaN or infinite"),
        (lambda array, affine: (array[:1], affine), r"got an image \(1, 5, .* with C = 2 \(signal, map\)"),
        (lambda array, affine: (array[:, 0], affine), r"got an image \(2, 21, 18, 3\), expected \(C, T, X, Y, Z\)"),
        (lambda array, affine: (array, affine * 0), "affine.*expected.*inverse"),
        (lambda array, affine: (array, affine[:3]), "affine.*expected.*4, 4"),
    ],
)
def test_what_is_no_study_of_the_network_is_refused(tmp_path, spoil, words):
    out = write(make_model(kinds=("signal", "map")), tmp_path / "graphs")
    image = make_image(2)
    with pytest.raises(ValueError, match=words):
        Runner(out).segment(*spoil(image.array, image.affine))
    with pytest.raises(ValueError, match="got time 'loop', expected 'cyclic' or 'open'"):
        Runner(out).segment(image.array, image.affine, "loop")


def test_a_velocity_that_turning_needs_is_named(tmp_path):
    out = write(make_model(kinds=("signal", "velocity Z")), tmp_path / "graphs")
    image = make_image(2)
    turned = image.affine[:, [2, 0, 1, 3]]  # slices along X
    with pytest.raises(ValueError, match="got signal, velocity Z, expected velocity X, too"):
        Runner(out).segment(image.array.transpose(0, 1, 4, 2, 3), turned)


def test_a_file_that_cannot_be_segmented_ends_the_program_with_one_line(tmp_path, called, capsys):
    out, file = write(make_model(kinds=("signal", "map")), tmp_path / "graphs"), tmp_path / "in.nii.gz"
    write_file(file, "signal", 3, 0)
    nib.save(nib.Nifti1Image(np.zeros((21, 18, 3, 2, 2), np.float32), OBLIQUE), tmp_path / "five.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((21, 18, 3), np.float32), np.eye(4)), tmp_path / "elsewhere.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    np.savez(tmp_path / "half.npz", image=np.zeros((2, 3, 21, 18, 3)))
    for words, fault in (
        ([tmp_path / "missing.nii.gz", file], "missing.nii.gz"),
        ([file], "got 1 files, expected 2: signal, map"),
        ([file, tmp_path / "five.nii.gz"], "got axes (21, 18, 3, 2, 2), expected (X, Y, Z) or (X, Y, Z, T)"),
        ([file, tmp_path / "elsewhere.nii.gz"], "elsewhere.nii.gz: got another grid"),
        ([file, file], "other frames"),
        ([tmp_path / "text.nii.gz", file], "text.nii.gz"),
        ([tmp_path / "half.npz"], "affine"),
    ):
        with pytest.raises(SystemExit) as end:
            called(out, *words, tmp_path / ("label.npy" if "half" in str(words) else "label.nii.gz"))
        assert fault in str(end.value)
        assert "\n" not in str(end.value)
    assert not list(tmp_path.glob("label*"))
    others = [file, file, tmp_path / "label.npy"], [file, file, tmp_path / "missing/label.nii"]
    for words, code in ((["--help"], 0), *((words, 2) for words in others)):
        with pytest.raises(SystemExit) as end:
            called(out, *words)
        assert end.value.code == code
    told = capsys.readouterr()
    assert "--plain" in told.out
    assert "label.npy, expected a name that ends in" in told.err
    assert "expected a name in a folder that is there" in told.err


def test_another_version_of_the_description_is_refused(tmp_path):
    out = write(make_model(), tmp_path / "graphs")
    described = json.loads((out / "model.json").read_text())
    write_json(out / "model.json", described | {"schema": {"name": "graphs", "version": 99}})
    with pytest.raises(ValueError, match="99"):
        Runner(out)


SIGNALLED = """
import gc, os, signal, sys

import numpy as np

sys.path.insert(0, sys.argv[1])
from run import Runner

runners = [Runner(sys.argv[1]), Runner(sys.argv[1])]
for runner in runners:
    runner.segment(np.ones((1, 1, 16, 16, 4), np.float32), np.eye(4))
del runner, runners
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_a_signal_after_openvino_is_handled(tmp_path):
    """Pins that all graphs share a core: of two, the one deleted last restored a signal stack that the other had freed."""
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'unet4d[openvino]'")
    out = write(make_model(lstm_channels=0), tmp_path / "graphs", format="openvino")
    words = [sys.executable, "-c", SIGNALLED, str(out)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_names_and_licences_in_any_script_are_read_where_files_have_another_encoding(tmp_path):
    out = write(make_model(), tmp_path / "graphs", name="серце")
    code = f"import sys; sys.path.insert(0, {str(out)!r}); import run; print(ascii(run.Runner({str(out)!r}).model['card']['name']))"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert done.stdout.strip() == ascii("серце"), done.stderr


def test_it_is_short():
    files = {name: Path(runner.__file__).with_name(name).read_text(encoding="utf-8") for name in RUNNER}
    assert all(len(text.splitlines()) <= 200 for text in files.values())
