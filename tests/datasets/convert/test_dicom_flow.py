"""4D flow in DICOM: magnitude and velocities of each vendor become channels in cm/s along the axes of the grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_drawings import segmentation
from tests.datasets.convert.dicom_files import AFFINE, ARRAY, by_trigger
from unet4d.datasets.convert.convert import convert
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.datasets.find_studies import open_source
from unet4d.errors import InputError

VENC = 150.0
SAGITTAL = np.eye(4)  # X from front to back, Y from head to feet, Z to the right; ten degrees off
SAGITTAL[:3, :3] = Rotation.from_euler("x", 10, degrees=True).as_matrix() @ [[0, 0, 8.0], [-1.75, 0, 0], [0, -1.25, 0]]
ALONG = {"ap": (0, 1), "fh": (1, -1), "rl": (2, -1)}  # axis of the grid and sign
RAW = np.random.default_rng(7).integers(0, 4096, (3, *ARRAY.shape), dtype=np.int16)  # ap, fh, rl
KINDS = {"magnitude": "signal", "vx": "velocity X", "vy": "velocity Y", "vz": "velocity Z"}

Series = list[Dataset]


def series(
    array: np.ndarray, number: int, change: Callable[[Dataset], object], affine: np.ndarray = SAGITTAL
) -> Series:
    made = files.single_frames(array, affine, by_trigger)
    for ds in made:
        ds.SeriesNumber, ds.SeriesInstanceUID = number, generate_uid(entropy_srcs=["flow", str(number)])
        change(ds)
    return made


def siemens(directions: Sequence[str] = tuple(ALONG), private: bool = False) -> list[Series]:
    def velocity(name: str) -> Callable[[Dataset], None]:
        def change(ds: Dataset) -> None:
            ds.ImageType, ds.RescaleSlope, ds.RescaleIntercept = ["ORIGINAL", "PRIMARY", "P", "ND"], 2, -4096
            if private:
                ds.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x14, "SH", f"v150_{name}")
            else:
                ds.SequenceName = f"*fl3d1_v150{name}"

        return change

    raw = dict(zip(ALONG, RAW, strict=True))
    return [
        series(ARRAY, 4, lambda ds: None),
        *(series(raw[one], 5 + n, velocity(one)) for n, one in enumerate(directions)),
    ]


def philips() -> list[Series]:
    def velocity(at: int) -> Callable[[Dataset], None]:
        def change(ds: Dataset) -> None:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]
            ds.RescaleSlope, ds.RescaleIntercept = f"{2 * VENC / 4096:.10f}", -VENC
            venc = [0.0, 0.0, 0.0]
            venc[at] = VENC
            ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x1A, "FL", venc)

        return change

    magnitude = series(ARRAY, 9, lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]))
    return [magnitude, *(series(RAW[n], 9, velocity(at)) for n, at in enumerate((1, 2, 0)))]


def ge(flags: int = 8) -> list[Series]:
    def kind(flag: int) -> Callable[[Dataset], None]:
        def change(ds: Dataset) -> None:
            ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0xCC, "SS", int(VENC * 10))
            block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
            block.add_new(0x30, "SS", flag)
            block.add_new(0x32, "SS", flags)

        return change

    mm_s = np.rint((RAW - 2048.0) / 2048 * VENC * 10).astype(np.int16)
    flow = ((4, mm_s[0]), (5, -mm_s[1]), (3, mm_s[2]))  # A/P, S/I, R/L
    return [series(ARRAY, 10, kind(2)), *(series(array, 11, kind(flag)) for flag, array in flow)]


def expected() -> np.ndarray:
    """(4, T, X, Y, Z): the magnitude, and velocities along the axes of the grid."""
    found = [ARRAY.astype(np.float64)] * 4
    for raw, (axis, sign) in zip(RAW, ALONG.values(), strict=True):
        found[1 + axis] = sign * (raw - 2048.0) / 2048 * VENC
    return np.stack(found)


def save(groups: list[Series], root: Path) -> None:
    files.save([ds for group in groups for ds in group], root)


@pytest.mark.parametrize(
    ("made", "within"),
    [
        pytest.param(siemens, 1e-4, id="Siemens"),
        pytest.param(lambda: siemens(private=True), 1e-4, id="Siemens private"),
        pytest.param(philips, 1e-3, id="Philips"),
        pytest.param(ge, 0.051, id="GE"),  # mm/s
    ],
)
def test_the_series_of_a_vendor_become_channels(made, within, tmp_path, capfd):
    save(made(), tmp_path)
    source = open_layout("dicom", tmp_path, LayoutOptions())
    (study,) = source.studies
    image = study.image()
    np.testing.assert_allclose(image.array, expected(), atol=within)
    np.testing.assert_allclose(image.affine, SAGITTAL, atol=1e-4)
    assert source.channel_kinds == ("signal", "velocity X", "velocity Y", "velocity Z")
    assert (study.time, len(study.files)) == ("cyclic", 4 * 16)
    told = capfd.readouterr().err
    assert "velocity Y (foot-head, venc 150 cm/s)" in told
    assert "does not give the sign" in told


def test_directions_of_the_standard_are_vectors_with_a_sign(tmp_path, capfd):
    lps = np.diag([-1.0, -1.0, 1.0]) @ AFFINE[:3, :3] / np.linalg.norm(AFFINE[:3, :3], axis=0)
    groups = [files.enhanced(ARRAY, AFFINE, 40.0)]
    for n in range(3):
        ds = files.enhanced(
            RAW[n].astype(np.uint16), AFFINE, 40.0, ComplexImageComponent="PHASE", BitsStored=12, HighBit=11
        )
        ds.SeriesInstanceUID, ds.SeriesNumber = generate_uid(), 20 + n
        for group in ds.PerFrameFunctionalGroupsSequence:
            encoding = {"VelocityEncodingDirection": (-lps[:, n] if n == 1 else lps[:, n]).tolist()}
            group.MRVelocityEncodingSequence = [files.attributes({**encoding, "VelocityEncodingMaximumValue": VENC})]
            group.PixelValueTransformationSequence[0].RescaleSlope = 2
            group.PixelValueTransformationSequence[0].RescaleIntercept = -4096
        groups.append(ds)
    files.save(groups, tmp_path)
    (study,) = open_layout("dicom", tmp_path, LayoutOptions()).studies
    wanted = np.stack(
        [ARRAY, *(sign * (raw - 2048.0) / 2048 * VENC for raw, sign in zip(RAW, (1, -1, 1), strict=True))]
    )
    np.testing.assert_allclose(study.image().array, wanted, atol=1e-4)
    assert "sign" not in capfd.readouterr().err


def test_beside_other_series_flow_is_joined_where_its_channels_are_named(tmp_path, capfd):
    cine = series(ARRAY, 77, lambda ds: None, AFFINE)
    save([*siemens(), cine], tmp_path / "scans")
    source = open_layout("dicom", tmp_path / "scans", LayoutOptions())
    assert (len(source.studies), source.channel_names) == (5, ("MRI",))
    assert "1 4D flow study among other series: --channels" in capfd.readouterr().err
    path = convert("dicom", tmp_path / "scans", tmp_path / "out", LayoutOptions(channels=KINDS, labels={"aorta": 1}))
    content = json.loads(path.read_text())
    assert list(content["channel_kinds"].values()) == ["velocity X", "velocity Y", "velocity Z"]
    assert [len(case["image"]) for case in content["test"]] == [4]
    assert "series 77 (cine sax): no part of a 4D flow study" in capfd.readouterr().err


def test_a_model_of_flow_gets_its_channels_and_a_model_of_one_channel_gets_series(tmp_path):
    save(siemens(), tmp_path)
    names = ["vz", "magnitude", "vy", "vx"]
    kinds = ["velocity -Z", "signal", "velocity Y", "velocity X"]
    (study,) = open_source(tmp_path, channel_names=names, channel_kinds=kinds).studies
    wanted = expected()[[3, 0, 2, 1]] * np.array([-1, 1, 1, 1])[:, None, None, None, None]
    np.testing.assert_allclose(study.image().array, wanted, atol=1e-4)
    assert len(open_source(tmp_path, channel_names=["MRI"], channel_kinds=()).studies) == 4


def test_one_velocity_is_enough_where_one_is_asked_for(tmp_path):
    save([*siemens(["rl"])], tmp_path)
    options = LayoutOptions(channels={"magnitude": "signal", "flow": "velocity Z"})
    (study,) = open_layout("dicom", tmp_path, options).studies
    np.testing.assert_allclose(study.image().array, expected()[[0, 3]], atol=1e-4)


def without_magnitude() -> list[Series]:
    return siemens()[1:]


@pytest.mark.parametrize(
    ("made", "wanted", "studies"),
    [
        pytest.param(
            lambda: siemens(["ap", "fh"]), "velocities along 2 of the grid's axes, expected 3", 3, id="two directions"
        ),
        pytest.param(lambda: ge(flags=10), "weighted by the magnitude", 4, id="weighted"),
        pytest.param(without_magnitude, "no magnitude on their grid", 3, id="no magnitude"),
    ],
)
def test_what_is_no_set_stays_apart_and_is_reported(made, wanted, studies, tmp_path, capfd):
    save(made(), tmp_path)
    assert len(open_layout("dicom", tmp_path, LayoutOptions()).studies) == studies
    assert wanted in capfd.readouterr().err
    with pytest.raises(InputError, match="expected series of them with a magnitude"):
        open_layout("dicom", tmp_path, LayoutOptions(channels=KINDS))


def test_a_drawing_on_the_magnitude_is_the_label_of_the_flow(tmp_path):
    groups = siemens()
    mask = ARRAY[0, :, :, 0] > 2000
    save([*groups, [segmentation(["aorta"], [(1, mask, groups[0][2], None)])]], tmp_path)
    (study,) = open_layout("dicom", tmp_path, LayoutOptions()).studies
    label, frames = study.label(study.image())
    np.testing.assert_array_equal(label[0, :, :, 2], mask)
    assert frames == (0,)
