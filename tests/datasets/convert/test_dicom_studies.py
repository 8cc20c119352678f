"""DICOM: planes of one study, ignored files, and names of studies."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_drawings import segmentation
from tests.datasets.convert.dicom_files import (
    AFFINE,
    ARRAY,
    assert_is,
    by_instance,
    by_trigger,
    image_of,
    refusal,
    refusals,
    series_a_slice,
)
from tests.datasets.convert.layouts import write_nnunet_4d
from unet4d.datasets.convert.convert import convert
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.system.csv_file import read_table

NAME = f"series-{hashlib.sha256(files.SERIES.encode()).hexdigest()[:8]}"


def scout(uid: str = "scout", **more) -> list[Dataset]:
    """Three planes of three orientations, one image each."""
    made = []
    for i, axes in enumerate(([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])):
        (ds,) = files.single_frames(
            ARRAY[:1, ..., :1], AFFINE, by_instance, SeriesInstanceUID=generate_uid(entropy_srcs=[uid])
        )
        ds.ImageOrientationPatient, ds.InstanceNumber, ds.SeriesNumber, ds.SeriesDescription = axes, i, 1, "localizer"
        ds.update(files.attributes(more))
        made.append(ds)
    return made


def test_what_is_no_4d_study_is_passed_by_and_told(tmp_path, capfd):
    cine = files.single_frames(ARRAY, AFFINE, by_trigger)
    report = scout("report")[0]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    screenshot = scout("screenshot", SOPClassUID=SecondaryCaptureImageStorage)[0]
    del screenshot.ImagePositionPatient
    screenshot.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    saved = files.save([*cine, *scout(), report, screenshot], tmp_path)
    files.save([screenshot] * 3, tmp_path / "screenshots")
    (tmp_path / "README.txt").write_text("not DICOM")
    assert_is(image_of(tmp_path))
    told = capfd.readouterr().err
    assert f"ignored: series 1 (localizer) in {tmp_path}: one time point" in told
    assert f"ignored: {saved[-1]}: it has no ImagePositionPatient" in told
    assert str(saved[-2]) not in told  # a report is no image
    assert f"ignored: 3 images in {tmp_path / 'screenshots'} (first IM00000): it has no ImagePositionPatient" in told
    assert told.count("ignored:") == 3
    assert "no images: 1 Comprehensive SR\n" in told


OBJECTS = {
    ComprehensiveSRStorage: "2 Comprehensive SR,",
    GrayscaleSoftcopyPresentationStateStorage: "1 Grayscale Softcopy Presentation State,",
    KeyObjectSelectionDocumentStorage: "1 Key Object Selection Document,",
    EncapsulatedPDFStorage: "1 Encapsulated PDF,",
    UID("1.3.12.2.1107.5.9.1"): "1 object of a private class,",
}


def drawn(sop_class: UID) -> Dataset:
    """An object that is no image, of the same patient."""
    (ds,) = files.single_frames(ARRAY[:1, ..., :1], AFFINE, by_instance, SeriesInstanceUID=generate_uid())
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(ds, keyword)
    return ds


def test_objects_that_are_no_images_are_counted_by_kind_and_nothing_else_is_reported_of_them(tmp_path, capfd):
    files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    for at, sop_class in enumerate([*OBJECTS, ComprehensiveSRStorage]):
        files.save([drawn(sop_class)], tmp_path / f"{files.NAME}-{at}")
    bare = drawn(RTDoseStorage)  # beside the images, without a preamble
    del bare.file_meta
    bare.save_as(tmp_path / "dose", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert_is(image_of(tmp_path))
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("ignored"))
    assert [kind for kind in OBJECTS.values() if kind not in f"{line},"] == []
    assert "1 RT Dose" in line
    assert not any(text in line for text in (files.NAME, files.PATIENT, str(tmp_path)))


def test_a_folder_of_other_objects_alone_says_what_they_are(tmp_path):
    of = files.single_frames(ARRAY, AFFINE, by_trigger)[0]
    label = segmentation(["a"], [(1, ARRAY[0, :, :, 0] > 0, of, None)])
    files.save([drawn(ComprehensiveSRStorage), label], tmp_path)
    with pytest.raises(InputError, match="no DICOM image, but 1 Comprehensive SR, 1 Segmentation, expected images"):
        open_layout("dicom", tmp_path, LayoutOptions())


def test_a_directory_of_files_is_not_counted(tmp_path, capfd):
    files.save([*files.single_frames(ARRAY, AFFINE, by_trigger), drawn(MediaStorageDirectoryStorage)], tmp_path)
    assert_is(image_of(tmp_path))
    assert "ignored" not in capfd.readouterr().err


def test_where_nothing_moves_a_series_is_one_frame(tmp_path):
    files.save(files.single_frames(ARRAY[:1], AFFINE, by_instance), tmp_path)
    image = image_of(tmp_path)
    assert_is(image, ARRAY[:1])
    assert (image.frames, image.frame_duration_s) == (1, None)


def test_nothing_of_use_is_an_error_that_gives_reasons(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no DICOM image, expected"):
        open_layout("dicom", tmp_path / "empty", LayoutOptions())
    files.save(scout(PhotometricInterpretation="RGB", SamplesPerPixel=3), tmp_path / "colour")
    with pytest.raises(InputError, match=r"can be used: 3 images in .*: its PhotometricInterpretation is RGB"):
        open_layout("dicom", tmp_path / "colour", LayoutOptions())


def studies_of(root: Path, *groups: list[Dataset]) -> list[Image4D]:
    files.save([ds for group in groups for ds in group], root)
    source = open_layout("dicom", root, LayoutOptions())
    return [study.image() for study in source.studies]


def test_series_of_a_slice_are_joined_only_within_their_stack(tmp_path):
    """A second stack of another name, a long-axis view and a magnitude's phase stay studies of their own."""

    def named(description: str, number: int, **more) -> list[Dataset]:
        def place(ds: Dataset, t: int, z: int) -> None:
            series_a_slice(ds, t, z)
            ds.SeriesDescription, ds.SeriesNumber = f"{description}_{z}", number + z
            ds.SeriesInstanceUID = generate_uid(entropy_srcs=[description, str(number), str(z)])
            ds.update(files.attributes(more))

        return files.single_frames(ARRAY, AFFINE, place)

    phase = named("cine_sax", 30, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
    other = named("cine_sax", 50, FrameOfReferenceUID=generate_uid())
    images = studies_of(tmp_path, named("cine_sax", 10), named("perfusion", 20), phase, named("tag", 40)[::4], other)
    assert sorted(image.array.shape[1:] for image in images) == [(4, 12, 10, z) for z in (1, 4, 4, 4, 4)]


def test_repetitions_of_one_slice_are_studies_each_and_a_slice_acquired_twice_is_refused(tmp_path):
    def again(number: int) -> list[Dataset]:
        uid = generate_uid(entropy_srcs=[str(number)])
        slices = files.single_frames(ARRAY, AFFINE, series_a_slice)[1::4]
        for ds in slices:
            ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = generate_uid(), uid, number
        return slices

    images = studies_of(tmp_path / "repeated", again(1), again(2), again(3))
    assert [image.array.shape for image in images] == [(1, 4, 12, 10, 1)] * 3
    files.save([*files.single_frames(ARRAY, AFFINE, series_a_slice), *again(40)], tmp_path / "twice")
    said = refusal(tmp_path / "twice")
    assert said.count("duplicate: slice 1") == 4
    assert "series 17" in said
    assert "series 40" in said


def test_a_stack_does_not_lose_the_slice_that_lost_a_frame(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, series_a_slice)
    files.save(datasets[:-1], tmp_path)
    assert "gap: slice 3 has 3 frames, most have 4; missing is frame 3" in refusal(tmp_path)


def test_magnitude_and_phase_in_one_series_are_two_studies(tmp_path):
    magnitude = files.single_frames(ARRAY, AFFINE, by_trigger)
    phase = files.single_frames(
        ARRAY + 1, AFFINE, by_trigger, ImageType=["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]
    )
    first, second = studies_of(tmp_path, magnitude, phase)
    assert_is(first)
    assert_is(second, ARRAY + 1)
    assert [study.name for study in open_layout("dicom", tmp_path, LayoutOptions()).studies] == [NAME, f"{NAME}-phase"]


def test_water_and_fat_in_one_series_are_two_studies(tmp_path):
    groups = [
        files.single_frames(ARRAY + i, AFFINE, by_trigger, ImageType=["DERIVED", "PRIMARY", "DIXON", kind])
        for i, kind in enumerate(("WATER", "F", "IN_PHASE", "OP"))
    ]
    images = dict(zip(("water", "fat", "in-phase", "opposed-phase"), groups, strict=True))
    files.save([ds for group in groups for ds in group], tmp_path)
    studies = {study.name: study for study in open_layout("dicom", tmp_path, LayoutOptions()).studies}
    assert set(studies) == {f"{NAME}-{kind}" for kind in images}
    for i, kind in enumerate(images):
        assert_is(studies[f"{NAME}-{kind}"].image(), ARRAY + i)


@pytest.mark.parametrize("place", [by_trigger, series_a_slice])
def test_echoes_of_one_series_are_studies_each(place, tmp_path):
    echoes = [files.single_frames(ARRAY + i, AFFINE, place, EchoTime=str(2.38 * i + 1.2)) for i in range(2)]
    first, second = studies_of(tmp_path, *echoes)
    assert_is(first)
    assert_is(second, ARRAY + 1)
    names = [study.name for study in open_layout("dicom", tmp_path, LayoutOptions()).studies]
    assert [name.partition("-magnitude-")[2] for name in names] == ["echo-at-1.2-ms", "echo-at-3.58-ms"]


def test_echoes_of_an_enhanced_file_are_studies_each(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        values = group.FrameContentSequence[0].DimensionIndexValues
        t = values[2] - 1
        group.MREchoSequence = [files.attributes({"EffectiveEchoTime": 1.2 + t % 2})]
        values[2] = t // 2 + 1
    files.save([ds], tmp_path)
    first, second = (study.image() for study in open_layout("dicom", tmp_path, LayoutOptions()).studies)
    assert_is(first, ARRAY[::2])
    assert_is(second, ARRAY[1::2])


def patient(name: str, series: int, study: str = "20240305", **more) -> list[Dataset]:
    datasets = files.single_frames(
        ARRAY[..., :2] + len(name), AFFINE, by_trigger, PatientID=name, SeriesNumber=series, StudyDate=study
    )
    for ds in datasets:
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=[name, str(series), study])
        ds.StudyInstanceUID = generate_uid(entropy_srcs=[name, study])
        ds.update(files.attributes(more))
    return datasets


def test_all_studies_of_a_patient_are_one_subject_in_a_fixed_order(tmp_path):
    groups = [patient("b b/", 12), patient("a", 3, "20250101"), patient("b b/", 9), patient("a", 4), patient("b-b", 9)]
    files.save([ds for group in groups for ds in group], tmp_path, seed=3)
    hashed = open_layout("dicom", tmp_path, LayoutOptions()).studies
    named = {
        study.name: study for study in open_layout("dicom", tmp_path, LayoutOptions(keep_patient_ids=True)).studies
    }
    assert [(name, study.subject) for name, study in named.items()] == [
        ("a_series003", "a"),
        ("a_series004", "a"),
        ("b-b-2_series009", "b-b-2"),
        ("b-b_series009", "b-b"),
        ("b-b_series012", "b-b"),
    ]
    subject = {study.files: study.subject for study in hashed}
    of = {}
    for study in named.values():
        of.setdefault(study.subject, set()).add(subject[study.files])
    assert [len(found) for found in of.values()] == [1, 1, 1]
    assert len(set.union(*of.values())) == 3


def test_a_series_has_one_name_wherever_it_lies_and_no_other_has_it(tmp_path, capfd):
    """So that sources can be read together, or one after another into one folder. The hash is by hand: sha256 of the UID."""
    files.save(patient("a", 1) + patient("a", 2), tmp_path / "a")
    files.save(patient("b", 1), tmp_path / "b")
    files.save(patient("b", 1) + patient("a", 2), tmp_path / "c")
    a, b, c = (
        {study.name for study in open_layout("dicom", tmp_path / name, LayoutOptions()).studies} for name in "abc"
    )
    uid = generate_uid(entropy_srcs=["b", "1", "20240305"])
    assert b == {f"series-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"}
    assert (len(a), len(c)) == (2, 2)
    assert not a & b
    assert b < c < a | b
    (study,) = open_layout("dicom", tmp_path / "b", LayoutOptions()).studies
    assert study.subject == study.name.replace("series", "subject")
    capfd.readouterr()
    open_layout("dicom", tmp_path / "b", LayoutOptions())
    assert capfd.readouterr().err == f"{study.name}: series 1 (cine sax), 4 frames, in {tmp_path / 'b'}\n"


def test_a_subject_is_named_by_a_series_and_not_by_its_id(tmp_path):
    files.save(patient("a", 1) + patient("a", 2), tmp_path / "one")
    files.save(patient("another", 1), tmp_path / "other")
    for ds in (others := patient("a", 1) + patient("a", 2)):
        ds.PatientID = "renamed"
    files.save(others, tmp_path / "renamed")
    one, other, renamed = (
        open_layout("dicom", tmp_path / name, LayoutOptions()).studies for name in ("one", "other", "renamed")
    )
    assert len({study.subject for study in one}) == 1
    assert {study.subject for study in one} == {study.subject for study in renamed}
    assert one[0].subject != other[0].subject


def test_without_an_id_a_subject_is_a_name_or_else_a_visit(tmp_path):
    unnamed = [patient("", 1, PatientName=name) for name in ("A", "B", "")] + [
        patient("", 1, "20250101", PatientName="")
    ]
    for i, group in enumerate(unnamed):
        for ds in group:
            ds.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series {i}"])
    files.save([ds for group in unnamed for ds in group], tmp_path)
    assert len({study.subject for study in open_layout("dicom", tmp_path, LayoutOptions()).studies}) == 4


def test_no_name_id_date_or_uid_is_in_what_is_converted(tmp_path):
    folder = tmp_path / "source"
    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), folder / files.NAME / files.PATIENT)
    source = open_layout("dicom", folder, LayoutOptions())
    assert source.studies[0].image().source == Path(NAME)
    assert open_layout("dicom", folder, LayoutOptions(keep_patient_ids=True)).studies[0].image().source == folder
    out = tmp_path / "out"
    convert("dicom", folder, out, LayoutOptions(labels={"heart": 1}))
    assert_is(read_image(out / "images" / f"{NAME}.nii.gz"))
    written = b""
    for path in out.rglob("*"):
        written += path.relative_to(out).as_posix().encode()
        if path.is_file():
            written += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    secrets = (files.NAME, "Mustermann", files.PATIENT, files.BIRTH, "20240305", files.STUDY, files.SERIES, "1.2.826")
    assert [secret for secret in secrets if secret.encode() in written] == []
    assert [secret for secret in secrets if secret.encode() not in saved[0].read_bytes()] == []


