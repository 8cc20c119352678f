"""Index of a report: every study with its measures and flags, and those that could not be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unet4d.report.pages.measure_tables import short_measures
from unet4d.report.pages.score_tables import ScoreSection
from unet4d.report.pages.study import SegmentedStudy
from unet4d.report.pages.template import picture_address, render_page
from unet4d.report.pictures.render import class_color
from unet4d.system.environment import VERSION


class IndexEntry(NamedTuple):
    """One study of the index, without its arrays.

    Attributes:
        address: address of its page.
        thumbnail: data: URI of a small picture.
        measures: class name, its color, its measures.
        flags: a sentence for each.
        dice: mean foreground Dice; None where it was not scored.
        taken: what each class was taken for.
    """

    name: str
    address: str
    facts: str
    thumbnail: str
    measures: Sequence[tuple[str, str, str]]
    flags: Sequence[str]
    dice: float | None
    taken: str

    @classmethod
    def from_study(cls, study: SegmentedStudy, address: str, thumbnail: Path) -> IndexEntry:
        """Return the entry of a study with its page at `address`."""
        measures = [(name, class_color(study.classes[name]), text) for name, text in short_measures(study)]
        flags = [flag.sentence for flag in study.flags]
        return cls(
            study.name, address, study.facts, picture_address(thumbnail), measures, flags, study.dice, study.taken
        )


def index_page(
    collection: str, entries: Sequence[IndexEntry], failed: Mapping[str, str], summary: ScoreSection | None
) -> str:
    """Return the index; `failed` has the reason of each study that could not be shown."""
    title = f"4D segmentation: {collection}"
    return render_page("index.html", title=title, entries=entries, failed=failed, summary=summary, version=VERSION)
