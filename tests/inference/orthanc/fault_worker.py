"""A worker in a process of its own, with a stand-in for the network, that is killed at a chosen request.

python -m tests.inference.orthanc.fault_worker URL FOLDER [--kill PATTERN NUMBER before|after PID]
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.inference.orthanc.stand_in import stand_in
from unet4d.inference.orthanc.claims import ClaimOptions
from unet4d.inference.orthanc.client import OrthancClient
from unet4d.inference.orthanc.rules import Rule
from unet4d.inference.orthanc.worker import OrthancWorker, WorkerOptions


class KillingClient(OrthancClient):
    """A client that kills a process before or after its n-th request of a kind; PID 0: its own."""

    def kill_at(self, pattern: str, number: int, when: str, pid: int) -> None:
        self.pattern, self.left, self.when, self.pid = pattern, number, when, pid or os.getpid()

    def _request(self, method: str, path: str, *given: Any, **more: Any) -> bytes:
        if found := bool(re.search(self.pattern, f"{method} {path}")):
            self.left -= 1
        if found and self.left == 0 and self.when == "before":
            os.kill(self.pid, signal.SIGKILL)
        try:
            return super()._request(method, path, *given, **more)
        finally:
            if found and self.left == 0 and self.when == "after":
                os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """Work until a signal comes, or the kill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", nargs=4, default=("nothing", "1", "before", "0"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(process)d %(message)s")
    client = KillingClient(args.url, timeout_s=20)
    pattern, number, when, pid = args.kill
    client.kill_at(pattern, int(number), when, int(pid))
    claims = ClaimOptions(lease_s=2.0, attempts=5, retry_s=1.0, crashes=25)
    options = WorkerOptions(claims=claims, settle_s=1.0, poll_s=0.2, rescan_s=5.0, scratch_dir=args.folder)
    OrthancWorker(client, [Rule("sax", (Path("run"),), description="sax")], stand_in, options).run()


if __name__ == "__main__":
    main()
