"""Clips and patches: what a clip holds, where a patch lies, and that a clip's number alone decides on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import cached_study
from unet4d.config import DataConfig
from unet4d.images.channels import MAP, SIGNAL
from unet4d.pipeline.augmentation.compose import Augmentation
from unet4d.pipeline.augmentation.intensity import IntensityParams
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import Batch, ClipDataset, clip_loader, collate, crop_padded
from unet4d.pipeline.clip_frames import TemporalWarp

PATCH = (8, 6, 4)
SHAPE = (14, 12, 5)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def clips(studies=None, cyclic: bool = True, seed: int = 0, **options) -> ClipDataset:
    options = {"patch_size": PATCH, "frames": 4, "augmentation": "off", **options}
    return ClipDataset([cached_study()] if studies is None else studies, DataConfig(**options), cyclic, seed)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and a[3] == b[3]


# patches


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(-12, 12)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_a_box_is_that_of_the_study_in_zeros(start, size):
    array = np.arange(1.0, 241.0).reshape(2, 4, 5, 3, 2)
    around = np.pad(array, [(0, 0), (0, 0), *[(25, 25)] * 3])
    x, y, z = (slice(25 + s, 25 + s + n) for s, n in zip(start, size, strict=True))
    assert np.array_equal(crop_padded(array, [3, 0, 0], start, size), around[:, [3, 0, 0], x, y, z])


def test_without_augmentation_a_patch_is_the_voxels_round_its_center_moved_inside_the_study():
    """A patch of 8 x 6 x 4 in 14 x 12 x 5 starts at 0..6, 0..6, 0..1: nearest to four, three, two before the center."""
    made = clips(foreground_fraction=1.0)
    one = made.studies[0]
    assert (SHAPE, PATCH) == ((14, 12, 5), (8, 6, 4))
    for number in range(20):
        image = made[number].image.numpy()
        found = 0
        for x, y, z in {tuple(c) for c in one.foreground[:, 2:].tolist()}:
            x, y, z = min(max(x - 4, 0), 6), min(max(y - 3, 0), 6), min(max(z - 2, 0), 1)
            box = one.image[0, :, x : x + 8, y : y + 6, z : z + 4]
            found += any(np.array_equal(image[:, 0], box[np.arange(t, t + 4) % 6]) for t in range(6))
        assert found >= 1  # voxels near a border share their place


def test_without_foreground_patches_lie_inside_and_everywhere():
    made = clips(foreground_fraction=0.0)
    images = [made[number].image for number in range(300)]
    assert all((image > 0).all() for image in images)
    corners = Counter(float(image[0, 0, 0, 0, 0]) for image in images)
    assert len(corners) > 150  # of 6 frames times 7 x 7 x 2 places


def test_a_study_smaller_than_the_patch_lies_whole_in_zeros():
    small = cached_study(shape=(10, 7, 3))
    made = clips([small], patch_size=(16, 8, 4), foreground_fraction=0.0)
    for number in range(20):
        image = made[number].image
        assert image.shape == (4, 1, 16, 8, 4)
        assert int((image > 0).sum()) == 4 * 10 * 7 * 3


def one_in_the_middle() -> CachedStudy:
    """Both classes so far from the borders that no patch has to move."""
    middle = cached_study(shape=(14, 12, 9))
    label = np.zeros_like(middle.label)
    label[:, 5:7, 5:7, 3:5], label[:, 8, 6, 6] = 1, 2
    rows = [(row, label[row, x, y, z], x, y, z) for row, x, y, z in np.argwhere(label)]
    return replace(middle, label=label, foreground=np.array(sorted(rows), np.int32))


def test_every_patch_of_full_foreground_share_is_centered_on_foreground_and_a_rare_class_comes_as_often():
    made = clips([one_in_the_middle()], foreground_fraction=1.0)
    seen = Counter()
    for number in range(200):
        clip = made[number]
        (center,) = {int(v) for v in clip.label[clip.labelled][:, 4, 3, 2]}  # both frames are labelled alike
        seen[center] += 1
    assert set(seen) == {1, 2}
    assert 70 < seen[2] < 130  # 1 voxel against 8


def test_the_foreground_share_is_kept():
    made = clips([one_in_the_middle()], foreground_fraction=0.5)
    centered = [made[n].label[made[n].labelled][0, 4, 3, 2] > 0 for n in range(200)]
    assert 0.4 < np.mean(centered) < 0.65


def test_a_class_at_the_border_is_in_the_patch_and_no_voxel_is_lost_to_padding():
    """Pins patches centered on the end slices of a short stack, a fifth of which was padding."""
    made = clips(foreground_fraction=1.0)  # class 2 lies in the first slice
    every = [made[number] for number in range(50)]
    assert all((clip.image > 0).all() for clip in every)
    assert all((clip.label[clip.labelled] > 0).any() for clip in every)


@pytest.mark.parametrize("augmentation", ["off", "strong"])
def test_a_labelled_frame_without_foreground_gives_patches_from_anywhere(augmentation):
    empty = cached_study()
    empty = CachedStudy("a", empty.image, empty.label * 0, (1, 4), np.zeros((0, 5), np.int32), empty.spacing)
    clip = clips([empty], foreground_fraction=1.0, augmentation=augmentation)[0]
    assert clip.labelled.any()
    assert not clip.label.any()


# clips


@pytest.mark.parametrize("augmentation", ["off", "mild", "strong"])
@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_a_clip_has_a_labelled_frame_and_zeros_where_there_is_no_label(frames, cyclic, augmentation):
    one = cached_study()
    one.label[:] = 1
    made = clips([one], frames=frames, cyclic=cyclic, augmentation=augmentation, foreground_fraction=1.0)
    for number in range(10):
        clip = made[number]
        assert clip.image.shape == (frames, 1, *PATCH)
        assert clip.label.shape == (frames, *PATCH)
        assert (clip.image.dtype, clip.label.dtype, clip.labelled.dtype) == (torch.float32, torch.uint8, torch.bool)
        assert {type(clip.image), type(clip.label), type(clip.labelled)} == {torch.Tensor}
        assert clip.image.is_contiguous()
        assert clip.labelled.any()
        assert clip.label[clip.labelled].flatten(1).any(1).all()
        assert not clip.label[~clip.labelled].any()


def test_frame_channel_and_label_stand_where_they_belong():
    one = cached_study(channels=3)
    one.image[:] = 100 * np.arange(1, 4).reshape(3, 1, 1, 1, 1) + np.arange(6).reshape(1, 6, 1, 1, 1)
    made = clips([one], foreground_fraction=0.0)
    starts = set()
    for number in range(30):
        clip = made[number]
        frames = clip.image[:, 0, 0, 0, 0] - 100
        assert torch.equal(clip.image[:, :, 0, 0, 0] - frames[:, None], torch.tensor([[100.0, 200, 300]]).expand(4, 3))
        assert frames.diff().remainder(6).unique().tolist() == [1]
        assert clip.labelled.tolist() == [int(frame) in (1, 4) for frame in frames]
        starts.add(int(frames[0]))
    assert starts == set(range(6))


def test_every_study_comes_once_a_round_and_clips_keep_to_one_study():
    studies = [cached_study(case, seed=seed) for seed, case in enumerate("abcde")]
    for value, one in enumerate(studies):
        one.image[:] = value + 1
    made = clips(studies, foreground_fraction=0.0)
    rounds = [[made[5 * r + i] for i in range(5)] for r in range(6)]
    orders = {"".join(clip.case for clip in clips_) for clips_ in rounds}
    assert all(sorted(order) == list("abcde") for order in orders)
    assert len(orders) > 3
    assert all((clip.image == "abcde".index(clip.case) + 1).all() for clips_ in rounds for clip in clips_)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 8.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_all_frames_and_labels_of_a_clip_are_warped_alike(monkeypatch, strength, spacing):
    monkeypatch.setattr("unet4d.pipeline.augmentation.compose.sample_intensity", lambda *_: IntensityParams())
    one = cached_study(labelled=range(6), spacing=spacing)
    one.image[:] = one.image[:, :1]
    made = clips([one], augmentation=strength, flip_axes=[0, 1], foreground_fraction=1.0)
    for number in range(10):
        clip = made[number]
        assert torch.equal(clip.image, clip.image[:1].expand_as(clip.image))
        assert torch.equal(clip.label, clip.label[:1].expand_as(clip.label))
        assert clip.image.std() > 0


def test_a_stack_of_thick_slices_is_never_tilted_whatever_the_other_studies_are(monkeypatch):
    monkeypatch.setattr("unet4d.pipeline.augmentation.compose.sample_intensity", lambda *_: IntensityParams())
    near, thick, single = (
        cached_study("near", shape=(40, 40, 30), spacing=(1.0, 1.0, 1.2)),
        cached_study("thick", shape=(40, 40, 30)),
        cached_study("single", shape=(40, 40, 1), spacing=(1.0, 1.0, 1.0)),
    )
    for one in (near, thick, single):
        one.image[:] = np.arange(1, one.image.shape[-1] + 1)
        one.foreground[:, 2:] = [20, 20, one.image.shape[-1] // 2]
    made = clips([near, thick, single], augmentation="strong", foreground_fraction=1.0)
    tilted = dict.fromkeys(("near", "thick", "single"), 0)
    for number in range(36):
        clip = made[number]
        tilted[clip.case] += int(clip.image[0, 0].flatten(0, 1).std(0).max() > 1e-2)
    assert (tilted["thick"], tilted["single"]) == (0, 0)
    assert tilted["near"] > 5


# time


def dated(case: str = "a", frames: int = 20, labelled=(3, 13)) -> CachedStudy:
    """A study with the frame's number as its image, and 100 more as its label."""
    one = cached_study(case, frames, labelled)
    one.image[:] = np.arange(frames).reshape(1, frames, 1, 1, 1)
    one.label[:] = np.add(labelled, 100).reshape(-1, 1, 1, 1)
    return one


