"""A client of Orthanc's REST interface: changes, series, metadata with revisions, DICOM files in and out."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from unet4d.errors import InputError, Unet4DError
from unet4d.system.text import printable, shortened

_BLOCK = 2**20
_PAGE = 200
"""Series listed by one request."""
_IDLE_S = 0.5
"""Longest rest of a connection that is used again: Orthanc closes one after a second by default."""
_TROUBLE_HTTP = (502, 503, 504, 507)
_TROUBLE_ORTHANC = {4, 11, 14, 16, 19, 36, 42, 2001, *range(1000, 1100)}
"""Codes of `Orthanc --errors` that no request is to blame for: no memory, no room on the disk, no database (SQLite: 1000...)."""


class ServerAway(Unet4DError):
    """The server does not answer, or cannot store anything: its disk is full, its database is locked."""


class Rejected(Unet4DError):
    """The server answered, and refused this request.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Denied(Rejected, InputError):
    """The server refuses the user."""


@dataclass(frozen=True)
class SeriesInfo:
    """A series on the server.

    Attributes:
        id: Orthanc's name for it, a hash of PatientID and UIDs.
        study: Orthanc's name for its study.
        tags: the main DICOM tags of a series, by keyword.
        instances: Orthanc's names of its instances, sorted.
        last_update: when the last new instance arrived, in UTC, as 20261130T060827.
        is_stable: nothing new arrived for the server's StableAge; also after a restart of the server, whatever arrived before.
    """

    id: str
    study: str
    tags: Mapping[str, str]
    instances: tuple[str, ...]
    last_update: str
    is_stable: bool

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> SeriesInfo:
        """Return the series that the server describes."""
        tags = {key: str(value) for key, value in found["MainDicomTags"].items()}
        instances, updated = tuple(sorted(found["Instances"])), found.get("LastUpdate", "")
        return cls(found["ID"], found["ParentStudy"], tags, instances, updated, found["IsStable"])


