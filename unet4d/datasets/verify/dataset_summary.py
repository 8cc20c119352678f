"""The summary of a dataset, written to fingerprint.json: medians and ranges of its studies' properties, and as lines to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unet4d.datasets.verify.study_properties import INTENSITY_PERCENTILES, StudyProperties
from unet4d.system.text import count


def dataset_summary(studies: Sequence[StudyProperties]) -> dict[str, Any]:
    """Return all studies and their summary."""
    return {"summary": summarize_studies(studies), "studies": [study.as_dict() for study in studies]}


def summarize_studies(studies: Sequence[StudyProperties]) -> dict[str, Any]:
    """Return median, minimum and maximum of every property; per axis (X, Y, Z) as on disk, per class over all labelled frames."""
    classes = list(dict.fromkeys(name for study in studies for name in study.volumes_ml))
    channels = list(dict.fromkeys(name for study in studies for name in study.intensities))
    intensities = {
        name: np.transpose([study.intensities[name] for study in studies if name in study.intensities]).tolist()
        for name in channels
    }
    return {
        "studies": len(studies),
        "subjects": len({study.subject for study in studies}),
        "frames": _spread([study.frames for study in studies]),
        "size": _spread([study.size for study in studies]),
        "spacing_mm": _spread([study.spacing_mm for study in studies]),
        "frame_duration_s": _spread([study.frame_duration_s for study in studies if study.frame_duration_s]),
        "labelled_frames": _spread([len(study.labelled_frames) for study in studies if study.labelled_frames]),
        "partial_frames": sum(len(study.partial_frames) for study in studies),
        "volumes_ml": {
            name: _spread([ml for study in studies for ml in study.whole_volumes_ml(name)]) for name in classes
        },
        "intensities": {
            name: {f"{p:g} %": _spread(values) for p, values in zip(INTENSITY_PERCENTILES, rows, strict=True)}
            for name, rows in intensities.items()
        },
    }


def describe_summary(summary: dict[str, Any]) -> list[str]:
    """Return a summary as lines; each number is a median, with the range in brackets where there is one."""
    if not summary["studies"]:
        return ["no study could be read"]
    duration, labelled = summary["frame_duration_s"], summary["labelled_frames"]
    rows = [
        ("studies", f"{summary['studies']} of {count(summary['subjects'], 'subject')}"),
        ("frames", _describe(summary["frames"])),
        ("size", _describe(summary["size"])),
        ("spacing", f"{_describe(summary['spacing_mm'])} mm"),
        ("frame duration", f"{_describe(duration)} s" if duration else "not known"),
        ("labelled frames", f"{_describe(labelled)} per study" if labelled else "none"),
        *([("partly drawn", count(summary["partial_frames"], "frame"))] if summary["partial_frames"] else []),
        *((name, f"{_describe(spread)} mL") for name, spread in summary["volumes_ml"].items() if spread),
    ]
    for name, percentiles in summary["intensities"].items():
        rows.append((name, ", ".join(f"{share}: {_describe(spread)}" for share, spread in percentiles.items())))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _spread(values: Sequence[Any]) -> dict[str, Any] | None:
    """Return median, minimum and maximum of numbers, or of each column of rows; None where there are none."""
    if not values:
        return None
    rows = np.array(values, dtype=np.float64)
    parts = {"median": np.median(rows, axis=0), "min": rows.min(axis=0), "max": rows.max(axis=0)}
    return {name: part.round(6).tolist() for name, part in parts.items()}


def _describe(spread: dict[str, Any]) -> str:
    """Return "30 (13 to 35)" or "1.5 (1.4 to 1.9) x 1.5 x 10"."""
    axes = [np.atleast_1d(spread[name]) for name in ("median", "min", "max")]
    return " x ".join(
        f"{middle:.4g}" + (f" ({least:.4g} to {most:.4g})" if least < most else "")
        for middle, least, most in zip(*axes, strict=True)
    )
