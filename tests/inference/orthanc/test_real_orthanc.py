"""Tests with a real Orthanc server on loopback, with workers and servers that are killed; skipped where the program is missing.

python -m pytest -m slow tests/inference/orthanc/test_real_orthanc.py
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

from tests.datasets.convert.dicom_files import AFFINE, ARRAY, NAME, PATIENT, by_trigger, save, single_frames
from tests.docs.test_orthanc_page import server_settings
from tests.inference.orthanc.real_server import RealOrthanc, needs_orthanc, running
from tests.inference.orthanc.stand_in import RESULTS, cine, digest_of, stand_in
from tests.limits import wait_until
from unet4d.errors import Unet4DError
from unet4d.inference.orthanc.claims import Record
from unet4d.inference.orthanc.client import Denied, OrthancClient
from unet4d.inference.orthanc.rules import Rule
from unet4d.inference.orthanc.worker import OrthancWorker, WorkerOptions

ROOT = Path(__file__).parents[3]
LONG_S = 600
"""Longest wait for a process, which may take a minute to start on a busy machine."""
pytestmark = [pytest.mark.slow, needs_orthanc]

PUT, GET, POST, LOOKUP, DELETE = "PUT .*/4242", "GET .*/file", "POST /instances", "POST /tools/lookup", "DELETE /inst"
WORKER_KILLS = [
    (PUT, 1, "before"), (PUT, 1, "after"), (GET, 1, "before"), (GET, 2, "after"), (GET, 4, "after"), (PUT, 2, "before"),
    (PUT, 2, "after"), (POST, 1, "before"), (POST, 1, "after"), (POST, 2, "before"), (POST, 2, "after"),
    (PUT, 3, "before"), (PUT, 3, "after"), (PUT, 4, "after"), (POST, 3, "after"), (GET, 6, "before"), (PUT, 6, "after"),
]  # fmt: skip
KILLS_OF_A_SERIES_THAT_GREW = [(LOOKUP, 1, "before"), (DELETE, 1, "before"), (DELETE, 1, "after")]
SERVER_KILLS = [(PUT, 1, "after"), (GET, 2, "before"), (POST, 1, "before"), (POST, 2, "after"), (PUT, 3, "before")]


def send(server: RealOrthanc, images: Sequence[pydicom.Dataset]) -> None:
    """Send images over HTTP."""
    for image in images:
        stream = io.BytesIO()
        image.save_as(stream, enforce_file_format=True)
        server.client._json("POST", "/instances", stream.getvalue())


def send_by_dicom(server: RealOrthanc, folder: Path, number: int) -> None:
    """Send a study by C-STORE, where dcmtk is there."""
    if not (storescu := shutil.which("storescu")):
        return send(server, cine(f"patient{number}"))
    files = save(cine(f"patient{number}"), folder / f"sender{threading.get_ident()}")
    subprocess.run([storescu, "127.0.0.1", str(server.dicom_port), *files], check=True, timeout=60)


def killed(server: RealOrthanc, folder: Path, kill: Sequence[object]) -> None:
    """Run a worker until its kill."""
    with worker(server, folder, (*kill, 0)) as process:
        assert process.wait(timeout=LONG_S) == -signal.SIGKILL, kill


def wait_done(server: RealOrthanc, studies: int) -> None:
    """Wait until `all_done`; a look takes many requests, so there are not many looks."""
    end = time.monotonic() + LONG_S
    while not all_done(server, studies):
        assert time.monotonic() < end, f"waited {LONG_S} s for {studies} answers, got {results(server)}"
        time.sleep(0.5)


@contextmanager
def worker(server: RealOrthanc, folder: Path, kill: Sequence[object] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a process of its own."""
    words = ["-m", "tests.inference.orthanc.fault_worker", server.url, str(folder)]
    words += ["--kill", *map(str, kill)] if kill else []
    with open(folder / "worker.log", "ab") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def series_named(server: RealOrthanc, description: str) -> list[dict]:
    found = server.get("/series?expand&since=0&limit=1000")
    return [one for one in found if one["MainDicomTags"].get("SeriesDescription") == description]


