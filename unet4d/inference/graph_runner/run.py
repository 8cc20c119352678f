"""The runner of an exported network, run.py beside its graphs and model.json: numpy and onnxruntime alone.

    python run.py study.nii.gz label.nii.gz     a file per channel, then the label map; needs nibabel, too
    python run.py study.npz label.npy           arrays "image" (C, T, X, Y, Z) and "affine" (4, 4), voxel to mm (RAS)

In Python: `Runner(folder).segment(image, affine)`; live: `step = Runner(folder).live(affine, shape)`, then `step(frame)`.
"""

import argparse
import functools
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np

from unet4d.inference.graph_runner.postprocessing import postprocessed, smooth_over_time
from unet4d.inference.graph_runner.preprocessing import Grid, find_scale, label_header, normalized, velocity_axis

SCHEMA = {"name": "graphs", "version": 1}


@functools.cache
def openvino_core():
    """Return the one core of the process: of two, the one deleted last restores a signal stack that the other has freed."""
    import openvino

    return openvino.Core()


def load_graph(path):
    """Return a graph as a function from its inputs to its outputs, in their order."""
    if path.suffix == ".xml":
        compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda *inputs: [value.copy() for value in compiled(list(map(np.ascontiguousarray, inputs))).values()]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from its import on it would report names of models
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


class Network:
    """The graphs of a network; the state of a cell is [hidden, cell, hidden, ...] of its levels, None for zeros."""

    def __init__(self, folder, graphs, levels, hidden_channels, directions):
        self.encoder, self.decoder = load_graph(folder / graphs["encoder"]), load_graph(folder / graphs["decoder"])
        self.cells = [load_graph(folder / name) for name in graphs["cells"]]
        self.levels, self.hidden_channels, self.directions = levels, hidden_channels, directions

    def run(self, clip, priming_frames=0, state=None):
        """Return logits (T, K, X, Y, Z) of a clip (T, C, X, Y, Z), and the last state; frames of a loop prime the first."""
        features = [self.encoder(np.ascontiguousarray(frame[None])) for frame in clip]
        inputs = [[frame[level] for level in self.levels] for frame in features]
        if priming_frames and self.cells:  # forward cells over the last frames, backward cells over the first
            ends = [self.recur(part, None)[1] for part in (inputs[-priming_frames:], inputs[:priming_frames])]
            state = [ends[index % self.directions][index] for index in range(len(self.cells))]
        hidden, state = self.recur(inputs, state)
        return np.concatenate([self.decoder(*f, *h)[0] for f, h in zip(features, hidden, strict=True)]), state

    def recur(self, frames, state):
        """Run all cells, layer by layer, backward ones from the last frame; return each frame's hidden and each cell's state."""
        after, outputs = [], []
        for index, cell in enumerate(self.cells):
            sizes = zip(frames[0], self.hidden_channels, strict=True)
            zeros = [np.zeros((1, n, *x.shape[2:]), np.float32) for x, n in sizes for _ in range(2)]
            now = state[index] if state else zeros
            outputs.append([None] * len(frames))
            for t in range(len(frames))[:: -1 if index % self.directions else 1]:
                now = cell(*frames[t], *now)
                outputs[-1][t] = now[::2]
            after.append(now)
            if len(outputs) == self.directions:  # of a layer, which the next one sees
                both, outputs = zip(*outputs, strict=True), []
                frames = [[np.concatenate(level, 1) for level in zip(*frame, strict=True)] for frame in both]
        return frames, after


