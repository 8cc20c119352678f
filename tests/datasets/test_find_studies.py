"""The studies that inputs name: which cases are taken, by which names, and what is refused. No image is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import write_dataset_json
from tests.errors import error_of
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.datasets.find_studies import find_studies, open_source
from unet4d.datasets.nifti_studies import group_by_channel
from unet4d.errors import InputError
from unet4d.images.nifti import case_name, find_nifti_files

ONE = ("cine MRI",)
TWO = ("magnitude", "velocity")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def dataset(root: Path, training: str = "abc", test: str = "", **more) -> Path:
    """A dataset of empty files; a letter is a case, and its subject is of that name."""
    touch(root, *(f"{case}.nii.gz" for case in training + test), *(f"{case}_label.nii.gz" for case in training))
    more = {"channel_names": {"0": ONE[0]}, "test": [{"case": c, "image": f"{c}.nii.gz"} for c in test]} | more
    cases = [{"case": c, "image": f"{c}.nii.gz", "label": f"{c}_label.nii.gz"} for c in training]
    return write_dataset_json(root, cases, {"background": 0, "heart": 1}, **more)


def names(*given, **options) -> list[str]:
    return [study.name for study in find_studies(*given, **options)]


def refusal(*given, **options) -> str:
    return error_of(find_studies, *given, **options)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.nii", "a"),
        ("a.nii.gz", "a"),
        ("A.NII.GZ", "A"),
        ("b.Nii", "b"),
        ("c.1.nii.gz", "c.1"),
        ("d.nii.nii", "d.nii"),
    ],
)
def test_a_case_is_named_by_its_file(file, name, tmp_path):
    assert case_name(Path("folder") / file) == name
    assert find_nifti_files(touch(tmp_path, file)) == {name: tmp_path / file}


def test_a_file_that_is_no_nifti_names_no_case():
    with pytest.raises(InputError, match=r"a\.nrrd: expected a file name that ends in \.nii or \.nii\.gz"):
        case_name(Path("a.nrrd"))


def test_a_folder_gives_its_studies_by_name(tmp_path):
    touch(tmp_path, "b.nii", "a.nii.gz", ".hidden.nii", "notes.txt", "a.json")
    assert list(find_nifti_files(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("other", ["a.nii", "a.NII.GZ"])
def test_two_files_of_one_name_are_refused_everywhere(other, tmp_path):
    """Pins a.nii beside a.nii.gz, of which one was taken or both."""
    touch(tmp_path, "a.nii.gz", other)
    with pytest.raises(InputError, match=r"expected one; remove the other"):
        find_nifti_files(tmp_path)
    assert "expected one; remove the other" in refusal([tmp_path], ONE)


def test_files_are_grouped_by_channel(tmp_path):
    files = {name: tmp_path / name for name in ("a_0000", "a_0001", "b_c_0000", "d", "e_01", "_0000")}
    grouped = {case: sorted(found) for case, found in group_by_channel(files).items()}
    assert grouped == {"a": ["0000", "0001"], "b_c": ["0000"], "d": [""], "e_01": [""], "_0000": [""]}


def test_channels_of_a_case_come_in_order(tmp_path):
    touch(tmp_path, "a_0001.nii.gz", "a_0000.nii", "b_0000.nii.gz", "b_0001.nii.gz")
    first, second = find_studies([tmp_path], TWO)
    assert (first.name, second.name, first.time) == ("a", "b", None)
    assert [path.name for path in first.files] == ["a_0000.nii", "a_0001.nii.gz"]
    touch(tmp_path, "c_0001.nii.gz")
    words = "got c_0001.nii.gz for c, expected one file per channel, CASE_0000 to CASE_0001; rename them"
    assert words in refusal([tmp_path], TWO)


def test_a_dataset_gives_its_test_cases_else_all(tmp_path):
    assert names([dataset(tmp_path / "one")], ONE) == ["a", "b", "c"]
    assert names([dataset(tmp_path / "two", "ab", "xy"), tmp_path / "one" / "dataset.json"], ONE) == list("xyabc")


def test_time_is_what_the_dataset_says_if_it_says_it(tmp_path):
    given = [dataset(tmp_path / "a", "a"), dataset(tmp_path / "b", "b", time="open"), touch(tmp_path / "c", "c.nii")]
    given.append(dataset(tmp_path / "d", "d", time="cyclic"))
    assert [study.time for study in find_studies(given, ONE)] == [None, "open", None, "cyclic"]


def test_cases_are_taken_from_any_dataset_and_either_part(tmp_path):
    given = [dataset(tmp_path / "one", "abc", "t"), dataset(tmp_path / "two", "de")]
    assert names(given, ONE, cases=["e", "t", "b"]) == ["b", "t", "e"]


def test_cases_that_cannot_be_are_reported(tmp_path):
    root = dataset(tmp_path / "one", ["patient001", "patient002"], [])
    message = refusal([root], ONE, cases=["patient001", "patient1"])
    assert "there is no case 'patient1' (near: patient001, patient002) in" in message
    assert "expected names among the 2 that are there" in message
    assert "got no study, expected one or more" in refusal([root], ONE, cases=[])
    plain = touch(tmp_path / "plain", "a.nii")
    words = f"{plain} is no dataset, expected one for cases; leave cases out"
    assert refusal([root, plain], ONE, cases=["patient001"]).startswith(words)
    assert "both cases and held_out" in refusal([root], ONE, cases=["a"], subjects=["a"])


def test_held_out_cases_are_those_of_the_runs_subjects_however_the_dataset_has_grown(tmp_path):
    grown = dataset(tmp_path / "one", "abcdef", "xy")
    assert names([grown], ONE, subjects=["f", "b", "gone"]) == ["b", "f"]


@pytest.mark.parametrize("subjects", [[], ["z"]])
def test_held_out_that_cannot_be_is_reported(tmp_path, subjects):
    root = dataset(tmp_path / "one")
    words = f"the run of this model held out no subject of {root}; give a run with validation cases, or cases"
    assert refusal([root], ONE, subjects=subjects) == words
    plain = touch(tmp_path / "plain", "a.nii")
    words = "is no dataset, expected one for held_out; leave held_out out"
    assert words in refusal([plain], ONE, subjects=subjects)


def test_bare_files_are_of_the_models_kinds(tmp_path, study):
    for channel, frames in (("0000", 3), ("0001", 1)):
        study(tmp_path / f"a_{channel}.nii", frames)
    [found] = find_studies([tmp_path], TWO, channel_kinds=("signal", "map"))
    assert found.image().array.shape[:2] == (2, 3)
    with pytest.raises(InputError, match="got 1 frame, expected 3"):
        find_studies([tmp_path], TWO)[0].image()


def nnunet(root: Path) -> Path:
    """nnU-Net's layout of empty files: two training cases and a test case."""
    touch(root / "imagesTr", "a_0000.nii.gz", "b_0000.nii.gz")
    touch(root / "labelsTr", "a.nii.gz", "b.nii.gz")
    touch(root / "imagesTs", "t_0000.nii.gz")
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "heart": 1}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(about | {"file_ending": ".nii.gz"}))
    return root


