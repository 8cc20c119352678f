"""Draws how frames are recomputed and primed, as SVG: `python docs/drawing/frames.py`."""

from __future__ import annotations

import math

from svg import Drawing


def recompute() -> None:
    """Draw what a training step keeps of eight frames under four schedules."""
    drawing = Drawing(
        880, 330, "What a training step keeps for the backward pass",
        "Four rows of eight frames. In the first row all activations are kept. In the second the encoder keeps only what passes "
        "between its stages. In the third only the states between chunks of four frames are kept, in the fourth only the states "
        "between groups of chunks.",
    )  # fmt: skip
    rows = (
        ("chunk_frames 0", 8, 0, "everything"),
        ("stages true", 8, 1, "less of each stage of the encoder"),
        ("chunk_frames 4", 4, 0, "one chunk, and states between chunks"),
        ("chunk_frames 1, group_chunks 3", 1, 0, "one frame, and states between groups"),
    )
    drawing.text(24, 34, "A clip of 8 frames: what is in memory at once", size=16, bold=True)
    for row, (name, width, thin, words) in enumerate(rows):
        y = 66 + 60 * row
        drawing.text(24, y + 18, name, size=13, bold=True)
        group = 3 if width == 1 else 1
        for frame in range(8):
            alive = frame < width
            drawing.box(
                276 + 38 * frame,
                y + 9 * thin * alive,
                32,
                28 - 18 * thin * alive,
                str(frame),
                "encoder" if alive else "note",
                11 - 3 * thin,
            )
            if width < 8 and frame and frame % (width * group) == 0:
                drawing.circle(273 + 38 * frame, y + 14, 5, "lstm")
        drawing.text(596, y + 18, words, size=13)
    drawing.box(24, 300, 16, 14, "", "encoder")
    drawing.text(46, 312, "activations in memory", size=12)
    drawing.circle(212, 307, 5, "lstm")
    drawing.text(224, 312, "states of the ConvLSTMs", size=12)
    drawing.box(400, 300, 16, 14, "", "note")
    drawing.text(422, 312, "recomputed when the backward pass gets there", size=12)
    drawing.save("recompute.svg")


def cyclic() -> None:
    """Draw the frames of a heart beat as a ring, with the run that primes the states."""
    drawing = Drawing(
        880, 400, "Priming a cyclic study",
        "Twenty frames of a heart beat form a ring. The forward recurrence first runs over the last twelve frames, then over all "
        "frames from the first one. The backward recurrence does the same the other way.",
    )  # fmt: skip
    count, center, radius, primed = 20, (190, 220), 124, 12

    def place(frame: float, far: float) -> tuple[float, float]:
        angle = 2 * math.pi * frame / count - math.pi / 2
        return center[0] + far * math.cos(angle), center[1] + far * math.sin(angle)

    def arc(first: float, last: float, far: float, kind: str, dashed: bool) -> None:
        points = [place(first + (last - first) * step / 60, far) for step in range(61)]
        drawing.arrow(points, kind, dashed)

    for frame in range(count):
        drawing.circle(*place(frame, radius), 13, "encoder")
        x, y = place(frame, radius)
        drawing.text(x, y + 4, str(frame), "encoder", 11, "middle")
    arc(count - primed, count - 0.3, radius + 26, "lstm", True)
    arc(0, count - 1, radius - 26, "decoder", False)
    drawing.text(190, 214, "one", "note", 13, "middle")
    drawing.text(190, 232, "heart beat", "note", 13, "middle")
    for line, (words, kind, bold) in enumerate((
        ("Forward recurrence", "plain", True),
        ("1  It runs over frames 8 to 19, and only its state is kept.", "lstm", False),
        ("2  With this state it runs over frames 0 to 19: the result.", "decoder", False),
        ("", "plain", False),
        ("Backward recurrence", "plain", True),
        ("1  It runs over frames 11 to 0, and only its state is kept.", "lstm", False),
        ("2  With this state it runs over frames 19 to 0.", "decoder", False),
        ("", "plain", False),
        ("An open study has no priming: both start from zero.", "note", False),
    )):  # fmt: skip
        drawing.text(404, 130 + 24 * line, words, kind, 14, bold=bold)
    drawing.text(24, 34, "inference.priming_frames 12, of a cyclic study of 20 frames", size=16, bold=True)
    drawing.save("cyclic.svg")


def main() -> None:
    """Write both."""
    recompute()
    cyclic()


if __name__ == "__main__":
    main()
