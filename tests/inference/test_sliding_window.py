"""The sliding window cuts space, never time, and the cutting does not show."""

from __future__ import annotations

import pytest
import torch

from tests.builders import make_network, randomize_projections
from tests.sliding import sliding_window
from unet4d.config import InferenceConfig
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.pipeline.augmentation.spatial import flip_clip

CPU = torch.device("cpu")


class CumulativeSum(torch.nn.Module):
    """A causal network with an answer known by hand: class 0 is the running sum over frames, class 1 its negative."""

    out_channels = 2

    def forward(self, x, cyclic=False, priming_frames=None):
        total = x.cumsum(1) + (x.sum(1, keepdim=True) if cyclic else 0)
        return torch.cat((total, -total), 2)


def run(network, image, roi=(8, 8, 2), overlap=0.5, cyclic=False, precision="fp32", signs=(), **options):
    config = InferenceConfig(overlap=overlap, **options)
    return sliding_window(network, image, roi, config, cyclic=cyclic, device=CPU, precision=precision, signs=signs)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("grid", [(20, 17, 5), (8, 8, 2), (5, 20, 1)])
def test_no_window_starts_cold_along_time(grid, overlap):
    """Pins sliding along time, which turned the running sum 1..8 into 1, 2, 2, 3, 2, 3, 3, 4."""
    logits = run(CumulativeSum(), torch.ones(1, 8, *grid), overlap=overlap)
    assert logits.shape == (8, 2, *grid)
    wanted = torch.arange(1.0, 9)[:, None, None, None].expand(8, *grid)
    torch.testing.assert_close(logits[:, 0], wanted)
    torch.testing.assert_close(logits[:, 1], -wanted)


def test_cyclic_reaches_the_network():
    logits = run(CumulativeSum(), torch.ones(1, 4, 8, 8, 2), cyclic=True)
    assert logits[:, 0, 0, 0, 0].tolist() == [5, 6, 7, 8]


def test_channels_and_frames_are_folded_and_unfolded_alike():
    class SecondChannel(torch.nn.Module):
        out_channels = 1

        def forward(self, x, cyclic=False, priming_frames=None):
            return x[:, :, 1:2].clone()  # MONAI weights its answer in place

    image = torch.randn(3, 4, 9, 8, 2)
    torch.testing.assert_close(run(SecondChannel(), image)[:, 0], image[1])


def test_one_window_that_holds_the_study_is_the_network_itself():
    torch.manual_seed(0)
    network = make_network(1, 2, (4, 6), [(2, 2, 1)]).eval()
    image = torch.randn(1, 3, 8, 8, 2)
    with torch.no_grad():
        wanted = network(image.movedim(1, 0)[None])[0]
    torch.testing.assert_close(run(network, image), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows_at_once", [1, 3, 100])
def test_windows_at_once_do_not_change_the_answer(windows_at_once):
    torch.manual_seed(0)
    network = make_network(1, 2, (4, 6), [(2, 2, 1)]).eval()
    image = torch.randn(1, 3, 19, 12, 3)
    torch.testing.assert_close(
        run(network, image, sw_batch_size=windows_at_once), run(network, image), atol=1e-5, rtol=1e-5
    )


def test_stitching_is_float32_under_autocast():
    """Pins accumulation in bf16, with an error of 0.19."""
    logits = run(CumulativeSum(), torch.full((1, 3, 20, 20, 4), 1.001), precision="bf16")
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[2, 0], torch.full((20, 20, 4), 3.003), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("cyclic", "priming_frames"), [(False, None), (True, None), (True, 2), (True, 4)])
@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize(
    ("direction", "layers", "lstm_channels"),
    [("forward", 1, 2), ("forward", 2, [0, 2]), ("bidirectional", 1, 2), ("bidirectional", 2, [0, 2])],
)
def test_frames_computed_in_chunks_are_those_computed_at_once(
    direction, layers, lstm_channels, length, cyclic, priming_frames
):
    torch.manual_seed(0)
    more = {"lstm_channels": lstm_channels, "direction": direction, "lstm_layers": layers}
    network = randomize_projections(make_network(1, 2, (4, 6), [(2, 2, 1)], **more).eval())
    image = torch.randn(1, 7, 8, 8, 2)
    options = {"cyclic": cyclic, "priming_frames": priming_frames}
    whole, cut = (run(network, image, chunk_frames=chunk, **options) for chunk in (None, length))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run(network, image[:, length:], **options), whole[length:], atol=1e-3)


def test_a_window_too_large_for_the_memory_is_computed_in_chunks_and_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    network, image = make_network(1, 2, (4, 6), [(2, 2, 1)]).eval(), torch.randn(1, 8, 12, 8, 2)
    whole, encoded, computed = run(network, image), network._encode, []

    def limited(x, *rest):
        if x.shape[1] > 3:
            raise torch.OutOfMemoryError("made up")
        computed.append(x.shape[1])
        return encoded(x, *rest)

    monkeypatch.setattr(network, "_encode", limited)
    torch.testing.assert_close(run(network, image), whole, atol=1e-5, rtol=1e-5)
    assert set(computed) == {2}
    monkeypatch.setattr(network, "_encode", lambda x, *rest: limited(x.repeat(1, 4, 1, 1, 1, 1), *rest))
    with pytest.raises(torch.OutOfMemoryError):
        run(network, image)


