"""Where and how exactly to compute is found, said to torch in full, and what cannot be is said."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from unet4d.errors import InputError
from unet4d.model.device import autocast, find_device, resolve_precision, set_tf32, tune

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


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


@pytest.mark.parametrize(
    ("amx", "avx512", "precision"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_either_kind_of_units_of_a_cpu_will_do(monkeypatch, amx, avx512, precision):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert resolve_precision("auto", CPU) == precision


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_on_a_gpu_is_bf16_where_it_computes_in_it_else_fp16(monkeypatch, supported, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision("auto", GPU) == precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_is_what_was_named(precision, dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype


@pytest.fixture
def flags():
    """What torch is told of products, as it was before and is put back."""
    single = [(CUDNN, "benchmark")]
    single += [(MATMUL, f"allow_{kind}_reduced_precision_reduction") for kind in ("bf16", "fp16")]
    before = [(owner, name, getattr(owner, name)) for owner, name in single]
    by_op = [(owner, owner.fp32_precision) for owner in (torch.backends, MATMUL, CUDNN.conv, CUDNN.rnn)]
    old = MATMUL.allow_tf32, CUDNN.allow_tf32
    yield
    for owner, name, value in before:
        setattr(owner, name, value)
    MATMUL.allow_tf32, CUDNN.allow_tf32 = old
    for owner, value in by_op:
        owner.fp32_precision = value


def told() -> list[object]:
    """What torch holds of TF32: in the flags of old, by operation, and as one word."""
    by_op = [owner.fp32_precision for owner in (MATMUL, CUDNN.conv, CUDNN.rnn)]
    return [MATMUL.allow_tf32, CUDNN.allow_tf32, *by_op, torch.get_float32_matmul_precision()]


EXACT, ROUNDED = [False, False, "ieee", "ieee", "ieee", "highest"], [True, True, "tf32", "tf32", "tf32", "high"]
words = pytest.mark.parametrize(
    ("precision", "wanted"), [("fp32", EXACT), ("tf32", ROUNDED), ("bf16", ROUNDED), ("fp16", ROUNDED)]
)


@words
@pytest.mark.parametrize("before", ["fp32", "tf32"])
def test_tf32_is_allowed_unless_fp32_is_asked_for_in_flags_that_agree(flags, before, precision, wanted):
    """They can be read in every way: torch raises where the old and the new ones contradict one another."""
    set_tf32(GPU, before)
    tune(GPU, precision)
    assert told() == wanted


@words
def test_flags_that_somebody_set_in_part_are_set_in_full(flags, precision, wanted):
    CUDNN.conv.fp32_precision, MATMUL.fp32_precision = "ieee", "tf32"
    set_tf32(GPU, precision)
    assert told() == wanted


def test_fp32_is_exact_also_where_torch_as_a_whole_was_told_otherwise(flags):
    """Where only the flags of old are set, convolutions take what holds for torch as a whole."""
    torch.backends.fp32_precision = "tf32"
    set_tf32(GPU, "fp32")
    assert [owner.fp32_precision for owner in (MATMUL, CUDNN.conv)] == ["ieee", "ieee"]
    assert not MATMUL.allow_tf32
    assert not CUDNN.allow_tf32


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_products_in_half_precision_are_added_up_in_float32(flags, precision):
    MATMUL.allow_bf16_reduced_precision_reduction = MATMUL.allow_fp16_reduced_precision_reduction = True
    tune(GPU, precision)
    assert not MATMUL.allow_bf16_reduced_precision_reduction
    assert not MATMUL.allow_fp16_reduced_precision_reduction
    assert not MATMUL.allow_fp16_accumulation


def test_only_training_has_algorithms_tried(flags):
    CUDNN.benchmark = False
    set_tf32(GPU, "bf16")
    assert not CUDNN.benchmark
    tune(GPU, "bf16")
    assert CUDNN.benchmark


def test_on_a_cpu_nothing_is_set(flags):
    CUDNN.benchmark = False
    set_tf32(GPU, "fp32")
    tune(CPU, "tf32")
    assert told() == EXACT
    assert not CUDNN.benchmark


def test_setting_them_warns_of_nothing():
    """In a process of its own, for torch warns once."""
    code = (
        "import torch; from unet4d.model.device import tune; "
        "[tune(torch.device('cuda'), p) for p in ('tf32', 'fp32', 'bf16')]; torch.backends.cudnn.allow_tf32"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
