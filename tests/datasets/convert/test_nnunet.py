"""nnU-Net's raw data: cases as they are, frames joined by a pattern, and what cannot be read as either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.convert.layouts import (
    FRAMES,
    frame_of,
    image_of,
    nnunet_json,
    phantom_study,
    write,
    write_nnunet_4d,
    write_nnunet_frames,
)
from tests.errors import error_of
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.convert.convert import convert
from unet4d.datasets.convert.file_names import shared_stems
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.datasets.convert.nnunet import is_nnunet
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.study import Source, Study
from unet4d.datasets.subject_folds import split_folds
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D
from unet4d.phantom.cine import CINE_LABELS as LABELS

PATTERN = r"(?P<subject>.+)_frame(?P<frame>\d+)"


def found(root: Path, **options) -> Source:
    return open_layout("nnunet", root, LayoutOptions(**options))


def refusal(root: Path, **options) -> str:
    return error_of(found, root, **options)


def unread(study: Study) -> str:
    return error_of(study.image)


def named(root: Path, name: str, **options) -> Study:
    [study] = [study for study in found(root, **options).studies if study.name == name]
    return study


def entry_of(root: Path) -> dict:
    return json.loads((root / "dataset.json").read_text())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("channels", [1, 3])
def test_4d_cases_are_studies_as_they_are(ending, channels, tmp_path):
    root = write_nnunet_4d(tmp_path, ending, channels)
    source = found(root)
    assert len(source.channel_names) == channels
    assert source.time is None
    assert [(s.name, s.subject, s.is_test, bool(s.label)) for s in source.studies] == [
        ("anna", "anna", False, True),
        ("ben", "ben", False, True),
        ("carl", "carl", True, False),
    ]
    for seed, study in enumerate(source.studies):
        image = study.image()
        assert image.frame_duration_s == 0.05
        assert [file.name for file in study.nifti] == [f"{study.name}_{i:04d}{ending}" for i in range(channels)]
        for channel in range(channels):
            np.testing.assert_array_equal(image.array[channel], phantom_study(seed).image * (channel + 1))
        if study.label:
            label, frames = study.label(image)
            assert frames is None
            np.testing.assert_array_equal(label, phantom_study(seed).label)


@pytest.mark.parametrize("first", [0, 1, 9])
def test_frames_of_a_subject_are_joined(first, tmp_path):
    root = write_nnunet_frames(tmp_path, first)
    source = found(root, pattern=PATTERN, time="cyclic", frame_duration_s=0.03)
    assert [(study.name, study.subject, study.time) for study in source.studies] == [
        ("anna", "anna", "cyclic"),
        ("ben", "ben", "cyclic"),
    ]
    for seed, study in enumerate(source.studies):
        image, wanted = study.image(), phantom_study(seed)
        np.testing.assert_array_equal(image.array, wanted.image[None])
        np.testing.assert_array_equal(image.affine, image_of(seed).affine)
        assert image.frame_duration_s == 0.03
        assert image.source.name == f"{study.name}_frame{first:02d}_0000.nii.gz"
        label, frames = study.label(image)
        assert frames == (0, 2)
        np.testing.assert_array_equal(label[[0, 2]], wanted.label[[0, 2]])
        assert study.nifti == ()
        assert len(study.files) == FRAMES + 2


def test_frames_are_in_the_order_of_their_numbers_not_of_their_names(tmp_path):
    image, names = image_of(0), ("a_z_9", "a_y_10", "a_x_11")
    for t, name in enumerate(names):
        write(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", phantom_study(0).image[t], frame_of(image, t))
    [study] = found(nnunet_json(tmp_path, 3), pattern=r"(?P<subject>\w)_\w_(?P<frame>\d+)").studies
    np.testing.assert_array_equal(study.image().array[0], phantom_study(0).image[:3])
    assert study.label is None


def test_joined_channels_stay_channels(tmp_path):
    image = image_of(0)
    for t in range(2):
        for channel in range(2):
            file = tmp_path / "imagesTr" / f"a_{t}_{channel:04d}.nii.gz"
            write(file, phantom_study(0).image[t] + np.float32(channel), frame_of(image, t))
    root = nnunet_json(tmp_path, 2, channel_names={"0": "magnitude", "1": "phase"})
    array = found(root, pattern=r"(?P<subject>\w)_(?P<frame>\d+)").studies[0].image().array
    np.testing.assert_array_equal(array[0], phantom_study(0).image[:2])
    np.testing.assert_array_equal(array[1], phantom_study(0).image[:2] + 1)


def test_the_step_of_time_of_a_3d_file_is_no_frame_duration(tmp_path):
    """A 3D file may carry anything in pixdim[4], such as the repetition time."""
    image = image_of(0)
    one = frame_of(image, 0)
    one.header["pixdim"][4] = 2.5
    one.header.set_xyzt_units("mm", "sec")
    for t in range(2):
        write(tmp_path / "imagesTr" / f"a_{t}_0000.nii.gz", phantom_study(0).image[t], one)
    study = found(nnunet_json(tmp_path, 2), pattern=r"(?P<subject>\w)_(?P<frame>\d+)").studies[0]
    joined = study.image()
    assert joined.frame_duration_s is None
    assert joined.header.get_xyzt_units() == ("mm", "unknown")


def test_a_constant_step_of_three_frames_or_more_is_a_numbering(tmp_path):
    study = found(write_nnunet_frames(tmp_path, 0, step=10), pattern=PATTERN).studies[0]
    np.testing.assert_array_equal(study.image().array[0], phantom_study(0).image)


def test_frames_that_are_missing_are_listed_and_the_others_read(tmp_path):
    root = write_nnunet_frames(tmp_path)
    (root / "imagesTr" / "anna_frame03_0000.nii.gz").unlink()
    (root / "labelsTr" / "anna_frame03.nii.gz").unlink()
    nnunet_json(root, 7)
    anna, ben = found(root, pattern=PATTERN).studies
    assert "anna has the frames 1, 2, 4, and 3 are missing; expected every frame's image" in unread(anna)
    assert ben.image().frames == FRAMES


def test_two_frames_far_apart_are_no_series(tmp_path):
    """Pins end-diastole and end-systole alone, as most sets made of ACDC have them, joined as if neighbors."""
    image = image_of(0)
    for number in (1, 12):
        write(tmp_path / "imagesTr" / f"a_frame{number:02d}_0000.nii.gz", phantom_study(0).image[0], frame_of(image, 0))
    [study] = found(nnunet_json(tmp_path, 2), pattern=PATTERN).studies
    message = unread(study)
    assert "a has the frames 1, 12, and 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 are missing" in message
    assert "leave the group frame out of the pattern" in message


def test_a_frame_that_comes_twice_is_reported(tmp_path):
    root = write_nnunet_frames(tmp_path)
    shutil.copy(root / "imagesTr" / "anna_frame03_0000.nii.gz", root / "imagesTr" / "anna_frame3_0000.nii.gz")
    nnunet_json(root, 9)
    message = unread(named(root, "anna", pattern=PATTERN))
    assert "anna_frame03 and anna_frame3 are both frame 3 of anna; remove one" in message


def test_a_label_without_its_image_is_a_frame_that_is_missing(tmp_path):
    root = write_nnunet_frames(tmp_path)
    (root / "imagesTr" / "anna_frame03_0000.nii.gz").unlink()
    assert "got no file for anna_frame03, expected one file per channel" in unread(named(root, "anna", pattern=PATTERN))


def test_a_subject_in_both_parts_is_reported(tmp_path):
    root = write_nnunet_frames(tmp_path)
    (root / "imagesTs").mkdir()
    (root / "imagesTr" / "anna_frame02_0000.nii.gz").rename(root / "imagesTs" / "anna_frame02_0000.nii.gz")
    nnunet_json(root, 7)
    assert "frames of anna are in imagesTr and in imagesTs, expected one" in refusal(root, pattern=PATTERN)


def test_frames_on_different_grids_are_reported(tmp_path):
    root = write_nnunet_frames(tmp_path)
    other = frame_of(image_of(0), 1)
    moved = Image4D.from_array(other.array, other.affine + np.eye(4)[:, [3, 1, 2, 0]] * [[0, 0, 0, 5]])
    write(root / "imagesTr" / "anna_frame02_0000.nii.gz", other.array[0], moved)
    assert "anna_frame02_0000.nii.gz: its affine" in unread(named(root, "anna", pattern=PATTERN))
    smaller = Image4D.from_array(other.array[:, :, 1:], other.affine)
    write(root / "imagesTr" / "anna_frame02_0000.nii.gz", smaller.array[0], smaller)
    assert "anna_frame02_0000.nii.gz: (X, Y, Z) is (31, 32, 4), in" in unread(named(root, "anna", pattern=PATTERN))


def test_a_frame_of_four_axes_is_reported(tmp_path):
    root = write_nnunet_4d(tmp_path)
    study = named(root, "anna", pattern=r"(?P<subject>.+)")
    assert study.image().frames == FRAMES
    for name in ("anna", "ben"):
        (root / "imagesTr" / f"{name}_0000.nii.gz").rename(root / "imagesTr" / f"{name}1_0000.nii.gz")
        (root / "labelsTr" / f"{name}.nii.gz").rename(root / "labelsTr" / f"{name}1.nii.gz")
    (root / "imagesTs" / "carl_0000.nii.gz").rename(root / "imagesTs" / "carl1_0000.nii.gz")
    message = unread(named(root, "anna", pattern=r"(?P<subject>\D+)(?P<frame>\d+)"))
    assert "anna1_0000.nii.gz has 4 frames, expected a 3D file, because the pattern makes it a frame of anna" in message


def test_a_pattern_without_frame_names_the_subjects_alone(tmp_path):
    """End-diastole and end-systole of one subject must not be in two folds."""
    source = found(write_nnunet_frames(tmp_path, drawn=(0, 1, 2, 3)), pattern=r"(?P<subject>.+)_frame.*")
    assert [(s.name, s.subject) for s in source.studies][:5] == [
        ("anna_frame01", "anna"),
        ("anna_frame02", "anna"),
        ("anna_frame03", "anna"),
        ("anna_frame04", "anna"),
        ("ben_frame01", "ben"),
    ]
    assert source.studies[0].image().frames == 1


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(?P<subject>anna)_frame(?P<frame>\d+)", "finds no subject in 4 of 8 cases: ben_frame01, ben_frame02, "),
        (r"(?P<subject>.*?)\w+_frame(?P<frame>\d+)", "finds no subject in 8 of 8 cases"),
        (r"(?P<subject>.+)_(?P<frame>\w+)", "finds no frame's number in the case anna_frame01"),
        (r"(?P<subject>.+", "is no regular expression"),
        (r".+_frame(?P<frame>\d+)", "has no group named subject, expected one such as"),
    ],
)
def test_a_pattern_that_does_not_fit_is_reported(pattern, words, tmp_path):
    assert words in refusal(write_nnunet_frames(tmp_path), pattern=pattern)


def test_files_may_be_listed(tmp_path):
    root = write_nnunet_4d(tmp_path / "data", channels=2)
    (root / "imagesTr").rename(tmp_path / "elsewhere")
    listing = {
        name: {"images": [f"../elsewhere/{name}_000{i}.nii.gz" for i in range(2)], "label": f"labelsTr/{name}.nii.gz"}
        for name in ("anna", "ben")
    }
    (root / "dataset.json").write_text(json.dumps(entry_of(root) | {"dataset": listing}))
    study = named(root, "anna")
    np.testing.assert_array_equal(study.image().array[1], phantom_study(0).image * 2)
    assert study.label(study.image())[0].any()
    for wrong in ({"anna": {"images": "a.nii.gz", "label": "b.nii.gz"}}, {"anna": {"images": ["a"]}}, ["anna"]):
        (root / "dataset.json").write_text(json.dumps(entry_of(root) | {"dataset": wrong}))
        assert '"dataset" has ' in refusal(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"file_ending": ".nrrd"},
            "\"file_ending\" is '.nrrd', expected .nii.gz or .nii; convert",
        ),
        ({"file_ending": None}, '"file_ending" is None, expected .nii.gz or .nii'),
        ({"channel_names": {"1": "cine"}}, "\"channel_names\" is {'1': 'cine'}, expected names by number"),
        ({"channel_names": None}, '"channel_names" is None, expected names by number'),
        (
            {"labels": {"background": 0, "whole": [1, 2]}},
            '"regions_class_order" is missing, expected one label value for each of the 1 regions whole',
        ),
        (
            {"labels": {"background": 0, "heart": 3, "ignore": 2}},
            "has 2 for ignore, expected the highest value, above 3",
        ),
        ({"labels": {"background": 0, "heart": "1"}}, "expected whole numbers by name"),
        ({"labels": {"heart": 1}}, "expected whole numbers by name"),
        ({"labels": ["heart"]}, "expected whole numbers by name"),
        ({"numTraining": 3}, 'got 2 training cases, "numTraining" is 3; add what is missing, or correct it'),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_reported(changes, words, tmp_path):
    root = write_nnunet_4d(tmp_path)
    nnunet_json(root, changes.pop("numTraining", 2), **changes)
    message = refusal(root)
    assert words in message
    assert message.startswith(str(root / "dataset.json"))


def test_a_dataset_with_an_ignore_label_converts_as_it_is(tmp_path):
    root, image = write_nnunet_4d(tmp_path / "raw"), image_of(0, 0.05)
    label = phantom_study(0).label.copy()
    label[:, 3:6] = 4
    write(root / "labelsTr" / "anna.nii.gz", label, image)
    nnunet_json(root, 2, labels={**LABELS, "ignore": 4})
    dataset = read_dataset(convert("nnunet", root, tmp_path / "out"))
    assert (dataset.ignore, dict(dataset.labels)) == (4, LABELS)
    case = dataset.case("anna")
    assert np.array_equal(read_labelled(case, dataset, case.image())[0], label)


def test_regions_are_kept_as_they_are(tmp_path):
    root = write_nnunet_4d(tmp_path / "raw")
    labels = {"background": 0, "heart": [1, 2, 3], "left heart": [2, 3], "left ventricle": 3, "ignore": 4}
    nnunet_json(root, 2, labels=labels, regions_class_order=[1, 2, 3], roles={"left heart": "other"})
    convert("nnunet", root, tmp_path / "out")
    written = entry_of(tmp_path / "out")
    assert written["labels"] == labels
    assert list(written["labels"]) == list(labels)  # the order of the network's outputs
    assert written["regions_class_order"] == [1, 2, 3]
    dataset = read_dataset(tmp_path / "out")
    assert list(dataset.classes) == ["heart", "left heart", "left ventricle"]
    assert dataset.labels == (("background", 0), ("label 1", 1), ("label 2", 2), ("left ventricle", 3))
    assert (dataset.roles, dataset.ignore) == ({"left heart": "other"}, 4)


def test_values_can_be_named_where_there_are_regions(tmp_path):
    root = write_nnunet_4d(tmp_path)
    nnunet_json(root, 2, labels={"background": 0, "whole": [1, 2, 3]})
    source = found(root, labels={name: value for name, value in LABELS.items() if value})
    assert source.labels == LABELS
    assert source.studies[0].label(source.studies[0].image())[0].max() == 3


def test_a_case_without_its_label_or_a_channel_is_reported_and_the_others_read(tmp_path):
    root = write_nnunet_4d(tmp_path, channels=2)
    (root / "labelsTr" / "ben.nii.gz").unlink()
    (root / "imagesTr" / "anna_0001.nii.gz").unlink()
    anna, ben, _ = found(root).studies
    assert "got anna_0000.nii.gz for anna, expected one file per channel, CASE_0000 to CASE_0001" in unread(anna)
    with pytest.raises(InputError, match=r"labelsTr/ben.nii.gz is missing"):
        ben.label(ben.image())


def test_test_cases_have_labels_where_they_lie_beside(tmp_path):
    root = write_nnunet_4d(tmp_path)
    write(root / "labelsTs" / "carl.nii.gz", phantom_study(2).label, image_of(2))
    carl = named(root, "carl")
    np.testing.assert_array_equal(carl.label(carl.image())[0], phantom_study(2).label)


def test_a_folder_without_cases_is_reported(tmp_path):
    root = nnunet_json(tmp_path, 0)
    assert f"{root} holds no case, expected imagesTr/CASE_0000.nii.gz" in refusal(root)


def test_what_is_reported_of_the_whole_is_kept(tmp_path):
    root = write_nnunet_4d(tmp_path / "Dataset027_ACDC")
    assert found(root).name == "Dataset027_ACDC"
    nnunet_json(root, 2, name="ACDC", licence="CC", reference="Bernard", description="", release="1.0")
    source = found(root / "dataset.json")
    assert (source.name, dict(source.about)) == ("ACDC", {"licence": "CC", "reference": "Bernard"})


def test_roles_are_kept_and_checked(command, tmp_path):
    root = write_nnunet_4d(tmp_path / "raw")
    nnunet_json(root, 2, roles={"myocardium": "other"})
    assert found(root).roles == {"myocardium": "other"}
    assert command("convert", "nnunet", root, "--out", tmp_path / "out").code == 0
    assert read_dataset(tmp_path / "out").roles == {"myocardium": "other"}
    nnunet_json(root, 2, roles={"myocardium": "muscle"})
    assert "\"roles\" has 'muscle' for myocardium" in refusal(root)


def test_only_nnunets_dataset_json_is_of_this_layout(tmp_path, phantom_dataset):
    assert is_nnunet(write_nnunet_4d(tmp_path / "nnunet"))
    assert is_nnunet(tmp_path / "nnunet" / "dataset.json")
    assert not is_nnunet(phantom_dataset.root)
    decathlon = {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "numTraining": 1, "training": [], "test": []}
    (tmp_path / "dataset.json").write_text(json.dumps(decathlon))
    assert not is_nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text("[1, 2")
    assert not is_nnunet(tmp_path)
    assert not is_nnunet(tmp_path / "nowhere")
    (tmp_path / "dataset.json").write_text(json.dumps(decathlon))
    assert "is not of nnU-Net, version 2" in refusal(tmp_path)


# Subjects by the names of their frames ---------------------------------------------------------------------------


def ed_es_set(root: Path, names: dict[str, int], part: str = "Tr") -> Path:
    """3D cases, each labelled: a frame of the phantom of this seed."""
    for place, (name, seed) in enumerate(names.items()):
        image, study, t = image_of(seed), phantom_study(seed), place % FRAMES
        write(root / f"images{part}" / f"{name}_0000.nii.gz", study.image[t].astype(np.int16), frame_of(image, t))
        write(root / f"labels{part}" / f"{name}.nii.gz", study.label[t], frame_of(image, t))
    return nnunet_json(root, len(names)) if part == "Tr" else root


ED_ES = {"patient001_frame01": 0, "patient001_frame12": 0, "patient002_frame01": 1, "patient002_frame09": 1}


def test_frames_that_share_a_stem_are_of_one_subject(tmp_path):
    source = found(ed_es_set(tmp_path, ED_ES))
    assert [(s.name, s.subject) for s in source.studies] == [(name, name[:10]) for name in ED_ES]
    [note] = source.notes
    for words in ("4 cases are of 2 subjects", "patient001_frame01, patient001_frame12", "--subject_per_case"):
        assert words in note
    for study in source.studies:
        image = study.image()
        assert image.frames == 1
        assert study.label(image)[0].any()


def test_the_grouping_can_be_refused_and_a_pattern_takes_its_place(tmp_path):
    root = ed_es_set(tmp_path, ED_ES)
    refused = found(root, subject_per_case=True)
    assert [study.subject for study in refused.studies] == list(ED_ES)
    by_pattern = found(root, pattern=r"(?P<subject>.+)_frame\d+")
    assert {study.subject for study in by_pattern.studies} == {"patient001", "patient002"}
    assert refused.notes == by_pattern.notes == ()
    with pytest.raises(InputError, match="pattern and subject_per_case"):
        LayoutOptions(pattern=PATTERN, subject_per_case=True)
    with pytest.raises(InputError, match="subject_per_case for acdc"):
        open_layout("acdc", root, LayoutOptions(subject_per_case=True))


SAME_SUBJECT = [
    ["patient001_ED", "patient001_ES"], ["p1_ED_frame01", "p1_ES_frame12"], ["s1.ed", "s1.es"], ["p1-phase-3", "p1-phase-04"],
    ["Patient1_frame1", "patient1_frame010"], ["Meyer_frame1", "Meyer_frame2", "Smith_frame1"], ["m12_tp1", "m12_tp2"],
    ["c1_end-diastole", "c1_end-systole"], ["p1/frame01", "p1/frame02"], ["p1_t00", "p1_t07", "p2_t00"],
    ["p1_vol0", "p1_vol1", "p2_vol0"], ["p1_frame01_sa", "p1_frame02_sa"],
]  # fmt: skip
OTHERS = [
    ["case_01", "case_02"], ["img_1", "img_2"], ["vol_01", "vol_02"], ["frame_01", "frame_02"], ["cine_frame01", "cine_frame02"],
    ["images/frame01", "images/frame02"], ["Task9_vol1", "Task9_vol2"], ["siteA_t1_012", "siteB_t2_013"], ["x_speed", "x_used"],
    ["p1_frame01", "p2_frame01"], ["la_ed_01", "la_ed_02"], ["brain_t1", "brain_t2"], ["1", "2"], [""],
]  # fmt: skip


@pytest.mark.parametrize("names", SAME_SUBJECT, ids=lambda names: names[0])
def test_stems_are_shared_by_frames_of_one_subject(names):
    stems = shared_stems(names)
    assert stems[names[0]] == stems[names[1]]
    assert set(stems) == set(names)


@pytest.mark.parametrize("names", OTHERS, ids=lambda names: names[0])
def test_names_without_the_word_of_a_frame_share_none(names):
    assert shared_stems(names) == {}


def test_frames_of_one_subject_in_both_parts_are_refused(command, tmp_path):
    root = ed_es_set(tmp_path / "raw", {"patient001_frame01": 0, "patient002_frame01": 1})
    ed_es_set(root, {"patient001_frame12": 0}, "Ts")
    done = command("convert", "nnunet", root, "--out", tmp_path / "out")
    assert done.code == 2
    assert "subject patient001 is in training and test" in done.line
    assert "--subject_per_case" in done.line
    assert command("convert", "nnunet", root, "--out", tmp_path / "out", "--subject_per_case").code == 0


def test_an_ed_es_set_becomes_a_dataset_of_3d_cases_that_no_fold_divides(command, tmp_path):
    root = ed_es_set(tmp_path / "raw", ED_ES)
    done = command("convert", "nnunet", root, "--out", tmp_path / "out")
    assert done.code == 0
    assert "4 cases are of 2 subjects" in done.told
    assert "4 studies of 2 subjects: 4 for training, 0 for test" in done.told
    dataset = read_dataset(tmp_path / "out")
    for held_out in split_folds(dataset, 2):
        names = {case.name for case in dataset.training if case.subject in held_out}
        assert {name[:10] for name in names} == set(held_out)
        assert len(names) == 2
    assert command("verify", tmp_path / "out").told.count("stem-split") == 0
    command("convert", "nnunet", root, "--out", tmp_path / "apart", "--subject_per_case")
    told = command("verify", tmp_path / "apart").told
    assert "warning stem-split" in told
    assert "patient001_frame01, patient001_frame12 share the stem patient001" in told


def test_verify_looks_at_the_names_of_images_too(command, tmp_path):
    command("convert", "nnunet", ed_es_set(tmp_path / "raw", ED_ES), "--out", tmp_path / "out")
    entry = entry_of(tmp_path / "out")
    for number, case in enumerate(entry["training"]):
        case |= {"case": f"c{number}", "subject": f"s{number}"}
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(entry))
    told = command("verify", tmp_path / "out").told
    assert "c0, c1 share the stem images/patient001" in told