@pytest.fixture
def unaugmented(monkeypatch):
    """No frame is corrupted, so that every one still tells its number."""
    monkeypatch.setattr("unet4d.pipeline.augmentation.compose.sample_artifacts", lambda *_: ())


def frames_of(clip) -> list[int]:
    """The study's frame that each frame of a clip of a dated study shows."""
    return clip.image[:, 0].flatten(1).amax(1).int().tolist()


@pytest.mark.parametrize("cyclic", [False, True])
def test_every_labelled_frame_comes_to_every_position_exactly_once_and_each_study_in_its_own_order(cyclic):
    studies = [dated(case) for case in "abc"]  # labels so far apart that a clip holds one
    made = clips(studies, cyclic=cyclic, foreground_fraction=0.0)
    for lap in range(2):
        seen = {case: [] for case in "abc"}
        for number in range(3 * 8 * lap, 3 * 8 * (lap + 1)):
            clip = made[number]
            (position,) = torch.nonzero(clip.labelled).flatten().tolist()
            seen[clip.case].append((frames_of(clip)[position], position))
        assert all(sorted(visits) == [(frame, p) for frame in (3, 13) for p in range(4)] for visits in seen.values())
        assert len({tuple(frame for frame, _ in visits) for visits in seen.values()}) > 1
        orders = {tuple(p for f, p in visits if f == frame) for visits in seen.values() for frame in (3, 13)}
        assert len(orders) > 4


