"""A real Orthanc server on loopback, in a folder of its own; it can be killed and started again."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.limits import wait_until
from unet4d.errors import Unet4DError
from unet4d.inference.orthanc.client import OrthancClient

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
needs_orthanc = pytest.mark.skipif(PROGRAM is None, reason="the program Orthanc is missing (Debian: orthanc)")


class RealOrthanc:
    """A server's process.

    Attributes:
        url: of its REST interface.
        dicom_port: of its DICOM interface.
        client: of its REST interface.
    """

    def __init__(
        self, folder: Path, storage: Path | None = None, login: tuple[str, str] | None = None, **settings: Any
    ):
        self.folder, (http, self.dicom_port) = folder, free_ports(2)
        storage = storage or folder / "storage"
        folder.mkdir(parents=True, exist_ok=True)
        given = {
            "Name": "test", "StorageDirectory": str(storage), "IndexDirectory": str(storage), "HttpPort": http,
            "DicomPort": self.dicom_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
            "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True, "CheckRevisions": True, "StableAge": 1,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(given | settings))
        self.url, self.client = f"http://127.0.0.1:{http}", OrthancClient(f"http://127.0.0.1:{http}", login)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = open(self.folder / "orthanc.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen([str(PROGRAM), str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        log.close()
        wait_until(self.answers, "Orthanc to answer")

    def answers(self) -> bool:
        """Return whether it answers; fail where it has ended."""
        assert self.process
        assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()[-2000:]
        try:
            return bool(self.client.system())
        except Unet4DError:
            return False

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> Any:
        """Return what it answers to a path."""
        return self.client._json("GET", path)


@contextmanager
def running(folder: Path, storage: Path | None = None, **more: Any) -> Iterator[RealOrthanc]:
    """Run a server within."""
    server = RealOrthanc(folder, storage, **more)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