class Runner:
    """A network with its pre- and post-processing, by model.json; with `plain`, label maps before post-processing."""

    def __init__(self, folder, plain=False):
        self.model = json.loads((Path(folder) / "model.json").read_text("utf-8"))
        if self.model["schema"] != SCHEMA:
            raise ValueError(f"got a model.json of {self.model['schema']}, expected {SCHEMA}; use the run.py beside it")
        self.plain, self.window, self.kinds = plain, self.model["window"], self.model["input"]["kinds"]
        self.settings, self.output = self.model["preprocessing"], self.model["output"]
        self.network = Network(Path(folder), self.model["graphs"], **self.model["recurrence"])

    def segment(self, image, affine, time=None):
        """Return label values (T, X, Y, Z) uint8 of a study (C, T, X, Y, Z), "cyclic" or "open"; None is that of the model."""
        if time not in (None, "cyclic", "open"):
            raise ValueError(f"got time {time!r}, expected 'cyclic' or 'open', or None for that of the model")
        grid, cyclic = Grid(affine, image.shape[-3:], self.settings), (time or self.model["time"]) == "cyclic"
        pixels = grid.image(image, self.kinds)
        logits = self.logits(normalized(pixels, find_scale(pixels, self.kinds, self.settings)), cyclic)
        label = grid.label(smooth_over_time(logits, self.window.get("temporal_smoothing", 0), cyclic), self.output)
        return label if self.plain else postprocessed(label, self.model["postprocessing"], cyclic)

    def live(self, affine, shape, scale=None):
        """Return a function from the next frame (C, X, Y, Z) to its label before post-processing; `scale` as `find_scale`'s."""
        if self.network.directions == 2:
            raise ValueError("got a bidirectional network, expected a forward one, which sees no later frames")
        grid, states = Grid(affine, shape, self.settings), {}

        def step(frame):
            nonlocal scale  # of an earlier study, else of the first frame
            pixels = grid.image(frame[:, None], self.kinds)
            scale = find_scale(pixels, self.kinds, self.settings) if scale is None else scale
            return grid.label(self.logits(normalized(pixels, scale), states=states), self.output)[0]

        return step

    def logits(self, pixels, cyclic=False, states=None):
        """Return logits (T, K, X, Y, Z) of normalized pixels: windows blended with Gaussian weights, `states` carried on."""
        (channels, frames, *shape), size, primed = pixels.shape, self.window["size"], self.window["priming_frames"]
        primed = min(frames, frames if primed is None else primed) if cyclic else 0
        x, y, z = (np.exp(np.arange((1 - n) / 2, n / 2) ** 2 / -2 / (n * self.window["sigma"]) ** 2) for n in size)
        weight = np.maximum(np.float32(x[:, None, None] * y[:, None] * z), np.float32(1e-3))
        total = np.zeros((frames, len(self.output["values"]), *shape), np.float32)
        sums = np.zeros(shape, np.float32)
        for origin in itertools.product(*map(self.starts, shape, size)):
            box = [slice(max(0, at), min(at + roi, n)) for at, roi, n in zip(origin, size, shape, strict=True)]
            inner = tuple(slice(part.start - at, part.stop - at) for part, at in zip(box, origin, strict=True))
            clip = np.zeros((frames, channels, *size), np.float32)
            clip[(..., *inner)] = pixels[(..., *box)].swapaxes(0, 1)
            if states is None:
                logits = self.mirrored_mean(clip, primed)
            else:
                logits, states[origin] = self.network.run(clip, 0, states.get(origin))
            total[(..., *box)] += logits[(..., *inner)] * weight[inner]
            sums[tuple(box)] += weight[inner]
        if not np.isfinite(total).all():
            raise ValueError("got logits that are infinite or not a number, expected finite ones; check the image")
        return total / sums

    def starts(self, size, roi):
        """Return the first voxels of windows along an axis; an image smaller than a window lies in its middle."""
        step, last = max(1, int(roi * (1 - self.window["overlap"]))), size - roi
        return [min(n * step, last) for n in range(-(-last // step) + 1)] if last > 0 else [-(-last // 2)]

    def mirrored_mean(self, clip, primed):
        """Return the mean logits of a clip (T, C, X, Y, Z) and its mirrorings along any of the model's axes."""
        axes, velocities = self.window["mirror_axes"], [velocity_axis(kind) for kind in self.kinds]
        mirrorings = [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]
        total = 0
        for chosen in mirrorings:
            flip, signs = [2 + axis for axis in chosen], [-1 if axis in chosen else 1 for axis in velocities]
            mirrored = np.flip(clip, flip) * np.array(signs, np.float32)[:, None, None, None]
            total = total + np.flip(self.network.run(mirrored, primed)[0], flip) / len(mirrorings)
        return total


def segment_nifti(runner, paths, out, time):
    """Segment a study of NIfTI files, one per channel, and write its label map; the one frame of a map holds for all."""
    import nibabel

    if len(paths) != len(runner.kinds):
        raise ValueError(f"got {len(paths)} files, expected {len(runner.kinds)}: {', '.join(runner.kinds)}")
    channels, affines, files = [], [], [nibabel.load(path) for path in paths]
    for path, kind, file in zip(paths, runner.kinds, files, strict=True):
        if file.ndim < 3 or any(n != 1 for n in file.shape[4:]):
            raise ValueError(f"{path}: got axes {file.shape}, expected (X, Y, Z) or (X, Y, Z, T)")
        values = np.asarray(file.dataobj, np.float32).reshape(*file.shape[:3], -1).transpose(3, 0, 1, 2)
        channels.append(np.repeat(values, len(channels[0]), axis=0) if kind == "map" and channels else values)
        unit_mm = {"meter": 1e3, "micron": 1e-3}.get(file.header.get_xyzt_units()[0], 1)
        affines.append(np.diag([unit_mm, unit_mm, unit_mm, 1]) @ file.affine)
        if channels[-1].shape != channels[0].shape or not np.allclose(affines[-1], affines[0], rtol=0, atol=0.01):
            raise ValueError(f"{path}: got another grid, or other frames, than in {paths[0]}; bring both to one grid")
    label = runner.segment(np.stack(channels), affines[0], time).transpose(1, 2, 3, 0).reshape(files[0].shape)
    nibabel.save(type(files[0])(label, files[0].affine, label_header(files[0].header), dtype=np.uint8), out)


def main():
    """Segment the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", type=Path, help="an .npz file, or a NIfTI file per channel")
    parser.add_argument("label", type=Path, help="the .npy or NIfTI file to write")
    parser.add_argument("--time", choices=["cyclic", "open"], help="default: that of the model")
    parser.add_argument("--plain", action="store_true", help="leave out the post-processing of model.json")
    args = parser.parse_args()
    is_npz = args.study[0].suffix == ".npz"
    if not args.label.name.endswith(".npy" if is_npz else (".nii", ".nii.gz")):
        parser.error(f"got {args.label}, expected a name that ends in .npy for an .npz study, else in .nii or .nii.gz")
    if not args.label.absolute().parent.is_dir():
        parser.error(f"got {args.label}, expected a name in a folder that is there; make the folder")
    try:
        runner = Runner(Path(__file__).parent, args.plain)
        if is_npz:
            return np.save(args.label, runner.segment(**np.load(args.study[0]), time=args.time))
        return segment_nifti(runner, args.study, args.label, args.time)
    except Exception as error:  # whatever is wrong with a file, in one line
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
