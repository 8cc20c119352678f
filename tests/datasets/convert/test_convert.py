"""`unet4d convert`: a source in, a dataset out with the same content, and errors where that is not possible."""

from __future__ import annotations

import errno
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.datasets.convert.layouts import (
    FRAMES,
    image_of,
    nnunet_json,
    phantom_study,
    write_nnunet_4d,
    write_nnunet_frames,
    write_patient,
)
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Dataset
from unet4d.datasets.convert import LAYOUT_NAMES
from unet4d.datasets.convert.convert import convert
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.convert.layouts import LAYOUTS
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.phantom.cine import CINE_LABELS as LABELS

PATTERN = r"(?P<subject>.+)_frame(?P<frame>\d+)"


def image_in_memory(values: np.ndarray | None = None, frame_duration_s: float | None = 0.05) -> Image4D:
    values = np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3) if values is None else values
    return Image4D.from_array(values, np.diag([2.0, 2.0, 8.0, 1.0]), frame_duration_s)


def a_study(name: str = "one", image: Image4D | None = None, **more) -> Study:
    """Return a study in memory with frame 1 labelled; the values on frame 0 of its label mean nothing."""
    made = image or image_in_memory()

    def label(image: Image4D):
        drawn = np.full((image.frames, *image.grid), 2, np.uint8)
        drawn[1:] = 1
        return drawn, tuple(range(1, image.frames))

    return Study(name, **({"subject": name, "files": (), "image": lambda: made, "label": label} | more))


@pytest.fixture
def from_memory(monkeypatch, tmp_path) -> Callable[..., Dataset]:
    """Converts studies in memory into `tmp_path/out`."""

    def converted(*studies: Study, name: str | None = None, **about) -> Dataset:
        source = Source(**({"name": "memory", "channel_names": ("MRI",), "labels": LABELS, "studies": studies} | about))
        monkeypatch.setattr("unet4d.datasets.convert.convert.open_layout", lambda layout, root, options: source)
        return read_dataset(convert("acdc", tmp_path / "source", tmp_path / "out", name=name))

    return converted


def out_of(root: Path) -> dict:
    return json.loads((root / "dataset.json").read_text())


def check_holds(dataset: Dataset, seeds: dict[str, int], frame_duration_s: float | None, drawn: tuple[int, ...] | None):
    """The dataset holds these phantoms: voxels, affine, frame duration, labels on the labelled frames alone."""
    for case in (*dataset.training, *dataset.test):
        image, wanted = case.image(), phantom_study(seeds[case.name])
        np.testing.assert_array_equal(image.array, wanted.image[None])
        np.testing.assert_array_equal(image.affine, image_of(seeds[case.name]).affine)
        assert image.frame_duration_s == frame_duration_s
        if case.label:
            assert case.labelled_frames == drawn
            label, labelled = read_labelled(case, dataset, image)
            np.testing.assert_array_equal(label[labelled], wanted.label[labelled])
            assert not label[~labelled].any()


def test_acdc_becomes_a_dataset(command, tmp_path):
    write_patient(tmp_path / "acdc" / "training" / "patient001", 0)
    write_patient(tmp_path / "acdc" / "training" / "patient002", 1, suffix=".nii")
    write_patient(tmp_path / "acdc" / "testing" / "patient101", 2)
    write_patient(tmp_path / "acdc" / "testing" / "patient102", 3, drawn=())
    out = tmp_path / "out"
    done = command("convert", "acdc", tmp_path / "acdc", "--out", out)
    assert done.code == 0
    dataset = read_dataset(out)
    assert [case.name for case in dataset.training] == ["patient001", "patient002"]
    assert [(case.name, case.label is not None) for case in dataset.test] == [
        ("patient101", True),
        ("patient102", False),
    ]
    check_holds(dataset, {"patient001": 0, "patient002": 1, "patient101": 2, "patient102": 3}, None, (0, 2))
    assert (dataset.name, dataset.time, dict(dataset.labels)) == ("ACDC", "cyclic", LABELS)
    assert "2018.2837502" in out_of(out)["reference"]
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "images", "labels"]
    assert "4 studies of 4 subjects: 2 for training, 2 for test" in done.told
    assert "4 frames per study, of unknown duration (--frame_duration_s gives it); 6 of 16 frames labelled" in done.told
    assert "as open" not in done.told
    assert done.told.endswith(f"written: {out / 'dataset.json'}; check it: unet4d verify {out}\n")


