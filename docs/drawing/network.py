"""Draws network.svg, the CLSTM-UNet unrolled over three frames: `python docs/drawing/network.py`."""

from __future__ import annotations

import numpy as np
from svg import Drawing

from unet4d.config import CHANNELS, ModelConfig
from unet4d.phantom import make_cine
from unet4d.report.pictures.render import class_color

TOP, ROW, STEP = 74, 218, 34
"""Pixels: the first frame's top, from a frame to the next, from a level to the next."""
LEFT, RIGHT, SLOPE, WIDE, HIGH = 244, 846, 52, 42, 22
"""Left edge of the first encoder stage, right edge of the last decoder stage, shift per level, and the size of a stage."""
LSTM_LEVELS = [level for level, hidden in enumerate(ModelConfig().lstm_channels_per_level()) if hidden]
FRAMES = {"frame t - 1": 1, "frame t": 4, "frame t + 1": 7}
CELL = 74


def main() -> None:
    """Write the drawing."""
    drawing = Drawing(
        1000, 900, "The CLSTM-UNet over three frames",
        "Three rows, one per frame. In each row an encoder goes down through five levels and a decoder goes up again; each "
        "of these sees its own frame alone. At the bottleneck and on every skip but that of full resolution sits a ConvLSTM. "
        "Vertical arrows join the ConvLSTMs of a level from frame to frame, in both directions. A dashed line leads from the "
        "last frame to the first.",
    )  # fmt: skip
    drawing.text(24, 34, "CLSTM-UNet, unrolled over time", size=18, bold=True)
    drawing.text(
        24,
        54,
        "Encoder and decoder see one frame at a time. ConvLSTMs alone carry what was seen to other frames.",
        "note",
        13,
    )
    study = make_cine(3, 10, shape=(96, 96, 7))
    for row, (name, t) in enumerate(FRAMES.items()):
        _frame(drawing, row, name, *_pictures(study.image[t, ..., 3], study.label[t, ..., 3]))
    for level in LSTM_LEVELS:
        x = _cell_x(level) + CELL / 2
        for row in range(len(FRAMES)):
            above = TOP + row * ROW + level * STEP
            if row:
                drawing.arrow([(x, above - ROW + HIGH + 2), (x, above - 2)], "lstm", both=True)
    _loop(drawing)
    _legend(drawing, TOP + 3 * ROW + 8)
    drawing.save("network.svg")


def _cell_x(level: int) -> float:
    """Return the left edge of a level's ConvLSTM."""
    return LEFT + level * SLOPE + WIDE + 22 if level < len(CHANNELS) - 1 else (LEFT + RIGHT) / 2 - CELL / 2


def _frame(drawing: Drawing, row: int, name: str, image: np.ndarray, label: np.ndarray) -> None:
    top, last = TOP + row * ROW, len(CHANNELS) - 1
    drawing.picture(116, top - 8, 96, 96, image)
    drawing.picture(RIGHT + 40, top - 8, 96, 96, label)
    drawing.text(164, top + 106, name, size=14, anchor="middle", bold=True)
    drawing.text(RIGHT + 88, top + 106, "label map", size=13, anchor="middle")
    middle = top + HIGH / 2
    drawing.arrow([(214, middle), (LEFT - 3, middle)])
    drawing.arrow([(RIGHT + 3, middle), (RIGHT + 37, middle)])
    for level, channels in enumerate(CHANNELS):
        y, x, x_up = top + level * STEP, LEFT + level * SLOPE, RIGHT - WIDE - level * SLOPE
        cell, middle = _cell_x(level), top + level * STEP + HIGH / 2
        if level < last:
            drawing.box(x, y, WIDE, HIGH, str(channels), "encoder")
            drawing.box(x_up, y, WIDE, HIGH, str(channels), "decoder")
            past = cell + CELL if level in LSTM_LEVELS else x + WIDE
            drawing.arrow([(past + 2, middle), (x_up - 3, middle)])
        else:
            drawing.box(x, y, WIDE, HIGH, str(channels), "encoder")
            up = x_up + SLOPE + WIDE / 2
            drawing.arrow([(cell + CELL + 2, middle), (up, middle), (up, y - STEP + HIGH + 3)], "decoder")
        if level in LSTM_LEVELS:
            drawing.arrow([(x + WIDE + 2, middle), (cell - 3, middle)])
            drawing.box(cell, y, CELL, HIGH, "ConvLSTM", "lstm", 11)
        if level < last:
            down = x + WIDE / 2
            drawing.arrow([(down, y + HIGH + 2), (down, middle + STEP), (x + SLOPE - 3, middle + STEP)], "encoder")
        if 0 < level < last:
            up = x_up + WIDE / 2
            drawing.arrow(
                [(x_up + WIDE + 2, middle), (up + SLOPE, middle), (up + SLOPE, y - STEP + HIGH + 3)], "decoder"
            )


