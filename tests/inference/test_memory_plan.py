"""One answer however little memory there is: in memory or from a file, in one block or in many."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.builders import collect_log
from tests.sliding import sliding_window
from unet4d import load_model, read_image
from unet4d.config import InferenceConfig
from unet4d.datasets.nifti_studies import open_nifti_source
from unet4d.errors import InputError, Unet4DError
from unet4d.images.image4d import Image4D
from unet4d.images.resample_back import NativeLabel
from unet4d.inference import memory_plan
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import prepare_image, prepare_study
from unet4d.inference.segment import SegmentationResult, segment, segment_study
from unet4d.inference.sliding_window import LogitRows
from unet4d.inference.window_memory import window_memory
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.memory_trace import MemoryTrace
from unet4d.pipeline.disk_image import DiskImage
from unet4d.system.progress_bar import ProgressBar

FP32 = InferenceOptions(precision="fp32", probabilities=True)


@pytest.fixture
def path(study, tmp_path):
    study(tmp_path / "heart.nii.gz", frames=3, shape=(40, 30, 4))
    return tmp_path / "heart.nii.gz"


@pytest.fixture(params=["forward", "bidirectional"])
def model(model_file, request):
    return load_model(model_file(direction=request.param))


def budgets(monkeypatch, *bytes_left: float) -> None:
    """Set what is left, call by call; the last one from then on."""
    left = list(bytes_left)
    monkeypatch.setattr(MemoryBudget, "left_bytes", lambda self: left.pop(0) if len(left) > 1 else left[0])


def segmented(models, path, options=FP32):
    study = prepare_study(models, open_nifti_source(path).studies[0], options, MemoryBudget())
    try:
        return study, segment_study(models, study, options, MemoryBudget())
    finally:
        study.close()


@pytest.fixture(scope="module")
def whole():
    """Return a function that segments a study with all memory, once for each direction and file: all models are the same."""
    results: dict[tuple[str, str], SegmentationResult] = {}

    def result(model, path) -> SegmentationResult:
        key = model.config.model.direction, path.name
        if key not in results:
            results[key] = segmented([model], path)[1]
        return results[key]

    return result


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("kilobytes", "blocks", "passes"), [(1800, 1, 1), (1050, 2, 1), (830, 4, 2)])
def test_the_answer_is_the_same_to_the_last_voxel(monkeypatch, model, whole, path, kilobytes, blocks, passes, on_disk):
    wanted = whole(model, path)
    calls, logits_until = [], LogitRows.logits_until
    monkeypatch.setattr(
        LogitRows, "logits_until", lambda self, end, keep=None: calls.append(self) or logits_until(self, end, keep)
    )
    budgets(monkeypatch, 0 if on_disk else math.inf, kilobytes * 1e3)
    prepared, got = segmented([model], path)
    assert isinstance(prepared.image, DiskImage) == on_disk
    assert (len(calls) > 1) == (blocks > 1)
    assert len(calls) >= blocks
    assert (len(set(calls)) > 1) == (passes > 1)
    np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
    sure = np.abs(np.diff(np.sort(wanted.probabilities, 0)[-2:], axis=0)[0]) > 1e-4
    assert np.array_equal(got.label[sure], wanted.label[sure])
    assert sure.mean() > 0.99


def test_a_block_is_forgotten_before_the_next_is_computed(monkeypatch, model_file, path):
    """Pins two blocks held at once, where one was counted."""
    model, logits_until, held = load_model(model_file()), LogitRows.logits_until, []
    sizes: list[int] = []
    with MemoryTrace() as trace:

        def watched(self, end, keep=None):
            carried = sum(part.nbytes for part in self._carried or ())
            held.append(trace.current_bytes - carried)
            block = logits_until(self, end, keep)
            sizes.append(block.nbytes)
            return block

        monkeypatch.setattr(LogitRows, "logits_until", watched)
        budgets(monkeypatch, math.inf, 1050e3)
        segmented([model], path)
    assert len(held) > 1
    assert max(held) - held[0] < min(sizes) / 2


@pytest.mark.parametrize(("left", "tight"), [(math.inf, False), (1e9, False), (1800e3, True), (1050e3, True)])
def test_freed_memory_goes_back_at_once_where_it_is_tight(monkeypatch, model_file, path, left, tight):
    given = []
    monkeypatch.setattr("unet4d.inference.segment.trim_freed_memory", lambda: given.append(1))
    budgets(monkeypatch, math.inf, left)
    segmented([load_model(model_file())], path)
    assert bool(given) == tight


@pytest.mark.parametrize("kilobytes", [1800, 1050, 830])
def test_the_bar_ends_where_it_was_said_to_end(monkeypatch, model_file, path, kilobytes):
    """Pins windows that two passes see and that were counted once."""
    model, bars = load_model(model_file()), []

    def kept(**given):
        bars.append(ProgressBar(**given | {"disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr("unet4d.inference.segment.ProgressBar", kept)
    budgets(monkeypatch, math.inf, kilobytes * 1e3)
    segmented([model], path)
    assert [bar.n for bar in bars] == [bar.total for bar in bars]
    assert bars[0].n > 1


def test_a_frame_far_finer_than_the_networks_grid_is_brought_back_in_blocks(monkeypatch, model_file):
    """On the native grid one frame's logits take 3 MB, on the network's 0.05."""
    model = load_model(model_file())
    voxels = np.random.default_rng(0).normal(size=(1, 1, 80, 72, 8)).astype(np.float32)
    image = Image4D.from_array(voxels, np.diag([0.25, 0.25, 8.0, 1.0]))
    wanted = segment(model, image, options=FP32)
    blocks, fill = [], NativeLabel.fill
    monkeypatch.setattr(NativeLabel, "fill", lambda self, *box: blocks.append(box[1:]) or fill(self, *box))
    budgets(monkeypatch, 2.5e6)
    assert np.array_equal(segment(model, image, options=replace(FP32, probabilities=False)), wanted)
    voxels_at_once = [(x_end - x) * (y_end - y) * image.grid[2] for (x, x_end), (y, y_end) in blocks]
    assert max(voxels_at_once) * 4 * 4 * 4 < 2.5e6


@pytest.mark.parametrize(
    ("kilobytes", "does"),
    [(405, False), (425, True), (460, True), (540, True)],
)
def test_no_study_fails_in_memory_that_would_not_on_disk(monkeypatch, model_file, path, kilobytes, does):
    """On disk it needs about 420 kB; in memory more, for what it takes there itself is not there for windows."""
    model, budget = load_model(model_file()), kilobytes * 1e3
    monkeypatch.setattr(MemoryBudget, "left_bytes", lambda self: budget)
    prepared = prepare_study(
        [model], open_nifti_source(path).studies[0], InferenceOptions(precision="fp32"), MemoryBudget()
    )
    held = 0 if isinstance(prepared.image, DiskImage) else 4 * math.prod(prepared.image.shape)
    monkeypatch.setattr(MemoryBudget, "left_bytes", lambda self: budget - held)
    try:
        with contextlib.nullcontext() if does else pytest.raises(Unet4DError, match="more of main memory"):
            segment_study([model], prepared, InferenceOptions(precision="fp32"), MemoryBudget())
    finally:
        prepared.close()


def test_several_networks_with_windows_of_their_own_are_cut_together(monkeypatch, model_file, path, tmp_path):
    one = load_model(model_file())
    other = load_model(model_file(patch_size=(8, 24, 2)))
    for weight in other.network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    _, wanted = segmented([one, other], path)
    budgets(monkeypatch, 0, 1.3e6)
    _, got = segmented([one, other], path)
    np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
    alone = segmented([one], path)[1]
    assert not np.allclose(alone.probabilities, wanted.probabilities, atol=1e-2)


def test_probabilities_are_those_of_the_label_and_add_up_to_one(model, path):
    _, got = segmented([model], path)
    assert got.probabilities.shape == (4, *got.label.shape)
    np.testing.assert_allclose(got.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(got.probabilities.argmax(0), got.label)
    assert segmented([model], path, replace(FP32, probabilities=False))[1].probabilities is None


def test_what_fits_in_no_way_is_reported_before_it_is_computed(monkeypatch, model, path):
    budgets(monkeypatch, math.inf, 100_000)
    with pytest.raises(Unet4DError, match=r"heart.nii.gz needs .* more of main memory .*raise --max_memory"):
        segmented([model], path)


def test_given_memory_counts_what_the_process_holds_already(monkeypatch):
    monkeypatch.setattr("unet4d.inference.memory_budget.resident_bytes", lambda: 10**9)
    assert MemoryBudget(4 * 10**9).left_bytes() == pytest.approx(0.8 * 4e9 - 1e9)
    monkeypatch.setattr("unet4d.inference.memory_budget.free_memory_bytes", lambda: 5e9)
    assert MemoryBudget().left_bytes() == pytest.approx(4e9)


def test_a_study_that_comes_in_memory_stays_there(model, path):
    """Another layout than NIfTI is not known before it is read."""
    image = read_image(path)
    label = segment(model, image, precision="fp32")
    assert np.array_equal(label, segmented([model], path)[1].label)


def test_a_study_that_needs_the_disk_is_kept_where_it_is_said(monkeypatch, model, path, tmp_path):
    seen = []

    class Seen(DiskImage):
        def __init__(self, *args):
            seen.append(args[-1])
            super().__init__(*args)

    monkeypatch.setattr("unet4d.inference.prepare.DiskImage", Seen)
    budgets(monkeypatch, 0, math.inf)
    options = replace(FP32, scratch_dir=tmp_path / "here")
    prepare_study([model], open_nifti_source(path).studies[0], options, MemoryBudget()).close()
    assert seen == [tmp_path / "here"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"time": "closed"}, "time is 'closed', expected cyclic"),
        ({"cyclic_shifts": 0}, "cyclic_shifts 0, expected 1"),
        ({"overlap": 1.0}, "overlap 1.0, expected a share"),
        ({"sw_batch_size": 0}, "sw_batch_size 0"),
        ({"mirror_axes": (0, 3)}, r"mirror_axes \[0, 3\], expected axes among"),
    ],
)
def test_what_is_no_setting_is_refused(setting, words):
    with pytest.raises(InputError, match=words):
        InferenceOptions(**setting)


def test_settings_reach_the_network(model, path):
    image = read_image(path)
    plain = segment(model, image, options=FP32)
    for changed in ({"overlap": 0.0}, {"mirror_axes": (0,)}, {"time": "cyclic"}):
        assert not np.array_equal(segment(model, image, options=replace(FP32, **changed)), plain), changed
    assert np.array_equal(segment(model, image, options=replace(FP32, sw_batch_size=3)), plain)
    assert np.array_equal(segment(model, image, options=replace(FP32, cyclic_shifts=5)), plain), (
        "an open study has none"
    )
    looped = replace(FP32, time="cyclic")
    assert not np.array_equal(
        segment(model, image, options=replace(looped, cyclic_shifts=5)), segment(model, image, options=looped)
    )


def test_a_grid_coarser_than_the_networks_takes_the_rows_it_lies_between(model):
    """The first native row lies between the second and the third of the network's; torch's own interpolation is the oracle."""
    image = Image4D.from_array(np.random.default_rng(0).normal(size=(2, 10, 9, 4)), np.diag([8.0, 8, 8, 1]))
    prepared = prepare_image([model], image, FP32)
    data = model.config
    logits = sliding_window(
        model.network, prepared.image, data.data.patch_size, data.inference, cyclic=False,
        device=torch.device("cpu"), precision="fp32",
    )  # fmt: skip
    sizes = tuple(image.grid[axis] for axis in prepared.grid.order)
    wanted = torch.nn.functional.interpolate(logits, size=sizes, mode="trilinear").softmax(1).transpose(0, 1)
    got = prepared.grid.reorient(segment_study([model], prepared, FP32, MemoryBudget()).probabilities)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


# a GPU, made up: the CPU computes, and the memory that is found free is given


class MadeUpGPU:
    """Runs out of memory where more frames than `holds` are computed at once; counts the frames of each try."""

    def __init__(self, monkeypatch, model, usable: float, holds: float = math.inf):
        self.usable, self.holds, self.tries, encoded = usable, holds, [], model.network._encode

        def limited(x, *rest):
            self.tries.append(len(x) * x.shape[1])
            if self.tries[-1] > self.holds:
                raise torch.OutOfMemoryError("made up")
            return encoded(x, *rest)

        monkeypatch.setattr(model.network, "_encode", limited)
        monkeypatch.setattr(memory_plan, "gpu_usable_bytes", lambda device: self.usable)


def counted(model, frames: int) -> int:
    """Bytes of a window of 16 frames, this many computed at once."""
    labels, patch = len(model.task.labels), model.config.data.patch_size
    return window_memory(model.config.model, 1, labels, patch, "fp32").needed(16, frames)


@pytest.fixture
def long_path(study, tmp_path):
    study(tmp_path / "long.nii.gz", frames=16, shape=(40, 30, 4))
    return tmp_path / "long.nii.gz"


@pytest.mark.parametrize("at_once", [16, 8, 4, 1])
def test_frames_at_once_are_chosen_from_the_gpus_memory_so_that_the_first_try_fits(
    monkeypatch, model, whole, long_path, at_once
):
    wanted = whole(model, long_path)
    lines = collect_log()
    usable = 2 * counted(model, at_once) + 1
    holds = max(frames for frames in range(1, 17) if counted(model, frames) <= usable)
    gpu = MadeUpGPU(monkeypatch, model, usable, holds)
    for _ in range(2):
        _, got = segmented([model], long_path)
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
    assert lines == []
    assert at_once <= max(gpu.tries) <= holds


def test_what_ran_out_of_memory_all_the_same_is_not_tried_again_with_later_studies(
    monkeypatch, model, whole, path, long_path
):
    wanted = whole(model, long_path)
    lines = collect_log()
    gpu = MadeUpGPU(monkeypatch, model, 10**9, holds=5)
    _, got = segmented([model], long_path)
    np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)
    assert [line.split("with ")[1].split(",")[0] for line in lines] == ["8 frames at once", "4 frames at once"]
    gpu.tries.clear()
    for other in (long_path, path, long_path):
        segmented([model], other)
    assert len(lines) == 2
    assert set(gpu.tries) == {4, 3}  # the shorter study whole


def test_rows_of_logits_are_bounded_by_the_gpu_they_are_stitched_on(monkeypatch, model, whole, path):
    wanted = whole(model, path)
    calls, logits_until = [], LogitRows.logits_until
    monkeypatch.setattr(
        LogitRows, "logits_until", lambda self, end, keep=None: calls.append(self) or logits_until(self, end, keep)
    )
    gpu = MadeUpGPU(monkeypatch, model, 10**9)
    segmented([model], path)
    assert len(calls) == 1
    prepared = prepare_study([model], open_nifti_source(path).studies[0], FP32, MemoryBudget())
    blocks = memory_plan.Blocks.of([model], prepared.info, prepared.grid)
    prepared.close()
    labels, patch = len(model.task.labels), model.config.data.patch_size
    window = window_memory(model.config.model, 1, labels, patch, "fp32").needed(3, 3)
    gpu.usable = 2 * max(window, blocks.needed(10, 30))
    _, got = segmented([model], path)
    assert len(set(calls[1:])) == 1  # one pass: no window is computed twice
    assert len(calls[1:]) > 1 or blocks.needed(40, 30) <= gpu.usable - window
    np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=1e-5)


@pytest.mark.parametrize(("usable", "place"), [(10**9, "cuda"), (10, "cpu")])
def test_logits_are_stitched_in_main_memory_only_where_not_one_row_fits_the_gpu(
    monkeypatch, model, path, usable, place
):
    prepared = prepare_study([model], open_nifti_source(path).studies[0], FP32, MemoryBudget())
    config = InferenceConfig(sw_batch_size=4)
    one = WindowPredictor(model.network, torch.device("cuda"), model.config.data.patch_size, config, "fp32", False)
    monkeypatch.setattr(memory_plan, "gpu_usable_bytes", lambda device: usable)
    blocks = memory_plan.plan_tiling([model], [one], prepared.info, prepared.grid, True, MemoryBudget())
    prepared.close()
    assert one.stitch_on.type == place
    assert (one.windows_at_once, one.frames_at_once) == ((4, None) if usable > 10 else (1, 1))
    assert blocks.columns == [(0, 30)]


@pytest.mark.parametrize(("free", "place"), [(10**9, "cuda"), (10, "cpu")])
def test_a_streamed_frame_is_stitched_on_the_gpu_only_where_it_takes_less_than_half_of_its_free_memory(
    monkeypatch, model, path, free, place
):
    prepared = prepare_study([model], open_nifti_source(path).studies[0], FP32, MemoryBudget())
    config, gpu = InferenceConfig(), torch.device("cuda")
    one = WindowPredictor(model.network, gpu, model.config.data.patch_size, config, "fp32", False)
    monkeypatch.setattr("unet4d.inference.memory_budget.free_bytes", lambda device: free)
    memory_plan.plan_frame(one, prepared.grid)
    prepared.close()
    assert one.stitching_device(1).type == place


def test_no_more_frames_at_once_than_kernels_can_index(monkeypatch, model, long_path):
    labels, patch = len(model.task.labels), model.config.data.patch_size
    elements = window_memory(model.config.model, 1, labels, patch, "fp32").frame_elements
    assert elements > 0
    monkeypatch.setattr(memory_plan, "MOST_ELEMENTS", 5 * elements)
    gpu = MadeUpGPU(monkeypatch, model, 10**9)
    segmented([model], long_path)
    assert max(gpu.tries) == 4
