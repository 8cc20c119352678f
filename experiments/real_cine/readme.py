"""The README's results, from the recorded files: `python -m experiments.real_cine.readme` writes them anew.

A row is there as soon as its arm has results, so a new table of the benchmark changes the README with one command.
"""

from __future__ import annotations

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
    "nnunet_2d_cleaned": "... cleaned³",
    "nnunet_3d": "nnU-Net v2, 3D",
    "nnunet_3d_cleaned": "... cleaned³",
    "registration": "registration¹",
    "framewise": "unet4d², frame-wise",
    "framewise_cleaned": "... cleaned³",
    OWN: "unet4d²",
    OWN_CLEANED: "... cleaned³",
}
HEAD = (
    "",
    "CPU min",
    "Dice (95 % interval)",
    "RV/MYO/LV",
    "HD95, mm",
    "CPU s per study",
    "difference in Dice to unet4d",
)


def results_block() -> str:
    """Return the table on real cine and the sentences on recurrence, as markdown."""
    arms = read_json(RESULTS / "arms.json")
    patients = {arm["scores"]["dice"][ALL_CLASSES]["n"] for arm in arms["arms"].values()}
    notes = (
        f"Means of {' or '.join(map(str, sorted(patients)))} held-out patients, {_seeds(arms)}. "
        "¹ Moves the patient's other drawn label, unseen by the others. "
        "² Strong augmentation, frame-wise steps first, no full-resolution ConvLSTM. "
        "³ Largest components; unet4d: majority of three frames, too."
    )
    return f"{markdown_table(HEAD, _rows(arms))}\n\n{notes}\n\n{_recurrence(arms['tests'])}\n"


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return a row for each arm that has results."""
    found = [(name, shown, summary["arms"][name]) for name, shown in ARMS.items() if name in summary["arms"]]
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
    if not _is_shown(test):
        return "none shown"
    return f"{'lower' if test['difference'] > 0 else 'higher'}, p = {test['p_holm']:.3f}"


def _is_shown(test: dict[str, Any]) -> bool:
    """Return whether a planned test shows a difference."""
    return test["p_holm"] is not None and test["p_holm"] < 0.05


def _seeds(summary: dict[str, Any]) -> str:
    counts = {len({job["seed"] for job in arm["jobs"]}) for arm in summary["arms"].values()}
    return f"{' or '.join(map(str, sorted(counts)))} seed{'s' * (counts != {1})}"


def _recurrence(tests: list[dict[str, Any]]) -> str:
    """Return what is known of recurrence: on real cine, and on phantoms with frames that hide the heart."""
    results = RESULTS.parent
    [real] = [t for t in tests if (t["arm"], t["against"], t["of"]) == ("framewise", OWN, "dice")]
    [thin] = [r for r in read_json(results / "widths" / "summary.json")["rows"] if "default" in r["of the level"]]
    framewise = read_json(results / "recurrence" / "summary.json")["frame-wise twin"]["spoiled frames"]
    low, high = real["ci95"]
    return (
        f"Recurrence changed Dice by {real['difference']:+.3f} ({low:.3f} to {high:.3f}) here: "
        f"**{'a difference' if _is_shown(real) else 'no difference shown'}**. "
        f"On {framewise['n']} frames of phantoms that hide the heart: "
        f"**{thin['spoiled frames']:.2f} with, {framewise['dice']:.2f} without**."
    )


def with_results(text: str) -> str:
    """Return the text of the README with the results of today between its two marks."""
    return re.sub(f"(?<={BEGIN}).*?(?={END})", lambda _: results_block(), text, flags=re.DOTALL)


if __name__ == "__main__":
    write_text(README, with_results(README.read_text(encoding="utf-8")))