def test_4d_files_are_taken_as_they_are(command, tmp_path):
    training = tmp_path / "acdc" / "training"
    for seed, suffix in enumerate((".nii.gz", ".nii")):
        name = f"patient{seed:03d}"
        write_patient(training / name, seed, suffix=suffix)
        path = training / name / f"{name}_4d{suffix}"
        scanner = nib.load(path)
        scanner.header["descrip"] = b"as it came"
        nib.save(
            nib.Nifti1Image(np.asarray(scanner.dataobj).copy(), None, scanner.header), path
        )  # compressed otherwise, too
    assert command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out").code == 0
    images = sorted((tmp_path / "out" / "images").iterdir())
    assert [path.name for path in images] == ["patient000.nii.gz", "patient001.nii"]
    for path in images:
        name, suffix = path.name[:10], path.name[10:]
        assert path.read_bytes() == (training / name / f"{name}_4d{suffix}").read_bytes()


@pytest.mark.parametrize("channels", [1, 2])
def test_4d_cases_of_nnunet_become_a_dataset(command, tmp_path, channels):
    root = write_nnunet_4d(tmp_path / "nnunet", channels=channels)
    done = command("convert", "nnunet", root, "--out", tmp_path / "out", "--name", "mine")
    assert done.code == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.name == "mine"
    assert dataset.time is None
    assert "--time cyclic" in done.told
    assert "4 frames per study, of 0.05 s; 8 of 12 frames labelled" in done.told
    if channels == 1:
        check_holds(dataset, {"anna": 0, "ben": 1, "carl": 2}, 0.05, None)
    for case in dataset.training + dataset.test:
        for channel, path in enumerate(case.images):
            part = "Tr" if case in dataset.training else "Ts"
            assert path.read_bytes() == (root / f"images{part}" / f"{case.name}_{channel:04d}.nii.gz").read_bytes()


def test_frames_of_nnunet_become_a_dataset(command, tmp_path):
    root = write_nnunet_frames(tmp_path / "nnunet")
    options = ["--pattern", PATTERN, "--time", "cyclic", "--frame_duration_s", "0.04"]
    done = command("convert", "nnunet", root, "--out", tmp_path / "out", *options)
    assert done.code == 0
    dataset = read_dataset(tmp_path / "out")
    check_holds(dataset, {"anna": 0, "ben": 1}, 0.04, (0, 2))
    assert dataset.time == "cyclic"
    stored = nib.load(tmp_path / "out" / "images" / "anna.nii.gz")
    assert stored.get_data_dtype() == np.int16
    assert stored.header.get_slope_inter() in ((None, None), (1, 0))


def test_frames_that_are_not_joined_are_reported(command, tmp_path):
    root = write_nnunet_frames(tmp_path / "nnunet", drawn=(0, 1, 2, 3))
    done = command("convert", "nnunet", root, "--out", tmp_path / "out")
    assert done.code == 0
    assert "every study has one frame; if some are frames of one subject, join them: --pattern" in done.told
    assert len(read_dataset(tmp_path / "out").training) == 2 * FRAMES


def test_a_converted_dataset_is_trained_on(command, tmp_path, tiny_options):
    for seed in range(3):
        write_patient(tmp_path / "acdc" / f"patient{seed:03d}", seed)
    assert command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out").code == 0
    done = command("train", "--dataset", tmp_path / "out", "--out", tmp_path / "run", "--device", "cpu", *tiny_options)
    assert done.code == 0


def test_one_bad_study_among_good_ones_is_left_out(command, tmp_path):
    for seed in range(3):
        write_patient(tmp_path / "acdc" / f"patient{seed:03d}", seed)
    (tmp_path / "acdc" / "patient001" / "Info.cfg").write_text("NbFrame: 12\n")
    out = tmp_path / "out"
    done = command("convert", "acdc", tmp_path / "acdc", "--out", out)
    assert done.code == 2
    assert f"1 of 3 studies were left out, the other 2 are in {out}: patient001: " in done.line
    assert "patient001/Info.cfg says NbFrame: 12" in done.line
    assert [case.name for case in read_dataset(out).training] == ["patient000", "patient002"]
    assert "2 studies of 2 subjects" in done.told


