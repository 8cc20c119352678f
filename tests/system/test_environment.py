"""The versions of what computes."""

from __future__ import annotations

import torch

from unet4d.system.environment import versions


def test_a_cudnn_that_torch_refuses_stops_no_run_on_the_cpu(monkeypatch):
    def refuse():
        raise RuntimeError("cuDNN version 92600 is not compatible with devices with SM < 7.5")

    monkeypatch.setattr(torch.backends.cudnn, "version", refuse)
    assert versions()["cudnn"] is None
    assert versions()["torch"] == torch.__version__
