"""The page of all studies: what each came to, with a link to its page; and those that could not be shown, with the reason."""

from __future__ import annotations

import html as escaping
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.report.pages import html, measure_tables, score_tables
from unet4d.report.pages.study import Segmented
from unet4d.report.pages.study_page import LIMITS, facts
from unet4d.report.pictures.render import class_color
from unet4d.system.version import VERSION

_WORDS = ("EDV mL", "ESV mL", "EF %", "Dice", "mean foreground Dice", "flag", "frame", "cyclic", "voxel")


@dataclass(frozen=True)
class Entry:
    """A study in the list; its arrays are not held.

    Attributes:
        name: of the case.
        address: of its page.
        facts: frames, time, size.
        thumbnail: a small picture of it, as HTML.
        measures: (class name, its colour, what is said of it).
        flags: what is implausible, a sentence each.
        dice: mean foreground Dice; None where it was not scored.
    """

    name: str
    address: str
    facts: str
    thumbnail: str
    measures: tuple[tuple[str, str, str], ...]
    flags: tuple[str, ...]
    dice: float | None

    @classmethod
    def of(cls, study: Segmented, address: str, thumbnail: Path) -> Entry:
        """What is kept of a study once its page is written."""
        said = tuple((name, class_color(study.classes[name]), words) for name, words in measure_tables.in_short(study))
        picture = html.image(thumbnail, f"{study.name}: contours in two frames")
        sentences = tuple(flag.sentence for flag in study.flags)
        return cls(study.name, address, facts(study), picture, said, sentences, score_tables.dice_of(study.scores))


def index_page(
    collection: str, entries: Sequence[Entry], failed: Mapping[str, str], summary: Mapping[str, Any] | None
) -> str:
    """The whole page.

    Args:
        collection: what the studies are called together.
        entries: in the order of the list.
        failed: study name to why it could not be shown.
        summary: of an evaluation, or None.
    """
    title = f"4D segmentation: {collection}"
    count = f"{len(entries)} {'study' if len(entries) == 1 else 'studies'}"
    flagged = sum(1 for entry in entries if entry.flags)
    body = [
        html.text(title, "h1"),
        html.text(f"{count}, {flagged} flagged · unet4d {VERSION}", kind="soft"),
        html.text(LIMITS, kind="limits"),
    ]
    if failed:
        head = html.text(f"{len(failed)} could not be shown", "strong")
        reasons = html.listed([f"{name}: {reason}" for name, reason in failed.items()])
        body.append(html.element("div", [head, reasons], kind="flags some"))
    body.append(html.section([_table(entries), html.explained(_WORDS)], kind="studies"))
    if summary:
        body.append(html.section(score_tables.of_all(summary)))
    return html.page(title, body)


def _table(entries: Sequence[Entry]) -> str:
    scored = any(entry.dice is not None for entry in entries)
    head = ["study", "", "measures", "flags", *(["Dice"] if scored else [])]
    rows = []
    for entry in entries:
        name = html.link(entry.address, entry.name) + html.text(entry.facts, "div", "soft")
        picture = f'<a href="{escaping.escape(entry.address)}">{entry.thumbnail}</a>'
        said = "".join(
            f"<div>{html.dot(colour)}{html.escaped(name)} <b>{html.escaped(words)}</b></div>"
            for name, colour, words in entry.measures
        )
        flags = html.text(str(len(entry.flags)), "b", "warn") + html.listed(entry.flags, "soft") if entry.flags else "0"
        dice = [f"{entry.dice:.3f}" if entry.dice is not None else "-"] if scored else []
        rows.append([name, picture, said, flags, *dice])
    return html.rich_table(head, rows, kind="studies")
