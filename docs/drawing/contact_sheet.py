"""Every augmentation at its strong setting, drawn from the phantom: a row an effect, unvaried first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from unet4d.images.channels import SIGNAL
from unet4d.phantom import make_cine
from unet4d.pipeline.augmentation.artifacts import Ghosting, SignalDropout, add_ghosts, lose_signal, mix_lines
from unet4d.pipeline.augmentation.intensity import (
    DEGREES,
    ContrastParams,
    add_noise,
    blur,
    change_contrast,
    lower_resolution,
    shade,
)
from unet4d.pipeline.augmentation.presets import ARTIFACT_PRESETS, INTENSITY_PRESETS, SPACE_PRESETS, TIME_PRESETS
from unet4d.pipeline.augmentation.spatial import (
    SpatialWarp,
    apply_warp,
    center_crop,
    flip_clip,
    rotate_velocities,
    warp_label,
)
from unet4d.pipeline.clip_frames import TemporalWarp, clip_frames
from unet4d.pipeline.normalization import normalize
from unet4d.report.pictures.render import class_color, new_figure, render_figure

FRAMES, READ, PATCH, SLICE = 12, (136, 136, 7), (96, 96, 7), 3
HURT = 2
"""The frame that goes wrong, in the middle of the heart's contraction."""
TILE, TEXT, GAP = 0.98, 1.35, 0.2
"""Inches: a picture, the words before its row, the space beneath its caption."""
SPACE_BY, INTENSITY_BY, CORRUPTION_BY = SPACE_PRESETS["strong"], INTENSITY_PRESETS["strong"], ARTIFACT_PRESETS["strong"]


class Tile(NamedTuple):
    """A picture: a slice (X, Y), with the contours of a label (X, Y) or with arrows (2, X, Y) where there are any."""

    caption: str
    image: Tensor
    label: Tensor | None = None
    arrows: Tensor | None = None


class Row(NamedTuple):
    """An effect."""

    title: str
    tiles: list[Tile]


def contact_sheet() -> np.ndarray:
    """The picture, (H, W, 3) uint8: space and intensity on the left, time, single frames and velocities on the right."""
    study = make_cine(8, FRAMES, shape=READ)
    image = torch.from_numpy(normalize(study.image[None], "zscore")[0])
    label = torch.from_numpy(study.label)
    patch = center_crop(image, PATCH)
    left = [*_space(image, label), *_intensity(patch)]
    right = [*_time(patch), *_corruption(patch), *_velocity(image, label)]
    return _drawn([left, right])


