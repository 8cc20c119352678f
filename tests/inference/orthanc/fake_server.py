"""An Orthanc server in this process: the few routes that a worker asks for, with revisions, a clock that tests set, and faults."""

from __future__ import annotations

import hashlib
import io
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom

SERIES_TAGS = ("Modality", "SeriesDescription", "ProtocolName", "SeriesInstanceUID", "StationName")
STUDY_TAGS = ("StudyInstanceUID", "StudyDescription", "AccessionNumber")
PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate")


class FakeOrthanc:
    """The server's state.

    Attributes:
        files: instance to its bytes.
        metadata: (path, key) to value.
        asked: method and path of every request.
        faults: called with method and path before and after a request is obeyed (third argument); returns (HTTP status, Orthanc's
            code) to refuse it, "drop" to close the connection without an answer, "half" to close it in the middle, or None.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, pydicom.Dataset] = {}
        self.updated: dict[str, str] = {}
        self.metadata: dict[tuple[str, str], str] = {}
        self.changes: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.faults: Callable[[str, str, str], Any] = lambda method, path, when: None
        self.login: str | None = None
        self.aets = {"RemoteAET": "SCANNER", "CalledAET": "ORTHANC"}
        self.unstable: set[str] = set()
        self.check_revisions = True
        self.clock = datetime(2026, 11, 30, 6, 0, 0)
        self.lock = threading.RLock()
        self.url = ""

    def advance(self, seconds: float) -> None:
        """Move the server's clock."""
        self.clock += timedelta(seconds=seconds)

    def now(self) -> str:
        """Return the server's time."""
        return self.clock.strftime("%Y%m%dT%H%M%S")

    def add(self, *datasets: pydicom.Dataset) -> str:
        """Store datasets, and return the name of the last one's series."""
        for dataset in datasets:
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
            self.store(stream.getvalue())
        return self.series_of(datasets[-1])

    def store(self, content: bytes) -> dict[str, Any]:
        """Store a file, as POST /instances does."""
        dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        name, series = _name(dataset, 4), self.series_of(dataset)
        status = "AlreadyStored" if name in self.files else "Success"
        if status == "Success":
            is_new = series not in self.updated
            self.files[name], self.headers[name], self.updated[series] = content, dataset, self.now()
            for kind in ("NewSeries",) * is_new + ("StableSeries",):
                self.changes.append({"ChangeType": kind, "ID": series, "Seq": len(self.changes) + 1})
        return {"ID": name, "ParentStudy": _name(dataset, 2), "ParentSeries": series, "Status": status}

    def series_of(self, dataset: pydicom.Dataset) -> str:
        """Return the name of a dataset's series."""
        return _name(dataset, 3)

    def study_of(self, series: str) -> str:
        """Return the name of a series' study."""
        return self.series(series)["ParentStudy"]

    def series(self, name: str) -> dict[str, Any]:
        """Describe a series. Raises KeyError: it is gone."""
        found = {one: header for one, header in self.headers.items() if self.series_of(header) == name}
        if not found:
            raise KeyError(name)
        header = next(iter(found.values()))
        return {
            "ID": name,
            "ParentStudy": _name(header, 2),
            "MainDicomTags": _tags(header, SERIES_TAGS),
            "Instances": list(found),
            "LastUpdate": self.updated[name],
            "IsStable": name not in self.unstable,
        }

    def of_modality(self, modality: str) -> list[pydicom.Dataset]:
        """Return the headers of all instances of a modality."""
        return [header for header in self.headers.values() if header.Modality == modality]

    def answer(self, method: str, path: str, body: bytes, etag: str | None) -> tuple[bytes, str | None]:
        """Obey a request; return body and ETag. Raises KeyError: 404, PermissionError: 409."""
        route, _, query = path.partition("?")
        parts = route.strip("/").split("/")
        if parts[2:3] == ["metadata"] and len(parts) == 4:
            return self._metadata(method, "/" + "/".join(parts[:2]), parts[3], body, etag)
        if (method, route) == ("POST", "/instances"):
            return _json(self.store(body))
        if (method, route) == ("POST", "/tools/lookup"):
            found = [name for name, header in self.headers.items() if header.SOPInstanceUID == body.decode()]
            return _json([{"ID": name} for name in found])
        if method == "DELETE":
            del self.files[parts[1]], self.headers[parts[1]]
            return _json({})
        return self._get(parts, query)

    def _get(self, parts: list[str], query: str) -> tuple[bytes, str | None]:
        asked = dict(part.partition("=")[::2] for part in query.split("&"))
        match parts:
            case ["system"]:
                return _json({"Version": "1.12", "ApiVersion": 20, "CheckRevisions": self.check_revisions})
            case ["tools", "now"]:
                return self.now().encode(), None
            case ["changes"]:
                since = int(asked.get("since", len(self.changes)))
                return _json({"Changes": self.changes[since:], "Last": len(self.changes), "Done": True})
            case ["series"]:
                names = list(dict.fromkeys(map(self.series_of, self.headers.values())))
                since = int(asked["since"])
                return _json([self.series(name) for name in names[since : since + int(asked["limit"])]])
            case ["series", name]:
                return _json(self.series(name))
            case ["studies", name, "series"]:
                names = dict.fromkeys(map(self.series_of, self.headers.values()))
                return _json([one for one in map(self.series, names) if one["ParentStudy"] == name])
            case ["studies", name]:
                header = next(header for header in self.headers.values() if _name(header, 2) == name)
                tags = {"MainDicomTags": _tags(header, STUDY_TAGS), "PatientMainDicomTags": _tags(header, PATIENT_TAGS)}
                return _json({"ID": name, **tags})
            case ["instances", name, "file"]:
                return self.files[name], None
            case ["instances", name, "metadata"]:
                return _json({"SopClassUid": str(self.headers[name].SOPClassUID), **self.aets})
            case ["instances", name, "study"]:
                return _json({"ID": _name(self.headers[name], 2)})
        raise KeyError("/".join(parts))

    def _metadata(self, method: str, path: str, key: str, body: bytes, etag: str | None) -> tuple[bytes, str | None]:
        if path.startswith("/series/"):
            self.series(path.removeprefix("/series/"))
        held = self.metadata.get((path, key))
        if method == "GET":
            return self.metadata[path, key].encode(), _etag(held or "")
        if held is not None and etag != _etag(held):
            raise PermissionError
        self.metadata[path, key] = body.decode()
        return b"", _etag(body.decode()).replace("0-", "1-")  # as Orthanc's own database answers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet; the second of two would wait for the first to be acknowledged
    fake: FakeOrthanc

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.fake.lock:
            self.fake.asked.append((self.command, self.path))
            if self.fake.login and self.headers.get("Authorization") != self.fake.login:
                return self._send(401, b"")
            fault = self.fake.faults(self.command, self.path, "before")
            try:
                answered = (200, *self.fake.answer(self.command, self.path, body, self.headers.get("If-Match")))
            except KeyError:
                answered = (404, b"", None)
            except PermissionError:
                answered = (409, b"", None)
            except pydicom.errors.InvalidDicomError:
                answered = (400, json.dumps({"Message": "Bad file format", "OrthancStatus": 15}).encode(), None)
            fault = fault or self.fake.faults(self.command, self.path, "after")
        if fault in ("drop", "half"):
            self.close_connection = True
            if fault == "half":
                whole = answered[1]
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(whole), whole[: len(whole) // 2])
                )
            return None
        if fault:
            return self._send(fault[0], json.dumps({"Message": "planted", "OrthancStatus": fault[1]}).encode())
        self._send(*answered)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def _send(self, status: int, body: bytes, etag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: object) -> None:
        pass


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[FakeOrthanc]:
    """Serve a fake on loopback; with a certificate (PEM, its key in it) by TLS."""
    fake = FakeOrthanc()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http{'s' * bool(certificate)}://localhost:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refuse(pattern: str, status: int, code: int = 0, times: int | None = None) -> Callable[[str, str, str], Any]:
    """Return faults that refuse the first requests ("METHOD path") in which a pattern is found, before they are obeyed."""
    left = [times]

    def fault(method: str, path: str, when: str) -> tuple[int, int] | None:
        if when != "before" or not re.search(pattern, f"{method} {path}") or left[0] == 0:
            return None
        left[0] = None if left[0] is None else left[0] - 1
        return status, code

    return fault


def _etag(value: str) -> str:
    return f'"0-{hashlib.md5(value.encode()).hexdigest()}"'


def _name(dataset: pydicom.Dataset, level: int) -> str:
    keys = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[:level]
    return hashlib.sha1("|".join(str(dataset.get(key)) for key in keys).encode()).hexdigest()


def _tags(header: pydicom.Dataset, keywords: tuple[str, ...]) -> dict[str, str]:
    return {keyword: str(header.get(keyword)) for keyword in keywords if keyword in header}


def _json(value: Any) -> tuple[bytes, None]:
    return json.dumps(value).encode(), None
