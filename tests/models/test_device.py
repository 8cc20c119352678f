"""Devices and precisions are found, set in torch completely, and reported where they are missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from tests.builders import build_network, tiny_config
from tests.masking import needs_posix
from tests.processes import exit_code
from tests.sliding import sliding_window
from unet4d.config import InferenceConfig
from unet4d.errors import InputError
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast, find_device, repeated_shapes, resolve_precision, set_tf32
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system import nvidia
from unet4d.training.step import TrainingStep

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def test_auto_finds_what_is_there():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_here_is_an_error(name):
    with pytest.raises(InputError, match=name):
        find_device(name)


KERNEL = "NVRM version: NVIDIA UNIX {} Kernel Module {} {}  Release Build  (dvs-builder)  Tue Oct 1\nGCC version: gcc 13.3.0\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets up what the system shows: driver, device files, what torch was built for; torch can use no GPU."""

    def shown(driver: str | None = None, gpus: int = 0, cuda: str | None = None, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)  # NVML counts GPUs that CUDA cannot use
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(nvidia, "DRIVER_FILE", tmp_path / "version")
        monkeypatch.setattr(nvidia, "DEVICE_FOLDER", tmp_path)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if driver:
            (tmp_path / "version").write_text(KERNEL.format("x86_64", "", driver))
        for number in range(gpus):
            (tmp_path / f"nvidia{number}").write_text("")

    return shown


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize(
    ("driver", "cuda", "needed"),
    [("535.129.03", "13.0", "580"), ("470.82.01", "12.6", "525"), ("570.86.15", "13.0", "580")],
)
def test_a_driver_too_old_for_torch_is_refused_and_named(machine, capsys, name, driver, cuda, needed):
    machine(driver, 1, cuda)
    with pytest.raises(InputError, match=rf"{driver}.*needs driver {needed} or newer.*--device cpu"):
        find_device(name)
    assert find_device("cpu") == CPU
    assert capsys.readouterr() == ("", "")


def test_a_gpu_that_torch_cannot_use_though_the_driver_is_new_enough_is_refused(machine):
    machine("580.65.06", 2, "13.0")
    with pytest.raises(InputError, match=r"nvidia0, NVIDIA driver 580.65.06.*cannot use it.*--device cpu"):
        find_device("auto")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ""),
        ({"cuda": "13.0"}, ""),
        ({"driver": "535.129.03", "gpus": 1, "cuda": "13.0", "visible": ""}, ""),
        ({"driver": "535.129.03", "gpus": 1, "cuda": "13.0", "visible": "-1"}, ""),
        ({"driver": "535.129.03", "cuda": "13.0"}, "no GPU is given to this process"),
        ({"driver": "580.65.06", "gpus": 1}, "built without CUDA"),
    ],
    ids=str,
)
def test_the_cpu_is_taken_where_no_gpu_is_given_and_a_gpu_left_unused_is_reported(machine, capsys, given, told):
    machine(**given)
    assert find_device("auto") == CPU
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert bool(told) == bool(err)


def test_train_refuses_a_driver_too_old_and_cpu_insists(machine, command, phantom, tiny_options, tmp_path):
    machine("535.129.03", 1, "13.0")
    given = ["train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options]
    done = command(*given)
    assert done.code == 2
    assert "driver 535.129.03" in done.line
    assert not (tmp_path / "run").exists()


def test_info_without_a_run_names_cuda_cudnn_driver_and_gpu_without_torch(machine, command, monkeypatch, tmp_path):
    machine("535.129.03", 1)
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA A30\nIRQ:   \t\t 255\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "torch")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    wheels = importlib.metadata.distributions
    cudnn = SimpleNamespace(name="nvidia-cudnn-cu13", version="9.13.0.50")
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [*wheels(), cudnn])
    told = command("info").told
    for words in (
        "CUDA       13.0",
        "cuDNN      9.13.0.50",
        "GPU        NVIDIA A30",
        "535.129.03, too old for CUDA 13.0",
    ):
        assert words in told
    monkeypatch.undo()
    assert json.loads(command("info", "--json").told)["versions"]["CUDA"] == (torch.version.cuda or "none")