def sources(server: RealOrthanc) -> list[dict]:
    return series_named(server, "cine sax")


def digest(server: RealOrthanc, series: dict) -> str:
    tags = [server.get(f"/instances/{name}")["MainDicomTags"] for name in series["Instances"]]
    return digest_of([one["SOPInstanceUID"] for one in tags])


def results(server: RealOrthanc) -> Counter[tuple[str, str]]:
    """Return study and digest of every result on the server, and how many objects there are of each."""
    found: Counter[tuple[str, str]] = Counter()
    for one in series_named(server, "unet4d"):
        for name in one["Instances"]:
            tags = server.get(f"/instances/{name}/simplified-tags")
            found[one["ParentStudy"], tags["ImageComments"]] += 1
    return found


def record(server: RealOrthanc, series: dict) -> Record | None:
    found = server.client.metadata(f"/series/{series['ID']}", 4242)
    return Record.of_text(found[0], "") if found else None


def all_done(server: RealOrthanc, studies: int) -> bool:
    """Return whether each of the studies has exactly one answer, made of all its images; an outage counts as no."""
    try:
        found = sources(server)
        wanted = Counter({(one["ParentStudy"], digest(server, one)): RESULTS for one in found})
        records = [record(server, one) for one in found]
        states = [one.state for one in records if one]
        return len(found) == studies and states == ["done"] * studies and results(server) == wanted
    except Unet4DError:
        return False