def test_nothing_but_bad_studies_is_no_dataset(command, tmp_path):
    folder = write_patient(tmp_path / "acdc" / "patient001")
    (folder / "patient001_4d.nii.gz").write_bytes(b"")
    done = command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out")
    assert done.code == 2
    assert "none of 1 study of" in done.line
    assert "patient001_4d.nii.gz is truncated" in done.line
    assert not (tmp_path / "out" / "dataset.json").exists()
    write_patient(folder)
    assert command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out").code == 0


def test_a_stopped_conversion_can_be_run_again(command, tmp_path, monkeypatch):
    for seed in range(2):
        write_patient(tmp_path / "acdc" / f"patient{seed:03d}", seed)
    words = ["convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        copied = []

        def stop(source, target):
            if copied:
                raise KeyboardInterrupt
            copied.append(target.write_bytes(source.read_bytes()))

        patch.setattr("unet4d.datasets.convert.convert.shutil.copyfile", stop)
        assert command(*words).code == 130
    out = tmp_path / "out"
    assert not (out / "dataset.json").exists()
    assert [path.name for path in (out / "images").iterdir()] == ["patient000.nii.gz"]
    (out / "images" / "patient000.nii.gz").write_bytes(b"an older one")
    assert command(*words).code == 0
    check_holds(read_dataset(out), {"patient000": 0, "patient001": 1}, None, (0, 2))
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "images", "labels"]


def test_a_full_disk_is_reported_and_stops_everything(command, tmp_path, monkeypatch):
    write_patient(tmp_path / "acdc" / "patient001")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet4d.datasets.convert.convert.shutil.copyfile", full)
    done = command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out")
    assert done.code == 1
    assert "images/patient001.nii.gz: No space left on device; free space or choose another folder" in done.line
    assert not list((tmp_path / "out" / "images").iterdir())


@pytest.mark.parametrize("there", ["images", "notes.txt", "dataset.json"])
def test_somebodys_folder_is_left_alone(command, tmp_path, there):
    """Pins a folder with images/ and without dataset.json, in which a conversion would have replaced files."""
    write_patient(tmp_path / "acdc" / "patient001")
    own = tmp_path / "out" / (f"{there}/patient001.nii.gz" if there == "images" else there)
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    done = command("convert", "acdc", tmp_path / "acdc", "--out", tmp_path / "out")
    assert done.code == 2
    assert "holds a dataset already" in done.line if there == "dataset.json" else "is not empty" in done.line
    assert own.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["acdcs", "acdc", "--out", "out"],
            "'acdcs' is no layout, expected one of acdc, nnunet, frames, sequence, dicom",
        ),
        (["acdc", "nowhere", "--out", "out"], "nowhere is missing; give the file or folder to read"),
        (["nnunet", "acdc", "--out", "out"], "acdc/dataset.json is missing"),
        (
            ["acdc", "acdc", "--out", "acdc/out"],
            "acdc/out is inside the source acdc, expected a folder outside of it",
        ),
        (["acdc", "acdc", "--out", "acdc"], "acdc is inside the source acdc"),
        (
            ["acdc", "acdc", "--out", "out", "--pattern", "(?P<subject>.*)"],
            "pattern for acdc, which has no use for it",
        ),
        (["acdc", "acdc", "--out", "out", "--pattern", "("], "pattern '(' is no regular expression"),
        (["acdc", "acdc", "--out", "out", "--time", "round"], "--time is round"),
        (
            ["acdc", "acdc", "--out", "out", "--frame_duration_s", "0"],
            "frame_duration_s is 0.0, expected seconds above 0",
        ),
        (
            ["acdc", "acdc", "--out", "out", "--labels", "{a: 1, b: 1}"],
            "expected for each class a whole number",
        ),
        (["acdc", "acdc", "--out", "out", "--labels", "{a: 0}"], "expected for each class a whole number"),
        (["acdc", "acdc"], "out is missing"),
    ],
)
def test_wrong_usage_is_reported(command, tmp_path, monkeypatch, words, told):
    write_patient(tmp_path / "acdc" / "patient001")
    monkeypatch.chdir(tmp_path)
    done = command("convert", *words)
    assert done.code == 2
    assert told in done.line
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_help_names_every_layout(command):
    told = command("convert", "--help").told
    assert all(f"\n  unet4d convert {layout} " in told for layout in LAYOUTS)
    assert tuple(LAYOUTS) == LAYOUT_NAMES
    assert "acdc, nnunet, frames, sequence or dicom" in " ".join(told.split())


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 255], np.uint8),
        ([-5, 4095], np.int16),
        ([0, 70000], np.int32),
        ([0, 2.0**31], np.float32),
        ([0, 0.5], np.float32),
    ],
)
def test_voxels_are_stored_without_loss(from_memory, tmp_path, values, stored):
    array = np.resize(np.float32(values), (2, 5, 4, 3))
    [case] = from_memory(a_study(image=image_in_memory(array))).training
    np.testing.assert_array_equal(case.image().array[0], array)
    assert nib.load(case.images[0]).get_data_dtype() == stored


