"""What an evaluation says: its summary read, shown for all studies and for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.report.pages import html
from unet4d.report.pictures.render import class_color
from unet4d.system.csv_file import read_table
from unet4d.system.files import read_json
from unet4d.system.text import count, format_number, short_repr

_MEASURES = {"dice": "Dice", "hd95_mm": "HD95 mm", "asd_mm": "ASD mm", "nsd": "NSD"}
_HEART = {"edv_ml": "EDV mL", "esv_ml": "ESV mL", "sv_ml": "SV mL", "ef_percent": "EF %", "mass_g": "mass g"}
_TEMPORAL = {
    "roughness": ("roughness", 4),
    "frame_to_frame_dice": ("frame-to-frame Dice", 3),
    "frame_to_frame_excess": ("beyond the reference's", 3),
    "flicker_components": ("flicker", 1),
    "closure": ("closure", 3),
}
_WANTED = {"classes", "convention", "averaging", "per_case"}
_AGAIN = "run unet4d evaluate again"


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
    table = path.with_name("metrics.csv")
    rows = _rows(table, summary) if table.exists() else {}
    if not rows:
        summary["note"] = f"{table.name} is missing beside {path.name}: the pages show no scores of single classes."
    evaluation = Evaluation(summary, rows)
    try:
        of_all(summary)
        for case in summary["per_case"]:
            of_case(evaluation.of(case))
            dice_of(evaluation.of(case))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged or of another version ({error!r}); {_AGAIN}") from error
    return evaluation


def _rows(path: Path, summary: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of metrics.csv by case. Raises InputError where it holds fewer or more than the summary was made of."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_table(path, ("case", "frame", "class", "dice"), _AGAIN):
        rows.setdefault(row["case"], []).append(row)
        for column in _MEASURES:
            _check_number(row.get(column, ""), f"{path}: {column} of case {row['case']}")
    came, expected = sum(map(len, rows.values())), _expected_rows(summary)
    if expected not in (None, came):
        raise InputError(
            f"{path} has {count(came, 'row')}, expected {expected}, as summary.json counts; the file was truncated or changed; "
            f"{_AGAIN}"
        )
    others = sorted(set(summary["per_case"]) ^ set(rows))
    if others:
        raise InputError(f"{path} and summary.json are not of the same cases: {short_repr(others[0])}; {_AGAIN}")
    return rows


def _expected_rows(summary: Mapping[str, Any]) -> int | None:
    """Return one row for each labelled frame and class; None where the summary does not count them."""
    frames, classes = summary.get("labelled_frames"), summary["classes"]
    return frames * len(classes) if type(frames) is int and isinstance(classes, dict) else None


def _check_number(text: str, where: str) -> None:
    try:
        float(text or 0)
    except ValueError as error:
        raise InputError(f"{where} is {short_repr(text)}; expected a number; {_AGAIN}") from error


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
    """The scores of every class over all studies, as HTML; a heart's measures and what happens over time, where they are told."""
    classes = summary["classes"]
    colours = [class_color(entry["value"]) for entry in classes.values()]
    head = ["class", "Dice, mean ± SD", "n", "95 % CI", "HD95 mm, mean", "median", "n", "volume bias mL", "absolute mL"]
    head += ["one empty", "both empty"]
    words = [*head, "mean foreground Dice"]
    who = f"{count(summary['cases'], 'case')} of {count(summary['subjects'], 'subject')}"
    scored = f"{who}, {count(summary['labelled_frames'], 'labelled frame')}"
    if left_out := summary.get("without_prediction"):
        scored += f" ({len(left_out)} references without prediction left out)"
    pieces = [
        html.text("Against the reference", "h2"),
        html.text(f"{scored}; mean over classes of the mean Dice {format_number(summary['mean_foreground_dice'], 3)}."),
        html.table(head, list(starmap(_class_row, classes.items())), colours),
    ]
    if heart := _heart_rows(summary.get("heart") or {}):
        head = ["at the reference's frames", "n", "reference", "prediction", "bias", "95 % limits", "mean error"]
        pieces.append(html.table(head, heart))
        words += [*head, "EDV mL", "ESV mL", "SV mL", "EF %", "mass g"]
    over_time = {name: entry["temporal"] for name, entry in classes.items() if entry.get("temporal")}
    if over_time:
        rows = [
            [name, *(format_number(of[key]["mean"], d) for key, (_, d) in _TEMPORAL.items())]
            for name, of in over_time.items()
        ]
        head = ["mean over cases", *(column for column, _ in _TEMPORAL.values())]
        pieces.append(html.table(head, rows))
        words += head
    pieces.append(html.explained(words))
    told = [summary[key] for key in ("note", "convention", "averaging", "intervals") if summary.get(key)]
    return [*pieces, *(html.text(words, kind="soft") for words in told)]


def _class_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
    interval = (entry.get("ci95") or {}).get("dice")
    return [
        name, f"{format_number(dice['mean'], 3)} ± {format_number(dice['std'], 3)}", str(dice["n"]), _range(interval, 3),
        format_number(distance["mean"], 2), format_number(distance["median"], 2), str(distance["n"]),
        format_number(error["bias"], 2), format_number(error["mean_absolute"], 2),
        str(entry["n_one_empty"]), str(entry["n_both_empty"]),
    ]  # fmt: skip


def _heart_rows(heart: Mapping[str, Any]) -> list[list[str]]:
    """A row a class and measure: Bland-Altman bias and limits, and how many pairs are in them."""
    rows = []
    for name, entry in heart.items():
        for key, found in entry["at_reference_frames"].items():
            limits = None if found["lower"] is None else [found["lower"], found["upper"]]
            undefined = f" ({found['n_undefined']} undefined)" if found["n_undefined"] else ""
            rows.append([
                f"{name}: {_HEART.get(key, key)}", f"{found['n']}{undefined}", format_number(found["reference"], 1),
                format_number(found["prediction"], 1), format_number(found["bias"], 2), _range(limits, 2),
                format_number(found["mean_absolute"], 2),
            ])  # fmt: skip
    return rows


def _range(found: Sequence[float] | None, digits: int) -> str:
    return "-" if found is None else f"{found[0]:.{digits}f} to {found[1]:.{digits}f}"


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
    words = html.explained(["class", *columns, "reference", "prediction", "mean foreground Dice"])
    return [*pieces, html.table([], [[name, value] for name, value in others], kind="facts"), words]


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