def test_a_labelled_frame_at_the_end_of_an_open_series_comes_as_often_at_the_only_position_it_has():
    made = clips([dated(labelled=(0, 13))], cyclic=False, foreground_fraction=0.0)
    visits = [
        (frames_of(made[n])[int(made[n].labelled.int().argmax())], int(made[n].labelled.int().argmax()))
        for n in range(16)
    ]
    assert Counter(visits) == {(0, 0): 8, (13, 0): 2, (13, 1): 2, (13, 2): 2, (13, 3): 2}
    assert all({first[0], second[0]} == {0, 13} for first, second in zip(visits[::2], visits[1::2], strict=True))


def test_running_both_ways_every_labelled_frame_comes_to_every_position_in_both(unaugmented, monkeypatch):
    monkeypatch.setattr(
        "unet4d.pipeline.clip_dataset.TemporalWarp.sample",
        lambda rng, config, frames, reverse: TemporalWarp(reverse=reverse),
    )
    made = clips([dated()], foreground_fraction=0.0, time_augmentation="strong")
    visits = Counter()
    for number in range(16):
        frames, position = frames_of(made[number]), int(made[number].labelled.int().argmax())
        visits[frames[position], position, (frames[1] - frames[0]) % 20] += 1
    assert visits == dict.fromkeys([(f, p, by) for f in (3, 13) for p in range(4) for by in (1, 19)], 1)


