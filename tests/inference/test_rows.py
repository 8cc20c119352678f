"""Logits row by row: MONAI's, however the rows are cut, and whatever runs out of memory on the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from monai.inferers import sliding_window_inference

from tests.builders import collect_log, make_network, randomize_projections
from unet4d import CLSTMUNet
from unet4d.config import InferenceConfig
from unet4d.inference.sliding_window import LogitRows
from unet4d.inference.window_predictor import WindowPredictor

CPU = torch.device("cpu")
ROI, GRID = (8, 8, 2), (21, 18, 3)


def network(direction: str = "bidirectional") -> CLSTMUNet:
    torch.manual_seed(0)
    return randomize_projections(make_network(1, 3, (4, 6), [(2, 2, 1)], direction=direction)).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 4, *GRID, generator=torch.Generator().manual_seed(1))


def predictor(
    net: CLSTMUNet | None = None,
    cyclic: bool = False,
    overlap: float = 0.5,
    windows: int = 1,
    mirror_axes: Sequence[int] = (),
    **options,
) -> WindowPredictor:
    config = InferenceConfig(overlap, windows, None, list(mirror_axes))
    return WindowPredictor(net or network(), CPU, ROI, config, "fp32", cyclic, **options)


def whole(image, net=None, **options) -> torch.Tensor:
    return LogitRows(predictor(net, **options), image).logits_until(image.shape[2])


@pytest.mark.parametrize("grid", [GRID, (5, 18, 1), ROI])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_all_rows_at_once_are_monais_sliding_window(grid, overlap):
    net, image = network(), torch.randn(1, 4, *grid)

    def folded(x):
        return net(x.unflatten(1, (4, 1))).flatten(1, 2)

    with torch.no_grad():
        monais = sliding_window_inference(
            image.movedim(1, 0).flatten(0, 1)[None], ROI, 1, folded, overlap=overlap, mode="gaussian"
        )
    torch.testing.assert_close(
        whole(image, net, overlap=overlap), monais[0].unflatten(0, (4, 3)), atol=1e-5, rtol=1e-5
    )  # 2e-6 apart as a rule


@pytest.mark.parametrize("ends", [[7, 21], [1, 2, 3, 20, 21], [8, 16, 21], list(range(1, 22))])
def test_rows_in_pieces_are_those_of_all_at_once(image, ends):
    """The blending of a voxel adds up in the same order: equal to the bit."""
    rows = LogitRows(predictor(), image)
    pieces = [rows.logits_until(end).clone() for end in ends]
    assert torch.equal(torch.cat(pieces, 2), whole(image))


def test_rows_can_be_kept_and_given_again_or_skipped(image):
    rows, wanted = LogitRows(predictor(), image), whole(image)
    assert torch.equal(rows.logits_until(9, keep=7), wanted[:, :, :9])
    assert torch.equal(rows.logits_until(12, keep=15), wanted[:, :, 7:12])
    assert rows.begin == 15
    assert torch.equal(rows.logits_until(21), wanted[:, :, 15:])


def test_windows_that_lie_in_what_is_skipped_add_nothing(image):
    """As where the working grid is so much finer than the study's that whole windows lie between two of its rows."""
    rows = LogitRows(predictor(overlap=0.0), image)
    rows.logits_until(2, keep=18)
    torch.testing.assert_close(rows.logits_until(21), whole(image, overlap=0.0)[:, :, 18:])


@pytest.mark.parametrize("columns", [(0, 18), (0, 5), (4, 13), (17, 18)])
def test_columns_alone_are_those_of_the_whole(image, columns):
    part = LogitRows(predictor(), image, columns)
    cut = torch.cat([part.logits_until(end) for end in (6, 15, 21)], 2)
    torch.testing.assert_close(cut, whole(image)[:, :, :, slice(*columns)], atol=1e-6, rtol=0)


def test_each_window_is_computed_once_however_the_rows_are_cut(image):
    rows = LogitRows(predictor(), image)
    done = 0

    def tick(windows: int) -> None:
        nonlocal done
        done += windows

    rows.predictor.tick = tick
    for end in range(1, 22):
        rows.logits_until(end)
    assert done == len(rows.windows)


def test_no_more_logits_are_held_than_the_rows_asked_for_and_a_window(image):
    rows, reach = LogitRows(predictor(), image), []
    begun = rows._new_sums
    rows._new_sums = lambda count: (reach.append(count), begun(count))[1]  # type: ignore[method-assign]
    for end in range(3, 22, 3):
        rows.logits_until(end)
    assert max(reach) <= 3 + ROI[0]


# out of memory


class Limited:
    """A network on a GPU that holds this many frames of all windows together, made of one on the CPU."""

    def __init__(self, monkeypatch, net: CLSTMUNet, most: int):
        self.computed: list[tuple[int, int]] = []
        encoded = net._encode

        def limited(x, *rest):
            if x.shape[0] * x.shape[1] > most:
                raise torch.OutOfMemoryError("made up")
            self.computed.append(tuple(x.shape[:2]))
            return encoded(x, *rest)

        monkeypatch.setattr(net, "_encode", limited)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_what_does_not_fit_is_computed_in_smaller_batches_then_in_chunks_and_reported(monkeypatch, image, direction):
    net, lines = network(direction), collect_log()
    wanted = whole(image, net)
    limited = Limited(monkeypatch, net, 2)
    got = whole(image, net, windows=4)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    assert {batch * frames for batch, frames in limited.computed} == {2}
    assert lines == [
        "out of memory: continuing with 2 windows at once, which takes longer and changes no result",
        "out of memory: continuing with 1 window at once, which takes longer and changes no result",
        "out of memory: continuing with 2 frames at once, which takes longer and changes no result",
    ]


