"""DICOM files for tests, and how they are read.

(T, X, Y, Z) whole numbers and an affine (RAS) become datasets, which a test may spoil before they are saved. X counts columns,
Y rows. The headers hold what the standard asks of an MR image, and a name, an id and a birth date that must never come out
at the other end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.datasets.study import Source
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D

NAME, PATIENT, BIRTH = "Mustermann^Erika", "ID-4711-X", "19640812"
STUDY, FRAME_OF_REFERENCE, SERIES = (generate_uid(entropy_srcs=[text]) for text in ("study", "frame", "series"))

Place = Callable[[Dataset, int, int], None]

ARRAY = np.random.default_rng(1).integers(0, 4096, (4, 12, 10, 4), dtype=np.uint16)  # (T, X, Y, Z)
AFFINE = np.eye(4)  # oblique, Z along X cross Y; a pixel is no square
AFFINE[:3, :3] = Rotation.from_euler("xyz", (25, -40, 70), degrees=True).as_matrix() * (1.75, 1.25, 8.0)
AFFINE[:3, 3] = (-31.5, 12.25, 40.0)
TRIGGER_MS = 40.0
JITTER_MS = (0.0, 1.5, -1.0, 2.5)  # slices are gated to different heartbeats: 40, 41.5, 39 and 42.5 ms, median 40.75 ms
INSTANCES = np.random.default_rng(5).permutation(ARRAY.shape[0] * ARRAY.shape[3]).reshape(ARRAY.shape[0], -1)


def single_frames(array: np.ndarray, affine: np.ndarray, place: Place, **more: object) -> list[Dataset]:
    """One dataset a plane, frame by frame.

    Args:
        array: (T, X, Y, Z).
        affine: (4, 4), RAS.
        place: sets what tells time (and series) of frame t and slice z: `place(dataset, t, z)`.
        more: further attributes of all.
    """
    made = []
    for t in range(array.shape[0]):
        for z in range(array.shape[3]):
            dataset = _common(array.dtype, MRImageStorage)
            position, axes, spacing = geometry(affine, z)
            dataset.ImagePositionPatient = [_ds(x) for x in position]
            dataset.ImageOrientationPatient = [_ds(x) for x in axes]
            dataset.PixelSpacing = [_ds(x) for x in spacing]
            dataset.SliceThickness = "3"  # what a reader must not take for the spacing of slices
            dataset.RepetitionTime = "999"  # nor this for the frame duration
            dataset.InstanceNumber = t * array.shape[3] + z + 1
            set_pixels(dataset, array[t, :, :, z])
            place(dataset, t, z)
            dataset.update(attributes(more))
            made.append(dataset)
    return made


def enhanced(array: np.ndarray, affine: np.ndarray, trigger_ms: float, seed: int = 0, **more: object) -> Dataset:
    """All planes in one Enhanced MR file, in random order: time in DimensionIndexValues and in the trigger delay."""
    frames, _, _, slices = array.shape
    dataset = _common(array.dtype, EnhancedMRImageStorage)
    order = [(t, z) for t in range(frames) for z in range(slices)]
    random.Random(seed).shuffle(order)
    _, axes, spacing = geometry(affine, 0)
    shared = Dataset()
    shared.PixelMeasuresSequence = [attributes({"PixelSpacing": [_ds(x) for x in spacing], "SliceThickness": "3"})]
    shared.PlaneOrientationSequence = [attributes({"ImageOrientationPatient": [_ds(x) for x in axes]})]
    dataset.SharedFunctionalGroupsSequence = [shared]
    pointers = ("StackID", "InStackPositionNumber", "NominalCardiacTriggerDelayTime")
    dataset.DimensionIndexSequence = [attributes({"DimensionIndexPointer": Tag(pointer)}) for pointer in pointers]
    groups = []
    for t, z in order:
        group = Dataset()
        group.FrameContentSequence = [attributes({"DimensionIndexValues": [1, z + 1, t + 1], "StackID": "1"})]
        group.PlanePositionSequence = [attributes({"ImagePositionPatient": [_ds(x) for x in geometry(affine, z)[0]]})]
        group.CardiacSynchronizationSequence = [attributes({"NominalCardiacTriggerDelayTime": t * trigger_ms})]
        rescale = {"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "US"}
        group.PixelValueTransformationSequence = [attributes(rescale)]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.NumberOfFrames = len(order)
    set_pixels(dataset, array[0, :, :, 0])
    dataset.PixelData = b"".join(array[t, :, :, z].T.tobytes() for t, z in order)
    dataset.update(attributes(more))
    return dataset


def geometry(affine: np.ndarray, z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ImagePositionPatient, ImageOrientationPatient and PixelSpacing (between rows, between columns) of a slice."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    x_mm, y_mm = np.linalg.norm(lps[:3, 0]), np.linalg.norm(lps[:3, 1])
    axes = np.concatenate([lps[:3, 0] / x_mm, lps[:3, 1] / y_mm])
    return (lps @ [0, 0, z, 1])[:3], axes, np.array([y_mm, x_mm])


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Put (X, Y) whole numbers into a dataset, one row after another."""
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.PixelData = pixels.T.tobytes()


