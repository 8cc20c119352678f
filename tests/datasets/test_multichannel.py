"""Several channels end to end: 4D flow and a contrast series with its T1 map, from files to a label map on the study's own grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.phantom.make import make
from tests.builders import edit_dataset
from unet4d import load_model, read_image, segment
from unet4d.config import DataConfig
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.nifti_studies import make_study
from unet4d.errors import InputError
from unet4d.images.channels import MAP, SIGNAL
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.predict import predict
from unet4d.inference.prepare import prepare_study
from unet4d.models.checkpoint import BEST, LAST
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.disk_image import DiskImage
from unet4d.training.train import train

KINDS = {"flow": (SIGNAL, "velocity X", "velocity Y", "velocity Z"), "dce": (SIGNAL, MAP)}
SHAPES = {"flow": (32, 32, 16), "dce": (36, 24, 8)}


@pytest.fixture(scope="module", params=["flow", "dce"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def studies(kind, tmp_path_factory) -> Path:
    """Three studies of 4 frames; not to be changed."""
    root = tmp_path_factory.mktemp("data") / kind
    return make(kind, root, 3, 4, shape=SHAPES[kind]).parent


@pytest.fixture(scope="module")
def run(studies, tiny, tmp_path_factory) -> Path:
    """A run of one epoch of two steps on them."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:  # spares the second that contours take
        patch.setattr(
            "unet4d.training.validation.draw_contour_sheet", lambda *given, **named: np.zeros((8, 8, 3), np.uint8)
        )
        train(studies, out, tiny(epochs=1), "cpu")
    return out


@pytest.fixture(scope="module")
def predicted(studies, run, tmp_path_factory) -> Path:
    """The label map of the first study, named as a case of the dataset."""
    out, settings = tmp_path_factory.mktemp("predicted"), InferenceOptions(precision="fp32")
    [path] = predict(run, [studies], out, settings, device="cpu", cases=["phantom001"])
    return path


@pytest.fixture
def own(studies, tmp_path) -> Path:
    """A copy of the dataset that a test may change."""
    return shutil.copytree(studies, tmp_path / "own", ignore=shutil.ignore_patterns(".unet4d-cache", "truth"))


def cached(root: Path, cache: Path, plane_spacing_mm: float | None = None) -> CachedStudy:
    """The first study, preprocessed."""
    dataset = read_dataset(root)
    return cached_studies(dataset.training[:1], dataset, DataConfig(), plane_spacing_mm, cache)[0]


def declare(root: Path, kinds: dict[str, str] | None) -> None:
    """Rewrite "channel_kinds" of a dataset."""
    with edit_dataset(root) as about:
        about.pop("channel_kinds")
        about |= {"channel_kinds": kinds} if kinds is not None else {}


def rewrite(path: Path, change) -> None:
    """Store other voxels or axes under a file's name: `change` gives them from its voxels and affine."""
    image = nib.load(path)
    voxels, affine = change(np.asarray(image.dataobj), image.affine)
    other = nib.Nifti1Image(voxels, affine)
    other.header.set_xyzt_units("mm", "sec")
    if voxels.ndim == 4:
        other.header["pixdim"][4] = image.header["pixdim"][4]
    nib.save(other, path)