def test_channels_are_files_of_their_own_and_keep_their_kinds(from_memory):
    array = np.random.default_rng(0).normal(size=(3, 2, 5, 4, 3)).astype(np.float32)
    kinds = ("signal", "velocity X", "velocity -Y")
    dataset = from_memory(
        a_study(image=image_in_memory(array)), channel_names=("magnitude", "x", "y"), channel_kinds=kinds
    )
    assert dataset.channel_kinds == kinds
    np.testing.assert_array_equal(dataset.training[0].image().array, array)
    assert [path.name for path in dataset.training[0].images] == [f"one_000{i}.nii.gz" for i in range(3)]


def test_what_is_unlabelled_is_left_out_of_the_label(from_memory):
    """Value 2 stands on frame 0, which is unlabelled."""
    dataset = from_memory(a_study())
    assert dataset.training[0].labelled_frames == (1,)
    label = np.asarray(nib.load(dataset.training[0].label).dataobj)
    assert (label[..., 0].max(), label[..., 1].min()) == (0, 1)


def test_every_frame_labelled_needs_no_list(from_memory):
    def label(image: Image4D):
        return np.ones((image.frames, *image.grid), np.uint8), (0, 1)

    assert from_memory(a_study(label=label)).training[0].labelled_frames is None


def test_a_study_without_label_is_a_test_case(from_memory, capsys):
    dataset = from_memory(a_study("a"), a_study("b", label=None))
    assert ([c.name for c in dataset.training], [c.name for c in dataset.test]) == (["a"], ["b"])
    assert "nothing to train on" not in capsys.readouterr().out


def test_a_source_without_any_label_is_one_to_draw_on(from_memory, capsys):
    assert not from_memory(a_study(label=None)).training
    assert (
        'nothing to train on yet: label some of the images, and list them under "training"' in capsys.readouterr().out
    )


def test_an_unlabelled_study_of_a_subject_who_is_trained_on_is_left_out(from_memory, tmp_path, capsys):
    """It is no error: the others are a dataset, and it is reported."""
    dataset = from_memory(a_study("a", subject="anna"), a_study("b", subject="anna", label=None), a_study("c"))
    assert ([case.name for case in dataset.training], dataset.test) == (["a", "c"], ())
    assert "b: not written, because it has no label and anna is trained on\n" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["a.nii.gz", "c.nii.gz"]


@pytest.mark.parametrize(
    ("studies", "about", "told"),
    [
        ([a_study("a/b")], {}, "'a/b' would name a study or subject, expected a text that can name a file"),
        ([a_study(".a")], {}, "'.a' would name a study or subject"),
        ([a_study("a", subject="")], {}, "'' would name a study or subject"),
        (
            [a_study("a", subject="x"), a_study("b", subject="x", is_test=True)],
            {},
            "subject x is in training and test",
        ),
        (
            [a_study("a", time="cyclic"), a_study("b")],
            {},
            "some studies of memory are cyclic and others open",
        ),
        (
            [a_study("a")],
            {"labels": {}},
            "source: its label maps name no classes; give them: --labels '{left ventricle: 1}'",
        ),
        (
            [a_study("a", label=None)],
            {"labels": {}},
            "no study in .* has a label, .*; name them, --labels '{left ventricle: 1}', or segment",
        ),
        ([a_study("a")], {"channel_names": ("x", "y")}, "none of 1 study of .*: a: a has 1 channel, expected x, y"),
    ],
)
def test_what_no_dataset_can_be_made_of_is_reported(from_memory, tmp_path, studies, about, told):
    with pytest.raises(InputError, match=told):
        from_memory(*studies, **about)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"labels": {"background": 0, "a": 1, "b": 1}}, 'source: "labels" is .* each name and each value once'),
        ({"labels": {"background": 0, "a": 300}}, 'source: "labels" is .* values from 0 to 255'),
        (
            {"channel_names": ("a", "b"), "channel_kinds": ("velocity X", "velocity -X")},
            'source: "channel_kinds" is .* each axis of velocity comes once',
        ),
    ],
)
def test_faults_that_are_known_beforehand_are_reported_before_anything_is_read(from_memory, tmp_path, about, told):
    def image():
        raise AssertionError("read")

    with pytest.raises(InputError, match=told):
        from_memory(a_study("a", image=image), **about)
    assert not (tmp_path / "out").exists()


