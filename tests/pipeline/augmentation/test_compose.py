"""All that varies a clip: drawn first from one generator, then the same to the bit; and the page that describes it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from unet4d.config import DataConfig
from unet4d.pipeline.augmentation.artifacts import FrameArtifact, Mistriggering, SignalDropout
from unet4d.pipeline.augmentation.compose import Augmentation, AugmentationParams
from unet4d.pipeline.augmentation.intensity import IntensityParams, NoiseParams
from unet4d.pipeline.augmentation.spatial import SpatialWarp

PATCH = (24, 20, 6)
KINDS = ("signal", "map", "velocity X", "velocity Y", "velocity Z")
FRAMES = 4
SEEDS = range(12)


def config(strength: str = "strong", time: str = "strong", flip_axes: tuple[int, ...] = (0, 1), **more) -> DataConfig:
    return DataConfig(augmentation=strength, time_augmentation=time, flip_axes=list(flip_axes), **more)


def made(settings: DataConfig, tilt: bool = False, kinds: tuple[str, ...] = KINDS) -> Augmentation:
    return Augmentation(settings, PATCH, tilt, kinds, cyclic=True)


def clip(settings: DataConfig, tilt: bool = False, channels: int = len(KINDS)) -> tuple[Tensor, Tensor]:
    """A random image (C, T, ...) with a constant channel 1, a map in `KINDS`, and labels of two frames."""
    generator = torch.Generator().manual_seed(0)
    size = PATCH if settings.augmentation == "off" else (56, 56, 48 if tilt else 6)
    image = torch.randn((channels, FRAMES, *size), generator=generator)
    if channels > 1:
        image[1] = image[1, :1]
    return image, torch.randint(0, 4, (2, *size), generator=generator, dtype=torch.uint8)


def apply(augmentation: Augmentation, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return augmentation.apply(image, label, augmentation.sample(np.random.default_rng(seed), FRAMES))


@pytest.mark.parametrize("tilt", [False, True])
def test_off_changes_nothing_not_even_with_axes_to_flip(tilt):
    settings = config("off", "off", (0, 1, 2))
    image, label = clip(settings, tilt)
    for seed in SEEDS:
        out = apply(made(settings, tilt), image, label, seed)
        assert torch.equal(out[0], image)
        assert torch.equal(out[1], label)


@pytest.mark.parametrize("tilt", [False, True])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_a_clip_of_any_kinds_comes_out_whole_and_what_came_in_is_left_alone(strength, tilt):
    settings = config(strength, strength)
    image, label = clip(settings, tilt)
    kept = image.clone(), label.clone()
    for seed in SEEDS:
        out, classes = apply(made(settings, tilt), image, label, seed)
        assert (out.shape, out.dtype) == ((len(KINDS), FRAMES, *PATCH), torch.float32)
        assert (classes.shape, classes.dtype) == ((2, *PATCH), torch.uint8)
        assert out.isfinite().all()
        assert torch.equal(image, kept[0])
        assert torch.equal(label, kept[1])


@pytest.mark.parametrize("tilt", [False, True])
def test_a_map_is_one_image_whatever_happens(tilt):
    settings = config()
    image, label = clip(settings, tilt)
    for seed in SEEDS:
        out, _ = apply(made(settings, tilt), image, label, seed)
        assert torch.equal(out[1], out[1, :1].expand_as(out[1]))


def test_the_same_generator_gives_the_same_draw_and_another_another():
    augmentation = made(config())
    image, label = clip(config())
    draws = [augmentation.sample(np.random.default_rng(seed), FRAMES) for seed in SEEDS]
    assert draws == [augmentation.sample(np.random.default_rng(seed), FRAMES) for seed in SEEDS]
    assert len({repr(draw) for draw in draws}) == len(SEEDS)
    for draw in draws:
        torch.manual_seed(0)
        first = augmentation.apply(image, label, draw)
        torch.manual_seed(1)
        again = augmentation.apply(image, label, draw)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


def test_time_and_space_are_set_apart():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        still = made(config("off", "strong")).sample(rng, FRAMES)
        assert (still.warp, still.flips, still.intensity) == (None, (), None)
        assert made(config("strong", "off")).sample(rng, FRAMES).artifacts == ()
    assert any(made(config("off")).sample(np.random.default_rng(seed), FRAMES).artifacts for seed in SEEDS)


@pytest.mark.parametrize("time", ["off", "strong"])
def test_a_rate_of_artifacts_stands_in_place_of_those_of_time(time):
    draws = [made(config("off", time, artifacts=0.25)).sample(np.random.default_rng(seed), FRAMES) for seed in SEEDS]
    assert all(len(draw.artifacts) == 1 and draw.warp is draw.intensity is None for draw in draws)
    clean = made(config("off", time, artifacts=0.0))
    assert all(clean.sample(np.random.default_rng(seed), FRAMES) == AugmentationParams() for seed in SEEDS)


def test_with_time_alone_frames_without_artifacts_stay_to_the_bit():
    settings = config("off")
    augmentation = made(settings)
    image, label = clip(settings)
    for seed in range(40):
        draw = augmentation.sample(np.random.default_rng(seed), FRAMES)
        out, classes = augmentation.apply(image, label, draw)
        wrong = {one.frame for one in draw.artifacts}
        assert {t for t in range(FRAMES) if not torch.equal(out[:, t], image[:, t])} == wrong
        assert torch.equal(classes, label)


def test_image_and_label_are_placed_alike_by_warp_and_flip():
    settings = config()
    size = (56, 56, 6)
    label = (torch.arange(size[0])[:, None, None] // 6 % 2).expand(1, *size).to(torch.uint8)
    draw = AugmentationParams(SpatialWarp((0, 0, 0.4), (1.1, 0.95, 1), (1, -1, 0)), (0,))
    out, classes = made(settings, kinds=("signal",)).apply(label[None].float(), label, draw)
    sure = (out[0] - 0.5).abs() > 0.3
    assert sure.float().mean() > 0.7
    assert torch.equal(out[0][sure] > 0.5, classes[sure].bool())


def test_velocities_turn_and_flip_with_the_patch():
    """A quarter turn makes -Y of +X, and mirroring Y makes +Y of it."""
    settings = config()
    image, label = clip(settings)
    image[:] = torch.tensor([1.0, 2.0, 3.0, 0.0, 5.0])[:, None, None, None, None]
    draw = AugmentationParams(SpatialWarp(angles=(0.0, 0.0, np.pi / 2)), (1,))
    out, _ = made(settings).apply(image, label, draw)
    expected = torch.tensor([1.0, 2.0, 0.0, 3.0, 5.0])[:, None, None, None, None].expand_as(out)
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["signal", "velocity X"])
def test_intensities_that_were_not_normalized_get_the_same_noise_in_their_own_unit(kind):
    image, label = clip(config(), channels=1)
    image /= image.std()
    draw = AugmentationParams(
        artifacts=(FrameArtifact(0, SignalDropout(0.5)),), intensity=IntensityParams(noise=NoiseParams(0.3, 1))
    )
    outs = []
    for normalization, scale in (("zscore", 1.0), ("none", 500.0)):
        augmentation = made(config(normalization=normalization), kinds=(kind,))
        outs.append(augmentation.apply(image * scale, label, draw)[0] / scale)
    assert torch.allclose(outs[1], outs[0], atol=0.02)


def test_components_of_a_velocity_get_noise_of_one_unit_also_where_little_flows_along_one():
    image, label = clip(config(), channels=2)
    image *= torch.tensor([100.0, 1.0])[:, None, None, None, None]
    augmentation = made(config(normalization="none"), kinds=("velocity X", "velocity Y"))
    still = augmentation.apply(image, label, AugmentationParams())[0]
    noise = (
        augmentation.apply(image, label, AugmentationParams(intensity=IntensityParams(noise=NoiseParams(0.3, 1))))[0]
        - still
    )
    assert float(noise[0].std()) == pytest.approx(float(noise[1].std()), rel=0.05)
    other = made(config(normalization="none"), kinds=("velocity X", "map"))
    apart = (
        other.apply(image, label, AugmentationParams(intensity=IntensityParams(noise=NoiseParams(0.3, 1))))[0] - still
    )
    assert float(apart[1, 0].std()) == pytest.approx(0.3, rel=0.1)


def test_only_gated_studies_miss_triggers():
    def kinds(cyclic: bool) -> set[type]:
        augmentation = Augmentation(config(), PATCH, False, KINDS, cyclic)
        draws = (augmentation.sample(np.random.default_rng(seed), FRAMES) for seed in range(100))
        return {type(one.artifact) for draw in draws for one in draw.artifacts}

    assert kinds(True) - kinds(False) == {Mistriggering}


def test_a_clip_without_any_label_is_augmented_too():
    settings = config()
    image, label = clip(settings, tilt=True)
    assert apply(made(settings, tilt=True), image, label[:0], 1)[1].shape == (0, *PATCH)


# the page


@pytest.fixture
def docs(monkeypatch, request):
    """The folder docs/; its folder drawing/ is one to import from, as a script there does."""
    folder = request.config.rootpath / "docs"
    monkeypatch.syspath_prepend(folder / "drawing")
    return folder


def test_the_page_has_the_values_of_the_presets(docs):
    page = importlib.import_module("augmentation").page()
    assert (docs / "explanation" / "augmentation.md").read_text() == page, "run  python docs/drawing/augmentation.py"
    assert "| rotation | 80 %: up to 15° | 80 %: up to 30° |" in page


@pytest.mark.slow
def test_the_contact_sheet_can_be_drawn_and_is_small(docs):
    picture = importlib.import_module("contact_sheet").contact_sheet()
    assert picture.std() > 20
    assert (docs / "pictures" / "augmentation.webp").stat().st_size < 400_000
