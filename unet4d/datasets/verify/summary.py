"""What studies have in common: medians and ranges of their facts, fit for JSON and for reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unet4d.datasets.verify.study_properties import INTENSITY_PERCENTILES, StudyProperties


def make_fingerprint(studies: Sequence[StudyProperties]) -> dict[str, Any]:
    """All studies and what they have in common."""
    return {"summary": summarize_studies(studies), "studies": [study.as_dict() for study in studies]}


def summarize_studies(studies: Sequence[StudyProperties]) -> dict[str, Any]:
    """Median, least and most of every fact; per axis (X, Y, Z) as on disk, per class over all labelled frames."""
    classes = list(dict.fromkeys(name for study in studies for name in study.volumes_ml))
    channels = list(dict.fromkeys(name for study in studies for name in study.intensities))
    durations = [study.frame_duration_s for study in studies if study.frame_duration_s]
    return {
        "studies": len(studies),
        "subjects": len({study.subject for study in studies}),
        "frames": _spread([study.frames for study in studies]),
        "size": _spread([study.size for study in studies]),
        "spacing_mm": _spread([study.spacing_mm for study in studies]),
        "frame_duration_s": _spread(durations),
        "labelled_frames": _spread([len(study.labelled_frames) for study in studies if study.labelled_frames]),
        "volumes_ml": {
            name: _spread([ml for study in studies for ml in study.volumes_ml.get(name, ())]) for name in classes
        },
        "intensities": {
            name: {
                f"{percentile:g} %": _spread([one.intensities[name][i] for one in studies if name in one.intensities])
                for i, percentile in enumerate(INTENSITY_PERCENTILES)
            }
            for name in channels
        },
    }


def describe_summary(told: dict[str, Any]) -> list[str]:
    """A summary as lines; each number is a median, with the range in brackets where there is one."""
    if not told["studies"]:
        return ["no study could be read"]
    rows = [
        ("studies", f"{told['studies']} of {told['subjects']} subject{'s' * (told['subjects'] > 1)}"),
        ("frames", _words(told["frames"])),
        ("size", _words(told["size"])),
        ("spacing", f"{_words(told['spacing_mm'])} mm"),
        ("frame duration", f"{_words(told['frame_duration_s'])} s" if told["frame_duration_s"] else "not known"),
        ("labelled frames", f"{_words(told['labelled_frames'])} a study" if told["labelled_frames"] else "none"),
        *((name, f"{_words(spread)} mL") for name, spread in told["volumes_ml"].items() if spread),
    ]
    for name, percentiles in told["intensities"].items():
        rows.append((name, ", ".join(f"{share}: {_words(spread)}" for share, spread in percentiles.items())))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {words}" for name, words in rows]


def _spread(values: Sequence[Any]) -> dict[str, Any] | None:
    """Median, least and most of numbers, or of each place in rows of them; None of none."""
    if not values:
        return None
    rows = np.array(values, dtype=np.float64)
    parts = {"median": np.median(rows, axis=0), "min": rows.min(axis=0), "max": rows.max(axis=0)}
    return {name: part.round(6).tolist() for name, part in parts.items()}


def _words(spread: dict[str, Any]) -> str:
    """ "30 (13 to 35)", "1.5 (1.4 to 1.9) x 1.5 x 10"."""
    axes = [np.atleast_1d(spread[name]) for name in ("median", "min", "max")]
    return " x ".join(
        f"{middle:.4g}" + (f" ({least:.4g} to {most:.4g})" if least < most else "")
        for middle, least, most in zip(*axes, strict=True)
    )