def test_frames_are_split_before_stitching_moves_to_main_memory():
    """A GPU is not needed to see in what order a network on one would fall back."""
    lines = collect_log()
    one = predictor(windows=3)
    one.device = torch.device("cuda")
    one.fall_back(5)
    assert (one.windows_at_once, one.stitch_on, one.frames_at_once) == (1, None, None)
    for left in (3, 2, 1):
        one.fall_back(5)
        assert (one.frames_at_once, one.stitch_on) == (left, None)
    one.fall_back(5)
    assert one.stitching_device(1) == CPU
    with pytest.raises(torch.OutOfMemoryError, match="one frame of one window"):
        one.fall_back(5)
    assert [line.split("with ")[1].split(",")[0] for line in lines] == [
        "1 window at once",
        "3 frames at once",
        "2 frames at once",
        "1 frame at once",
        "logits stitched in main memory",
    ]


def test_where_stitching_ran_out_of_memory_later_studies_as_large_are_stitched_in_main_memory():
    gpu, net = torch.device("cuda"), network()

    def on_gpu() -> WindowPredictor:
        one = predictor(net)
        one.device = one.stitch_on = gpu
        return one

    first = on_gpu()
    assert first.stitching_device(1000) == gpu
    first.stitch_in_main_memory()
    assert first.stitching_device(1) == CPU
    assert on_gpu().stitching_device(1000) == CPU
    assert on_gpu().stitching_device(999) == gpu


def test_a_later_study_does_not_try_again_what_ran_out_of_memory_in_the_one_before(monkeypatch, image):
    net, lines = network(), collect_log()
    limited = Limited(monkeypatch, net, 2)
    whole(image, net, windows=4)
    assert len(lines) == 3
    limited.computed.clear()
    whole(image, net, windows=4)
    assert len(lines) == 3
    assert {batch * frames for batch, frames in limited.computed} == {2}


def test_rows_that_the_gpu_cannot_carry_on_are_carried_in_main_memory(monkeypatch, image):
    rows = LogitRows(predictor(), image)
    wanted, copy, refused = whole(image), torch.Tensor.clone, []

    def limited(self, *given, **named):
        if self.shape[:2] == (image.shape[1], 3) and not refused:  # logits that are carried on
            refused.append(self.shape)
            raise torch.OutOfMemoryError("made up")
        return copy(self, *given, **named)

    monkeypatch.setattr(torch.Tensor, "clone", limited)
    got = torch.cat([rows.logits_until(end) for end in (7, image.shape[2])], 2)
    assert refused
    assert rows.predictor.stitch_on == CPU
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_a_failure_that_is_no_lack_of_memory_passes(monkeypatch, image):
    net = network()
    monkeypatch.setattr(net, "_encode", lambda x, *rest: (_ for _ in ()).throw(RuntimeError("out of memory, it says")))
    with pytest.raises(RuntimeError, match="it says"):
        whole(image, net)


# cyclic shifts


def test_the_mean_over_all_first_frames_does_not_depend_on_where_the_loop_begins(image):
    """Not even where the states' memory outlasts the loop, so that priming alone leaves a difference."""
    net = network()
    for addition in net.recurrent.values():
        for cell in addition.lstm.cells:
            with torch.no_grad():
                cell.input_gates.bias[cell.hidden_channels : 2 * cell.hidden_channels] = 8.0  # forgets next to nothing
    options = {"net": net, "cyclic": True, "overlap": 0.0}
    plain = whole(image, **options)
    moved = whole(image.roll(1, 1), **options).roll(-1, 0)
    assert not torch.allclose(moved, plain, atol=1e-2)
    every = {**options, "cyclic_shifts": 4}
    torch.testing.assert_close(
        whole(image.roll(1, 1), **every).roll(-1, 0), whole(image, **every), atol=1e-5, rtol=1e-5
    )


def test_the_mean_over_shifts_is_that_of_the_rolled_answers_rolled_back(image):
    net = network()
    one_by_one = [whole(image.roll(-shift, 1), net, cyclic=True).roll(shift, 0) for shift in (0, 2)]
    got = whole(image, net, cyclic=True, cyclic_shifts=2)
    torch.testing.assert_close(got, torch.stack(one_by_one).mean(0), atol=1e-5, rtol=1e-5)


def test_shifts_and_mirrorings_together_are_the_mean_of_each_of_both(image):
    net = network()
    parts = []
    for shift, mirror in itertools.product((0, 2), (False, True)):
        seen = image.roll(-shift, 1).flip(2) if mirror else image.roll(-shift, 1)
        answer = whole(seen[:, :, :8, :8, :2], net, cyclic=True).roll(shift, 0)
        parts.append((answer.flip(2) if mirror else answer).clone())
        if mirror:  # of one window alone, so that its mirroring is the image's
            parts[-1] = whole(image.roll(-shift, 1)[:, :, :8, :8, :2].flip(2), net, cyclic=True).roll(shift, 0).flip(2)
    got = whole(image[:, :, :8, :8, :2], net, cyclic=True, cyclic_shifts=2, mirror_axes=(0,))
    torch.testing.assert_close(got, torch.stack(parts).mean(0), atol=1e-5, rtol=1e-5)