@pytest.mark.parametrize("time_augmentation", ["off", "mild", "strong"])
@pytest.mark.parametrize("max_stride", [1, 3])
@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("study_frames", [1, 5, 24])
def test_a_label_is_that_of_its_very_frame_and_padding_has_none(
    request, study_frames, cyclic, max_stride, time_augmentation
):
    labelled = range(study_frames)[::2]
    options = {"frames": 8, "cyclic": cyclic, "foreground_fraction": 0.0, "max_frame_stride": max_stride}
    options["time_augmentation"] = time_augmentation
    made = clips([dated("a", study_frames, labelled)], **options)
    augmented = [made[number] for number in range(8)]
    warped = clips([dated("a", study_frames, labelled)], **options, augmentation="strong")
    request.getfixturevalue("unaugmented")
    padded = 0
    for number in range(8):
        clip = made[number]
        frames = frames_of(clip)
        assert torch.equal(clip.image, torch.tensor(frames).view(-1, 1, 1, 1, 1).expand_as(clip.image))
        held = [frame in labelled and not mask for frame, mask in zip(frames, clip.labelled.tolist(), strict=True)]
        padded += any(held)
        if any(held):  # only copies beyond the ends of a study shorter than the clip
            assert study_frames < 8
            assert not cyclic
            first, last = min(np.flatnonzero(~np.array(held))), max(np.flatnonzero(~np.array(held)))
            assert not any(held[first : last + 1])
            assert {frames[t] for t, lost in enumerate(held) if lost} <= {0, study_frames - 1}
        for t in range(8):
            wanted = 100 + frames[t] if clip.labelled[t] else 0
            assert (clip.label[t] == wanted).all()
            assert set(warped[number].label[t].unique().tolist()) <= {0, wanted}
        assert torch.equal(clip.label, augmented[number].label)
        assert torch.equal(clip.labelled, augmented[number].labelled)
        assert torch.equal(clip.labelled, warped[number].labelled)
    assert (padded > 0) == (study_frames < 8 and not cyclic)


def test_clips_follow_the_settings(unaugmented):
    def steps(**options):
        made = clips([dated(labelled=range(20))], foreground_fraction=0.0, frames=6, **options)
        return [np.diff(frames_of(made[number])) % 20 for number in range(60)]

    assert {int(step) for clip in steps() for step in clip} == {1}
    assert {tuple(set(clip.tolist())) for clip in steps(max_frame_stride=3)} == {(1,), (2,), (3,)}
    mild = steps(time_augmentation="mild")
    assert {int(step) for clip in mild for step in clip} >= {0, 1, 2}
    assert max(max(clip) for clip in mild) < 10  # none backwards
    strong = steps(time_augmentation="strong")
    assert 15 < sum(max(clip) >= 10 for clip in strong) < 45


@pytest.mark.parametrize(("kinds", "wanted"), [((), (SIGNAL, SIGNAL)), ((SIGNAL, MAP), (SIGNAL, MAP))])
def test_augmentation_knows_what_the_channels_hold(monkeypatch, kinds, wanted):
    came = []

    class Watched(Augmentation):
        def __init__(self, config, patch_size, tilt, channel_kinds, cyclic):
            came.append((tuple(channel_kinds), cyclic))
            super().__init__(config, patch_size, tilt, channel_kinds, cyclic)

    monkeypatch.setattr("unet4d.pipeline.clip_dataset.augmentation_class", lambda config: Watched)
    ClipDataset([cached_study(channels=2)], DataConfig(patch_size=PATCH, frames=4), True, 0, kinds)
    assert set(came) == {(wanted, True)}


def test_a_patch_of_two_voxels_lies_around_its_foreground():
    small = clips([one_in_the_middle()], patch_size=(2, 2, 2), foreground_fraction=1.0)
    assert all(bool(small[n].label[small[n].labelled][0, 1, 1, 1]) for n in range(10))


# compared frames


def compared_clips(
    frames: int = 8, compared: int = 3, cyclic: bool = True, **options
) -> tuple[ClipDataset, ClipDataset]:
    """Return the same dataset without and with frames that are compared."""
    config = DataConfig(patch_size=PATCH, frames=frames, foreground_fraction=0.0, augmentation="off", **options)
    return tuple(ClipDataset([dated()], config, cyclic, 0, (), most) for most in (0, compared))


@pytest.mark.parametrize("cyclic", [False, True])
def test_compared_frames_are_evenly_spaced_neighbors_anywhere_in_a_clip_that_is_the_same_without(unaugmented, cyclic):
    options = {"time_augmentation": "strong", "max_frame_stride": 2}
    without, made = compared_clips(cyclic=cyclic, **options)
    firsts, steps = set(), set()
    for number in range(40):
        clip = made[number]
        assert same(clip, without[number])
        assert not without[number].compared.any()
        frames, chosen = frames_of(clip), np.flatnonzero(clip.compared).tolist()
        if chosen:
            first = chosen[0]
            assert chosen == [first, first + 1, first + 2]
            a, b, c = (frames[t] for t in chosen)
            assert (b - a) % 20 == (c - b) % 20 != 0
            firsts.add(first)
            steps.add((b - a) % 20)
    assert firsts == set(range(6))
    assert len(steps) > 2


def test_no_more_frames_are_compared_than_a_clip_has():
    _, made = compared_clips(frames=4, compared=9)
    assert made[0].compared.tolist() == [True] * 4


# determinism


