"""Settings, options and commands that were renamed or removed. To be deleted at 1.0, with the calls of `describe_renamed`."""

from __future__ import annotations

from collections.abc import Collection

RENAMED = {
    "tune": "postprocess",
    "--memory": "--max_memory",
    "--kind": "--layout",
    "--with_ids": "--keep_patient_ids",
    "memory": "recompute",
    "data.held_out": "data.val_subjects",
    "data.foreground": "data.foreground_fraction",
    "data.workers": "data.num_workers",
    "data.max_stride": "data.max_frame_stride",
    "data.plane_spacing_mm": "data.in_plane_spacing_mm",
    "data.normalisation": "data.normalization",
    "train.start_from": "train.init_from",
    "train.ema": "train.ema_decay",
    "train.accumulate": "train.accumulate_batches",
}
"""Old name to new name: of a command, an option (--name), a setting or a section of settings."""
REMOVED = {
    "train.growth": "leave it out",
    "recompute.lstm borders": "choose hidden, which keeps little more",
    "--kind": "the first argument of convert is the layout, and data/phantom/make.py makes flow and contrast phantoms",
}
"""Settings that are gone, also single values of them, and what to do instead; --kind: of the commands that have no --layout."""


def describe_renamed(name: str, known: Collection[str] = ()) -> str:
    """Return what to write in place of an old name, as the end of a message about it; empty for any other name.

    Args:
        name: of a command, an option (--name) or a setting.
        known: names that may be used here; a new name that is not among them is not suggested. Empty: any may.
    """
    dashes, setting = "--" * name.startswith("--"), name.removeprefix("--")
    section, dot, key = setting.partition(".")
    new = ""
    if name in RENAMED:
        new = RENAMED[name]
    elif setting in RENAMED:
        new = dashes + RENAMED[setting]
    elif dot and section in RENAMED:
        new = f"{dashes}{RENAMED[section]}.{key}"
    if new and (not known or new in known):
        return f", it is called {new} now"
    removed = REMOVED.get(name) or REMOVED.get(setting)
    return f", it was removed; {removed}" if removed else ""