def acdc(root: Path) -> Path:
    for patient in ("patient001", "patient002"):
        touch(root / patient, f"{patient}_4d.nii.gz", f"{patient}_frame01_gt.nii.gz")
    return root


def test_other_layouts_are_found_out(tmp_path):
    """Their test cases, else all, as of a dataset."""
    given = [nnunet(tmp_path / "nnunet"), acdc(tmp_path / "acdc"), dataset(tmp_path / "ours", "x")]
    assert names(given, ONE) == ["t", "patient001", "patient002", "x"]
    assert names([given[0] / "dataset.json"], ONE) == ["t"]
    assert [study.time for study in find_studies(given[1:], ONE)] == ["cyclic", "cyclic", None]


def test_cases_of_other_layouts_are_taken_by_name_and_subject(tmp_path):
    given = [nnunet(tmp_path / "nnunet"), acdc(tmp_path / "acdc")]
    assert names(given, ONE, cases=["b", "patient002"]) == ["b", "patient002"]
    assert names(given[1:], ONE, subjects=["patient001", "t"]) == ["patient001"]
    assert names(given[:1], ONE, subjects=["a", "t"]) == ["a"]  # t is a test case


def test_the_layout_can_be_named(tmp_path):
    root = acdc(tmp_path) / "patient001"
    assert names([root], ONE, layout="acdc") == ["patient001"]
    assert names([root], ONE) == ["patient001"], "a patient's folder: its reference is no study"
    options = LayoutOptions(pattern=r"(?P<subject>.)")
    study = find_studies([nnunet(tmp_path / "n")], ONE, layout="nnunet", options=options)[0]
    assert (study.name, study.subject) == ("t", "t")
    assert "holds no patient's folder" in refusal([dataset(tmp_path / "ours")], ONE, layout="acdc")


