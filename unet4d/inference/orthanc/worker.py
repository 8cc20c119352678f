"""The worker: follows the server's changes, claims one series after the other, segments it and stores the results.

Everything that it must remember lies on the server (claims.py), so it can be killed at any moment, started twice or moved.
A series is answered once it is at rest. If it grows afterwards, it is answered again, and the former results are deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from unet4d.errors import InputError, Unet4DError
from unet4d.inference.orthanc.answer import (
    Answer,
    identifiers,
    private_folder,
    redact,
    redacted_log,
    remove_folders_of_killed,
    result_uids,
)
from unet4d.inference.orthanc.claims import (
    Claim,
    ClaimOptions,
    Later,
    LostClaim,
    Record,
    check_server,
    seconds_between,
    take_claim,
)  # fmt: skip
from unet4d.inference.orthanc.client import OrthancClient, Rejected, SeriesInfo, ServerAway
from unet4d.inference.orthanc.rules import Rule
from unet4d.inference.orthanc.tasks import Task, identify, task_of, too_old
from unet4d.system.failures import DISK_ENDS, failure_of_study, os_failure
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import count

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_FOLLOWED = ("NewSeries", "StableSeries")
_SOON_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker.

    Attributes:
        claims: leases, tries and their waits.
        settle_s: a series is whole if no image arrived for so long, and the server calls it stable.
        poll_s: wait between two looks at the changes.
        rescan_s: wait between two looks at all series, which find what the changes do not show, as after a restart of the server.
        patience_s: longest wait for a server that is away; None: for ever.
        max_age_days: series are ignored if their last image arrived earlier; None: none is.
        once: end when nothing is left that can be done now.
        log_identifiers: print PatientID, SeriesDescription and SeriesInstanceUID.
        scratch_dir: folder for series while they are segmented; None: the system's for temporary files.
    """

    claims: ClaimOptions = field(default_factory=ClaimOptions)
    settle_s: float = 60.0
    poll_s: float = 5.0
    rescan_s: float = 600.0
    patience_s: float | None = None
    max_age_days: float | None = None
    once: bool = False
    log_identifiers: bool = False
    scratch_dir: Path | None = None


@dataclass
class Outcome:
    """Series answered, tries that failed, and series that are left for later, by name."""

    answered: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Grown(Exception):
    """Images arrived while the series was segmented."""


class GaveUp(Unet4DError):
    """The server was away for longer than the patience."""


class LocalTrouble(Exception):
    """This machine cannot work now, whatever the series: its disk is full."""


