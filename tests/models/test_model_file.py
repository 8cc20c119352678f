"""Model files: the same content gives the same bytes, and whatever was damaged or changed is refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile

import pytest
import torch

from tests.builders import save_network, tiny_config, tiny_task
from tests.errors import error_of
from unet4d.errors import InputError
from unet4d.models.checkpoint import load_checkpoint, load_model, load_outline
from unet4d.models.folds import load_models
from unet4d.models.model_file import (
    ModelFile,
    checkpoint_sha256,
    is_model_file,
    is_network_of_file,
    network_paths,
    read_model_file,
    write_model_file,
)
from unet4d.system.documents import document

pytestmark = pytest.mark.usefixtures("partial_documents")

CONFIG, TASK = tiny_config(channels=[2, 4]), tiny_task("wall")
CARD = {"name": "heart ♥", "postprocessing": []}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, bytes]:
    """Two checkpoints of different weights."""
    made = {}
    for seed, name in enumerate(("fold_1", "fold_0")):
        path = tmp_path_factory.mktemp("made") / "model.pt"
        torch.manual_seed(seed)
        save_network(path, CONFIG, TASK)
        made[name] = path.read_bytes()
    return made


@pytest.fixture
def written(tmp_path, networks):
    write_model_file(tmp_path / "heart.unet4d", ModelFile(CARD, "free\nfor all", networks))
    return tmp_path / "heart.unet4d"


def test_a_file_comes_back_as_it_was_and_plain_unzip_shows_its_parts(written, networks):
    found = read_model_file(written)
    assert (found.card, found.licence, found.networks) == (document("model-card", CARD), "free\nfor all", networks)
    assert list(found.networks) == ["fold_0", "fold_1"]
    with zipfile.ZipFile(written) as archive:
        assert archive.namelist() == ["manifest.json", "card.json", "licence.txt", "fold_0.pt", "fold_1.pt"]
        assert archive.read("fold_0.pt") == networks["fold_0"]


def test_the_same_content_gives_the_same_bytes(written, networks):
    other = written.with_name("other.unet4d")
    write_model_file(other, ModelFile(dict(CARD), "free\nfor all", dict(sorted(networks.items()))))
    assert other.read_bytes() == written.read_bytes()


def test_each_network_has_a_path_that_loads_like_a_checkpoint(written, networks, tmp_path):
    assert network_paths(written) == [written / "fold_0", written / "fold_1"]
    assert is_model_file(written)
    assert [is_network_of_file(path) for path in (written, written / "fold_0")] == [False, True]
    models = load_models([written])
    assert [model.path for model in models] == network_paths(written)
    for name, model in zip(("fold_0", "fold_1"), models, strict=True):
        (tmp_path / "plain.pt").write_bytes(networks[name])
        plain = load_model(tmp_path / "plain.pt")
        assert all(map(torch.equal, model.network.parameters(), plain.network.parameters()))
        assert (model.config, model.task) == (plain.config, plain.task)
        assert load_outline(written / name) == load_outline(tmp_path / "plain.pt")
        assert checkpoint_sha256(written / name) == checkpoint_sha256(tmp_path / "plain.pt")


def test_one_network_of_several_must_be_named(written):
    assert error_of(load_model, written).endswith(f"2 networks, expected one; name one, such as {written / 'fold_0'}")
    assert "no network fold_7, expected one of fold_0, fold_1" in error_of(load_model, written / "fold_7")


def test_a_flipped_bit_is_refused_or_leaves_all_as_it_was(written):
    data, whole, draws = written.read_bytes(), read_model_file(written), random.Random(0)
    refused: list[str] = []
    for place in [*range(40), *(draws.randrange(len(data)) for _ in range(80)), *range(len(data) - 40, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 1 << draws.randrange(8)
        written.write_bytes(changed)
        try:
            assert read_model_file(written) == whole, place
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 120
    assert all(line.startswith(f"{written} is damaged or was changed (") and line.isprintable() for line in refused)
    for length in (0, 1, 30, len(data) // 2, len(data) - 1):
        written.write_bytes(data[:length])
        assert "damaged or was changed" in error_of(read_model_file, written)


def rewritten(path, change, compression=zipfile.ZIP_STORED, rehash=False):
    """Write a model file anew with its entries as `change` leaves them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    if rehash:
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in entries.items() if name != "manifest.json"}
        entries["manifest.json"] = json.dumps({"format": "unet4d model 1", "sha256": hashes}).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


CHANGES = {
    "a card that was edited": (lambda e: e.update({"card.json": e["card.json"].replace(b"heart", b"brain")}), False),
    "a network that was swapped": (lambda e: e.update({"fold_0.pt": e["fold_1.pt"]}), False),
    "an entry more": (lambda e: e.update({"more.txt": b"hidden"}), False),
    "an entry less": (lambda e: e.pop("fold_0.pt"), False),
    "no manifest": (lambda e: e.pop("manifest.json"), False),
    "a manifest that is no JSON": (lambda e: e.update({"manifest.json": b"{"}), False),
    "a manifest of numbers": (lambda e: e.update({"manifest.json": b"[1]"}), False),
    "another format": (lambda e: e.update({"manifest.json": e["manifest.json"].replace(b"l 1", b"l 9")}), False),
    "a way out of the folder": (lambda e: e.update({"../evil.pt": e["fold_0.pt"]}), True),
    "an absolute path": (lambda e: e.update({"/tmp/evil.pt": e["fold_0.pt"]}), True),
    "no networks": (lambda e: [e.pop(name) for name in ("fold_0.pt", "fold_1.pt")], True),
    "a card that is a list": (lambda e: e.update({"card.json": b"[]"}), True),
    "a licence that is no text": (lambda e: e.update({"licence.txt": b"\xff\xfe"}), True),
}


@pytest.mark.parametrize(("change", "rehash"), CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_one_line(written, change, rehash):
    rewritten(written, change, rehash=rehash)
    assert error_of(read_model_file, written).startswith(f"{written} is damaged or was changed (")
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_packed_archive_and_bytes_around_it_are_refused(written):
    data = written.read_bytes()
    for changed in (b"x" + data, data + b"x"):
        written.write_bytes(changed)
        assert "damaged or was changed" in error_of(read_model_file, written)
    written.write_bytes(data)
    rewritten(written, lambda entries: None, zipfile.ZIP_DEFLATED)
    assert "it is compressed" in error_of(read_model_file, written)


def test_code_in_a_network_is_not_run_even_with_its_hash(written, tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    hostile = io.BytesIO()
    torch.save({"format": Touch()}, hostile)
    rewritten(written, lambda entries: entries.update({"fold_0.pt": hostile.getvalue()}), rehash=True)
    for load in (load_checkpoint, load_outline):
        with pytest.raises(InputError, match=f"{written / 'fold_0'} holds more than tensors"):
            load(written / "fold_0")
    assert not (tmp_path / "touched").exists()


def test_a_missing_file_and_a_folder_of_that_name(tmp_path):
    assert "is missing" in error_of(read_model_file, tmp_path / "gone.unet4d")
    assert "gone.unet4d is missing" in error_of(load_model, tmp_path / "gone.unet4d")
    run = tmp_path / "run.unet4d"
    save_network(run / "checkpoint_last.pt", CONFIG, TASK)
    assert load_model(run).path == run / "checkpoint_last.pt"