@pytest.mark.parametrize("kind", ["x86_64", "Open"])
def test_the_driver_version_is_read_of_both_kinds_of_kernel_module(monkeypatch, tmp_path, kind):
    monkeypatch.setattr(nvidia, "DRIVER_FILE", tmp_path / "version")
    assert nvidia.driver_version() is None
    (tmp_path / "version").write_text(KERNEL.format(kind, "for x86_64 " * (kind == "Open"), "580.65.06"))
    assert nvidia.driver_version() == "580.65.06"


def test_auto_precision_is_bf16_exactly_where_the_cpu_computes_in_it(monkeypatch):
    monkeypatch.setattr("unet4d.models.device._has_bf16_units", lambda: True)
    assert resolve_precision("auto", CPU) == "bf16"
    monkeypatch.setattr("unet4d.models.device._has_bf16_units", lambda: False)
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
    """Restore the flags that torch has for products."""
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
    """Return the TF32 flags of torch: the old ones, those by operation, and the one for all."""
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
    set_tf32(GPU, precision)
    assert told() == wanted


@words
def test_flags_that_are_set_in_part_are_set_in_full(flags, precision, wanted):
    CUDNN.conv.fp32_precision, MATMUL.fp32_precision = "ieee", "tf32"
    set_tf32(GPU, precision)
    assert told() == wanted


def test_fp32_is_exact_also_where_torch_as_a_whole_is_set_otherwise(flags):
    """With only the old flags set, convolutions use the flag for all of torch."""
    torch.backends.fp32_precision = "tf32"
    set_tf32(GPU, "fp32")
    assert [owner.fp32_precision for owner in (MATMUL, CUDNN.conv)] == ["ieee", "ieee"]
    assert not MATMUL.allow_tf32
    assert not CUDNN.allow_tf32


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_products_in_half_precision_are_added_up_in_float32(flags, precision):
    MATMUL.allow_bf16_reduced_precision_reduction = MATMUL.allow_fp16_reduced_precision_reduction = True
    set_tf32(GPU, precision)
    assert not MATMUL.allow_bf16_reduced_precision_reduction
    assert not MATMUL.allow_fp16_reduced_precision_reduction
    assert not MATMUL.allow_fp16_accumulation


@pytest.mark.parametrize("before", [False, True])
def test_algorithms_are_tried_only_where_shapes_repeat(flags, before):
    CUDNN.benchmark = before
    set_tf32(GPU, "bf16")
    assert CUDNN.benchmark is before
    with repeated_shapes(GPU):
        assert CUDNN.benchmark
    assert CUDNN.benchmark is before
    with pytest.raises(KeyError), repeated_shapes(GPU):
        raise KeyError
    assert CUDNN.benchmark is before
    with repeated_shapes(CPU):
        assert CUDNN.benchmark is before


def test_a_training_step_tries_algorithms_and_a_prediction_does_not(flags, monkeypatch):
    seen, compute = [], CLSTMUNet._encode
    CUDNN.benchmark = False
    torch.manual_seed(0)
    config = tiny_config(channels=[4, 6], batch_size=1, chunk_frames=0)
    network = build_network(config.model, 1, 3)
    step = TrainingStep(network, config, CPU)

    def noted(self, x, *rest):
        seen.append(CUDNN.benchmark)
        return compute(self, x.cpu(), *rest)

    monkeypatch.setattr(CLSTMUNet, "_encode", noted)
    monkeypatch.setattr("unet4d.training.step.repeated_shapes", lambda device: repeated_shapes(GPU))
    step.gradients(
        [
            Batch(
                torch.randn(1, 2, 1, 8, 8, 2),
                torch.zeros(1, 2, 8, 8, 2, dtype=torch.uint8),
                torch.ones(1, 2, dtype=torch.bool),
            )
        ]
    )
    sliding_window(
        network.eval(),
        torch.randn(1, 2, 8, 8, 2),
        (8, 8, 2),
        InferenceConfig(),
        cyclic=False,
        device=CPU,
        precision="fp32",
    )
    assert seen == [True, False]


def test_on_a_cpu_nothing_is_set(flags):
    CUDNN.benchmark = False
    set_tf32(GPU, "fp32")
    set_tf32(CPU, "tf32")
    assert told() == EXACT
    assert not CUDNN.benchmark


def set_every_precision() -> None:
    """Set the flags for a GPU and read them; a warning is an error. In a process of its own, because torch warns once."""
    warnings.simplefilter("error")
    for precision in ("tf32", "fp32", "bf16"):
        set_tf32(GPU, precision)
    assert isinstance(CUDNN.allow_tf32, bool)