class OrthancWorker:
    """A worker of one server; `run` does the work."""

    def __init__(
        self, client: OrthancClient, rules: Sequence[Rule], answer: Answer, options: WorkerOptions | None = None
    ):
        self.client, self.rules, self.answer, self.options = client, rules, answer, options or WorkerOptions()
        self.outcome = Outcome()
        self._due: dict[str, float] = {}  # series to the time of its next look
        self._arrived: set[str] = set()  # series that the changes named
        self._settled: dict[str, str] = {}  # series to the time of its last image when it was answered or ignored
        self._seen = 0  # number of the last change
        self._rescan_at = 0.0

    @stop_signals("every series that was answered is recorded on the server; start the worker again")
    def run(self) -> Outcome:
        """Work until a signal comes, or with `once` until nothing is left that can be done now.

        Raises:
            InputError: the server's settings do not fit; it refuses the user.
            Stopped: SIGTERM or SIGINT came.
            Unet4DError: the server was away for longer than the patience; the GPU answers nothing more.
        """
        remove_folders_of_killed(self.options.scratch_dir)
        check_server(self._patiently(self.client.system))
        while True:
            check_stop()
            self._patiently(self._follow)
            ready = self._ready()
            for name in ready:
                check_stop()
                if self._look(name):
                    break  # time has passed: others may have arrived
            if not ready and self.options.once:
                return self.outcome
            if not ready:
                _rest(min(self.options.poll_s, *(max(at - time.monotonic(), 0.05) for at in self._due.values()), 60.0))

    def _follow(self) -> None:
        """Note the series that the server's changes name; all series at the start, after an outage and from time to time."""
        if time.monotonic() >= self._rescan_at:
            self._seen = self.client.last_change()
            for one in self.client.all_series():
                if self._settled.get(one.id) != one.last_update:
                    self._due.setdefault(one.id, 0.0)
            self._rescan_at = time.monotonic() + self.options.rescan_s
        is_done = False
        while not is_done:
            found, last, is_done = self.client.changes(self._seen)
            if last < self._seen:  # the server began to count anew
                self._rescan_at = 0.0
            self._seen = last
            for change in found:
                if change["ChangeType"] in _FOLLOWED:
                    self._due[change["ID"]] = 0.0
                    self._arrived.add(change["ID"])

    def _ready(self) -> list[str]:
        """Return the series that are due: those that arrived since the start first, then those that have been due for longer."""
        now = time.monotonic()
        ready = [name for name, at in self._due.items() if at <= now]
        return sorted(ready, key=lambda name: (name not in self._arrived, self._due[name]))

    def _look(self, name: str) -> bool:
        """Answer a series if it can be; else note when to look again, or that it is settled. Return whether it was worked on."""
        worked = False
        try:
            verdict = self._patiently(lambda: self._verdict(name))
            if isinstance(verdict, Later) and self.outcome.left.get(name) != verdict.reason:
                logger.info(f"series {name}: later, {verdict.reason}")
            if worked := isinstance(verdict, tuple):
                verdict = self._work(*verdict)
        except Rejected as error:
            verdict = None  # deleted on the server
            if error.status != 404:
                logger.warning(f"series {name}: {error}")
                verdict = Later(self.options.claims.retry_s, str(error))
        if isinstance(verdict, Later):
            self._due[name] = time.monotonic() + verdict.seconds
            self.outcome.left[name] = verdict.reason
        else:
            self._due.pop(name, None)
            self._arrived.discard(name)
            self.outcome.left.pop(name, None)
        return worked

    def _verdict(self, name: str) -> tuple[Task, Claim] | Later | None:
        """Return the task and the claim of a series, when to look again, or None where it is settled."""
        series = self.client.series(name)
        if self._settled.get(name) == series.last_update:
            return None
        task = task_of(self.client, series, self.rules)
        if isinstance(task, Task) and (old := too_old(self.client, series, self.options.max_age_days)):
            task = old
        if isinstance(task, str):
            logger.info(f"series {name}{self._known(series)}: ignored, {task}")
            self._settled[name] = series.last_update
            return None
        if later := task.unsettled(self.client.now(), self.options.settle_s):
            return later
        try:
            taken = take_claim(self.client, task.path, task.digest, task.rule.name, self.options.claims)
        except InputError as error:  # something else writes this metadata
            logger.warning(f"{task.name}: {error}")
            self.outcome.failed[task.name] = str(error)
            self._settle(task)
            return None
        if isinstance(taken, Record):
            logger.debug(f"{task.name}: {taken.state} already")
            self._settle(task)
            return None
        return (task, taken) if isinstance(taken, Claim) else taken

    def _known(self, series: SeriesInfo) -> str:
        """Return the identifiers of a series for the log, where they were asked for."""
        return identify(self.client, series) if self.options.log_identifiers else ""

    def _settle(self, task: Task) -> None:
        self._settled |= {one.id: one.last_update for one in task.series}

    def _work(self, task: Task, claim: Claim) -> Later | None:
        """Answer a claimed task; every failure but those of this machine and the server is recorded."""
        tags = self._patiently(lambda: self.client.study_tags(task.study))
        hidden = [] if self.options.log_identifiers else identifiers([tags, *(one.tags for one in task.series)])
        images = count(len(task.instances), "instance")
        known = self._patiently(lambda: self._known(task.series[0]))
        logger.info(f"{task.name}{known}: {images}, rule {task.rule.name!r}, started")
        begin_s = time.monotonic()
        try:
            with claim.renewed(), redacted_log(hidden):
                self._answer(task, claim)
        except LostClaim:
            return Later(0.0, "another worker took it over, or it was deleted")
        except Grown:
            claim.put_back()
            return Later(0.0, "images arrived meanwhile")
        except LocalTrouble as error:
            claim.put_back(self.options.claims.retry_s)
            logger.warning(f"{task.name}: put back, {error}")
            return Later(self.options.claims.retry_s, str(error))
        except Exception as error:
            if not isinstance(error, GaveUp):
                return self._fail(task, claim, error, hidden)
            claim.put_back()
            raise
        except BaseException:  # a signal
            claim.put_back()
            raise
        self.outcome.answered.append(task.name)
        self.outcome.failed.pop(task.name, None)
        results = count(len(claim.record.results), "result")
        logger.info(f"{task.name}: answered with {results} in {time.monotonic() - begin_s:.1f} s")
        self._settle(task)
        return None

    def _answer(self, task: Task, claim: Claim) -> None:
        """Fetch, segment and store.

        The UIDs of the results are recorded before the first is stored. Whoever finishes the work of a killed worker, or answers
        the series anew, deletes those that are not part of its own answer.
        """
        try:
            with private_folder(self.options.scratch_dir) as folder:
                source, out = folder / "source", folder / "results"
                source.mkdir()
                out.mkdir()
                for number, instance in enumerate(task.instances):
                    check_stop()
                    file = source / f"{number:06d}.dcm"
                    self._patiently(lambda name=instance, to=file: self.client.download(name, to))  # type: ignore[misc]
                files = self.answer(source, out, task.rule.models)
                uids = result_uids(files, source / "000000.dcm")
                self._store(task, claim, files, uids)
        except OSError as error:
            if error.errno in DISK_ENDS:
                raise LocalTrouble(f"the disk here: {os_failure(error)}") from error
            raise
        except Unet4DError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_ENDS:
                raise LocalTrouble(str(error)) from error
            raise

    def _store(self, task: Task, claim: Claim, files: Sequence[Path], uids: Sequence[str]) -> None:
        """Store the results, then delete those of earlier answers, then record that all is done."""
        now = self._patiently(lambda: task_of(self.client, self.client.series(task.series[0].id), self.rules))
        if isinstance(now, str) or now.digest != task.digest:
            raise Grown
        former = [uid for uid in claim.record.results if uid not in uids]
        self._patiently(lambda: claim.renew(results=tuple(dict.fromkeys((*uids, *former)))))
        for file in files:
            check_stop()
            self._patiently(lambda file=file: self.client.store(file))  # type: ignore[misc]
            if claim.is_lost:
                raise LostClaim
        for uid in former:
            self._patiently(lambda uid=uid: self.client.delete_instances(task.study, uid))  # type: ignore[misc]
        done_at = self._patiently(self.client.now)
        self._patiently(
            lambda: claim.write(state="done", until=done_at, results=tuple(uids), reason="", rule=task.rule.name)
        )

    def _fail(self, task: Task, claim: Claim, error: Exception, hidden: Sequence[str]) -> Later | None:
        """Record a failure; raise what ends the worker."""
        try:
            reason = redact(str(failure_of_study(error)), hidden)
        except Exception:
            claim.put_back()
            raise
        try:
            if claim.record.failures + 1 >= self.options.claims.attempts:  # a part of an answer is none
                for uid in claim.record.results:
                    self._patiently(lambda uid=uid: self.client.delete_instances(task.study, uid))  # type: ignore[misc]
            again = self._patiently(lambda: claim.fail(reason))
        except LostClaim:
            return Later(0.0, "another worker took it over, or it was deleted")
        self.outcome.failed[task.name] = reason
        tries = f"try {claim.record.failures} of {self.options.claims.attempts}"
        logger.warning(f"{task.name}: {tries} failed, {'to be tried again' if again else 'given up'}: {reason}")
        if again:
            return Later(seconds_between(self._patiently(self.client.now), claim.record.until), f"it failed ({reason})")
        self._settle(task)
        return None

    def _patiently(self, work: Callable[[], _Result]) -> _Result:
        """Return what `work` returns; while the server is away, wait and try again. Afterwards all series are looked at."""
        begin_s, pause_s = time.monotonic(), _SOON_S
        while True:
            try:
                result = work()
            except ServerAway as error:
                waited_s, patience_s = time.monotonic() - begin_s, self.options.patience_s
                if patience_s is not None and waited_s >= patience_s:
                    raise GaveUp(f"{error}; gave up after {waited_s:.0f} s, start it and run this again") from error
                logger.warning(f"{error}; trying again in {pause_s:.0f} s")
                _rest(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                self._rescan_at = 0.0
                continue
            if pause_s > _SOON_S:
                logger.info(f"the server is back after {time.monotonic() - begin_s:.0f} s")
            return result


def _rest(seconds: float) -> None:
    """Wait, and end the wait when a signal asks to stop."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while (left := end - time.monotonic()) > 0:
        check_stop()
        pause.wait(min(left, 0.2))