@pytest.mark.parametrize("augmentation", ["off", "strong"])
def test_a_number_is_the_same_clip_in_any_order_and_in_any_dataset_of_the_seed(augmentation):
    studies = [cached_study("a"), cached_study("b", seed=1)]
    options = {"augmentation": augmentation, "time_augmentation": augmentation, "max_frame_stride": 2}
    first = [clips(studies, **options)[n] for n in range(8)]
    again = clips(studies, **options)
    assert all(same(again[n], first[n]) for n in (5, 1, 7, 7, 0, 3))
    assert not any(torch.equal(first[i].image, first[j].image) for i in range(8) for j in range(i))
    other = clips(studies, **options, seed=1)
    assert sum(torch.equal(other[n].image, first[n].image) for n in range(8)) == 0


def test_clips_do_not_depend_on_global_seeds_and_threads():
    size = (48, 48, 8)  # enough voxels to be shared out
    augmented = {"augmentation": "strong", "time_augmentation": "strong", "flip_axes": [0, 1]}
    made = clips([cached_study(shape=size)], patch_size=size, frames=8, **augmented)
    first = [made[n] for n in range(12)]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.set_num_threads(2)
    assert all(same(made[n], clip) for n, clip in enumerate(first))
    assert torch.get_num_threads() == 2


def test_batches_are_the_same_with_any_number_of_workers(phantom_dataset, tmp_path):
    studies = cached_studies(phantom_dataset.training, phantom_dataset, DataConfig(), None, tmp_path)
    config = DataConfig(
        patch_size=(16, 16, 4),
        frames=3,
        max_frame_stride=2,
        augmentation="strong",
        time_augmentation="strong",
        flip_axes=[0, 1],
    )
    made = ClipDataset(studies, config, True, 3)
    numbers = [[0, 1], [2, 3], [4, 5], [6, 7]]
    batches: dict[int, list[Batch]] = {w: list(clip_loader(made, numbers, workers=w, pin=False)) for w in (0, 1, 2)}
    for workers in (1, 2):
        assert len(batches[workers]) == 4
        assert all(same(a, b) for a, b in zip(batches[workers], batches[0], strict=True))
    assert batches[0][0].image.shape == (2, 3, 1, 16, 16, 4)
    assert sorted(batches[0][0].cases) == ["phantom001", "phantom002"]
    resumed = list(clip_loader(made, numbers[2:], workers=0, pin=False))
    assert all(same(a, b) for a, b in zip(resumed, batches[0][2:], strict=True))


def test_a_decathlon_study_of_one_frame_is_repeated_and_labelled_once(write_case, tmp_path):
    image, label = np.random.default_rng(0).random((1, 1, *SHAPE), dtype=np.float32), cached_study().label[:1]
    dataset = write_case(image, label, values=(0, 1, 2))
    studies = cached_studies(dataset.training, dataset, DataConfig(), None, tmp_path / "cache")
    clip = clips(studies, cyclic=dataset.cyclic, augmentation="mild", foreground_fraction=1.0)[0]
    assert int(clip.labelled.sum()) == 1
    assert clip.label[clip.labelled].any()
    assert torch.equal(clip.label.flatten(1).any(1), clip.labelled)


# labelled frames alone


@pytest.mark.parametrize("time_augmentation", ["off", "strong"])
def test_a_clip_of_labelled_frames_holds_those_of_the_whole_clip(time_augmentation):
    studies = [cached_study("a", 6, (1, 4)), cached_study("b", 5, (2,), seed=1)]
    whole = clips(studies, frames=6, max_frame_stride=2, time_augmentation=time_augmentation)
    alone = ClipDataset(studies, whole.config, True, 0, labelled_only=True)
    for number in range(8):
        one, all_ = alone[number], whole[number]
        assert bool(one.labelled.all())
        assert torch.equal(one.label, all_.label[all_.labelled])
        assert one.case == all_.case
        if time_augmentation == "off":  # else artifacts are drawn for the frames that are there
            assert torch.equal(one.image, all_.image[all_.labelled])


def test_shorter_clips_are_filled_up_with_frames_that_are_not_labelled():
    studies = [cached_study("a", 6, (1, 4)), cached_study("b", 6, (2,), seed=1)]
    alone = ClipDataset(studies, clips(frames=6).config, True, 0, labelled_only=True)
    two = sorted((alone[0], alone[1]), key=lambda clip: clip.case)
    batch = collate(two)
    assert batch.labelled.tolist() == [[True, True], [True, False]]
    assert torch.equal(batch.image[0], two[0].image)
    assert torch.equal(batch.image[1, :1], two[1].image)
    assert not batch.image[1, 1].any()
    assert not batch.label[1, 1].any()