def test_setting_them_warns_of_nothing(capfd):
    assert exit_code(set_every_precision) == 0
    assert capfd.readouterr().err == ""


@pytest.fixture
def settings(monkeypatch):
    """Have the environment configure no allocator; returns the settings of the loaded torch's, in order."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    return told


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_an_allocator_that_the_user_has_configured_stays_as_it_is(monkeypatch, settings, name):
    monkeypatch.setenv(name, "max_split_size_mb:64")
    find_device("cpu")
    assert os.environ[name] == "max_split_size_mb:64"
    assert "expandable_segments:True" not in os.environ.values()
    assert settings == []


@needs_posix("such segments are there on Linux alone")
def test_a_gpus_memory_grows_in_segments_also_where_torch_was_imported_before(settings):
    find_device("cpu")
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert settings == ["expandable_segments:True"]


@pytest.mark.skipif(sys.platform != "linux", reason="such segments are there on Linux alone")
def test_the_command_line_configures_the_allocator_before_torch_is_imported():
    """Torch reads the variable while its libraries are loaded."""
    code = (
        "import os, sys\n"
        "from types import SimpleNamespace\n"
        "from unet4d.cli import main as cli\n"
        "run = lambda options: print(os.environ['PYTORCH_ALLOC_CONF'], 'torch' in sys.modules)\n"
        "cli.COMMANDS['info'] = SimpleNamespace(check=lambda options: None, run=run)\n"
        "cli._parse = lambda arguments: ('info', SimpleNamespace(verbose=False, quiet=False))\n"
        "cli.main([])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment)
    assert done.stdout == "expandable_segments:True False\n"


@pytest.fixture
def kernels(monkeypatch):
    """Set up one CUDA GPU with these ends of its first kernels: nothing, or an error. Returns those that are left."""

    def ending(*ends: Exception | None) -> list[Exception | None]:
        left = list(ends)

        def ones(*size: int, device: torch.device) -> None:
            if (end := left.pop(0)) is not None:
                raise end

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch, "ones", ones)
        return left

    return ending


@needs_posix("such segments are there on Linux alone")
@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize("reason", ["operation not supported", "unknown error"])
def test_a_driver_without_growing_segments_is_used_with_fixed_ones(kernels, settings, name, reason):
    """As virtual GPUs and WSL say it."""
    left = kernels(RuntimeError(f"CUDA driver error: {reason}\nException raised from ..."), None)
    assert find_device(name) == GPU
    assert left == []
    assert settings == ["expandable_segments:True", "expandable_segments:False"]
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:False"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nsearch for"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    ],
    ids=["in exclusive use", "too old for this torch"],
)
def test_a_gpu_that_runs_no_kernel_is_refused_in_one_line(kernels, settings, error):
    kernels(error)
    with pytest.raises(InputError, match=r"cannot be used with torch .*CUDA error: .*--device cpu") as refused:
        find_device("auto")
    assert "\n" not in str(refused.value)


def test_driver_errors_end_also_where_segments_are_fixed_already(kernels, settings):
    kernels(*[RuntimeError("CUDA driver error: operation not supported")] * 2)
    with pytest.raises(InputError, match="operation not supported"):
        find_device("cuda")


def test_a_full_gpu_is_left_to_whoever_counts_its_memory(kernels, settings):
    kernels(torch.OutOfMemoryError("CUDA out of memory"))
    assert find_device("auto") == GPU


@pytest.mark.parametrize(("wsl", "newest", "is_refused"), [(True, 12, True), (True, 13, False), (False, 12, False)])
def test_without_a_driver_file_cudas_library_alone_is_no_gpu_but_under_wsl(
    machine, monkeypatch, tmp_path, wsl, newest, is_refused
):
    machine(cuda="13.0")
    monkeypatch.setattr(nvidia, "_newest_cuda", lambda: newest)
    if wsl:
        (tmp_path / nvidia.WSL_DEVICE).touch()
    if is_refused:
        with pytest.raises(InputError, match=r"unknown version.*needs driver 580"):
            find_device("auto")
    else:
        assert find_device("auto") == CPU


def test_a_gpu_that_cuda_visible_devices_misses_is_refused_and_the_variable_named(machine):
    machine("580.65.06", 2, "13.0", visible="7")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES, now '7'"):
        find_device("auto")