def test_two_studies_of_one_name_are_refused_in_every_layout(monkeypatch, tmp_path):
    from unet4d.datasets.convert.layouts import LAYOUTS, Layout, open_layout

    twice = Source("memory", ("MRI",), LABELS, (a_study("a"), a_study("a")))
    monkeypatch.setitem(LAYOUTS, "nnunet", Layout(bool, lambda root, options: twice, ("labels",)))
    with pytest.raises(InputError, match="2 studies would be named a, expected one; rename them"):
        open_layout("nnunet", tmp_path, NO_LAYOUT_OPTIONS)


def test_the_example_of_dicom_works_because_it_names_the_classes(command, tmp_path, monkeypatch):
    """Pins an example that ended with 2: DICOM carries no labels."""
    pytest.importorskip("pydicom", reason="needs pydicom: pip install pydicom")
    from tests.datasets.convert import dicom_files as files

    files.save(files.single_frames(files.ARRAY, files.AFFINE, files.by_trigger), tmp_path / "scans")
    [line] = [line for line in command("convert", "--help").told.splitlines() if "unet4d convert dicom" in line]
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split("   (")[0])[1:]
    assert command(*words).code == 0
    assert len(read_dataset(tmp_path / "cine").test) == 1
    done = command(*words[:3], "--out", "unnamed")
    assert (done.code, "name them, --labels '{left ventricle: 1}'" in done.error) == (2, True)


def test_time_is_written_where_it_is_given(from_memory, tmp_path, capsys):
    assert from_memory(a_study(time="open"), about={"licence": "CC-BY-4.0"}).time == "open"
    assert out_of(tmp_path / "out")["licence"] == "CC-BY-4.0"
    assert "taken as open" not in capsys.readouterr().out


def test_a_frame_duration_is_written_where_it_is_known(from_memory, tmp_path, capsys):
    from_memory(a_study("a"), a_study("b", image=image_in_memory(frame_duration_s=None)))
    first, second = out_of(tmp_path / "out")["training"]
    assert (first["frame_duration_s"], "frame_duration_s" in second) == (0.05, False)
    assert "of 0.05 s (unknown in 1 study)" in capsys.readouterr().out


def test_a_path_is_not_written(from_memory, tmp_path):
    files = tuple(tmp_path / "source" / "ANNA" / "series7" / f"{i}.dcm" for i in range(2))
    from_memory(a_study("case001", files=files))
    assert "ANNA" not in (tmp_path / "out" / "dataset.json").read_text()


def test_values_may_be_named_where_is_unlabelled(monkeypatch, tmp_path):
    """Options hold for every layout."""
    from unet4d.datasets.convert.layouts import LAYOUTS, Layout, open_layout

    unnamed = Source("memory", ("MRI",), {}, (a_study(label=None, image=image_in_memory(frame_duration_s=None)),))
    monkeypatch.setitem(LAYOUTS, "nnunet", Layout(bool, lambda root, options: unnamed, ("labels",)))
    assert open_layout("nnunet", tmp_path, NO_LAYOUT_OPTIONS).labels == {}
    source = open_layout("nnunet", tmp_path, LayoutOptions(labels={"heart": 3}, time="open", frame_duration_s=0.5))
    assert source.labels == {"background": 0, "heart": 3}
    assert (source.time, source.studies[0].time) == ("open", "open")
    assert source.studies[0].image().frame_duration_s == 0.5
    named = replace(unnamed, labels=LABELS, time="cyclic")
    monkeypatch.setitem(LAYOUTS, "nnunet", Layout(bool, lambda root, options: named, ("labels",)))
    source = open_layout("nnunet", tmp_path, LayoutOptions(labels={"heart": 3}))
    assert (source.labels, source.time, source.studies[0].time) == (LABELS, "cyclic", "cyclic")