def test_a_refused_study_does_not_hide_what_the_others_say_of_time(tmp_path):
    files.save(patient("a", 1)[1:] + patient("b", 1), tmp_path)
    source = open_layout("dicom", tmp_path, LayoutOptions())
    assert len(refusals(source)) == 1
    assert {source.time, *(study.time for study in source.studies)} == {"cyclic"}


# The key to the names --------------------------------------------------------------------------------------------


def scans_of(folder: Path, patient: str = "Smith^John") -> Path:
    made = files.single_frames(ARRAY, AFFINE, by_trigger)
    for one in made:
        one.PatientID = patient
    files.save(made, folder)
    return folder


def test_the_key_file_names_the_patient_behind_each_case_and_is_the_owners_alone(command, tmp_path):
    scans, key = scans_of(tmp_path / "scans"), tmp_path / "keys" / "key.csv"
    words = ("convert", "dicom", scans, "--out", tmp_path / "out", "--labels", "{heart: 1}", "--key_file", key)
    done = command(*words)
    assert done.code == 0
    assert str(key) in done.told
    assert key.stat().st_mode & 0o777 == 0o600
    assert os.listdir(key.parent) == ["key.csv"]
    [row] = read_table(key, ("case", "subject", "patient", "series_uid"), "")
    [study] = open_layout("dicom", scans, LayoutOptions()).studies
    assert (row["case"], row["subject"], row["patient"]) == (study.name, study.subject, "Smith^John")
    assert row["series_uid"] == files.SERIES
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"Smith" not in written + done.told.encode()
    shutil.rmtree(tmp_path / "out")
    assert command(*words).code == 0  # the same again finds the same key