@pytest.mark.timeout(3600)
def test_every_study_is_answered_exactly_once_whatever_is_killed(tmp_path):
    """20 kills of the worker, 5 of the server, a half-sent series, duplicates, two senders, two workers at once."""
    with running(tmp_path / "server") as server:
        half = cine("patient9", frames=4)
        for number in range(9):
            send(server, cine(f"patient{number}"))
        send(server, half[:3])
        for kill in WORKER_KILLS:
            killed(server, tmp_path, kill)
        for number, kill in enumerate(KILLS_OF_A_SERIES_THAT_GREW, 4):
            with worker(server, tmp_path):
                wait_done(server, 10)
            send(server, half[:number])
            killed(server, tmp_path, kill)
        again = [threading.Thread(target=send_by_dicom, args=(server, tmp_path, n)) for n in (3, 3, 4)]
        for thread in again:
            thread.start()
        for thread in again:
            thread.join()
        for number, kill in enumerate(SERVER_KILLS):
            assert server.process
            send(server, cine(f"late{number}"))
            with worker(server, tmp_path, (*kill, server.process.pid)):
                server.process.wait(timeout=LONG_S)
                server.start()
                wait_done(server, 11 + number)
        for number in range(6):
            send(server, cine(f"both{number}"))
        with worker(server, tmp_path) as first, worker(server, tmp_path) as second:
            send(server, half)
            wait_done(server, 21)
            assert (first.poll(), second.poll()) == (None, None)
        with worker(server, tmp_path):  # what killed workers left is removed
            wait_until(lambda: not list(tmp_path.glob("unet4d-orthanc-*")), "folders to be removed")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size, such as "1m", for a while; skip the test where that is not allowed."""
    small = folder / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small]).returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    try:
        yield small
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_full_disk_of_the_server_is_waited_for(tmp_path):
    with small_disk(tmp_path, "4m") as small, running(tmp_path / "server", small / "db") as server:
        send(server, cine("anna") + cine("ben"))
        (small / "fill").write_bytes(b"")
        with open(small / "fill", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        with worker(server, tmp_path):
            wait_until(lambda: "cannot work now" in (tmp_path / "worker.log").read_text(), "a line on the full disk")
            assert results(server).total() == 0
            (small / "fill").unlink()
            wait_done(server, 2)
        assert [record(server, one).failures for one in sources(server)] == [0, 0]


def test_a_full_disk_of_the_worker_is_waited_for(tmp_path):
    with small_disk(tmp_path, "1m") as small, running(tmp_path / "server") as server:
        send(server, cine("anna"))
        (small / "worker.log").touch()
        (small / "fill").write_bytes(bytes(2**20 - 16384))
        with worker(server, small):
            wait_until(lambda: "put back" in (small / "worker.log").read_text(), "a line on the full disk")
            (small / "fill").unlink()
            wait_done(server, 1)


def test_the_settings_that_are_shipped_send_results_on_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHANC_PASSWORD", "pass-word")
    given = {key: value for key, value in server_settings().items() if key not in ("HttpPort", "DicomPort")}
    with running(tmp_path / "pacs") as pacs:
        given |= {"StableAge": 1, "LuaScripts": [str(ROOT / "deploy" / "route.lua")]}
        given |= {"DicomModalities": {"pacs": ["PACS", "127.0.0.1", pacs.dicom_port]}}
        with running(tmp_path / "server", login=("unet4d", "pass-word"), **given) as server:
            files = save(cine("anna"), tmp_path / "images")
            if storescu := shutil.which("storescu"):
                subprocess.run([storescu, "127.0.0.1", str(server.dicom_port), *files], check=True, timeout=60)
            else:
                pytest.skip("the program storescu is missing (Debian: dcmtk)")
            wait_until(lambda: sources(server)[0]["IsStable"], "the series to be whole")
            rules = (Rule("sax", (Path("run"),), description="sax"),)
            assert server.client.instance_metadata(sources(server)[0]["Instances"][0])["RemoteAET"] == "STORESCU"
            options = WorkerOptions(settle_s=0.0, once=True)
            assert len(OrthancWorker(server.client, rules, stand_in, options).run().answered) == 1
            assert all_done(server, 1)
            wait_until(lambda: len(pacs.get("/instances")) == RESULTS, "the results to be sent on")
            assert sources(pacs) == []
            with pytest.raises(Denied):
                OrthancClient(server.url, ("unet4d", "wrong")).system()


def test_the_command_answers_a_series_with_a_network_and_a_second_round_does_nothing(tmp_path, model_file):
    pytest.importorskip("highdicom")
    images = single_frames(ARRAY, AFFINE, by_trigger)
    with running(tmp_path / "server") as server:
        send(server, images)
        words = ["orthanc", str(model_file()), "--url", server.url, "--once", "--settle_s", "0", "--device", "cpu"]
        wait_until(lambda: sources(server)[0]["IsStable"], "the series to be whole")
        first = subprocess.run([sys.executable, "-m", "unet4d", *words], cwd=ROOT, capture_output=True, text=True)
        assert first.returncode == 0, first.stderr
        assert "1 answer, 0 left" in first.stdout
        assert [
            text for text in (NAME, PATIENT, str(images[0].SeriesInstanceUID)) if text in first.stdout + first.stderr
        ] == []
        series = server.get("/series?expand&since=0&limit=100")
        assert {one["ParentStudy"] for one in series} == {sources(server)[0]["ParentStudy"]}
        assert {one["MainDicomTags"]["Modality"] for one in series} > {"MR", "SEG", "SR"}
        stored = record(server, sources(server)[0])
        assert len(stored.results) == len(server.get("/instances")) - len(images)
        assert (
            "0 answers, 0 left"
            in subprocess.run([sys.executable, "-m", "unet4d", *words], cwd=ROOT, capture_output=True, text=True).stdout
        )


def test_series_of_a_study_are_joined_on_a_real_server(tmp_path):
    with running(tmp_path / "server") as server:
        for number in range(3):
            send(server, cine("anna", series=f"sax {number}"))
        wait_until(lambda: all(one["IsStable"] for one in server.get("/series?expand&since=0&limit=9")), "whole series")
        rules = (Rule("sax", (Path("run"),), description="sax", join="study"),)
        for answered in (1, 0):
            worker = OrthancWorker(server.client, rules, stand_in, WorkerOptions(settle_s=0.0, once=True))
            assert len(worker.run().answered) == answered
        assert results(server).total() == RESULTS
