"""A class of a new name begins as the output of the earlier network that overlaps it most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import build_network, cached_study, change_dataset, tiny_config, tiny_task
from unet4d.images.grid import IGNORE
from unet4d.metrics.regions import Region
from unet4d.models.checkpoint import load_checkpoint, save_checkpoint
from unet4d.models.task import Task
from unet4d.pipeline.cached_study import CachedStudy, LabelScope
from unet4d.system.files import read_json
from unet4d.training.similar_outputs import find_similar_outputs
from unet4d.training.train import train
from unet4d.training.warm_start import load_initial_weights

SHAPE = (16, 12, 4)
CONFIG = tiny_config(channels=[4, 8], lstm_channels=0, patch_size=SHAPE, frames=3)
BEFORE = tiny_task("heart", "aorta", "vein")


@pytest.fixture
def content(tmp_path: Path):
    """Return the content of a checkpoint of a frame-wise network with random weights, which uses each of its outputs."""
    torch.manual_seed(3)
    network = build_network(CONFIG.model, 1, 4)
    torch.nn.init.normal_(network.head.weight)
    with torch.no_grad():
        seen = network.eval()(torch.from_numpy(cached_study(shape=SHAPE).image).movedim(0, 1)[None])
        network.head.bias -= seen.mean((0, 1, 3, 4, 5))
    save_checkpoint(tmp_path / "before.pt", CONFIG, BEFORE, network, {})
    return load_checkpoint(tmp_path / "before.pt")


def logits_of(content, image: np.ndarray) -> torch.Tensor:
    """Return the logits (T, K, X, Y, Z) of an image (C, T, X, Y, Z) as one patch."""
    network = build_network(CONFIG.model, 1, content["network"]["head.bias"].shape[0]).eval()
    network.load_state_dict(content["network"])
    with torch.no_grad():
        return network(torch.from_numpy(image).movedim(0, 1)[None])[0]


def study_of(content, classes: list[int], seed: int = 0) -> CachedStudy:
    """Return a study in which class `classes[k]` is what the network takes for its output k."""
    made = cached_study(shape=SHAPE, frames=6, labelled=(1, 4), seed=seed)
    found = logits_of(content, made.image).argmax(1)[[1, 4]].numpy()
    assert all((found == k).mean() > 0.03 for k in range(4))
    label = np.array(classes, np.uint8)[found]
    rows = [(row, label[row, x, y, z], x, y, z) for row, x, y, z in np.argwhere(label)]
    return replace(made, label=label, foreground=np.array(sorted(rows), np.int32))


def similar(content, task: Task, *studies: CachedStudy, **settings) -> dict[str, str]:
    data = replace(CONFIG.data, augmentation="strong")  # which these clips are spared
    recompute = replace(CONFIG.recompute, **settings)
    return find_similar_outputs(
        replace(CONFIG, data=data, recompute=recompute), task, studies, torch.device("cpu"), content, Path("before.pt")
    )


@pytest.mark.parametrize("chunk_frames", [0, 1])
def test_a_new_name_gets_the_output_that_is_drawn_like_it_and_known_names_keep_theirs(content, chunk_frames):
    task = tiny_task("lumen", "heart", "great vessel")
    studies = [study_of(content, [0, 2, 3, 1], seed) for seed in (0, 1)]
    found = similar(content, task, *studies, chunk_frames=chunk_frames)
    assert found == {"lumen": "vein", "great vessel": "aorta"}


def test_what_was_not_drawn_does_not_count(content):
    """Half of each frame is ignored, and another study has the new class without saying that it was drawn."""
    task, one = tiny_task("lumen"), study_of(content, [0, 0, 0, 1])
    label = one.label.copy()
    label[..., :2] = IGNORE
    half = replace(
        one, label=label, scope=LabelScope(ignores=True), foreground=one.foreground[one.foreground[:, 4] > 1]
    )
    assert similar(content, task, half) == {"lumen": "vein"}
    both = tiny_task("lumen", "wall")
    wrong = replace(study_of(content, [0, 1, 2, 2], seed=2), scope=LabelScope(annotated=(2,)))
    assert similar(content, both, half, wrong)["lumen"] == "vein"


def test_a_class_that_overlaps_no_output_begins_at_random(content):
    one = study_of(content, [0, 0, 0, 1])
    label = np.zeros_like(one.label)
    label[:, 3, 4, 1] = 1
    assert similar(content, tiny_task("lesion"), replace(one, label=label)) == {}


def test_regions_are_compared_with_regions_alone(content):
    regions = {"a": Region((1,), 1), "b": Region((2,), 2), "c": Region((1, 2), 1), "d": Region((3,), 3)}
    of_regions = {**content, "task": replace(BEFORE, regions=regions).as_dict()}
    one = cached_study(shape=SHAPE, frames=6, labelled=(1, 4))
    inside = (logits_of(content, one.image)[[1, 4], 1] > 0).numpy()
    one = replace(one, label=inside.astype(np.uint8))
    task = replace(tiny_task("x", "y"), regions={"e": Region((1,), 1), "f": Region((2,), 2)})
    assert similar(of_regions, task, one) == {"e": "b"}
    assert similar(content, task, one) == {}


def test_the_weights_of_the_output_are_taken_with_its_bias(content):
    task = tiny_task("lumen", "wall")
    torch.manual_seed(9)
    network = build_network(CONFIG.model, 1, 3)
    own = network.head.weight.clone()
    told = load_initial_weights(network, task, content, "before.pt", {"lumen": "vein"})
    assert told.text.endswith("; outputs that begin as others: lumen as vein; new outputs: wall")
    before = content["network"]
    assert torch.equal(network.head.weight, torch.stack([before["head.weight"][0], before["head.weight"][3], own[2]]))
    assert torch.equal(network.head.bias[:2], before["head.bias"][[0, 3]])
    assert "head.weight" not in told.whole
    told = load_initial_weights(build_network(CONFIG.model, 1, 2), tiny_task("lumen"), content, "b", {"lumen": "vein"})
    assert {"head.weight", "head.bias"} <= set(told.whole), "held and slowed as all that was taken"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("how", ["name", "overlap"])
def test_a_training_asks_for_them_where_it_is_told_to(trained, own_phantom, tiny, tmp_path, monkeypatch, how):
    def one(*given):
        return {"muscle": "myocardium"}

    monkeypatch.setattr("unet4d.training.train.find_similar_outputs", one)
    values = read_json(own_phantom / "dataset.json")["labels"]
    names = {("muscle" if name == "myocardium" else name): value for name, value in values.items()}
    change_dataset(own_phantom, lambda about: (about.pop("roles", None), about.update(labels=names)))
    train(own_phantom, tmp_path / "run", tiny(epochs=1, init_from=str(trained), init_outputs=how), "cpu")
    told = read_json(tmp_path / "run" / "summary.json")["initial_weights"]
    assert ("outputs that begin as others: muscle as myocardium" in told) == (how == "overlap")
    assert ("new outputs: muscle" in told) == (how == "name")
