"""Writes augmentation.md, from the tables the code draws from, and its contact sheet: `python docs/drawing/augmentation.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from contact_sheet import contact_sheet
from PIL import Image

from unet4d.pipeline.augmentation.presets import (
    ARTIFACT_PRESETS,
    INTENSITY_PRESETS,
    SPACE_PRESETS,
    TIME_PRESETS,
    ArtifactPreset,
    IntensityPreset,
    RandomRange,
    SpacePreset,
    TimePreset,
)
from unet4d.system.files import replacing, write_text

DOCS = Path(__file__).parents[1]
BEFORE = """\
# Augmentation

Training clips are varied at random, so that the network learns more than the studies it was given. \
This page lists what is varied, and how far.

| setting | for |
|---|---|
| `data.augmentation` (off, mild, strong) | space and intensity |
| `data.flip_axes` | mirroring |
| `data.time_augmentation` (off, mild, strong) | time, and single frames that went wrong |
| `data.artifacts` | a given share of all frames that went severely wrong, in place of the single frames of the row above |

- All parameters of a clip are drawn first, from the run's seed and the clip's number. Deterministic functions then
  apply them, each of which can be called alone (`unet4d/pipeline/augmentation/`, `unet4d/pipeline/clip_frames.py`).
- One warp holds for all frames of a clip and its labels, one contrast for all frames. Two equal frames stay equal
  under all but noise. Thick slices are shifted against each other, each alike in all frames.
- A label's voxel gets the class with the largest linear share, so that borders stay as smooth as they were.
- What a frame loses when it goes wrong, its neighbors still show, and its label stays: this is what recurrence is
  for.

This page and its picture are written by `python docs/drawing/augmentation.py`; a test holds the page to the code. "20
%: 0.3 to 1" reads: in 20 % of the clips, a number drawn evenly from that range. Intensities are in standard
deviations of the study.

![Every augmentation at its strong setting on a phantom, a row per effect, the unchanged image first](../pictures/augmentation.webp)
"""
AFTER = """\
## Kinds of channels

`channel_kinds` of dataset.json names each channel's kind.

- A **signal** goes through all of this.
- A **map** is one image for all frames and has a unit. It is moved, loses resolution and gets noise, the same in all
  frames. It is never corrupted.
- A **velocity** is a component of a vector and has a unit and a sign. It is moved, loses resolution, gets Gaussian
  noise and takes part in mistriggered lines and noise bursts. It gets no contrast, gamma, brightness, shading,
  dropout or ghost.

Mirroring an axis negates the velocity along it and no other. Turning a patch turns the vectors with it, by the same
matrix; scaling leaves them as they are. A plane with one of its two velocities alone is never turned, because the
other would be needed.

## Order

Space, then single frames, then shading, noise, blur, low resolution, contrast and brightness, gamma. With thick
slices, patches are turned, scaled, blurred and coarsened in their plane only. Of a study the box around the warped
patch is read, and no more.

## Beside nnU-Net

Strong reaches at least as far as the default set of nnU-Net v2, and as often or more:

| effect | strong | nnU-Net v2 |
|---|---|---|
| rotation, in the plane of thick slices | any angle in 20 %, else up to 30° | any angle in 20 % |
| size | 0.63 to 1.43 in 80 % | 0.7 to 1.4 in 20 % |
| noise | to 0.3 in 30 % | to 0.1 in 10 % |
| blur, voxels | to 1.5 in 20 % | to 1 in 20 % |
| resolution | down to a half in 25 % | down to a half in 25 % |
| contrast, brightness | 50 % each | 0.75 to 1.25 in 15 % each |
| gamma | 0.6 to 1.8 in 40 %, a quarter of them inverted | 0.7 to 1.5 in 30 %, inverted in 10 % |

nnU-Net warps each frame as an image of its own, and mirrors by default. Here one warp holds for a clip, and
`data.flip_axes` lists the axes that may be mirrored.

## Sources

