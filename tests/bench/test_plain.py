"""The baselines compute what their names say."""

from __future__ import annotations

import torch

from bench.plain import PlainConvLSTM, PublishedCLSTMUNet
from unet4d.models.convlstm import ConvLSTM3d


def test_the_plain_convlstm_equals_convlstm3d_in_outputs_and_gradients():
    torch.manual_seed(0)
    ours = ConvLSTM3d(3, 2, (3, 3, 1)).double()
    plain = PlainConvLSTM(3, 2, (3, 3, 1)).double().copy_weights(ours.cells[0])
    x, other = (torch.randn(2, 5, 3, 4, 3, 2).double().requires_grad_() for _ in range(2))
    other.data.copy_(x.data)
    output, wanted = plain(x), ours(other)[0]
    torch.testing.assert_close(output, wanted)

    weight = torch.randn_like(wanted)
    (output * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    cell = ours.cells[0]
    together = torch.cat((cell.input_gates.weight.grad, cell.hidden_gates.weight.grad), 1)
    torch.testing.assert_close(plain.gates.weight.grad, together)
    torch.testing.assert_close(plain.gates.bias.grad, cell.input_gates.bias.grad)


def test_the_published_network_has_its_published_weights():
    def twice(inputs: int, outputs: int) -> int:  # two convolutions with bias, and scale and shift of two batch norms
        return 27 * inputs * outputs + 27 * outputs * outputs + 2 * outputs + 4 * outputs

    encoder = twice(1, 64) + twice(64, 128) + twice(128, 256) + twice(256, 512)
    lstm = 27 * 1024 * 2048 + 2048
    ups = 8 * (512 * 256 + 256 * 128 + 128 * 64) + 256 + 128 + 64
    decoder = twice(512, 256) + twice(256, 128) + twice(128, 64)
    head = 64 * 4 + 4
    with torch.device("meta"):
        network = PublishedCLSTMUNet(1, 4)
    assert sum(p.numel() for p in network.parameters()) == encoder + lstm + ups + decoder + head


def test_the_published_network_gives_logits_of_every_frame_on_the_grid():
    network = PublishedCLSTMUNet(2, 3, (2, 4, 6))
    assert network(torch.randn(2, 3, 2, 8, 4, 4)).shape == (2, 3, 3, 8, 4, 4)
