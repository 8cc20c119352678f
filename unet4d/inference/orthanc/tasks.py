"""Tasks: the series that one rule segments together, and whether they are whole by now."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from unet4d.inference.orthanc.claims import Later, seconds_between
from unet4d.inference.orthanc.client import OrthancClient, SeriesInfo
from unet4d.inference.orthanc.rules import Rule, choose_rule
from unet4d.system.text import printable

_DAY_S = 86400.0


@dataclass(frozen=True)
class Task:
    """Series that are answered together: one, or all of a study that match a rule which joins them.

    Attributes:
        path: the resource with the record in its metadata: "/series/ID" or "/studies/ID".
        rule: that they match.
        series: in the order of their names.
    """

    path: str
    rule: Rule
    series: tuple[SeriesInfo, ...]

    @property
    def name(self) -> str:
        """Return its name for the log: Orthanc's, from which no identifier can be read."""
        level, name = self.path[1:].split("/")
        return f"{'study' if level == 'studies' else level} {name}"

    @property
    def study(self) -> str:
        """Return Orthanc's name of the study."""
        return self.series[0].study

    @property
    def instances(self) -> tuple[str, ...]:
        """Return Orthanc's names of all instances, sorted."""
        return tuple(sorted(name for one in self.series for name in one.instances))

    @property
    def digest(self) -> str:
        """Return a digest of the instances that there are, which changes where one arrives."""
        return hashlib.sha256(" ".join(self.instances).encode()).hexdigest()[:16]

    def unsettled(self, now: str, settle_s: float) -> Later | None:
        """Return how long to wait where images may still arrive.

        The server calls a series stable after its own restart, whatever was under way, so the time of the last image is asked too.
        """
        age_s = min(seconds_between(one.last_update, now) for one in self.series)
        if age_s < settle_s or not all(one.is_stable for one in self.series):
            return Later(max(1.0, settle_s - age_s), "images may still arrive")
        return None


def task_of(client: OrthancClient, series: SeriesInfo, rules: Sequence[Rule]) -> Task | str:
    """Return the task that a series belongs to, or the reason why it is ignored."""
    rule = choose_rule(rules, series, client.instance_metadata)
    if isinstance(rule, str):
        return rule
    if rule.join == "series":
        return Task(f"/series/{series.id}", rule, (series,))
    others = client.series_of_study(series.study)
    matching = [one for one in others if choose_rule(rules, one, client.instance_metadata) is rule]
    return Task(f"/studies/{series.study}", rule, tuple(sorted(matching, key=lambda one: one.id)))


def too_old(client: OrthancClient, series: SeriesInfo, max_age_days: float | None) -> str:
    """Return why a series is too old to be answered; "" if it is not."""
    if max_age_days is None or seconds_between(series.last_update, client.now()) <= max_age_days * _DAY_S:
        return ""
    return f"its last image arrived more than {max_age_days:g} days ago"


def identify(client: OrthancClient, series: SeriesInfo) -> str:
    """Return PatientID, SeriesDescription and SeriesInstanceUID of a series in brackets, for a log that may hold them."""
    tags = {**client.study_tags(series.study), **series.tags}
    named = (tags.get(keyword, "") for keyword in ("PatientID", "SeriesDescription", "SeriesInstanceUID"))
    return printable(f" ({', '.join(named)})")
