"""The steps after the network, postprocessing.py beside run.py: smoothing over time, and those for label maps, in numpy alone.

A component lies in one frame. Voxels that share a corner are connected; background is connected by faces alone.
"""

import itertools

import numpy as np

FACES = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
CORNERS = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if offset > (0, 0, 0)]
"""Offsets (X, Y, Z) to half of a voxel's 6 or 26 neighbors; the other half lies opposite."""


def postprocessed(label, steps, cyclic):
    """Return a label map (T, X, Y, Z) after all steps, one after the other.

    Args:
        label: is not changed.
        steps: of model.json; "values" are the label values of a step's class, "fill" is what its holes get.
        cyclic: whether the last frame leads into the first.
    """
    label = label.copy()
    for step in steps:
        mask = np.isin(label, step["values"])
        if step["operation"] == "majority_over_time":
            label = majority_over_time(label, cyclic)
        elif mask.any():
            box = bounding_box(mask)
            part, mask = label[box], mask[box]
            if step["operation"] == "fill_holes":
                part[holes(part, mask, label.shape)] = step["fill"]
            else:
                part[REMOVALS[step["operation"]](mask, cyclic)] = 0
    return label


def smooth_over_time(logits, width, cyclic):
    """Smooth logits (T, K, X, Y, Z) over time, in place, by a Gaussian filter of fourth order, `width` in frames; return them.

    None: 0.08 of the frames of a cycle, 0 in open time. An open series is taken to return through its own frames.
    """
    frames = len(logits)
    width = (0.08 * frames if cyclic else 0) if width is None else width
    length = frames if cyclic else 2 * frames
    a = 2 * (np.pi * width * np.fft.rfftfreq(length)) ** 2
    kernel = np.fft.irfft((1 + a) * np.exp(-a), length)
    at = np.arange(frames)
    weights = kernel[(at[:, None] - at) % length]
    weights = weights if cyclic else weights + kernel[(at[:, None] + at + 1) % length]
    for x in range(logits.shape[2] if width > 0 and frames > 1 else 0):
        logits[:, :, x] = np.tensordot(weights.astype(np.float32), logits[:, :, x], 1)
    return logits


def majority_over_time(label, cyclic):
    """Give a voxel the label that it has both in the frame before and in the frame after; the ends of an open series stay."""
    if len(label) < 3:
        return label
    before, after = np.roll(label, 1, axis=0), np.roll(label, -1, axis=0)
    agree = before == after
    if not cyclic:
        agree[[0, -1]] = False
    return np.where(agree, before, label)


def smaller_components(mask, cyclic):
    """Return the voxels of each frame that are outside of its component of most voxels."""
    return np.stack([outside_largest(frame) for frame in numbered_components(mask, CORNERS)])


def smaller_components_over_time(mask, cyclic):
    """Return the voxels outside of the component of most voxels, where a voxel is joined to itself in the next frame, too."""
    numbers = numbered_components(mask, CORNERS)
    after = np.roll(numbers, -1, axis=0)
    if not cyclic:
        after[-1] = 0
    both = (numbers > 0) & (after > 0)
    return outside_largest(joined(numbers.max() + 1, numbers[both], after[both])[numbers])


def single_frame_components(mask, cyclic):
    """Return the components with no voxel of the class at theirs, or around these, in the frames before and after."""
    if len(mask) == 1:
        return np.zeros_like(mask)
    near, grown = np.zeros_like(mask), with_neighbors(mask)
    near[1:] |= grown[:-1]
    near[:-1] |= grown[1:]
    if cyclic:
        near[0] |= grown[-1]
        near[-1] |= grown[0]
    numbers = numbered_components(mask, CORNERS)
    return mask & ~np.isin(numbers, numbers[near])


REMOVALS = {
    "largest_component": smaller_components,
    "largest_component_over_time": smaller_components_over_time,
    "remove_single_frame_components": single_frame_components,
}


def holes(label, mask, shape):
    """Return the background that a class alone encloses in a frame; the border of the image, of this shape, is open.

    Args:
        label: (T, X, Y, Z), the box around the class.
        mask: the class in it.
        shape: (T, X, Y, Z) of the whole image. An axis of one voxel has no border.
    """
    others = (label != 0) & ~mask
    numbers = numbered_components((label == 0) & mask.any(axis=(1, 2, 3), keepdims=True), FACES)
    is_hole = np.arange(numbers.max() + 1) > 0
    for axis in (1, 2, 3):
        if shape[axis] > 1:
            is_hole[np.take(numbers, [0, -1], axis)] = False
    for offset in FACES:
        (low, high), (other_low, other_high) = (neighbors(array, (0, *offset)) for array in (numbers, others))
        is_hole[low[other_high]] = is_hole[high[other_low]] = False
    return is_hole[numbers]


def numbered_components(mask, offsets):
    """Return the numbers of the components of each frame, (T, X, Y, Z) from 1 on in the order of their first voxels, else 0."""
    numbers, count = np.zeros(mask.shape, np.int64), 0
    for frame, inside in zip(numbers, mask, strict=True):
        padded = np.pad(inside, 1)  # so that every voxel has all neighbors, and no step leads around the border
        voxels = np.flatnonzero(padded)
        nodes = np.zeros(padded.size, np.int64)
        nodes[voxels] = np.arange(1, len(voxels) + 1)
        beside = [nodes[voxels + np.dot(offset, padded.strides)] for offset in offsets]
        first = np.concatenate([1 + np.flatnonzero(other) for other in beside])
        root = joined(len(voxels) + 1, first, np.concatenate([other[other > 0] for other in beside]))
        order = np.cumsum(root == np.arange(len(root))) - 1  # of components, by their first nodes; node 0 is no voxel
        frame[inside] = count + order[root[1:]]
        count += order[-1]
    return numbers


def joined(count, first, second):
    """Return for each of `count` nodes the first one that it is joined to by the edges from `first` to `second`."""
    root = np.arange(count)
    while len(first):
        low, high = np.minimum(first, second), np.maximum(first, second)
        root[high] = low  # of several edges of a root the last one counts, the next round has the others
        while (root != root[root]).any():
            root = root[root]
        first, second = root[low], root[high]
        apart = first != second
        first, second = first[apart], second[apart]
    return root


def outside_largest(numbers):
    """Return where numbered components are not the one of most voxels, of equals the first."""
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return (numbers > 0) & (numbers != numbers.flat[sizes[numbers].argmax()])


def neighbors(array, offset):
    """Return two views of an array, the voxels that have a neighbor at an offset, and these neighbors."""
    low = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(offset, array.shape, strict=True))
    high = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(offset, array.shape, strict=True))
    return array[low], array[high]


def with_neighbors(mask):
    """Return a mask (T, X, Y, Z) with the 26 neighbors of each of its voxels."""
    grown = np.pad(mask, [(0, 0), (1, 1), (1, 1), (1, 1)])
    for axis in (1, 2, 3):
        grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    return grown[:, 1:-1, 1:-1, 1:-1]


def bounding_box(mask):
    """Return the box around a mask (T, X, Y, Z) that is not empty; all frames are in it."""
    found = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2, 3} - {axis}))) for axis in (1, 2, 3)]
    return (slice(None), *(slice(voxels[0], voxels[-1] + 1) for voxels in found))
