"""Claims: the record of each series in its metadata on the server, and the lease that lets one worker at a time answer it.

Every write names the revision that it replaces (If-Match), so that of two workers one succeeds. A worker renews its lease while it
works; a lease that ran out belongs to a worker that was killed. Time is the server's, so clocks of workers do not matter.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from unet4d.errors import InputError, Unet4DError
from unet4d.inference.orthanc.client import OrthancClient, Rejected, ServerAway
from unet4d.system.text import shortened

logger = logging.getLogger(__name__)

_VERSION = 1
_TIME = "%Y%m%dT%H%M%S"
_LONGEST_REASON = 500


class LostClaim(Exception):
    """Another worker holds the claim now, because the lease ran out, or the series is gone."""


@dataclass(frozen=True)
class Record:
    """The record of a series in its metadata.

    Attributes:
        state: "working": a worker holds it until `until`; "waiting": the next try is due then; "done"; "failed": no more tries.
        instances: digest of the instances that this is about; of others a series is new.
        until: the server's time, UTC.
        worker: who wrote it.
        rule: name of the rule.
        failures: tries that ended in an error.
        crashes: tries in which the worker was killed.
        reason: of the last failure, without identifiers.
        results: SOPInstanceUIDs of what is, or may be, stored on the server as the answer.
    """

    state: Literal["working", "waiting", "done", "failed"]
    instances: str
    until: str
    worker: str = ""
    rule: str = ""
    failures: int = 0
    crashes: int = 0
    reason: str = ""
    results: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the text of the metadata; no two texts are equal."""
        return json.dumps({"unet4d": _VERSION, **asdict(self), "nonce": secrets.token_hex(8)})

    @classmethod
    def of_text(cls, text: str, where: str) -> Record:
        """Return the record of a text. Raises InputError: it is none, so that something else uses this metadata."""
        try:
            found = json.loads(text)
            if found.pop("unet4d") != _VERSION:
                raise ValueError("another version")
            known = {one.name for one in fields(cls)}
            record = cls(**{key: value for key, value in found.items() if key in known})
            return replace(record, results=tuple(map(str, record.results)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{where} holds {shortened(text, 80)}, expected a record of this version of unet4d; choose another --state_key"
            ) from error


@dataclass(frozen=True)
class Later:
    """A series that is not to be answered now; seconds until it may be, and why."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class ClaimOptions:
    """Options of claims.

    Attributes:
        key: number of the metadata, 1024 to 65535.
        lease_s: a claim that was not renewed for so long is another worker's to take.
        attempts: tries that may fail before a series is recorded as failed.
        retry_s: wait after the first failure; four times as long after each further one.
        crashes: tries in which the worker may be killed before a series is recorded as failed.
        retry_failed: try series again that are recorded as failed.
    """

    key: int = 4242
    lease_s: float = 120.0
    attempts: int = 3
    retry_s: float = 60.0
    crashes: int = 10
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if not 1024 <= self.key <= 65535:
            raise InputError(f"--state_key is {self.key}, expected a number from 1024 to 65535; correct it")
        for name in ("lease_s", "attempts", "crashes"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more; correct it")
        if not self.retry_s >= 0:
            raise InputError(f"retry_s is {self.retry_s}, expected 0 or more; correct it")


class Claim:
    """The right to answer one series, or one study; `record` is what the server holds. Threads may share it."""

    def __init__(self, client: OrthancClient, path: str, options: ClaimOptions, record: Record, etag: str):
        self.client, self.path, self.options, self.record, self._etag = client, path, options, record, etag
        self._lock = threading.Lock()
        self.is_lost = False

    def write(self, **changes: Any) -> None:
        """Replace parts of the record. Raises LostClaim: it is another worker's."""
        with self._lock:
            if self.is_lost:
                raise LostClaim
            record = replace(self.record, **changes)
            try:
                etag = self.client.swap_metadata(self.path, self.options.key, record.to_text(), self._etag)
            except Rejected as error:
                if error.status != 404:
                    raise
                etag = None
            if etag is None:
                self.is_lost = True
                raise LostClaim
            self.record, self._etag = record, etag

    def renew(self, **changes: Any) -> None:
        """Begin the lease again. Raises LostClaim: it is another worker's."""
        self.write(until=_after(self.client.now(), self.options.lease_s), **changes)

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease from another thread, again and again, within this context."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.options.lease_s / 3):
                try:
                    self.renew()
                except LostClaim:
                    return
                except Unet4DError as error:  # the server may be back before the lease ends
                    logger.debug(f"the lease could not be renewed: {error}")

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def put_back(self, wait_s: float = 0.0) -> None:
        """Leave the series to whoever comes, without a failure; a server that is away leaves it to the end of the lease."""
        with contextlib.suppress(LostClaim, ServerAway, Rejected):
            self.write(state="waiting", until=_after(self.client.now(), wait_s))

    def fail(self, reason: str) -> bool:
        """Record a failure; return whether it will be tried again."""
        failures = self.record.failures + 1
        again = failures < self.options.attempts
        wait_s = self.options.retry_s * 4 ** (failures - 1) if again else 0.0
        self.write(
            state="waiting" if again else "failed",
            until=_after(self.client.now(), wait_s),
            failures=failures,
            reason=shortened(reason, _LONGEST_REASON),
        )
        return again


def check_server(system: Mapping[str, Any]) -> None:
    """Raise InputError where the server cannot keep two workers apart."""
    found = system if isinstance(system, Mapping) else {}
    if not str(found.get("Version", "")) or "ApiVersion" not in found:
        raise InputError("the address of --url answers, but not as an Orthanc server does; correct it")
    if not found.get("CheckRevisions"):
        raise InputError(
            f'the server (Orthanc {found["Version"]}) checks no revisions of metadata, expected "CheckRevisions": true, which '
            "keeps two workers apart (Orthanc 1.9.2 or newer); set it in the server's configuration and restart it"
        )


def worker_name() -> str:
    """Return a name of this process that tells it from those on other machines."""
    return f"{socket.gethostname()}-{os.getpid()}"


def read_record(client: OrthancClient, path: str, key: int) -> tuple[Record, str] | None:
    """Return the record of a resource, and its ETag; None if there is none."""
    found = client.metadata(path, key)
    return (Record.of_text(found[0], f"metadata {key} of {path}"), found[1]) if found else None


def due(record: Record | None, instances: str, now: str, options: ClaimOptions) -> Later | Record | None:
    """Return whether a series may be claimed: None, if so; `Later`; or the record that settles it.

    Args:
        record: of the series.
        instances: digest of the instances that it has now.
        now: the server's time.
        options: of claims.
    """
    if record is None:
        return None
    left_s = seconds_between(now, record.until)
    if record.state == "working" and left_s > 0:
        return Later(left_s, f"{record.worker} works on it")
    if record.instances != instances:
        return None
    if record.state == "waiting" and left_s > 0:
        return Later(left_s, f"it failed ({record.reason})" if record.reason else "it was put back")
    if record.state == "done" or (record.state == "failed" and not options.retry_failed):
        return record
    return None


def take_claim(
    client: OrthancClient, path: str, instances: str, rule: str, options: ClaimOptions
) -> Claim | Later | Record:
    """Claim a series, or return why it cannot be: `Later`, or the record that settles it.

    A series that has other instances than those that were answered is new; the results of the former answer stay in its record, so
    that they are removed when the new ones are stored.
    """
    found, now = read_record(client, path, options.key), client.now()
    old, etag = found or (None, None)
    if (verdict := due(old, instances, now, options)) is not None:
        return verdict
    record = Record("working", instances, _after(now, options.lease_s), worker_name(), rule)
    if old is not None:
        record = replace(record, results=old.results)
        if old.instances == instances and old.state != "failed":
            crashes = old.crashes + (old.state == "working")
            record = replace(record, failures=old.failures, crashes=crashes, reason=old.reason)
    if record.crashes >= options.crashes:
        record = replace(
            record, state="failed", until=now, reason=f"the worker ended {record.crashes} times while it worked on this"
        )
    etag = client.swap_metadata(path, options.key, record.to_text(), etag)
    if etag is None:
        return Later(1.0, "another worker was faster")
    return record if record.state == "failed" else Claim(client, path, options, record, etag)


def seconds_between(begin: str, end: str) -> float:
    """Return the seconds from one time of the server to another."""
    try:
        return (datetime.strptime(end, _TIME) - datetime.strptime(begin, _TIME)).total_seconds()
    except ValueError:  # of a record that something else wrote
        return 0.0


def _after(now: str, seconds: float) -> str:
    return (datetime.strptime(now, _TIME) + timedelta(seconds=seconds)).strftime(_TIME)
