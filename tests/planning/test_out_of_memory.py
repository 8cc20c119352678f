"""Where a step ran out of memory, the next smaller plan sees less, fits by the planner's count, and is taken by `unet4d train`."""

from __future__ import annotations

import shlex
from dataclasses import replace

import yaml

from unet4d.config import Config, DataConfig, MemoryConfig, ModelConfig, TrainConfig
from unet4d.planning.candidates import Counts
from unet4d.planning.smaller_plan import out_of_memory_words, smaller_settings
from unet4d.system.gpu_memory import GB, sufficient_bytes
from unet4d.training.resolve import resolved_model
from unet4d.training.step_memory import ways

SPACING = (1.5, 1.5, 8.0)


def configured(patch=(64, 64, 6), frames: int = 2, batch_size: int = 2, **memory) -> Config:
    """Settings that are counted in a moment, resolved."""
    data = DataConfig(plane_spacing_mm=1.5, patch_size=patch, frames=frames)
    model = ModelConfig([4, 8], [0, 0], [(2, 2, 1)], [(3, 3, 1), (3, 3, 1)])
    train = TrainConfig(batch_size=batch_size, precision="fp32")
    return Config(data, model, train, memory=MemoryConfig(**memory))


def needed(config: Config, memory: MemoryConfig) -> int:
    """Counted, of a step cut in this way."""
    return Counts(1, 4, lambda frames: frames, 10**15).exact(config, memory).planned_bytes


def leanest(config: Config) -> int:
    return needed(config, ways(MemoryConfig(), config.data.frames)[-1])


def smaller(config: Config, budget_bytes: float, processes: int = 1) -> dict[str, object]:
    """The settings by name."""
    made = smaller_settings(config, SPACING, 1, 4, lambda frames: frames, int(budget_bytes), processes)
    words = [shlex.split(setting) for setting in made]
    assert all(len(pair) == 2 for pair in words)
    return {name.removeprefix("--"): yaml.safe_load(value) for name, value in words}


def applied(config: Config, settings: dict[str, object]) -> Config:
    values = config.as_dict()
    for name, value in settings.items():
        section, key = name.split(".")
        values[section][key] = value
    return Config.from_dict(values)


def seen(config: Config) -> tuple[int, int]:
    x, y, z = config.data.patch_size
    return x * y * z * config.data.frames, config.train.batch_size


def test_of_the_smaller_choices_the_one_that_sees_most_comes_first():
    assert smaller(configured(), 10**12) == {"train.batch_size": 1, "train.accumulate": 2}
    assert smaller(configured(batch_size=7), 10**12) == {"train.batch_size": 1, "train.accumulate": 7}
    twice = configured()
    twice = replace(twice, train=replace(twice.train, accumulate=2))
    assert smaller(twice, 10**12) == {"train.batch_size": 1, "train.accumulate": 4}
    assert smaller(configured(batch_size=1), 10**12) == {"data.patch_size": [48, 48, 6]}
    assert smaller(configured(frames=11, batch_size=1), 10**12) == {"data.frames": 8}  # 0.73 of it against 0.56
    assert smaller(configured((32, 32, 6), batch_size=1), 10**12) == {}


def test_what_is_given_fits_and_each_smaller_budget_sees_less():
    config = configured((128, 128, 6), 2)
    seen_before, budget = seen(config), 10**9
    for _ in range(3):
        chosen = applied(config, smaller(config, budget))
        assert seen(chosen) < seen_before
        assert leanest(chosen) <= budget
        assert all(a <= b for a, b in zip(chosen.data.patch_size, config.data.patch_size, strict=True))
        assert (chosen.data.frames, chosen.model) == (2, config.model)
        seen_before, budget = seen(chosen), leanest(chosen)  # of which a part is to be left free
    assert smaller(config, 10_000) == {}


def test_a_way_to_cut_that_was_asked_for_does_not_rule_out_leaner_ones():
    config = configured(frames=2, chunk_frames=0, batch_size=1)
    chosen = applied(config, smaller(config, 10**12))
    assert 1.2 * leanest(chosen) < needed(chosen, MemoryConfig(0))
    assert smaller(config, sufficient_bytes(1.02 * leanest(chosen))) == smaller(config, 10**12)


def test_processes_share_a_batch_each_with_its_own_memory():
    assert smaller(configured(batch_size=8), 10**12, processes=4) == {"train.batch_size": 4, "train.accumulate": 2}
    assert smaller(configured(batch_size=4), 10**12, processes=4) == smaller(configured(batch_size=1), 10**12)


def test_a_smaller_patch_keeps_the_network_by_saying_its_strides():
    """64 voxels are pooled four times by themselves, 48 three times."""
    config = configured(batch_size=1)
    deep = replace(config, model=resolved_model(ModelConfig([4] * 5, 0), SPACING, config.data.patch_size))
    settings = smaller(deep, 10**12)
    assert settings == {
        "data.patch_size": [48, 48, 6],
        "model.strides": [list(stride) for stride in deep.model.strides],
        "model.kernel_size": [list(kernel) for kernel in deep.model.kernel_size],
    }
    assert applied(deep, settings).model == deep.model
    shallow = replace(config, model=resolved_model(ModelConfig([4, 8], 0), SPACING, config.data.patch_size))
    assert set(smaller(shallow, 10**12)) == {"data.patch_size"}
    own = replace(config, model=replace(config.model, strides=[(1, 2, 1)]), train=replace(config.train, batch_size=2))
    assert smaller(own, 10**12) == {
        "train.batch_size": 1,
        "train.accumulate": 2,
    }  # the strides were given with the patch, which stays


def test_the_settings_are_taken_by_the_command_line(command, phantom, tmp_path):
    config = configured((40, 36, 4), 1, 1)
    config = replace(config, model=replace(config.model, strides=[(1, 2, 1)]))
    made = smaller_settings(config, SPACING, 1, 4, lambda frames: frames, 10**12)
    assert made == [
        "--data.patch_size '[32,32,4]'",
        "--model.strides '[[1,2,1]]'",
        "--model.kernel_size '[[3,3,1],[3,3,1]]'",
    ]
    given = ["--data.folds", 3, "--model.channels", "[4,8]", "--data.patch_size", "[40,36,4]", "--data.frames", 1]
    given += ["--train.batch_size", 1, "--gpu-memory", 1, "--out", tmp_path / "plan.yaml"]
    assert command("plan", phantom, *given, *shlex.split(" ".join(made))).code == 0
    written = Config.from_dict(yaml.safe_load((tmp_path / "plan.yaml").read_text()))
    assert written.data.patch_size == (32, 32, 4)
    assert (written.model.strides, written.model.kernel_size) == ([(1, 2, 1)], [(3, 3, 1), (3, 3, 1)])


def test_it_is_said_in_one_line_what_was_planned_what_was_measured_and_what_to_do():
    settings = ["--data.patch_size '[96,96,12]'", "--train.batch_size 1"]
    assert out_of_memory_words(int(5.2 * GB), int(6.1 * GB), 7 * GB, settings) == (
        "a training step ran out of GPU memory: planned 5.20 GB, measured 6.10 GB, 7.00 GB were free for it; begin anew with the "
        "same command, a new --out and the next smaller plan: --data.patch_size '[96,96,12]' --train.batch_size 1"
    )
    assert "memory: measured 6.10 GB, 7.00 GB were" in out_of_memory_words(None, int(6.1 * GB), 7 * GB, settings)
    assert out_of_memory_words(None, 1, 1, []).endswith("begin anew with smaller --model.channels")
