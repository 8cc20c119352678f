"""The README's results, from the recorded files: `python -m experiments.real_cine.readme` writes them anew.

A row is there as soon as its arm has results, so a new table of the benchmark changes the README with one command.
"""

from __future__ import annotations

import csv
import re
from typing import Any

from experiments.real_cine.protocol import CHECKOUT
from experiments.real_cine.table import ALL_CLASSES, RESULTS, markdown_table, mean_and_interval
from unet4d.system.files import read_json, write_text
from unet4d.system.text import format_number

README = CHECKOUT / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"
OWN = "clstm"
OWN_CLEANED = "clstm_cleaned"
ARMS = {
    "nnunet_2d": "nnU-Net v2, 2D",
    "nnunet_2d_cleaned": "the same, cleaned³",
    "nnunet_3d": "nnU-Net v2, 3D",
    "nnunet_3d_cleaned": "the same, cleaned³",
    "registration": "registration¹",
    "framewise": "unet4d², frame-wise",
    "framewise_cleaned": "the same, cleaned³",
    OWN: "unet4d²",
    OWN_CLEANED: "the same, cleaned³",
}
ABLATIONS = {"clstm": "unet4d", "combined": "unet4d²", "combined_majority": "the same, cleaned³"}
"""Arms at half of the budget, shown until the whole budget's are there."""
HEAD = ("", "CPU min", "Dice (95 % interval)", "RV/MYO/LV", "HD95, mm", "CPU s per study", "Dice against unet4d")


def results_block() -> str:
    """Return the table on real cine and the sentences on recurrence, as markdown."""
    arms, ablations = (read_json(RESULTS / f"{name}.json") for name in ("arms", "ablations"))
    rows = _rows(arms, ARMS)
    if OWN not in arms["arms"]:
        rows += _rows(ablations, ABLATIONS)
    patients = {arm["scores"]["dice"][ALL_CLASSES]["n"] for arm in (*arms["arms"].values(), ablations["arms"][OWN])}
    notes = (
        f"Means of {' or '.join(map(str, sorted(patients)))} held-out patients, {_seeds(arms, ablations)}. "
        "¹ Moves the patient's other drawn label, unseen by the others."
    )
    notes += (
        " ² Strong augmentation, frame-wise steps first, no full-resolution ConvLSTM. "
        "³ Largest components; unet4d: majority of three frames, too."
    )
    return f"{markdown_table(HEAD, rows)}\n\n{notes}\n\n{_recurrence()}\n"


def _rows(summary: dict[str, Any], names: dict[str, str]) -> list[list[str]]:
    """Return a row for each arm that has results."""
    found = [(name, shown, summary["arms"][name]) for name, shown in names.items() if name in summary["arms"]]
    return [
        [
            shown,
            format_number(arm["training_cpu_s"] and arm["training_cpu_s"] / 60, 0),
            mean_and_interval(arm["scores"]["dice"][ALL_CLASSES], 3),
            "/".join(format_number(s["mean"], 3) for c, s in arm["scores"]["dice"].items() if c != ALL_CLASSES),
            format_number(arm["scores"]["hd95_mm"][ALL_CLASSES]["mean"], 1),
            _prediction(arm),
            _verdict(summary["tests"], name),
        ]
        for name, shown, arm in found
    ]


def _prediction(arm: dict[str, Any]) -> str:
    """Return the CPU seconds a study, and those without mirroring where a program mirrors."""
    seconds, plain = (arm[f"{kind}_cpu_s_per_study"] for kind in ("prediction", "unmirrored"))
    return format_number(seconds, 1) + (f" ({plain:.1f} unmirrored)" if plain else "")


def _verdict(tests: list[dict[str, Any]], name: str) -> str:
    """Return what the planned test of an arm against unet4d showed in Dice; differences are unet4d's minus the arm's."""
    own = (OWN, OWN_CLEANED)
    if name in own:
        return ""
    [test] = [t for t in tests if t["arm"] == name and t["against"] in own and t["of"] == "dice"] or [None]
    if test is None:
        return "not tested yet"
    if test["p_holm"] is None or test["p_holm"] >= 0.05:
        return "no difference shown"
    return f"{'lower' if test['difference'] > 0 else 'higher'}, p = {test['p_holm']:.3f}"


def _seeds(*summaries: dict[str, Any]) -> str:
    counts = {len({job["seed"] for job in arm["jobs"]}) for summary in summaries for arm in summary["arms"].values()}
    return f"{' or '.join(map(str, sorted(counts)))} seed{'s' * (counts != {1})}"


def _recurrence() -> str:
    """Return what is known of recurrence: on real cine, and on phantoms with frames that hide the heart."""
    results = RESULTS.parent
    with open(results / "acdc14_paired" / "comparison.csv", encoding="utf-8") as file:
        real = next(row for row in csv.DictReader(file) if (row["metric"], row["class"]) == ("dice", ALL_CLASSES))
    [thin] = [r for r in read_json(results / "widths" / "summary.json")["rows"] if "default" in r["of the level"]]
    framewise = read_json(results / "recurrence" / "summary.json")["frame-wise twin"]["spoiled frames"]
    return (
        f"Recurrence on real cine, {real['n']} patients: Dice {float(real['mean_b']):.3f} with, {float(real['mean_a']):.3f} "
        f"without: **{real['verdict']}**. On {framewise['n']} frames of phantoms that hide the heart: "
        f"**{thin['spoiled frames']:.2f} with, {framewise['dice']:.2f} without**."
    )


def with_results(text: str) -> str:
    """Return the text of the README with the results of today between its two marks."""
    return re.sub(f"(?<={BEGIN}).*?(?={END})", lambda _: results_block(), text, flags=re.DOTALL)


if __name__ == "__main__":
    write_text(README, with_results(README.read_text(encoding="utf-8")))
