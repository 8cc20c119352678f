"""Every kind of object through a real Orthanc: sent by C-STORE, fetched by DICOMweb."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from pydicom import dcmread

from tests.datasets.convert import dicom_files as files
from tests.inference.orthanc.real_server import RealOrthanc, needs_orthanc, running
from tests.report.dicom.sources import classic, program, result_of
from unet4d.report.dicom.write import DICOM_FORMATS, write_dicom

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
FIRST_ELEMENT = b"\x08\x00\x05\x00CS"  # SpecificCharacterSet: what is before it names the program that wrote the file


def fetch(server: RealOrthanc, file: Path) -> bytes:
    """Return the body of an instance's answer by WADO-RS."""
    sent = dcmread(file, stop_before_pixels=True)
    path = f"studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}/instances/{sent.SOPInstanceUID}"
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/dicom-web/{path}", headers=accept)) as answer:
        return answer.read()


@pytest.mark.slow
@needs_orthanc
@pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin DICOMweb is missing (Debian: orthanc-dicomweb)")
def test_orthanc_returns_the_bytes_of_every_data_set(tmp_path):
    result = result_of(tmp_path / "in", classic(files.AFFINE))
    written = write_dicom(tmp_path / "out", "case", result, DICOM_FORMATS)
    with running(tmp_path / "server", Plugins=[str(PLUGIN)]) as server:
        words = [program("storescu"), "-R", "-aec", "test", "127.0.0.1", str(server.dicom_port)]
        subprocess.run([*words, *map(str, written)], check=True)
        for file in written:
            sent = file.read_bytes()
            assert sent[sent.index(FIRST_ELEMENT) :] in fetch(server, file)
