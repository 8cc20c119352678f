"""Windows: those of MONAI, each voxel in one or more, the last one pushed back."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference

from unet4d.inference.windows import Windows

SIZES = [((20, 17, 5), (8, 8, 2)), ((8, 8, 2), (8, 8, 2)), ((5, 20, 1), (8, 8, 2)), ((9, 31, 7), (4, 10, 3))]


def places(windows: Windows) -> list[tuple[int, int, int]]:
    every = (0, windows.size[1])
    return [place for x in windows.starts[0] for place in windows.beginning_at(x, every)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(("size", "roi"), SIZES)
def test_they_are_monais(size, roi, overlap):
    windows = Windows(size, roi, overlap)
    padded = [max(n, r) for n, r in zip(size, roi, strict=True)]
    steps = [r if n == r else max(1, int(r * (1 - overlap))) for n, r in zip(padded, roi, strict=True)]
    before = [max(0, r - n) // 2 for n, r in zip(size, roi, strict=True)]
    monais = [
        tuple(part.start - b for part, b in zip(box, before, strict=True))
        for box in dense_patch_slices(padded, roi, steps)
    ]
    assert sorted(places(windows)) == sorted(set(monais))
    assert len(windows) == len(set(monais))


def test_starts_drawn_by_hand():
    """Seven voxels, four a window, half of it shared: 0-3, 2-5, and 3-6 pushed back; three voxels lie in the middle of five."""
    assert Windows((7, 3, 4), (4, 5, 4), 0.5).starts == [[0, 2, 3], [-1], [0]]


@pytest.mark.parametrize(("size", "roi"), SIZES)
def test_what_is_read_is_the_image_with_zeros_around_it(size, roi):
    windows, image = Windows(size, roi, 0.5), torch.rand(2, 3, *size) + 1
    for place in places(windows):
        clip = windows.read(image, place)
        assert clip.shape == (3, 2, *roi)
        for voxel in itertools.product(*map(range, roi)):
            where = [at + v for at, v in zip(place, voxel, strict=True)]
            inside = all(0 <= w < n for w, n in zip(where, size, strict=True))
            wanted = image[(slice(None), slice(None), *where)].T if inside else torch.zeros(3, 2)
            assert torch.equal(clip[(slice(None), slice(None), *voxel)], wanted)


@pytest.mark.parametrize("columns", [(0, 17), (3, 9), (16, 17), (0, 1)])
def test_columns_are_reached_by_all_windows_that_touch_them_and_no_other(columns):
    windows = Windows((20, 17, 5), (8, 8, 2), 0.5)
    chosen = set(windows.beginning_at(0, columns))
    for place in windows.beginning_at(0, (0, 17)):
        first, end = windows.inside(place)[1]
        assert (place in chosen) == (first < columns[1] and end > columns[0])


def test_the_weight_is_monais():
    """A window of ones among zeros comes back as its share of the sum of Gaussians."""
    roi = (6, 5, 4)
    windows, seen = Windows((9, 5, 4), roi, 0.5), []

    def first_only(x):
        seen.append(len(seen))
        return torch.full_like(x, float(len(seen) == 1))

    stitched = sliding_window_inference(torch.zeros(1, 1, 9, 5, 4), roi, 1, first_only, overlap=0.5, mode="gaussian")
    weight = torch.zeros(2, 9, 5, 4)
    for n, place in enumerate(places(windows)):
        weight[min(n, 1), place[0] : place[0] + 6] += windows.weight
    torch.testing.assert_close(stitched[0, 0], weight[0] / weight.sum(0))