def turned(order: tuple[int, int, int], flips: tuple[bool, bool, bool]):
    """A change of the axes on disk that leaves every voxel where it was in the body."""

    def change(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_old = np.zeros((4, 4))
        to_old[3, 3] = 1
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            to_old[old, new], to_old[old, 3] = (-1, voxels.shape[old] - 1) if flip else (1, 0)
        other = voxels.transpose(*order, *range(3, voxels.ndim))
        return np.flip(other, [axis for axis in range(3) if flips[axis]]), affine @ to_old

    return change


def test_the_command_makes_hearts_only(command, tmp_path):
    done = command("phantom", "--out", tmp_path / "p", "--subjects", 1, "--frames", 3, "--kind", "flow")
    assert (done.code, (tmp_path / "p").exists()) == (2, False)
    assert "kind" in done.line


def test_the_dataset_says_what_its_channels_hold(kind, studies):
    dataset = read_dataset(studies)
    assert dataset.channel_kinds == KINDS[kind]
    assert {case.channel_kinds for case in dataset.training} == {KINDS[kind]}
    assert dataset.time == {"flow": "cyclic", "dce": "open"}[kind]
    image = dataset.training[0].image()
    assert image.array.shape == (len(KINDS[kind]), 4, *SHAPES[kind])
    assert image.kinds == KINDS[kind]


def test_a_checkpoint_keeps_what_the_channels_hold(kind, run):
    for name in (BEST, LAST):
        assert load_model(run / name).task.channel_kinds == KINDS[kind]


def test_a_case_of_the_dataset_is_segmented_on_the_studys_own_grid(kind, studies, predicted):
    label, image = nib.load(predicted), nib.load(studies / "images/phantom001_0000.nii.gz")
    assert predicted.name == "phantom001.nii.gz"
    assert label.shape == image.shape == (*SHAPES[kind], 4)
    assert np.array_equal(label.affine, image.affine)
    assert label.header["pixdim"][4] == image.header["pixdim"][4]
    assert label.header.get_xyzt_units() == ("mm", "sec")
    assert len(np.unique(np.asarray(label.dataobj))) > 1


def test_a_folder_of_numbered_files_gives_the_same_as_the_dataset(studies, run, predicted, tmp_path):
    (tmp_path / "in").mkdir()
    for file in (studies / "images").glob("phantom001_*"):
        shutil.copy(file, tmp_path / "in")
    [path] = predict(run, [tmp_path / "in"], tmp_path / "out", InferenceOptions(precision="fp32"), device="cpu")
    assert path.name == predicted.name
    assert np.array_equal(np.asarray(nib.load(path).dataobj), np.asarray(nib.load(predicted).dataobj))


def test_from_python_as_from_the_command(kind, studies, run, predicted):
    files = sorted((studies / "images").glob("phantom001_*"))
    label = segment(load_model(run), read_image(files, kinds=KINDS[kind]), precision="fp32")
    assert np.array_equal(np.moveaxis(np.asarray(nib.load(predicted).dataobj), -1, 0), label)
    other = read_image([files[0]] * len(files), kinds=[SIGNAL] * len(files))
    with pytest.raises(InputError, match=r"phantom001_0000.nii.gz: got channels of the kinds signal, signal.*expected"):
        segment(load_model(run), other)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_network_sees_in_prediction_what_it_saw_in_training(studies, run, tmp_path, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr("unet4d.inference.prepare.study_fits", lambda *_: False)
    model, dataset = load_model(run), read_dataset(studies)
    prepared = prepare_study([model], make_study(dataset.training[0], dataset), InferenceOptions(), MemoryBudget())
    assert isinstance(prepared.image, DiskImage) == (not in_memory)
    seen = prepared.image[(slice(None),) * 5].numpy()
    prepared.close()
    settings = model.config.data
    [trained_on] = cached_studies(dataset.training[:1], dataset, settings, settings.in_plane_spacing_mm, tmp_path)
    assert np.array_equal(seen, trained_on.image)


@pytest.mark.parametrize("kind", ["dce"], indirect=True)
class TestMap:
    def test_it_is_constant_over_frames_and_normalized_once(self, studies, tmp_path):
        image = cached(studies, tmp_path / "cache", 12.0).image
        assert image.shape[:2] == (2, 4)
        assert all(np.array_equal(image[1, 0], image[1, t]) for t in range(4))
        assert not np.array_equal(image[0, 0], image[0, 3])
        assert np.allclose([image[1].mean(), image[1].std()], [0, 1], atol=1e-4)

    def test_what_is_not_declared_a_map_must_have_all_frames(self, own, tmp_path):
        declare(own, None)
        with pytest.raises(InputError, match=r"phantom001_0001.nii.gz: got 1 frame, expected 4"):
            cached(own, tmp_path / "cache")

    def test_declared_a_map_repeated_frames_are_refused_and_as_signals_give_the_same(self, own, studies, tmp_path):
        rewrite(own / "images/phantom001_0001.nii.gz", lambda v, affine: (np.stack([v] * 4, axis=-1), affine))
        with pytest.raises(InputError, match=r"phantom001_0001.nii.gz: got 4 frames for a channel of the kind"):
            cached(own, tmp_path / "cache")
        declare(own, {})
        first = cached(studies, tmp_path / "cache")
        assert np.allclose(cached(own, tmp_path / "cache").image, first.image, atol=1e-5)


@pytest.mark.parametrize("kind", ["flow"], indirect=True)
class TestVelocities:
    def test_they_share_a_scale_and_the_magnitude_has_its_own(self, studies, tmp_path):
        image = cached(studies, tmp_path / "cache").image
        assert np.square(image[1:]).sum(0).mean() == pytest.approx(1, rel=0.01)  # hardly a voxel is exactly 0
        assert np.allclose([image[0].mean(), image[0].std()], [0, 1], atol=1e-4)

    def test_blood_in_the_descending_aorta_runs_downwards_on_the_networks_axes(self, studies, tmp_path):
        """Working axes: right, anterior, superior; the phantom's files lie posterior, inferior, right."""
        study = cached(studies, tmp_path / "cache")
        x, y, z = study.image[1:]
        truth = json.loads((studies / "truth/subjects.json").read_text())
        fast = int(np.argmax(truth["phantom001"]["flow_ml_s"]["aorta"]))
        aorta = study.label[fast] == 1
        behind = np.arange(aorta.shape[1])[None, :, None] < aorta.shape[1] // 3
        low = np.arange(aorta.shape[2])[None, None] < aorta.shape[2] // 3
        descending = aorta & behind & low
        assert descending.sum() > 20
        assert z[fast][descending].mean() < -0.5
        assert abs(z[fast][descending].mean()) > 4 * max(abs(c[fast][descending].mean()) for c in (x, y))
        lung = study.label[fast] == 2
        right = np.arange(lung.shape[0])[:, None, None] >= 0.8 * lung.shape[0]
        assert x[fast][lung & right].mean() > 0.3

    @pytest.mark.parametrize("plane_spacing_mm", [None, 7.0])
    @pytest.mark.parametrize(
        ("order", "flips", "kinds"),
        [
            # of each new axis: the old one, and whether it runs backwards; then what the three files hold along the new axes
            ((0, 1, 2), (True, False, True), ("velocity -X", "velocity Y", "velocity -Z")),
            ((1, 0, 2), (False, False, False), ("velocity Y", "velocity X", "velocity Z")),
            ((2, 0, 1), (False, True, False), ("velocity -Y", "velocity Z", "velocity X")),
            ((1, 2, 0), (True, True, True), ("velocity -Z", "velocity -X", "velocity -Y")),
        ],
    )
    def test_other_axes_on_disk_are_the_same_study(self, own, studies, tmp_path, order, flips, kinds, plane_spacing_mm):
        """The files turned, the velocities in them untouched: their declaration gives their new axes."""
        for path in (*own.glob("images/phantom001_*"), own / "labels/phantom001.nii.gz"):
            rewrite(path, turned(order, flips))
        declare(own, {str(1 + i): kinds[i] for i in range(3)})
        first, other = (cached(root, tmp_path / "cache", plane_spacing_mm) for root in (studies, own))
        assert np.array_equal(other.label, first.label)
        # each channel keeps the letter it was declared with: X, Y and Z of the network are those of `first`
        places = [1 + "XYZ".index(kind[-1]) for kind in kinds]
        assert np.allclose(other.image, first.image[[0, *places]], atol=1e-5)

    def test_a_negated_file_declared_backwards_is_the_same_study(self, own, studies, tmp_path):
        rewrite(own / "images/phantom001_0002.nii.gz", lambda voxels, affine: (-voxels, affine))
        different = cached(own, tmp_path / "cache").image
        declare(own, {"1": "velocity X", "2": "velocity -Y", "3": "velocity Z"})
        same = cached(own, tmp_path / "cache").image
        first = cached(studies, tmp_path / "cache").image
        assert np.array_equal(same, first)
        assert not np.array_equal(different, first)

    def test_another_declaration_makes_another_cache_entry(self, own, tmp_path):
        first = cached(own, tmp_path / "cache").entry
        declare(own, {})
        assert cached(own, tmp_path / "cache").entry != first

    def test_a_component_that_the_turn_needs_is_asked_for(self, own, tmp_path):
        with edit_dataset(own) as about:
            about |= {"channel_names": {"0": "magnitude", "1": "through plane"}, "channel_kinds": {"1": "velocity Z"}}
            for case in about["training"]:
                case["image"] = [case["image"][0], case["image"][3]]
        with pytest.raises(InputError, match=r'phantom001_0000.nii.gz: got velocity Z, expected "velocity Y", too'):
            cached(own, tmp_path / "cache")

    def test_a_study_declared_backwards_is_segmented_as_it_lies(self, own, run):
        """By a model that was trained on files declared forwards."""
        files = sorted((own / "images").glob("phantom001_*"))
        wanted = segment(load_model(run), read_image(files), precision="fp32")
        rewrite(files[2], lambda voxels, affine: (-voxels, affine))
        kinds = (SIGNAL, "velocity X", "velocity -Y", "velocity Z")
        assert np.array_equal(segment(load_model(run), read_image(files, kinds=kinds), precision="fp32"), wanted)
