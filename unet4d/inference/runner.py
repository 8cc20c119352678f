"""The runner of an exported network, run.py beside its graphs and model.json: numpy and onnxruntime alone.

    python run.py study.nii.gz label.nii.gz     a file per channel, then the label map; needs nibabel, too
    python run.py study.npz label.npy           arrays "image" (C, T, X, Y, Z) and "affine" (4, 4), voxel to mm (RAS)

In Python: `Runner(folder).segment(image, affine)`; live: `step = Runner(folder).live(affine, shape)`, then `step(frame)`.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

SCHEMA = {"name": "graphs", "version": 1}


def load_graph(path):
    """Return a graph as a function from its inputs to its outputs, in their order."""
    if path.suffix == ".xml":
        import openvino
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda *inputs: [value.copy() for value in compiled(list(map(np.ascontiguousarray, inputs))).values()]
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(None, dict(zip([x.name for x in session.get_inputs()], inputs, strict=True)))


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
            shapes = ((1, n, *x.shape[2:]) for x, n in zip(frames[0], self.hidden_channels, strict=True) for _ in range(2))
            now = state[index] if state else [np.zeros(shape, np.float32) for shape in shapes]
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
    """A network with its pre- and post-processing, by model.json; with `plain`, label maps without the post-processing."""

    def __init__(self, folder, plain=False):
        self.model = json.loads((Path(folder) / "model.json").read_text("utf-8"))
        if self.model["schema"] != SCHEMA:
            raise ValueError(f"got a model.json of {self.model['schema']}, expected {SCHEMA}; use the run.py beside it")
        if self.model["postprocessing"] and not plain:
            raise ValueError(f"run.py does no post-processing, got {self.model['postprocessing']}; ask for plain label maps")
        self.steps, self.window, self.output = (self.model[key] for key in ("preprocessing", "window", "output"))
        self.kinds, graphs = self.model["input"]["kinds"], self.model["graphs"]
        self.velocity = ["XYZ".index(kind[-1]) if kind.startswith("velocity") else None for kind in self.kinds]
        self.network = Network(Path(folder), graphs, **self.model["recurrence"])

    def segment(self, image, affine, time=None):
        """Return label values (T, X, Y, Z) uint8 of a study (C, T, X, Y, Z), "cyclic" or "open"; None is that of the model."""
        pixels = self.to_grid(image, grid := self.grid(affine, image.shape[2:]))
        return self.labels(self.logits(pixels, self.scale(pixels), (time or self.model["time"]) == "cyclic"), grid)

    def live(self, affine, shape, scale=None):
        """Return a function from the next frame (C, X, Y, Z) to its label; `scale` of an earlier study, else of the first frame."""
        if self.network.directions == 2:
            raise ValueError("got a bidirectional network, expected a forward one, of which no frame depends on later ones")
        grid, states, scales = self.grid(affine, shape), {}, [scale]
        def step(frame):
            pixels = self.to_grid(frame[:, None], grid)
            scales[0] = scales[0] or self.scale(pixels)
            return self.labels(self.logits(pixels, scales[0], states=states), grid)[0]
        return step

    def logits(self, pixels, scale, cyclic=False, states=None):
        """Return logits (T, K, X, Y, Z) of a study on the grid: windows blended with Gaussian weights, `states` carried on."""
        (_, frames, *shape), size, primed = pixels.shape, self.window["size"], self.window["priming_frames"]
        primed = min(frames, frames if primed is None else primed) if cyclic else 0
        x, y, z = (np.exp(np.arange((1 - n) / 2, n / 2) ** 2 / -2 / (n * self.window["sigma"]) ** 2) for n in size)
        weight = np.maximum(np.float32(x[:, None, None] * y[:, None] * z), np.float32(1e-3))
        axes = self.window["mirror_axes"] if states is None else []
        mirrorings = list(itertools.chain(*(itertools.combinations(axes, n) for n in range(len(axes) + 1))))
        total, sums = np.zeros((frames, len(self.output["values"]), *shape), np.float32), np.zeros(shape, np.float32)
        for origin in itertools.product(*map(self.starts, shape, size)):
            box = [slice(max(0, at), min(at + roi, n)) for at, roi, n in zip(origin, size, shape, strict=True)]
            inner = tuple(slice(part.start - at, part.stop - at) for part, at in zip(box, origin, strict=True))
            clip, logits = np.zeros((frames, len(pixels), *size), np.float32), 0
            clip[(..., *inner)] = normalized(pixels[(..., *box)], scale).swapaxes(0, 1)
            for chosen in mirrorings:
                flip, signs = [2 + axis for axis in chosen], [-1 if axis in chosen else 1 for axis in self.velocity]
                turned = np.flip(clip, flip) * np.array(signs, np.float32)[:, None, None, None]
                one, after = self.network.run(turned, primed, states and states.get(origin))
                logits = logits + np.flip(one, flip) / len(mirrorings)
            if states is not None:
                states[origin] = after
            total[(..., *box)] += logits[(..., *inner)] * weight[inner]
            sums[tuple(box)] += weight[inner]
        return total / sums

    def starts(self, size, roi):
        """Return the first voxels of windows along an axis; an image smaller than a window lies in its middle."""
        step, last = max(1, int(roi * (1 - self.window["overlap"]))), size - roi
        return [min(n * step, last) for n in range(-(-last // step) + 1)] if last > 0 else [-(-last // 2)]

    def labels(self, logits, grid):
        """Return label values (T, X, Y, Z) on the study's own voxels, from logits on the grid."""
        for axis in (2, 1, 0):
            logits = resampled(logits, axis - 3, grid["native"][grid["order"][axis]])
        found = reoriented(label := np.zeros((len(logits), *grid["native"]), np.uint8), grid)
        if self.output["kind"] == "classes":
            found[:] = np.array(self.output["values"], np.uint8)[logits.argmax(1)]
        else:  # regions, each painted over those before
            for value, one in zip(self.output["values"], logits.swapaxes(0, 1), strict=True):
                found[one > 0] = value
        return label

    def grid(self, affine, shape):
        """Return the grid of a study: slices last, plane axes towards right, anterior, superior, the network's spacing."""
        turn, mm = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
        left, _, right = np.linalg.svd(turn / mm)
        near, world, signs = left @ right, np.zeros(3, int), np.ones(3)
        for axis in np.argsort(np.min(-(near**2), axis=0), kind="stable"):
            world[axis] = np.abs(near[:, axis]).argmax()
            signs[axis] = np.sign(near[world[axis], axis])
            near[world[axis]] = 0
        single, thick = [n for n in range(3) if shape[n] == 1], max(mm) >= 1.5 * min(mm)
        slices = single if len(single) == 1 else [n for n in range(3) if not thick or mm[n] > 0.999 * max(mm)]
        last = max(slices, key=list(world).__getitem__)
        order = [*sorted({0, 1, 2} - {last}, key=lambda n: world[n]), last]
        flips = [bool(signs[n] < 0) for n in order]
        flips[2] ^= bool(np.linalg.det(turn[:, order] * signs[order]) < 0)  # right-handed
        asked = zip(order, [self.steps["in_plane_spacing_mm"]] * 2 + [self.steps["slice_spacing_mm"]], strict=True)
        new = [max(1, round(shape[n] * float(mm[n]) / to)) if to else shape[n] for n, to in asked]
        splines = (1, 1, 1) if self.steps["interpolation"] == "linear" else (3, 3, 1 if max(mm) > 3 * min(mm) else 3)
        return {"native": list(shape), "order": order, "flips": flips, "shape": new, "splines": splines}

    def to_grid(self, image, grid):
        """Return a study (C, T, X, Y, Z) on the grid, in float32; the components of a velocity turn with the axes."""
        if len(image) != len(self.kinds) or not np.isfinite(image).all():
            raise ValueError(f"got {len(image)} channels, NaN or infinity, expected {len(self.kinds)} channels of finite values")
        channels = []
        for n, axis in enumerate(self.velocity):
            n = n if axis is None else self.velocity.index(grid["order"][axis])
            sign = -1 if axis is not None and grid["flips"][axis] != ("-" in self.kinds[n]) else 1
            values = reoriented(np.asarray(image[n], np.float32), grid) * np.float32(sign)
            for dim in range(3):
                values = resampled(values, dim - 3, grid["shape"][dim], grid["splines"][dim], np.float32)
            channels.append(values)
        return np.stack(channels)

    def scale(self, pixels):
        """Return (low, high, mean, deviation) of each channel: clipped z-scores, and of a velocity the speed's root mean square."""
        if self.steps["normalization"] == "none":
            return [(-np.inf, np.inf, 0.0, 1.0)] * len(pixels)
        moving, scales, most = [axis is not None for axis in self.velocity], [], self.steps["sample_voxels"]
        squares = np.square(pixels[moving], dtype=np.float64).sum(0)
        speed = np.sqrt(squares.sum() / max(1, np.count_nonzero(squares)))
        for values, moves in zip(pixels, moving, strict=True):
            low, high, mean, deviation = -np.inf, np.inf, 0.0, speed
            if not moves:
                step = next(n for n in itertools.count(values.size // most or 1) if np.gcd(n, values.size) == 1)
                low, high = map(np.float32, np.percentile(values.ravel()[::step], self.steps["clip_percentiles"]))
                mean = (clipped := np.clip(values, low, high)).mean(dtype=np.float64)
                deviation = np.sqrt(np.square(clipped - np.float32(mean)).mean(dtype=np.float64))
            scales.append((low, high, mean, deviation))
        return scales


def normalized(pixels, scale):
    """Return pixels (C, ...) with the scale of each channel applied."""
    low, high, mean, deviation = (np.float32(x).reshape(-1, *[1] * (pixels.ndim - 1)) for x in zip(*scale, strict=True))
    return (np.clip(pixels, low, high) - mean) / np.where(deviation == 0, np.float32(1), deviation)


def reoriented(array, grid):
    """Return a view of (T, X, Y, Z) with the axes of the grid."""
    return np.flip(array.transpose(0, *(1 + n for n in grid["order"])), [1 + n for n in range(3) if grid["flips"][n]])


def resampled(array, axis, new, order=1, dtype=np.float64):
    """Resample an axis to `new` voxels over the same length: linear, or by a cubic spline, as scipy.ndimage.zoom in grid mode."""
    old = array.shape[axis]
    at = ((np.arange(new, dtype=dtype) + dtype(0.5)) * (dtype(old) / dtype(new)) - dtype(0.5))[:, None]
    weights = np.maximum(0, 1 - np.abs(np.clip(at, 0, old - 1) - np.arange(old, dtype=dtype)))
    if order == 3:
        spline = (4 * np.eye(old + 24) + np.eye(old + 24, k=1) + np.eye(old + 24, k=-1)) / 6
        spline[[0, -1], [0, -1]] = 5 / 6
        away = np.abs(at.astype(float) + 12 - np.arange(old + 24))  # 12 voxels of the edge on either side
        basis = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.maximum(0, 2 - away) ** 3 / 6)
        weights = basis @ np.linalg.solve(spline, np.pad(np.eye(old), ((12, 12), (0, 0)), mode="edge"))
    return array if old == new else np.moveaxis(np.moveaxis(array, axis, -1) @ weights.T.astype(np.float32), -1, axis)


def main():
    """Segment the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", type=Path)
    parser.add_argument("label", type=Path)
    parser.add_argument("--time", choices=["cyclic", "open"], help="default: that of the model")
    parser.add_argument("--plain", action="store_true", help="accept label maps without the post-processing of model.json")
    runner = Runner(Path(__file__).parent, (args := parser.parse_args()).plain)
    if args.study[0].suffix == ".npz":
        return np.save(args.label, runner.segment(**np.load(args.study[0]), time=args.time))
    import nibabel
    files = [nibabel.load(path) for path in args.study]
    image = [np.asarray(file.dataobj, np.float32).reshape(*file.shape[:3], -1).transpose(3, 0, 1, 2) for file in files]
    affine = files[0].affine * {"meter": 1e3, "micron": 1e-3}.get(files[0].header.get_xyzt_units()[0], 1)  # in mm
    label = runner.segment(np.stack(np.broadcast_arrays(*image)), affine, args.time).transpose(1, 2, 3, 0)
    return nibabel.save(nibabel.Nifti1Image(label, files[0].affine, files[0].header, dtype=np.uint8), args.label)


if __name__ == "__main__":
    main()
