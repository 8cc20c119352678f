"""Where and how exactly to compute is found, and what cannot be is said."""

from __future__ import annotations

import pytest
import torch

from unet4d.errors import InputError
from unet4d.model.device import autocast, find_device, resolve_precision

CPU = torch.device("cpu")


def test_auto_finds_what_is_there():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_here_is_said(name):
    with pytest.raises(InputError, match=name):
        find_device(name)


def test_auto_precision_is_bf16_exactly_where_the_cpu_computes_in_it(monkeypatch):
    monkeypatch.setattr("unet4d.model.device._has_bf16_units", lambda: True)
    assert resolve_precision("auto", CPU) == "bf16"
    monkeypatch.setattr("unet4d.model.device._has_bf16_units", lambda: False)
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(InputError, match="bf16 or fp32"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_on_a_gpu_is_bf16_where_it_computes_in_it_else_fp16(monkeypatch, supported, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision("auto", torch.device("cuda")) == precision


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_is_what_was_named(precision, dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype
