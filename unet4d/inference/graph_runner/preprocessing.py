"""The pre-processing of a study, preprocessing.py beside run.py: its grid, there and back, and its intensities, in numpy alone."""

import itertools

import numpy as np


class Grid:
    """The grid of a study: slices last, plane axes towards right, anterior, superior, right-handed; the network's spacing.

    Args:
        affine: (4, 4) of the study, voxel to mm (RAS).
        shape: voxels (X, Y, Z) of the study.
        settings: "preprocessing" of model.json.

    Attributes:
        order: for each axis, the study's axis that it is.
        flips: for each axis, whether it runs against the study's.
        native: voxels of the study along the study's axes.
        shape: voxels along the axes of the grid.
        splines: for each axis, whether images are resampled by cubic splines.
    """

    def __init__(self, affine, shape, settings):
        affine = np.asarray(affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 0:
            raise ValueError(f"got an affine of {affine.tolist()}, expected (4, 4) with an inverse; correct the header")
        turn, mm = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
        world, signs = nearest_axes(turn / mm)
        is_thick, singles = max(mm) >= 1.5 * min(mm), [n for n in range(3) if shape[n] == 1]
        slices = singles if len(singles) == 1 else [n for n in range(3) if not is_thick or mm[n] > 0.999 * max(mm)]
        last = max(slices, key=lambda n: world[n])
        self.order = [*sorted({0, 1, 2} - {last}, key=lambda n: world[n]), last]
        self.flips = [bool(signs[n] < 0) for n in self.order]
        self.flips[2] ^= bool(np.linalg.det(turn[:, self.order] * signs[self.order]) < 0)
        self.native = list(shape)
        spacings = [settings["in_plane_spacing_mm"]] * 2 + [settings["slice_spacing_mm"]]
        sizes = zip(self.order, spacings, strict=True)
        self.shape = [max(1, round(shape[n] * float(mm[n]) / new)) if new else shape[n] for n, new in sizes]
        is_cubic = settings["interpolation"] == "cubic"
        self.splines = [is_cubic, is_cubic, is_cubic and max(mm) <= 3 * min(mm)]

    def image(self, image, kinds):
        """Return a study (C, T, X, Y, Z) on the grid, float32; the components of a velocity turn with the axes.

        Raises:
            ValueError: it has another shape, other channels than these kinds, or voxels that are not finite.
        """
        if np.ndim(image) != 5 or len(image) != len(kinds) or not np.size(image):
            wanted = f"(C, T, X, Y, Z) with C = {len(kinds)} ({', '.join(kinds)})"
            raise ValueError(f"got an image {np.shape(image)}, expected {wanted}; give all channels")
        if not np.isfinite(image).all():
            raise ValueError("got NaN or infinite voxels, expected finite ones; replace them, as by 0 outside the body")
        axes = [velocity_axis(kind) for kind in kinds]
        channels = []
        for n, axis in enumerate(axes):
            sign = 1
            if axis is not None:  # the component along the study's axis
                if self.order[axis] not in axes:
                    needed = f"velocity {'XYZ'[self.order[axis]]}"
                    raise ValueError(f"got {', '.join(kinds)}, expected {needed}, too; store the slices last")
                n = axes.index(self.order[axis])
                sign = -1 if self.flips[axis] != ("-" in kinds[n]) else 1
            values = self.reorient(np.asarray(image[n], np.float32)) * np.float32(sign)
            for dim in range(3):
                old, new = values.shape[1 + dim], self.shape[dim]
                weights = spline_weights(old, new) if self.splines[dim] else linear_weights(old, new, np.float32)
                values = resample(values, 1 + dim, weights)
            channels.append(values)
        return np.stack(channels)

    def label(self, logits, output):
        """Return label values (T, X, Y, Z) uint8 on the study's own voxels, from logits (T, K, X, Y, Z) on the grid.

        `output` is that of model.json.
        """
        for dim in (2, 1, 0):
            logits = resample(logits, 2 + dim, linear_weights(logits.shape[2 + dim], self.native[self.order[dim]]))
        label = np.zeros((len(logits), *self.native), np.uint8)
        view = self.reorient(label)
        if output["kind"] == "classes":
            view[:] = np.array(output["values"], np.uint8)[logits.argmax(axis=1)]
        else:  # regions, each painted over those before
            for value, region in zip(output["values"], logits.swapaxes(0, 1), strict=True):
                view[region > 0] = value
        return label

    def reorient(self, array):
        """Return a view of (T, X, Y, Z) with the axes of the grid."""
        turned = array.transpose(0, *(1 + n for n in self.order))
        return np.flip(turned, [1 + n for n in range(3) if self.flips[n]])


def label_header(header):
    """Return a copy of a study's NIfTI header without its window and meaning, and without extensions, which may name a patient."""
    header = header.copy()
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    return header


def velocity_axis(kind):
    """Return the axis of a channel of the kind "velocity X" or "velocity -X" and the like, 0 to 2; None for another kind."""
    return "XYZ".index(kind[-1]) if kind.startswith("velocity") else None


def nearest_axes(turn):
    """Return for each column of a (3, 3), a study's axis, the nearest axis of the body and its sign, as nibabel finds them."""
    left, _, right = np.linalg.svd(turn)
    near, world, signs = left @ right, np.zeros(3, int), np.ones(3)
    for axis in np.argsort(np.min(-(near**2), axis=0), kind="stable"):
        world[axis] = np.abs(near[:, axis]).argmax()
        signs[axis] = np.sign(near[world[axis], axis])
        near[world[axis]] = 0
    return world, signs


def resample(array, axis, weights):
    """Return an array with an axis resampled by weights (new, old)."""
    if len(weights) == array.shape[axis]:
        return array
    return np.moveaxis(np.moveaxis(array, axis, -1) @ weights.T.astype(np.float32), -1, axis)


def centers(old, new, dtype=np.float64):
    """Return where the centers of `new` voxels lie among `old` voxels over the same length, (new, 1)."""
    return ((np.arange(new, dtype=dtype) + dtype(0.5)) * (dtype(old) / dtype(new)) - dtype(0.5))[:, None]


def linear_weights(old, new, dtype=np.float64):
    """Return weights (new, old) of linear interpolation; beyond the outermost centers the outermost value holds."""
    return np.maximum(0, 1 - np.abs(np.clip(centers(old, new, dtype), 0, old - 1) - np.arange(old, dtype=dtype)))


def spline_weights(old, new):
    """Return weights (new, old) of interpolation by a cubic spline, as scipy.ndimage.zoom in grid mode."""
    margin = 12  # voxels of the edge on either side
    size = old + 2 * margin
    spline = (4 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 6
    spline[[0, -1], [0, -1]] = 5 / 6
    away = np.abs(centers(old, new) + margin - np.arange(size))
    basis = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.maximum(0, 2 - away) ** 3 / 6)
    return basis @ np.linalg.solve(spline, np.pad(np.eye(old), ((margin, margin), (0, 0)), mode="edge"))


def find_scale(pixels, kinds, settings):
    """Return (low, high, mean, deviation) of each channel of pixels (C, T, X, Y, Z).

    They make clipped z-scores; of a velocity the deviation is the root mean square of the speed, and the mean is 0.
    `settings` is "preprocessing" of model.json.
    """
    if settings["normalization"] == "none":
        return [(-np.inf, np.inf, 0, 1)] * len(pixels)
    moves = [velocity_axis(kind) is not None for kind in kinds]
    squares = np.square(pixels[moves], dtype=np.float64).sum(axis=0)
    speed = np.sqrt(squares.sum() / max(1, np.count_nonzero(squares)))
    scales = []
    for values, is_velocity in zip(pixels, moves, strict=True):
        if is_velocity:
            scales.append((-np.inf, np.inf, 0, speed))
            continue
        least = values.size // settings["sample_voxels"] or 1
        step = next(n for n in itertools.count(least) if np.gcd(n, values.size) == 1)  # else it would miss whole slices
        low, high = map(np.float32, np.percentile(values.ravel()[::step], settings["clip_percentiles"]))
        clipped = np.clip(values, low, high)
        mean = clipped.mean(dtype=np.float64)
        scales.append((low, high, mean, np.sqrt(np.square(clipped - np.float32(mean)).mean(dtype=np.float64))))
    return scales


def normalized(pixels, scale):
    """Return pixels (C, T, X, Y, Z) with the scale of each channel applied; a constant channel becomes 0."""
    low, high, mean, deviation = (np.float32(x)[:, None, None, None, None] for x in zip(*scale, strict=True))
    return (np.clip(pixels, low, high) - mean) / np.where(deviation == 0, np.float32(1), deviation)