def _space(image: Tensor, label: Tensor) -> Iterator[Row]:
    by, far = SPACE_BY, SPACE_BY.shift * PATCH[0]

    def tile(caption: str, warp: SpatialWarp, flips: Sequence[int] = ()) -> Tile:
        moved = apply_warp(image[:1], warp, PATCH), warp_label(label[:1], warp, PATCH)
        picture, outline = (flip_clip(one, flips)[0, ..., SLICE] for one in moved)
        return Tile(caption, picture, outline)

    def turned(degrees: float) -> Tile:
        return tile(f"{degrees:+.0f}°", SpatialWarp(angles=(0, 0, math.radians(degrees))))

    def scaled(x: float, y: float) -> Tile:
        return tile(f"x {1 / (1 + x):.2f}, {1 / (1 + y):.2f}", SpatialWarp(scale=(1 + x, 1 + y, 1)))

    def shifted(voxels: float) -> Tile:
        return tile(f"{-voxels / PATCH[0]:+.0%}", SpatialWarp(shift=(voxels, voxels, 0)))

    def upright(caption: str, x: Sequence[float]) -> Tile:
        warp = SpatialWarp(slice_shifts=tuple((shift, 0.0) for shift in x))
        moved = apply_warp(image[:1], warp, PATCH), warp_label(label[:1], warp, PATCH)
        tall = PATCH[0] // PATCH[2]  # pixels of a slice, so that the tile is a square
        return Tile(caption, *(one[0, :, PATCH[1] // 2].repeat_interleave(tall, dim=-1) for one in moved))

    original = tile("original", SpatialWarp())
    together = SpatialWarp((0, 0, math.radians(by.rotation_deg) / 2), (0.85, 0.9, 1), (far, -far, 0))
    yield Row("rotation", [original, turned(-by.rotation_deg), turned(by.rotation_deg)])
    yield Row("scaling", [original, scaled(by.zoom, by.zoom), scaled(-by.zoom, -by.zoom)])
    yield Row("stretch", [original, scaled(-by.stretch, by.stretch), scaled(by.stretch, -by.stretch)])
    yield Row("shift", [original, shifted(-far), shifted(far)])
    shifts = np.random.default_rng(0).normal(0.0, 1.0, PATCH[2])
    apart = ((f"{voxels:g} voxels", voxels * shifts) for voxels in (by.slice_shift.high / 2, by.slice_shift.high))
    stacks = {"original": 0.0 * shifts, **dict(apart)}
    yield Row("shift of each slice\n(from the side)", [upright(caption, x.tolist()) for caption, x in stacks.items()])
    yield Row(
        "mirroring",
        [original, tile("X", SpatialWarp(), [0]), tile("Y", SpatialWarp(), [1]), tile("all together", together, [0])],
    )


def _intensity(image: Tensor) -> Iterator[Row]:
    by, clip = INTENSITY_BY, image[:1]

    def row(title: str, *variants: tuple[str, Tensor]) -> Row:
        return Row(title, [Tile(name, one[0, ..., SLICE]) for name, one in (("original", clip), *variants)])

    def contrast(settings: ContrastParams) -> Tensor:
        return change_contrast(clip, settings, 1.0)

    def coil(x: float, y: float, curved: float) -> Tensor:
        first, square = {(1, 0, 0): x, (0, 1, 0): y}, {(2, 0, 0): curved, (0, 2, 0): curved}
        return shade(clip, [(first | square).get(degree, 0.0) for degree in DEGREES])

    far = by.shading.high
    yield row(
        "coil shading",
        ("a corner", coil(far, far, 0)),
        ("its opposite", coil(-far, -far, 0)),
        ("the rim", coil(0, 0, far)),
    )
    levels = [by.noise.high * share for share in (1 / 3, 2 / 3, 1)]
    yield row("Rician noise", *((f"{level:.2g}", add_noise(clip, level, 0, SIGNAL)) for level in levels))
    yield row(
        "blur", *((f"{sigma:.2g} voxels", blur(clip, sigma, False)) for sigma in (by.blur.low, 1.0, by.blur.high))
    )
    shares = (0.8, 0.6, by.coarseness.low)
    yield row("low resolution", *((f"{share:.2g}", lower_resolution(clip, share, False)) for share in shares))
    yield row("contrast", *((f"x {f:.2f}", contrast(ContrastParams(factor=f))) for f in by.contrast[1:]))
    yield row("brightness", *((f"{s:+.2f}", contrast(ContrastParams(shift=s))) for s in by.brightness[1:]))
    yield row("gamma", *((f"{g:.2f}", contrast(ContrastParams(gamma=g))) for g in by.gamma[1:]))
    yield row(
        "gamma, inverted", *((f"{g:.2f}", contrast(ContrastParams(gamma=g, inverted=True))) for g in by.gamma[1:])
    )


def _time(image: Tensor) -> Iterator[Row]:
    by = TIME_PRESETS["strong"]
    steady = TemporalWarp()
    for title, timing in {
        "as it is": steady,
        "reversed": TemporalWarp(reverse=True),
        "stride 2": TemporalWarp(stride=2),
        f"speeding up\n{by.slowest:g} to {by.fastest:g}": TemporalWarp(speeds=(by.slowest, by.fastest)),
        f"speed x {by.fastest:g}": TemporalWarp(speeds=(by.fastest, by.fastest)),
        "a frame dropped": TemporalWarp(drop=2),
        "a frame repeated": TemporalWarp(repeat=2),
    }.items():
        frames = clip_frames(2, 2, 6, FRAMES, True, timing).frames.tolist()
        yield Row(title, [Tile(f"frame {t}", _heart(image[t])) for t in frames])


def _corruption(image: Tensor) -> Iterator[Row]:
    by = CORRUPTION_BY
    lines = PATCH[1] // 2 + 1
    taken = np.random.default_rng(0).choice(lines, round(by.mistriggered.high * lines), replace=False).tolist()
    hurt, far = image[HURT], image[HURT + 1]
    for title, wrong in {
        "dropout,\nwhole frame": lose_signal(hurt, SignalDropout(by.dropout.high)),
        "dropout, a region": lose_signal(hurt, SignalDropout(by.dropout.high, (0.1, 0.1, 0.0), 0.5)),
        "ghosting": add_ghosts(hurt, Ghosting(1, 0.3, by.ghosting.high, math.pi / 4)),
        f"mistriggered:\n{by.mistriggered.high:.0%} of k-space\nfrom frame {HURT + 1}": mix_lines(hurt, far, 1, taken),
        "noise burst": add_noise(hurt[None], by.noise.high, 0, SIGNAL)[0],
    }.items():
        clip = [image[HURT - 2], image[HURT - 1], wrong, far, image[HURT + 2], (wrong - hurt).abs()]
        names = [*(f"frame {t}" for t in range(HURT - 2, HURT + 3)), "difference"]
        yield Row(title, [Tile(name, frame[..., SLICE]) for name, frame in zip(names, clip, strict=True)])


def _velocity(image: Tensor, label: Tensor) -> Iterator[Row]:
    """Blood that runs along +X in the left ventricle, with a channel for the velocity along X and one for Y."""
    kinds = (SIGNAL, "velocity X", "velocity Y")
    flow = (label[0] == 3).float()
    clip = torch.stack([image[0], flow, torch.zeros_like(flow)])[:, None]
    warp = SpatialWarp(angles=(0, 0, math.radians(SPACE_BY.rotation_deg)))
    turned = rotate_velocities(apply_warp(clip[:, 0], warp, PATCH)[:, None], warp.rotation, kinds)
    clip = center_crop(clip, PATCH)
    variants = {
        "original": clip,
        f"turned {SPACE_BY.rotation_deg:+.0f}°": turned,
        "mirrored X": flip_clip(clip, [0], kinds),
        "mirrored Y": flip_clip(clip, [1], kinds),
    }
    yield Row(
        "velocities X, Y\n(arrows)",
        [Tile(name, one[0, 0, ..., SLICE], arrows=one[1:, 0, ..., SLICE]) for name, one in variants.items()],
    )


def _heart(frame: Tensor) -> Tensor:
    """The middle of a slice of a frame (X, Y, Z), where the motion is."""
    x, y = (n // 5 for n in frame.shape[:2])
    return frame[x:-x, y:-y, SLICE]


def _drawn(columns: Sequence[Sequence[Row]]) -> np.ndarray:
    widths = [TEXT + TILE * max(len(row.tiles) for row in rows) for rows in columns]
    width, height = sum(widths) + 0.2 * (len(columns) - 1), max(map(len, columns)) * (TILE + GAP)
    figure = new_figure(width, height, "white")
    for column, rows in enumerate(columns):
        left = sum(widths[:column]) + 0.2 * column
        for number, row in enumerate(rows):
            bottom = height - (number + 1) * (TILE + GAP)
            words = (left + TEXT - 0.08) / width, (bottom + TILE / 2) / height
            figure.text(*words, row.title, ha="right", va="center", fontsize=8)
            for place, tile in enumerate(row.tiles):
                box = left + TEXT + place * TILE, bottom, 0.96, 0.96  # a voxel of the patch is a pixel
                scaled = box[0] / width, box[1] / height, box[2] / width, box[3] / height
                _draw_tile(figure.add_axes(scaled), tile)
    return render_figure(figure)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    """X to the right, Y upwards; black and white at the same values everywhere, so that brightness shows."""
    axes.imshow(tile.image.T.numpy(), cmap="gray", vmin=-1.2, vmax=3.2, origin="lower", interpolation="nearest")
    if tile.caption == "difference":
        axes.images[0].set_clim(0, 3.2)
    if tile.label is not None:
        for value in range(1, int(tile.label.max()) + 1):
            axes.contour(value == tile.label.T.numpy(), [0.5], colors=class_color(value), linewidths=0.8)
    if tile.arrows is not None:
        x, y = np.meshgrid(*(np.arange(0, n, 7) for n in PATCH[:2]), indexing="ij")
        u, v = tile.arrows[:, x, y].numpy()
        moving = np.hypot(u, v) > 0.5
        axes.quiver(
            x[moving],
            y[moving],
            u[moving],
            v[moving],
            color="#E69F00",
            angles="xy",
            scale_units="xy",
            scale=0.12,
            width=0.02,
        )
    axes.set_title(tile.caption, fontsize=7, pad=1.5)
    axes.set_axis_off()
