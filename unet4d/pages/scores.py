"""What an evaluation says: its summary read, shown for all studies and for one."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.files import read_json
from unet4d.metrics import shown
from unet4d.pages import html
from unet4d.pictures import class_colour

_MEASURES = {"dice": "Dice", "hd95_mm": "HD95 mm", "asd_mm": "ASD mm", "nsd": "NSD"}
_WANTED = {"classes", "convention", "averaging", "per_case"}


@dataclass(frozen=True)
class Evaluation:
    """What `unet4d evaluate` wrote.

    Attributes:
        summary: of summary.json.
        rows: of metrics.csv, by case: one a labelled frame and class; empty where that is not there.
    """

    summary: Mapping[str, Any]
    rows: Mapping[str, list[dict[str, str]]]

    def of(self, case: str) -> dict[str, Any]:
        """What is said of a case, and under "classes" the means of each class over its frames; empty where it was not scored."""
        found = dict(self.summary["per_case"].get(case) or {})
        if case in self.rows:
            found["classes"] = _means(self.rows[case]) | (found.get("classes") or {})
        return found


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in a folder, or of a summary.json.

    Raises:
        InputError: there is none, or its metrics.csv cannot be read.
    """
    path = folder if folder.is_file() else folder / "summary.json"
    if not path.is_file():
        raise InputError(f"--evaluation: {path} is missing; wanted the --out folder of `unet4d evaluate`; give it")
    summary = read_json(path)
    if not isinstance(summary, dict) or not set(summary) >= _WANTED or not isinstance(summary["per_case"], dict):
        raise InputError(f"{path} is no summary of an evaluation; give the folder that `unet4d evaluate` wrote")
    return Evaluation(summary, _rows(path.with_name("metrics.csv")))


def _rows(path: Path) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    if not path.is_file():
        return rows
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["case"], []).append(row)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise InputError(f"{path} cannot be read as what `unet4d evaluate` wrote ({error}); evaluate again") from error
    return rows


def _means(rows: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Class name to the mean of each measure over the frames of one case, with n where fewer frames have it than were scored."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == name]
        found[name] = {"frames": len(own)}
        for column, words in _MEASURES.items():
            values = [float(row[column]) for row in own if row.get(column)]
            if column in own[0]:
                fewer = f" (n = {len(values)})" if len(values) < len(own) else ""
                found[name][words] = f"{sum(values) / len(values):.3g}{fewer}" if values else None
    return found


def of_all(summary: Mapping[str, Any]) -> list[str]:
    """The scores of every class over all studies, as HTML."""
    rows = []
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        rows.append([
            name, f"{shown(dice['mean'], 3)} ± {shown(dice['std'], 3)}", str(dice["n"]), shown(distance["mean"], 2),
            shown(distance["median"], 2), str(distance["n"]), shown(error["bias"], 2), shown(error["mean_absolute"], 2),
            str(entry["n_one_empty"]), str(entry["n_both_empty"]),
        ])  # fmt: skip
    head = ["class", "Dice, mean ± SD", "n", "HD95 mm, mean", "median", "n", "volume bias mL", "absolute mL"]
    scored = f"{summary['cases']} cases of {summary['subjects']} subjects, {summary['labelled_frames']} labelled frames"
    if left_out := summary.get("without_prediction"):
        scored += f" ({len(left_out)} references without prediction left out)"
    colours = [class_colour(entry["value"]) for entry in summary["classes"].values()]
    return [
        html.text("Against the reference", "h2"),
        html.text(f"{scored}; mean over classes of the mean Dice {shown(summary['mean_foreground_dice'], 3)}."),
        html.table([*head, "one empty", "both empty"], rows, colours),
        html.text(summary["convention"], kind="soft"),
        html.text(summary["averaging"], kind="soft"),
    ]


def of_case(scores: Mapping[str, Any]) -> list[str]:
    """The scores of one study: those of each class as a table, the others one a line; whatever the evaluation has of it."""
    classes = scores.get("classes")
    by_class = {name: dict(_figures(one)) for name, one in classes.items()} if isinstance(classes, dict) else {}
    columns = list(dict.fromkeys(column for one in by_class.values() for column in one))
    pieces = []
    if columns:
        rows = [[name, *(one.get(column, "-") for column in columns)] for name, one in by_class.items()]
        pieces.append(html.table(["class", *columns], rows))
    others = _figures({name: value for name, value in scores.items() if name != "classes"})
    return [*pieces, html.table([], [[name, value] for name, value in others], kind="facts")]


def dice_of(scores: Mapping[str, Any]) -> float | None:
    """Mean foreground Dice of a case, where there is one."""
    found = scores.get("mean_foreground_dice")
    return float(found) if isinstance(found, (int, float)) else None


def _figures(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Names and figures of nested objects: ("hd95 mm, mean", "3.21"); a class's label value is none."""
    if not isinstance(value, dict):
        yield above, _shown(value)
        return
    for name, one in value.items():
        words = str(name).replace("_", " ")
        if not (name == "value" and above == ""):
            yield from _figures(one, f"{above}, {words}" if above else words)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
