"""What the volume curves of a study say, as tables: of every class its extremes, of cavities their ejection, of muscle its mass."""

from __future__ import annotations

from collections.abc import Iterator

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import CurveMeasures, curve_measures
from unet4d.report.pages import html
from unet4d.report.pages.study import Segmented
from unet4d.report.pictures.render import class_color
from unet4d.system.text import format_number


def measured(study: Segmented) -> dict[str, CurveMeasures]:
    """Class name to what its curve says."""
    seconds, cyclic = study.image.frame_duration_s, bool(study.cyclic)
    return {name: curve_measures(curve, seconds, cyclic) for name, curve in study.curves_ml.items()}


def tables(study: Segmented) -> Iterator[str]:
    """The tables of measures, as HTML."""
    found = measured(study)
    cavities = (
        [name for name in study.classes if is_cavity(name) and found[name].edv_ml] if study.image.frames > 1 else []
    )
    words: list[str] = []
    if cavities:
        head = ["cavity", "EDV mL", "ESV mL", "SV mL", "EF %", "filling mL/s", "at ES + s"]
        words += head
        yield html.table(head, [_ejection(name, found[name]) for name in cavities], _colours(study, cavities))
    muscles = [name for name in study.classes if is_myocardium(name) and found[name].edv_ml]
    if muscles:
        head = ["myocardium", "mass g", "volume mL", "at"]
        words += head
        yield html.table(head, [_mass_row(study, name) for name in muscles], _colours(study, muscles))
    rows = []
    for name, one in found.items():
        change = f"{100 * one.sv_ml / one.edv_ml:.0f} %" if one.edv_ml else "-"
        rows.append([name, _ml(one.edv_ml), str(one.ed_frame), _ml(one.esv_ml), str(one.es_frame), change])
    head = ["class", "largest mL", "in frame", "smallest mL", "in frame", "change"]
    yield html.table(head, rows, _colours(study, list(found)))
    yield html.text("Volumes are voxels counted, times their volume; frames count from 0.", kind="soft")
    yield html.explained([*words, *head, *(["ED", "ES"] if cavities or muscles else [])])


def in_short(study: Segmented) -> list[tuple[str, str]]:
    """The measures of a study for a list of many: (class name, what is to be said of it)."""
    found, said = measured(study), []
    for name, one in found.items():
        if not one.edv_ml:
            said.append((name, "nothing found"))
        elif is_cavity(name) and study.image.frames > 1:
            said.append(
                (
                    name,
                    f"EDV {_short(one.edv_ml)}, ESV {_short(one.esv_ml)} mL, EF {format_number(one.ef_percent, 0)} %",
                )
            )
        elif is_myocardium(name):
            said.append((name, f"{_short(_muscle(study, name)[1])} g"))
        else:
            spread = f" to {_short(one.edv_ml)}" if one.sv_ml else ""
            said.append((name, f"{_short(one.esv_ml)}{spread} mL"))
    return said


def _ejection(name: str, one: CurveMeasures) -> list[str]:
    return [
        name,
        _ml(one.edv_ml),
        _ml(one.esv_ml),
        _ml(one.sv_ml),
        format_number(one.ef_percent, 1),
        "-" if one.peak_filling_ml_per_s is None else _ml(one.peak_filling_ml_per_s),
        format_number(one.time_to_peak_filling_s, 2),
    ]


def _muscle(study: Segmented, name: str) -> tuple[float, float, str]:
    """Volume in mL, mass in g, and when: at end-diastole of its ventricle; without one the mean, as in `evaluate`."""
    cavity, curve = cavity_within(name, list(study.classes)), study.curves_ml[name]
    if cavity is None:
        volume, when = float(curve.mean()), "mean over all frames"
    else:
        frame = int(study.curves_ml[cavity].argmax())
        volume, when = float(curve[frame]), f"ED of {cavity}, frame {frame}"
    return volume, volume * MYOCARDIAL_DENSITY_G_PER_ML, when


def _mass_row(study: Segmented, name: str) -> list[str]:
    volume, mass, when = _muscle(study, name)
    return [name, _ml(mass), _ml(volume), when]


def _ml(volume: float) -> str:
    """A tenth of a mL, whole ones of thousands; of the hearts of mice three digits."""
    return f"{volume:.0f}" if volume >= 1000 else f"{volume:.1f}" if volume >= 10 or volume == 0 else f"{volume:.3g}"


def _short(volume: float) -> str:
    return f"{volume:.0f}" if volume >= 10 else f"{volume:.3g}"


def _colours(study: Segmented, names: list[str]) -> list[str]:
    return [class_color(study.classes[name]) for name in names]
