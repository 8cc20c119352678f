"""The sliding window cuts space, never time, and the cutting does not show."""

from __future__ import annotations

import pytest
import torch

from unet4d import CLSTMUNet
from unet4d.config import InferenceConfig
from unet4d.model.inference import sliding_window

CPU = torch.device("cpu")


class CumulativeSum(torch.nn.Module):
    """A causal network with an answer known by hand: class 0 is the running sum over frames, class 1 its negative."""

    out_channels = 2

    def forward(self, x, cyclic=False):
        total = x.cumsum(1) + (x.sum(1, keepdim=True) if cyclic else 0)
        return torch.cat((total, -total), 2)


def run(network, image, roi=(8, 8, 2), overlap=0.5, cyclic=False, precision="fp32", **options):
    config = InferenceConfig(overlap=overlap, **options)
    return sliding_window(network, image, roi, config, cyclic=cyclic, device=CPU, precision=precision)


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

        def forward(self, x, cyclic=False):
            return x[:, :, 1:2].clone()  # MONAI weights its answer in place

    image = torch.randn(3, 4, 9, 8, 2)
    torch.testing.assert_close(run(SecondChannel(), image)[:, 0], image[1])


def test_one_window_that_holds_the_study_is_the_network_itself():
    torch.manual_seed(0)
    network = CLSTMUNet(1, 2, (4, 6), [(2, 2, 1)]).eval()
    image = torch.randn(1, 3, 8, 8, 2)
    with torch.no_grad():
        wanted = network(image.movedim(1, 0)[None])[0]
    torch.testing.assert_close(run(network, image), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows_at_once", [1, 3, 100])
def test_windows_at_once_do_not_change_the_answer(windows_at_once):
    torch.manual_seed(0)
    network = CLSTMUNet(1, 2, (4, 6), [(2, 2, 1)]).eval()
    image = torch.randn(1, 3, 19, 12, 3)
    torch.testing.assert_close(
        run(network, image, sw_batch_size=windows_at_once), run(network, image), atol=1e-5, rtol=1e-5
    )


def test_stitching_is_float32_under_autocast():
    """Pins accumulation in bf16, whose error reached 0.19."""
    logits = run(CumulativeSum(), torch.full((1, 3, 20, 20, 4), 1.001), precision="bf16")
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[2, 0], torch.full((20, 20, 4), 3.003), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize(
    ("direction", "layers"), [("forward", 1), ("forward", 2), ("bidirectional", 1), ("bidirectional", 2)]
)
def test_frames_computed_in_chunks_are_those_computed_at_once(direction, layers, length, cyclic):
    torch.manual_seed(0)
    network = CLSTMUNet(1, 2, (4, 6), [(2, 2, 1)], direction=direction, lstm_layers=layers).eval()
    for addition in network.recurrent.values():
        torch.nn.init.normal_(addition.projection.weight)
    image = torch.randn(1, 7, 8, 8, 2)
    whole, cut = (run(network, image, cyclic=cyclic, chunk_frames=chunk) for chunk in (None, length))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run(network, image[:, length:], cyclic=cyclic), whole[length:], atol=1e-3)


def test_a_window_too_large_for_the_memory_is_computed_in_chunks_and_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    network, image = CLSTMUNet(1, 2, (4, 6), [(2, 2, 1)]).eval(), torch.randn(1, 8, 12, 8, 2)
    whole, encoded, computed = run(network, image), network._encoded, []

    def limited(x, kept):
        if x.shape[1] > 3:
            raise torch.OutOfMemoryError("made up")
        computed.append(x.shape[1])
        return encoded(x, kept)

    monkeypatch.setattr(network, "_encoded", limited)
    torch.testing.assert_close(run(network, image), whole, atol=1e-5, rtol=1e-5)
    assert set(computed) == {2}
    monkeypatch.setattr(network, "_encoded", lambda x, kept: limited(x.repeat(1, 4, 1, 1, 1, 1), kept))
    with pytest.raises(torch.OutOfMemoryError):
        run(network, image)