def test_no_key_is_written_unless_it_is_asked_for(command, tmp_path):
    scans = scans_of(tmp_path / "scans")
    assert command("convert", "dicom", scans, "--out", tmp_path / "out", "--labels", "{heart: 1}").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scans"]


INSIDE = ["out/key.csv", "out/images/key.csv", "scans/key.csv", "link/key.csv"]


@pytest.mark.parametrize("place", [*INSIDE, "there.csv", "scans", "file/key.csv"])
def test_a_key_file_that_would_be_shared_or_replace_another_is_refused(command, tmp_path, place):
    scans = scans_of(tmp_path / "scans")
    (tmp_path / "there.csv").write_text("the key of another source\n")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    done = command(
        "convert", "dicom", scans, "--out", tmp_path / "out", "--labels", "{heart: 1}", "--key_file", tmp_path / place
    )
    assert done.code == 2
    assert "file" in done.error.splitlines()[-1]
    assert (tmp_path / "there.csv").read_text() == "the key of another source\n"
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_layout_that_keeps_its_names_has_no_key(command, tmp_path):
    write_nnunet_4d(tmp_path / "raw")
    done = command("convert", "nnunet", tmp_path / "raw", "--out", tmp_path / "out", "--key_file", tmp_path / "key.csv")
    assert done.code == 2
    assert "key_file for nnunet" in done.line
    assert not (tmp_path / "key.csv").exists()