def test_an_option_without_use_is_refused(tmp_path):
    plain, options = touch(tmp_path / "plain", "a.nii"), LayoutOptions(pattern="(?P<subject>.*)")
    words = f"got a pattern or keep_patient_ids for {plain}, of no use in its layout; give --layout"
    assert words == refusal([plain], ONE, options=options)
    assert "of no use in its layout" in refusal([dataset(tmp_path / "ours")], ONE, options=options)


def test_what_is_unknown_is_reported(tmp_path):
    words = f"{touch(tmp_path / 'x', 'notes.txt')} holds no .nii or .nii.gz file, and no layout that unet4d detects"
    assert words in refusal([tmp_path / "x"], ONE)
    assert "notes.md is not a study, expected .nii, .nii.gz or a sequence" in refusal(
        [touch(tmp_path / "x", "notes.md") / "notes.md"], ONE
    )


def nrrd(folder: Path, *names: str) -> Path:
    """Headers that say three axes, which is all that is looked at."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"NRRD0004\ndimension: 3\n\n")
    return folder


def test_static_patients_are_no_frames_of_one_study(tmp_path):
    """Pins patient0.nrrd, patient1.nrrd, ... in one folder, which were joined to one study without a word."""
    three = nrrd(tmp_path, "patient0.nrrd", "patient1.nrrd", "patient2.nrrd")
    assert "or name its layout with --layout (3D NRRD, one per frame: --layout frames)" in refusal([three], ONE)
    assert len(names([three], ("MRI",), layout="frames")) == 1
    said = refusal([three / "patient0.nrrd"], ONE)
    assert "patient0.nrrd is not a study" in said
    assert "of 3D files, one per frame, give the folder: unet4d predict with --layout frames" in said


def test_what_a_layout_was_taken_as_is_reported(tmp_path, capsys):
    root = nrrd(tmp_path / "n", *(f"anna/frame_{t}.nrrd" for t in range(3)))
    open_source(root)
    assert capsys.readouterr().err == f"{root}: taken as frames, 1 study of 3 files; --layout names another layout\n"
    open_source(acdc(tmp_path / "acdc"))
    assert "taken as acdc, 2 studies of " in capsys.readouterr().err
    open_source(root, layout="frames")
    open_source(dataset(tmp_path / "ours"))
    open_source(touch(tmp_path / "plain", "a.nii"))
    assert capsys.readouterr().err == ""


def test_files_beside_patients_folders_are_not_passed_over(tmp_path):
    """Pins a.nii.gz beside patient001/, which was not segmented."""
    assert names([touch(acdc(tmp_path), "a.nii.gz")], ONE) == ["a"]


def test_what_may_not_be_read_is_reported(tmp_path, monkeypatch):
    locked = touch(tmp_path / "locked", "a.nii")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("iterdir", "is_file", "exists"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            assert "may not be read: no permission" in refusal([locked], ONE)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="locked may not be read: no permission"):
        open_layout("acdc", locked, LayoutOptions())


def test_without_channel_names_a_study_is_its_first_channel(tmp_path):
    touch(tmp_path, "a_0000.nii", "a_0001.nii", "b.nii")
    found = {study.name: [file.name for file in study.files] for study in open_source(tmp_path).studies}
    assert (found["a"], found["b"]) == (["a_0000.nii"], ["b.nii"])