class OrthancClient:
    """A connection to an Orthanc server; several threads may use it, each over a connection of its own.

    Every method raises ServerAway, Rejected (404 where what it names is gone), or InputError where the TLS certificate is refused.
    """

    def __init__(
        self, url: str, login: tuple[str, str] | None = None, ca_file: Path | None = None, timeout_s: float = 60.0
    ):
        """Check the address; nothing is sent yet.

        Args:
            url: such as https://pacs.example.org/orthanc.
            login: user and password.
            ca_file: certificates (PEM) of the authorities to trust, in place of the system's.
            timeout_s: longest wait for the next bytes.

        Raises:
            InputError: the address has no host or names a user; the file holds no certificates.
        """
        self.url, self.timeout_s, self._local = url.rstrip("/"), timeout_s, threading.local()
        try:
            self._parts = urlsplit(self.url)
            _ = self._parts.port
        except ValueError as error:
            raise InputError(
                f"--url is {shortened(url)}, expected one such as http://localhost:8042; correct it"
            ) from error
        if self._parts.username or self._parts.password or "@" in self._parts.netloc:
            raise InputError("got a user in --url, expected an address without; use --login_file, or the environment")
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise InputError(f"--url is {shortened(url)}, expected one such as http://localhost:8042; correct it")
        self._headers: dict[str, str] = {}
        if login:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self._tls = _tls_context(ca_file) if self._parts.scheme == "https" else None

    @property
    def sends_password_in_the_clear(self) -> bool:
        """Return whether a password can be read on the way: another machine, without TLS."""
        return (
            bool(self._headers) and self._tls is None and self._parts.hostname not in ("localhost", "127.0.0.1", "::1")
        )

    def system(self) -> Mapping[str, Any]:
        """Return the server's version and settings."""
        return self._json("GET", "/system")

    def now(self) -> str:
        """Return the server's time in UTC, as 20261130T060827."""
        return self._request("GET", "/tools/now").decode()

    def changes(self, since: int) -> tuple[list[Mapping[str, Any]], int, bool]:
        """Return changes after number `since`, the number of the last of them, and whether there are no more."""
        found = self._json("GET", f"/changes?since={since}&limit=1000")
        return found["Changes"], found["Last"], found["Done"]

    def last_change(self) -> int:
        """Return the number of the last change."""
        return int(self._json("GET", "/changes?last")["Last"])

    def all_series(self) -> Iterator[SeriesInfo]:
        """Yield every series of the server, page by page."""
        since = 0
        while page := self._json("GET", f"/series?expand&since={since}&limit={_PAGE}"):
            yield from map(SeriesInfo.of, page)
            since += _PAGE

    def series(self, name: str) -> SeriesInfo:
        """Return a series."""
        return SeriesInfo.of(self._json("GET", f"/series/{name}"))

    def series_of_study(self, study: str) -> list[SeriesInfo]:
        """Return the series of a study."""
        return [SeriesInfo.of(one) for one in self._json("GET", f"/studies/{study}/series")]

    def study_tags(self, study: str) -> dict[str, str]:
        """Return the main DICOM tags of a study and its patient."""
        found = self._json("GET", f"/studies/{study}")
        return {**found.get("PatientMainDicomTags", {}), **found["MainDicomTags"]}

    def instance_metadata(self, instance: str) -> dict[str, str]:
        """Return an instance's metadata by name, such as SopClassUid, RemoteAET and CalledAET."""
        return self._json("GET", f"/instances/{instance}/metadata?expand")

    def metadata(self, path: str, key: int) -> tuple[str, str] | None:
        """Return a value of user-defined metadata of a resource ("/series/ID"), and its ETag; None if there is none."""
        try:
            value = self._request("GET", f"{path}/metadata/{key}")
        except Rejected as error:
            if error.status == 404:
                return None
            raise
        return value.decode(errors="replace"), self._local.etag

    def swap_metadata(self, path: str, key: int, value: str, etag: str | None) -> str | None:
        """Write metadata if no other client has written it meanwhile; return its new ETag, or None where one has.

        The value is read back, because an answer may be lost, and because the ETag of a PUT is not always that of the next GET. So
        two values that are written must never be equal.

        Args:
            path: of the resource.
            key: number of the metadata, from 1024 to 65535.
            value: text.
            etag: of the value that is replaced; None: there is none.
        """
        try:
            self._request("PUT", f"{path}/metadata/{key}", value.encode(), {"If-Match": etag} if etag else {})
        except Rejected as error:
            if error.status != 409:
                raise
        found = self.metadata(path, key)
        return found[1] if found and found[0] == value else None

    def download(self, instance: str, file: Path) -> None:
        """Write the DICOM file of an instance. Raises OSError: of the disk here."""
        with open(file, "wb") as stream:
            self._request("GET", f"/instances/{instance}/file", into=stream)

    def store(self, file: Path) -> Mapping[str, Any]:
        """Store a DICOM file, and return the server's answer; storing the same object again changes nothing."""
        found = self._json("POST", "/instances", file.read_bytes(), {"Content-Type": "application/dicom"})
        status = found.get("Status") if isinstance(found, dict) else None
        if status not in ("Success", "AlreadyStored"):
            raise Rejected(f"the server did not store {file.name}: {status or 'no reason given'}; see its log")
        return found

    def delete_instances(self, study: str, sop_uid: str) -> None:
        """Delete the instances of a SOPInstanceUID that lie in a study, if there are any."""
        for found in self._json("POST", "/tools/lookup", sop_uid.encode()):
            with _missing_allowed():
                if self._json("GET", f"/instances/{found['ID']}/study")["ID"] == study:
                    self._request("DELETE", f"/instances/{found['ID']}")

    def _json(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        answer = self._request(method, path, body, headers or {})
        try:
            return json.loads(answer)
        except ValueError as error:
            raise Rejected(f"{self.url}{path} answered no JSON, expected an Orthanc server; correct --url") from error

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        into: BinaryIO | None = None,
    ) -> bytes:
        """Return the body of the answer, or write it to a file; a connection that was closed while at rest is opened again."""
        while True:
            connection, is_fresh = self._connection()
            try:
                connection.request(method, self._parts.path + path, body, {**self._headers, **(headers or {})})
                answer = connection.getresponse()
                break
            except ssl.SSLCertVerificationError as error:
                raise InputError(
                    f"{self.url} shows a TLS certificate that is not trusted ({error.verify_message}); give the file of its "
                    "authority with --ca_file"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self._close()
                if is_fresh:
                    raise self._away(error) from error
        taken = self._take(answer, into if answer.status == 200 else None)
        self._local.used_s, self._local.etag = time.monotonic(), answer.headers.get("ETag", "")
        if answer.status >= 300:
            raise self._refusal(answer.status, method, path.partition("?")[0], taken)
        return taken

    def _take(self, answer: http.client.HTTPResponse, into: BinaryIO | None) -> bytes:
        """Read the body of an answer whole, and write it block by block where there is a file to write to."""
        expected, size, blocks = answer.length, 0, []
        while block := self._read_block(answer):
            size += len(block)
            if into is None:
                blocks.append(block)
                continue
            try:
                into.write(block)
            except OSError:
                self._close()  # the rest of the answer is still in it
                raise
        if expected is not None and size < expected:
            self._close()
            raise self._away(ConnectionError(f"{size} of {expected} bytes came"))
        return b"".join(blocks)

    def _read_block(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            raise self._away(error) from error

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return this thread's connection, and whether it is a new one."""
        if getattr(self._local, "connection", None) and time.monotonic() - self._local.used_s < _IDLE_S:
            return self._local.connection, False
        self._close()
        host, port = self._parts.hostname or "", self._parts.port
        if self._tls:
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=self.timeout_s, context=self._tls
            )
        else:
            made = http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        self._local.connection, self._local.used_s = made, time.monotonic()
        return made, True

    def _close(self) -> None:
        if connection := getattr(self._local, "connection", None):
            connection.close()
        self._local.connection = None

    def _away(self, error: Exception) -> ServerAway:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServerAway(f"{self.url} does not answer ({printable(reason)})")

    def _refusal(self, status: int, method: str, path: str, body: bytes) -> Unet4DError:
        """Return the error of an answer that is none of success."""
        try:
            found = json.loads(body)
            code, why = int(found.get("OrthancStatus", 0)), found.get("Details") or found.get("Message") or ""
        except (ValueError, AttributeError):
            code, why = 0, ""
        why = shortened(why, 200) or http.client.responses.get(status, "no reason given")
        if status in _TROUBLE_HTTP or (status >= 500 and code in _TROUBLE_ORTHANC):
            return ServerAway(f"{self.url} cannot work now ({why}, HTTP {status}); its disk may be full")
        if status in (401, 403):
            advice = "correct the user and the password, or what this user may do"
            return Denied(f"the server refused {method} {path} with HTTP {status}: {why}; {advice}", status)
        return Rejected(f"the server refused {method} {path} with HTTP {status}: {why}", status)


@contextlib.contextmanager
def _missing_allowed() -> Iterator[None]:
    """Swallow the refusal of what is gone from the server."""
    try:
        yield
    except Rejected as error:
        if error.status != 404:
            raise


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError among them
        raise InputError(f"--ca_file {ca_file} holds no certificates (PEM) that can be read; give another") from error