def test_windows_that_the_gpu_cannot_even_take_in_are_fewer_at_once(monkeypatch):
    torch.manual_seed(0)
    network, clips = make_network(1, 2, (4, 6), [(2, 2, 1)]).eval(), torch.randn(4, 3, 1, 8, 8, 2)
    predictor = WindowPredictor(network, CPU, (8, 8, 2), InferenceConfig(sw_batch_size=4), "fp32", False)
    moved = torch.Tensor.to
    with torch.no_grad():
        wanted = network(clips)

    def limited(self, *given, **named):
        if self.ndim == 6 and len(self) > 1:
            raise torch.OutOfMemoryError("made up")
        return moved(self, *given, **named)

    monkeypatch.setattr(torch.Tensor, "to", limited)
    assert [predictor.logits(clips), predictor.logits(clips[:2])] == [None, None]
    assert predictor.windows_at_once == 1
    torch.testing.assert_close(predictor.logits(clips[:1]), wanted[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=lambda error: str(error)[:30],
)
def test_a_lack_of_memory_under_any_name_is_answered_by_fewer_frames_and_ends(monkeypatch, error):
    """cuDNN's text also names what it does not support, where no smaller part helps: the tries must end with that error's text."""
    network, tried = make_network(1, 2, (4, 6), [(2, 2, 1)]).eval(), []

    def refused(x, *rest):
        tried.append(x.shape[1])
        raise error

    monkeypatch.setattr(network, "_encode", refused)
    with pytest.raises(RuntimeError, match=str(error)[:20].replace("[", r"\[")):
        run(network, torch.randn(1, 8, 8, 8, 2))
    assert tried[0] == 8
    assert tried[-1] == 1
    assert len(tried) <= 5


# mirroring


@pytest.mark.parametrize("axes", [[0], [0, 1], [2, 0, 1, 0]])
def test_a_network_that_mirroring_cannot_fool_answers_as_without(axes):
    """A pointwise one: mirrored, it answers the mirrored answer."""
    image = torch.randn(1, 3, 19, 12, 3)
    torch.testing.assert_close(run(CumulativeSum(), image, mirror_axes=axes), run(CumulativeSum(), image))


class Ramp(torch.nn.Module):
    """Adds to its input 1 to 8 along X and 10 to 80 along Y, whatever it is shown: every mirroring changes it."""

    out_channels = 1

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x, cyclic=False, priming_frames=None):
        self.seen += 1
        along = torch.arange(1.0, 9)
        return x + along[:, None, None] + 10 * along[:, None]


def test_the_answer_is_the_mean_over_all_mirrorings_mirrored_back():
    """Back in place the ramp runs the other way: the mean of both is 4.5 everywhere, and 45 along Y."""
    for axes, added, runs in (([0], 4.5, 2), ([0, 1], 49.5, 4), ([0, 1, 2], 49.5, 8)):
        ramp, image = Ramp(), torch.randn(1, 2, 8, 8, 2)
        answer = run(ramp, image, mirror_axes=axes)[:, 0] - image[0]
        if axes == [0]:
            answer = answer - 10 * torch.arange(1.0, 9)[:, None]
        torch.testing.assert_close(answer, torch.full_like(answer, added))
        assert ramp.seen == runs


VELOCITIES = ("signal", "velocity X", "velocity Z")
SIGNS = [(1, 1, 1), (-1, 1, 1), (1, 1, -1)]


@pytest.mark.parametrize(
    ("axes", "grid"), [((0,), (16, 12, 4)), ((1, 2), (8, 8, 2)), ((0, 1, 2), (8, 8, 2)), ((0, 1, 2), (6, 8, 2))]
)
def test_a_mirrored_study_gets_the_mirrored_answer_also_with_velocities(axes, grid):
    torch.manual_seed(0)
    network = make_network(3, 2, (4, 6), [(2, 2, 1)]).eval()
    image = torch.randn(3, 3, *grid)
    mirrored = flip_clip(image, axes, VELOCITIES)
    options = {"mirror_axes": list(axes), "signs": SIGNS}
    answer, back = run(network, image, **options), flip_clip(run(network, mirrored, **options), axes)
    torch.testing.assert_close(back, answer, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(flip_clip(run(network, mirrored), axes), run(network, image), atol=1e-2)
    unsigned = {"mirror_axes": list(axes)}
    blind = flip_clip(run(network, mirrored, **unsigned), axes), run(network, image, **unsigned)
    assert not torch.allclose(*blind, atol=1e-2)


def test_mirroring_leaves_the_image_and_its_signs_alone():
    image = torch.randn(3, 2, 8, 8, 2)
    before = image.clone()
    run(make_network(3, 2, (4, 6), [(2, 2, 1)]).eval(), image, mirror_axes=[0, 2], signs=SIGNS)
    assert torch.equal(image, before)