def save(datasets: Iterable[Dataset], folder: Path, seed: int = 0) -> list[Path]:
    """Write them under names that say nothing, without suffix and in random order; the paths are in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets = list(datasets)
    names = [f"IM{i:05d}" for i in range(len(datasets))]
    random.Random(seed).shuffle(names)
    for dataset, name in zip(datasets, names, strict=True):
        dataset.save_as(folder / name, enforce_file_format=True)
    return [folder / name for name in names]


def transcode(file: Path, syntax: str) -> None:
    """Compress the pixels of a file with GDCM, which writes what pydicom can only read."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(file))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(file))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def _common(dtype: np.dtype, sop_class: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, PATIENT, BIRTH
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240305", "101500", "1"
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.Modality = 7, "cine sax", "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.BitsAllocated = dataset.BitsStored = dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(dtype.kind == "i")
    return dataset


def attributes(values: dict[str, object]) -> Dataset:
    """A dataset of keywords and values."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _ds(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)


def by_trigger(ds: Dataset, t: int, z: int) -> None:
    """A gated cine; the beat is as long as its frames."""
    ds.TriggerTime = t * TRIGGER_MS + JITTER_MS[z] * t
    ds.InstanceNumber = int(INSTANCES[t, z]) + 1
    ds.NominalInterval, ds.CardiacNumberOfImages = int(4 * TRIGGER_MS), 4
    ds.AcquisitionDate, ds.AcquisitionTime = "20240305", f"1016{10 * z:02d}.5"  # of the whole slice


def series_a_slice(ds: Dataset, t: int, z: int) -> None:
    """A gated cine, each slice of which is a series."""
    by_trigger(ds, t, z)
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["slice", str(z)])
    ds.SeriesNumber, ds.SeriesDescription = 20 - z, f"cine_sax_{z + 1}"


def by_position(ds: Dataset, t: int, z: int) -> None:
    ds.TriggerTime = 300  # the same in all: it says nothing
    ds.TemporalPositionIdentifier = t + 1
    ds.InstanceNumber = int(INSTANCES[t, z]) + 1
    ds.TemporalResolution = 2500
    ds.AcquisitionTime = "101500"


def by_content_time(ds: Dataset, t: int, z: int) -> None:
    ds.ContentDate, ds.ContentTime = ("20240305", f"23595{4 + 2 * t}.25") if t < 3 else ("20240306", "000000.25")
    ds.InstanceNumber = int(INSTANCES[t, z]) + 1


def by_acquisition(ds: Dataset, t: int, z: int) -> None:
    ds.TriggerTime = (310.0, 290.0, 305.0, 295.0)[t]  # perfusion: an image a beat, at about the same delay
    ds.AcquisitionTime = f"1015{2 * t:02d}.{z}"
    ds.InstanceNumber = int(INSTANCES[t, z]) + 1


def by_instance(ds: Dataset, t: int, z: int) -> None:
    ds.InstanceNumber = z * 100 + t + 1


def image_of(root: Path) -> Image4D:
    """The one study under a folder."""
    (study,) = open_layout("dicom", root, LayoutOptions()).studies
    return study.image()


def refusals(source: Source) -> list[str]:
    """Return the messages of the studies that cannot be read."""
    messages = []
    for study in source.studies:
        try:
            study.image()
        except InputError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    return messages


def refusal(root: Path) -> str:
    """Return the message of the one study under a folder that cannot be read."""
    (message,) = refusals(open_layout("dicom", root, LayoutOptions()))
    return message


def assert_is(image: Image4D, array: np.ndarray = ARRAY, affine: np.ndarray = AFFINE) -> None:
    np.testing.assert_array_equal(image.array, array[None].astype(np.float32))
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