- nnU-Net, with the default set that this one follows: Isensee et al., Nat Methods 18:203, 2021.
- Rician noise: Gudbjartsson & Patz, Magn Reson Med 34:910, 1995.
- Slices that lie elsewhere, from one breath-hold to the next: Chandler et al., J Cardiovasc Magn Reson 10:13, 2008.
- Coil shading: Van Leemput et al., IEEE Trans Med Imaging 18:885, 1999.
- Lines of k-space exchanged between the frames of a cine: Oksuz et al., Med Image Anal 55:136, 2019.
"""


class Row(NamedTuple):
    """A line of a table."""

    effect: str
    strength: str
    why: str


Strength = TypeVar("Strength")


def page() -> str:
    """The text of augmentation.md."""
    tables = (
        _table("Space", SPACE_PRESETS, _space),
        _table("Intensity", INTENSITY_PRESETS, _intensity),
        _table("Time", TIME_PRESETS, _time),
        _table("Single frames", ARTIFACT_PRESETS, _corruption, ("mild", "strong", "severe")),
    )
    return "\n".join((BEFORE, *tables, AFTER))


def _table(
    title: str,
    strengths: Mapping[str, Strength],
    rows: Callable[[Strength], list[Row]],
    names: Sequence[str] = ("mild", "strong"),
) -> str:
    lines = [f"## {title}", "", f"| effect | {' | '.join(names)} | why |", "|---|" + "---|" * len(names) + "---|"]
    columns = (rows(strengths[name]) for name in names)
    lines += [
        f"| {same[0].effect} | {' | '.join(row.strength for row in same)} | {same[0].why} |"
        for same in zip(*columns, strict=True)
    ]
    return "\n".join([*lines, ""])


def _share(value: float) -> str:
    return f"{100 * value:g} %"


def _range(chance: RandomRange, of: str = "") -> str:
    return f"{_share(chance.probability)}{of}: {chance.low:g} to {chance.high:g}"


def _space(by: SpacePreset) -> list[Row]:
    often = f"{_share(by.probability)}: up to "
    return [
        Row(
            "rotation",
            f"{often}{by.rotation_deg:g}°",
            "how the heart lies in the chest, how the scan was planned; comes together with scaling, stretch and shift",
        ),
        Row(
            "rotation by any angle",
            _share(by.probability * by.any_angle) if by.any_angle else "never",
            "in the plane of thick slices; no network may rely on how the scan was planned (nnU-Net)",
        ),
        Row(
            "scaling",
            f"{often}{_share(by.zoom)}",
            "large and small bodies; one factor for all axes, so that a round ventricle stays round",
        ),
        Row("stretch of each axis on top", f"{often}{_share(by.stretch)}", "anatomy a little longer or wider"),
        Row("shift along X and Y", f"{often}{_share(by.shift)} of the patch", "what the middle of a patch shows"),
        Row(
            "shift of each slice, deviation in voxels; at most twice that",
            f"{_share(by.probability * by.slice_shift.probability)}: {by.slice_shift.low:g} to {by.slice_shift.high:g}",
            "thick slices are often measured in a breath-hold each, and the heart lies elsewhere in each (Chandler et al. 2008)",
        ),
        Row(
            "mirroring of each of `data.flip_axes`",
            _share(by.flip),
            "anatomy that looks alike both ways; no axis by default, for organs have a left and a right",
        ),
    ]


def _intensity(by: IntensityPreset) -> list[Row]:
    return [
        Row(
            "coil shading, coefficients",
            _range(by.shading),
            "receiver coils lie to one side; the logarithm of the factor is a polynomial of degree 2 (Van Leemput et al. 1999)",
        ),
        Row(
            "Rician noise",
            _range(by.noise),
            "noise of a magnitude lifts the dark (Gudbjartsson & Patz 1995); anew in each frame. Gaussian for velocities and maps",
        ),
        Row("Gaussian blur, sigma in voxels", _range(by.blur), "reconstruction filters, motion within a frame"),
        Row("low resolution, share that is left", _range(by.coarseness), "coarser matrices"),
        Row("contrast, factor", _range(by.contrast), "other sequences, field strengths, flip angles"),
        Row("brightness, shift", _range(by.brightness), "another share of bright and dark tissue in the study"),
        Row(
            f"gamma; {_share(by.inverted)} of them inverted",
            _range(by.gamma),
            "contrast that changes in the dark and not in the bright, or inverted; keeps mean and deviation (nnU-Net)",
        ),
    ]


def _time(by: TimePreset) -> list[Row]:
    return [
        Row(
            "speed, factor",
            f"{_share(by.vary)}: {by.slowest:g} to {by.fastest:g}",
            "heart rates and frame rates; drawn for the first and the last step, geometric in between",
        ),
        Row("a frame dropped", _share(by.drop), "frames lost in reconstruction or export"),
        Row("a frame repeated", _share(by.repeat), "frames filled in from their neighbors"),
        Row(
            "reversal",
            "half of the clips" if by.both_ways else "never",
            "no heart beats backwards, but every frame keeps its neighbors",
        ),
        Row("stride", "1 to `data.max_frame_stride`", "more time in as few frames; also without augmentation"),
    ]


def _corruption(by: ArtifactPreset) -> list[Row]:
    of = " of these"
    return [
        Row(
            "clips with such frames, how many",
            "`data.artifacts` of all frames"
            if by is ARTIFACT_PRESETS["severe"]
            else f"{_share(by.probability)}: {f'1 to {by.most}' if by.most > 1 else by.most}",
            "never two neighbors, at most half of a clip; without mistriggering, where time is open, a third for each other kind",
        ),
        Row(
            f"dropout, share of the signal; {_share(by.local)} in a region",
            _range(by.dropout, of),
            "spoiled magnetization, dark bands",
        ),
        Row(
            "ghosting, brightness of two ghosts",
            _range(by.ghosting, of),
            "pulse or breath modulates the lines of k-space: copies along the phase-encode axis, X or Y",
        ),
        Row(
            "mistriggered, share of k-space's lines",
            _range(by.mistriggered, of),
            "a gated frame comes from several beats, and lines of the frame before or after got into it (Oksuz et al. 2019); "
            "only where time is cyclic",
        ),
        Row("noise burst", _range(by.noise, of), "interference while one frame was measured"),
    ]


def main() -> None:
    """Write both files."""
    write_text(DOCS / "explanation" / "augmentation.md", page())
    with replacing(DOCS / "pictures" / "augmentation.webp") as temporary:
        Image.fromarray(contact_sheet()).save(temporary, format="webp", quality=40, method=6)


if __name__ == "__main__":
    main()
