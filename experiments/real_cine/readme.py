"""The README's results, from the recorded files: `python -m experiments.real_cine.readme` writes them anew.

A row is there as soon as its arm has results, so a new table of the benchmark changes the README with one command.
"""

from __future__ import annotations

import re
from typing import Any

from experiments.real_cine.protocol import CHECKOUT
from experiments.real_cine.scores import RESULTS
from experiments.real_cine.table import ALL_CLASSES, markdown_table
from unet4d.system.files import read_json, write_text
from unet4d.system.text import format_number

README = CHECKOUT / "README.md"
SECOND_SEED = RESULTS / "second_seed" / "arms.json"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"
OWN = "clstm"
OWN_CLEANED = "clstm_smoothed_cleaned"
ARMS = {
    "nnunet_2d": "nnU-Net v2, 2D",
    "nnunet_2d_cleaned": "... cleaned³",
    "nnunet_3d": "nnU-Net v2, 3D",
    "nnunet_3d_cleaned": "... cleaned³",
    "registration": "registration¹",
    "framewise": "unet4d², frame-wise",
    "framewise_smoothed_cleaned": "... cleaned³",
    OWN: "unet4d²",
    OWN_CLEANED: "... cleaned³",
}
HEAD = (
    "",
    "Dice",
    "RV/MYO/LV",
    "HD95, mm",
    "roughness",
    "CPU s per study",
    "Dice minus unet4d's (95 % interval)",
)


def results_block() -> str:
    """Return the table on real cine and the sentences on recurrence, as markdown."""
    arms = read_json(RESULTS / "arms.json")
    rows = _rows(arms)
    patients = {arm["scores"]["dice"][ALL_CLASSES]["n"] for arm in arms["arms"].values()}
    notes = (
        f"Means of {' or '.join(map(str, sorted(patients)))} held-out patients, {_seeds(arms)}, "
        f"{_minutes(arms)} CPU minutes each. "
        "¹ Of the patient's other drawn label. "
        "² CPU defaults, patches of 80 x 80 x 8; chosen with these patients in sight. "
        "³ Largest components; unet4d: smoothing over time (`predict`'s default) and the majority of three frames, too. "
        f"Significant by Holm: {'those in bold' if any('**' in row[-1] for row in rows) else 'none'}."
    )
    table = re.sub(r" *\| *", "|", markdown_table(HEAD, rows))
    return f"{table}\n\n{notes}\n\n{_recurrence(arms['tests'])}\n"


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    """Return a row for each arm that has results."""
    found = [(name, shown, summary["arms"][name]) for name, shown in ARMS.items() if name in summary["arms"]]
    return [
        [
            shown,
            format_number(arm["scores"]["dice"][ALL_CLASSES]["mean"], 3),
            "/".join(format_number(s["mean"], 3) for c, s in arm["scores"]["dice"].items() if c != ALL_CLASSES),
            format_number(arm["scores"]["hd95_mm"][ALL_CLASSES]["mean"], 1),
            _roughness(arm),
            _prediction(arm),
            _difference(summary["tests"], name),
        ]
        for name, shown, arm in found
    ]


def _roughness(arm: dict[str, Any]) -> str:
    """Return the roughness of the volume curves; "-" where only labelled frames were predicted."""
    return format_number(arm["scores"].get("roughness", {}).get(ALL_CLASSES, {}).get("mean"), 4)


def _prediction(arm: dict[str, Any]) -> str:
    """Return the CPU seconds a study, and those without mirroring where a program mirrors."""
    seconds, plain = (arm[f"{kind}_cpu_s_per_study"] for kind in ("prediction", "unmirrored"))
    return format_number(seconds, 1) + (f" ({plain:.1f} unmirrored)" if plain else "")


def _difference(tests: list[dict[str, Any]], name: str) -> str:
    """Return an arm's Dice minus that of unet4d, with its interval; bold where the planned test shows a difference."""
    own = (OWN, OWN_CLEANED)
    [test] = [t for t in tests if t["arm"] == name not in own and t["against"] in own and t["of"] == "dice"] or [None]
    if test is None:
        return "" if name in own else "not tested yet"
    low, high = test["ci95"]
    text = f"{-test['difference']:+.3f} ({-high:.3f} to {-low:.3f})"
    return f"**{text}**" if _is_shown(test) else text


def _is_shown(test: dict[str, Any]) -> bool:
    """Return whether a planned test shows a difference."""
    return test["p_holm"] is not None and test["p_holm"] < 0.05


def verdict(test: dict[str, Any]) -> str:
    """Describe what a planned test showed; a hint has an interval without 0, which its corrected p does not bear out."""
    low, high = test["ci95"]
    return "a difference" if _is_shown(test) else "a hint" if low * high > 0 else "no difference shown"


def _minutes(summary: dict[str, Any]) -> str:
    found = {format_number(arm["training_cpu_s"] / 60, 0) for arm in summary["arms"].values() if arm["training_cpu_s"]}
    return " or ".join(sorted(found))


def _seeds(summary: dict[str, Any]) -> str:
    counts = {len({job["seed"] for job in arm["jobs"]}) for arm in summary["arms"].values()}
    return f"{' or '.join(map(str, sorted(counts)))} seed{'s' * (counts != {1})}"


def _recurrence(tests: list[dict[str, Any]]) -> str:
    """Return what is known of recurrence, and of smoothing over time: on frames as they are, and on spoiled ones."""
    spoiled = read_json(RESULTS / "spoiled.json")
    found = {"here": _only(tests, "framewise", "clstm", "dice")}
    found["with a second seed"] = _only(read_json(SECOND_SEED)["tests"], "framewise", "clstm", "dice")
    found["on spoiled frames, both smoothed"] = _only(
        spoiled["tests"], "framewise_smoothed", "clstm_smoothed", "spoiled frames"
    )
    changes = [
        f"{test['difference']:+.3f} {where} ({test['ci95'][0]:.3f} to {test['ci95'][1]:.3f}): **{verdict(test)}**"
        for where, test in found.items()
    ]
    before, after = (
        format_number(spoiled["arms"][arm]["spoiled frames"]["mean"], 2) for arm in ("framewise", "framewise_smoothed")
    )
    return (
        f"Recurrence changed Dice by {'; '.join(changes)}. "
        f"Smoothing alone raised spoiled frames from {before} to **{after}**."
    )


def _only(tests: list[dict[str, Any]], arm: str, against: str, quantity: str) -> dict[str, Any]:
    """Return the planned test of an arm."""
    [test] = [t for t in tests if (t["arm"], t["against"], t["of"]) == (arm, against, quantity)]
    return test


def with_results(text: str) -> str:
    """Return the text of the README with the results of today between its two marks."""
    return re.sub(f"(?<={BEGIN}).*?(?={END})", lambda _: results_block(), text, flags=re.DOTALL)


if __name__ == "__main__":
    write_text(README, with_results(README.read_text(encoding="utf-8")))
