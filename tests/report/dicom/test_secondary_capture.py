"""Pictures for any viewer: the volume curves, and each frame with its contours."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from pydicom import dcmread

from tests.datasets.convert import dicom_files as files
from tests.report.dicom.sources import classic, dciodvfy_errors, result_of
from unet4d.report.dicom.write import write_dicom
from unet4d.report.pictures.render import class_color


def test_a_picture_per_frame_has_the_contours_of_its_classes(tmp_path):
    label = np.zeros((4, 11, 9, 4), np.uint8)
    label[2, 3:8, 2:7, :3] = 4
    result = result_of(tmp_path / "in", classic(files.AFFINE), label)
    curves, *frames = write_dicom(tmp_path / "out", "case", result, ["dicom-sc"])
    assert len(frames) == 4
    assert [dciodvfy_errors(file) for file in (curves, frames[0])] == [[], []]
    color = np.array(list(bytes.fromhex(class_color(4)[1:])))
    for t, file in enumerate(frames):
        read = dcmread(file)
        picture = read.pixel_array
        drawn = np.abs(picture[: picture.shape[0] // 2].astype(int) - color).max(axis=-1) < 40  # above the legend
        assert (np.count_nonzero(drawn) > 100) == (t == 2)
        sources = {item.ReferencedSOPInstanceUID for item in read.SourceImageSequence}
        assert sources == {plane.instance for plane in result.source.planes[t]}
        assert (read.InstanceNumber, read.SeriesInstanceUID) == (t + 2, dcmread(curves).SeriesInstanceUID)
        assert (read.PatientID, read.BurnedInAnnotation) == (files.PATIENT, "NO")