def _pictures(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice and its label (X, Y) as pictures."""
    low, high = np.percentile(image, (1, 99.5))
    gray = (np.clip((image.T - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    colors = np.zeros((*gray.shape, 3), np.uint8)
    for value in range(1, int(label.max()) + 1):
        colors[value == label.T] = [int(class_color(value)[i : i + 2], 16) for i in (1, 3, 5)]
    big = [np.kron(one, np.ones((2, 2, 1), np.uint8)) for one in (np.dstack([gray] * 3), colors)]
    return big[0], big[1]


def _loop(drawing: Drawing) -> None:
    """Draw the way from the last frame to the first, at the left."""
    top, bottom = TOP + 34, TOP + 2 * ROW + 46
    drawing.path(f"M112 {bottom}C84 {bottom - 60} 84 {top + 60} 108 {top + 8}", "lstm", dashed=True)
    drawing.arrow([(107, top + 9), (112, top)], "lstm")
    for line, words in enumerate(("cyclic study:", "the last", "frame leads", "into the first")):
        drawing.text(12, top + 196 + 15 * line, words, "lstm", 11)


def _legend(drawing: Drawing, top: float) -> None:
    drawing.box(24, top, WIDE, HIGH, "32", "encoder")
    drawing.text(
        76,
        top + 15,
        "encoder stage: two 3D convolutions, each with instance norm and leaky ReLU; a number is its channels",
        size=12,
    )
    drawing.box(24, top + 32, WIDE, HIGH, "32", "decoder")
    drawing.text(
        76, top + 47, "decoder stage: transposed convolution, concatenation with the skip, one convolution", size=12
    )
    middle = top + 64 + HIGH / 2 + 30
    drawing.text(24, top + 84, "Each ConvLSTM:", "lstm", 12, bold=True)
    drawing.text(40, middle + 14, "features", size=12)
    drawing.arrow([(92, middle + 10), (190, middle + 10)])
    drawing.box(192, middle - 1, 84, HIGH, "ConvLSTM", "lstm")
    drawing.arrow([(278, middle + 10), (316, middle + 10)], "lstm")
    drawing.box(318, middle - 1, 220, HIGH, "1 x 1 x 1 projection, starts at zero", "lstm")
    drawing.arrow([(540, middle + 10), (578, middle + 10)], "lstm")
    drawing.circle(588, middle + 10, 9, text="+")
    drawing.arrow([(140, middle + 10), (140, middle + 36), (588, middle + 36), (588, middle + 21)])
    drawing.arrow([(598, middle + 10), (640, middle + 10)])
    drawing.text(646, middle + 14, "to the decoder", size=12)
    drawing.arrow([(234, middle - 26), (234, middle - 3)], "lstm", both=True)
    drawing.text(244, middle - 14, "states of the frames before and after", "lstm", 12)


if __name__ == "__main__":
    main()
