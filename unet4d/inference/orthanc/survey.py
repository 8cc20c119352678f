"""Surveys of a server: what a worker would do with each series now, without doing it, and what has become of the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from unet4d.inference.orthanc.claims import Later, Record, check_server, due, read_record
from unet4d.inference.orthanc.client import OrthancClient
from unet4d.inference.orthanc.rules import Rule
from unet4d.inference.orthanc.tasks import Task, identify, task_of, too_old
from unet4d.inference.orthanc.worker import WorkerOptions
from unet4d.system.progress_bar import RESULT
from unet4d.system.text import count

logger = logging.getLogger(__name__)

_SHOWN = 10
_Verdict = Literal["would run", "later", "done", "failed", "ignored"]


@dataclass(frozen=True)
class Surveyed:
    """A task or an ignored series, what would be done with it, why, and its record if it has one."""

    name: str
    verdict: _Verdict
    reason: str
    record: Record | None = None


def survey(client: OrthancClient, rules: Sequence[Rule], options: WorkerOptions) -> Iterator[Surveyed]:
    """Yield what would be done with each series of the server; nothing is written there.

    Raises:
        InputError: the server's settings do not fit; it refuses the user.
        Unet4DError: it is away, or refuses a request.
    """
    check_server(client.system())
    now, known = client.now(), set()
    for series in client.all_series():
        task = task_of(client, series, rules)
        more = identify(client, series) if options.log_identifiers else ""
        if isinstance(task, str) or (task_is_old := too_old(client, series, options.max_age_days)):
            yield Surveyed(f"series {series.id}{more}", "ignored", task if isinstance(task, str) else task_is_old)
        elif task.path not in known:
            known.add(task.path)
            yield _of_task(client, task, now, options, more)


def _of_task(client: OrthancClient, task: Task, now: str, options: WorkerOptions, more: str) -> Surveyed:
    found = read_record(client, task.path, options.claims.key)
    record, name = (found[0] if found else None), f"{task.name}{more}"
    unsettled = task.unsettled(now, options.settle_s)
    verdict = due(record, task.digest, now, options.claims)
    if isinstance(verdict, Record):
        why = verdict.reason if verdict.state == "failed" else count(len(verdict.results), "result")
        return Surveyed(name, "failed" if verdict.state == "failed" else "done", why, record)
    if later := verdict or unsettled:
        assert isinstance(later, Later)
        return Surveyed(name, "later", f"{later.reason}; {later.seconds:.0f} s", record)
    images = count(len(task.instances), "instance")
    models = " and ".join(str(path) for path in task.rule.models)
    return Surveyed(name, "would run", f"{images}, rule {task.rule.name!r}, model {models}", record)


def report_plan(client: OrthancClient, rules: Sequence[Rule], options: WorkerOptions) -> None:
    """Log what would be done with each series."""
    found: Counter[str] = Counter()
    for one in survey(client, rules, options):
        found[one.verdict] += 1
        logger.log(RESULT, f"{one.verdict}\t{one.name}\t{one.reason}")
    logger.log(RESULT, _counted(found))


def report_status(client: OrthancClient, rules: Sequence[Rule], options: WorkerOptions) -> None:
    """Log the queue, the last results and the failures."""
    found = list(survey(client, rules, options))
    queue = [one for one in found if one.verdict in ("would run", "later")]
    for title, rows in (
        ("queue", queue),
        ("last results", _latest(found, "done")),
        ("failures", _latest(found, "failed")),
    ):
        logger.log(RESULT, f"{title}: {'none' if not rows else ''}".rstrip())
        for one in rows[:_SHOWN]:
            at = f"\t{one.record.until} UTC" if one.record and one.verdict in ("done", "failed") else ""
            logger.log(RESULT, f"  {one.name}{at}\t{one.reason}")
        if len(rows) > _SHOWN:
            logger.log(RESULT, f"  and {len(rows) - _SHOWN} more; --dry_run shows all")
    logger.log(RESULT, _counted(Counter(one.verdict for one in found)))


def _latest(found: Sequence[Surveyed], verdict: _Verdict) -> list[Surveyed]:
    rows = [one for one in found if one.verdict == verdict]
    return sorted(rows, key=lambda one: one.record.until if one.record else "", reverse=True)


def _counted(found: Counter[str]) -> str:
    names = {"would run": "to do", "later": "to do later", "done": "answered", "failed": "failed", "ignored": "ignored"}
    return ", ".join(f"{found[key]} {name}" for key, name in names.items())