def test_the_label_map_is_on_the_grid_of_the_copied_image(command, tmp_path):
    root = write_nnunet_4d(tmp_path / "nnunet")
    nnunet_json(root, 2)
    assert command("convert", "nnunet", root, "--out", tmp_path / "out").code == 0
    image, label = (read_image(tmp_path / "out" / part / "anna.nii.gz") for part in ("images", "labels"))
    np.testing.assert_array_equal(image.affine, label.affine)
    assert image.frame_duration_s == label.frame_duration_s


# A table of frame durations --------------------------------------------------------------------------------------

GOOD = "case,frame_duration_s\nanna,0.03\nben,0.04\ncarl,0.05\n"
TABLES = {
    "plain": GOOD.encode(),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "as a spreadsheet writes it": GOOD.replace(",", ";").replace("0.0", "0,0").replace("\n", "\r\n").encode(),
    "more columns, blank lines": b"frame_duration_s,note,case\n0.03,,anna\n\n0.04,x,ben\n0.05,,carl",
}


def converted_with(command, tmp_path: Path, table: bytes):
    (tmp_path / "durations.csv").write_bytes(table)
    root = write_nnunet_4d(tmp_path / "raw")
    return command(
        "convert", "nnunet", root, "--out", tmp_path / "out", "--frame_durations", tmp_path / "durations.csv"
    )


@pytest.mark.parametrize("name", TABLES)
def test_each_case_has_the_frame_duration_of_its_row(command, tmp_path, name):
    assert converted_with(command, tmp_path, TABLES[name]).code == 0
    dataset = read_dataset(tmp_path / "out")
    found = {case.name: case.image().frame_duration_s for case in (*dataset.training, *dataset.test)}
    assert found == {"anna": 0.03, "ben": 0.04, "carl": 0.05}  # before the 0.05 s of the headers


WRONG_TABLES = {
    "an unknown case": (GOOD + "dora,0.05\n", "dora"),
    "a missing case": (GOOD.replace("ben,0.04\n", ""), "lacks 1 case"),
    "no number": (GOOD.replace("0.04", "40 ms"), "40 ms"),
    "nothing": (GOOD.replace("0.04", ""), "row 3"),
    "0": (GOOD.replace("0.04", "0"), "row 3"),
    "NaN": (GOOD.replace("0.04", "nan"), "row 3"),
    "infinity": (GOOD.replace("0.04", "1e999"), "row 3"),
    "too small": (GOOD.replace("0.04", "1e-320"), "row 3"),
    "a case twice": (GOOD + "ben,0.04\n", "again"),
    "no name": (GOOD.replace("ben", " "), "names no case"),
    "empty": ("", "empty"),
    "a header alone": ("case,frame_duration_s\n", "no row"),
    "another header": (GOOD.replace("case", "name"), "no column case"),
    "a cell too few": (GOOD.replace("ben,0.04", "ben"), "row 3"),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_wrong_table_of_frame_durations_is_one_line(command, tmp_path, name):
    table, word = WRONG_TABLES[name]
    done = converted_with(command, tmp_path, table.encode())
    assert done.code == 2
    assert word in done.line
    assert not (tmp_path / "out").exists()


def test_a_table_in_utf_16_or_missing_is_one_line(command, tmp_path):
    done = converted_with(command, tmp_path, GOOD.encode("utf-16"))
    assert (done.code, "UTF-8" in done.line) == (2, True)
    (tmp_path / "durations.csv").unlink()
    done = command(
        "convert",
        "nnunet",
        tmp_path / "raw",
        "--out",
        tmp_path / "out",
        "--frame_durations",
        tmp_path / "durations.csv",
    )
    assert (done.code, "durations.csv cannot be read" in done.line) == (2, True)


def test_one_duration_for_all_and_a_table_are_too_much():
    with pytest.raises(InputError, match="frame_duration_s and frame_durations"):
        LayoutOptions(frame_duration_s=0.05, frame_durations={"anna": 0.05})


def test_a_dataset_is_not_converted(command, phantom, tmp_path):
    done = command("convert", "frames", phantom, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"{phantom} is a dataset already" in done.line
    assert not (tmp_path / "out").exists()
