"""Checkpoints: whole or absent, tensors and plain values only, and nothing in them ever runs."""

from __future__ import annotations

import errno
import os
import pickle
import random
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unet4d
from tests.builders import build_network, resolve_model_plainly, tiny_config
from tests.errors import error_of
from tests.masking import needs_posix
from unet4d.config import ModelConfig, ResolvedConfig
from unet4d.errors import InputError, Unet4DError
from unet4d.models.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    Task,
    load_checkpoint,
    load_model,
    load_outline,
    save_checkpoint,
)

CONFIG = tiny_config(patch_size=(16, 16, 4), lstm_channels=0, precision="auto", seed=7)
TASK = Task({"background": 0, "left ventricle": 30, "aorta": 200}, ("magnitude", "velocity"), cyclic=True)
TRAINING = {"epoch": 3, "best": 0.5, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}


class Touch:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(CONFIG.model, 2, 3)


@pytest.fixture
def saved(tmp_path, network):
    """The path of a checkpoint."""
    save_checkpoint(tmp_path / LAST, CONFIG, TASK, network, TRAINING)
    return tmp_path / LAST


def refusal(path) -> str:
    """The one line that loading ends in."""
    return error_of(load_model, path)


def test_a_model_with_heads_of_deep_supervision_loads_and_predicts_as_one_without(tmp_path):
    model = ModelConfig([4, 6, 8], 2, [(2, 2, 1), (2, 2, 1)], [(3, 3, 1)] * 3)
    x, answers = torch.randn(1, 2, 2, 8, 8, 2), []
    for deep in (False, True):
        config = replace(CONFIG, model=resolve_model_plainly(replace(model, deep_supervision=deep)))
        torch.manual_seed(0)
        save_checkpoint(tmp_path / LAST, config, TASK, build_network(config.model, 2, 3), {})
        answers.append(load_model(tmp_path / LAST).network(x))
    assert torch.equal(*answers)


def test_a_checkpoint_comes_back_as_it_was(saved, network):
    content = torch.load(saved, weights_only=True)
    assert ResolvedConfig.from_dict(content["config"]) == CONFIG
    assert content["training"]["optimizer"]["state"][0]["exp_avg"].tolist() == [1, 1]
    model = load_model(saved)
    assert (model.config, model.task, model.path) == (CONFIG, TASK, saved)
    assert not model.network.training
    for name, weight in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], weight)


def test_roles_come_back_and_a_checkpoint_without_any_loads(tmp_path, network):
    task = replace(TASK, roles={"aorta": "other", "left ventricle": "right ventricle"})
    save_checkpoint(tmp_path / LAST, CONFIG, task, network, TRAINING)
    assert load_model(tmp_path).task == task
    older = {key: value for key, value in TASK.as_dict().items() if key != "roles"}
    assert Task.from_dict(older) == TASK
    with pytest.raises(InputError, match="roles has 'muscle' for aorta, expected one of"):
        Task.from_dict(older | {"roles": {"aorta": "muscle"}})


def test_a_run_folder_gives_its_best_checkpoint_else_its_last_else_the_one_before(tmp_path, network):
    for name in (PREVIOUS, LAST, BEST):
        save_checkpoint(tmp_path / name, CONFIG, TASK, network, {})
        assert load_model(tmp_path).path == tmp_path / name


def test_a_damaged_best_checkpoint_is_an_error_that_names_the_next_one(saved, network):
    save_checkpoint(saved.parent / BEST, CONFIG, TASK, network, {})
    flip_bit(saved.parent / BEST, 0.5)
    assert refusal(saved.parent).endswith(f"or copy it again, or take {saved}")
    saved.unlink()
    assert refusal(saved.parent).endswith("or copy it again")


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    assert refusal(tmp_path).endswith("give the --out folder of a finished unet4d train")


def hostile_files(folder, saved):
    """Checkpoints that make the file `folder/touched` if they are loaded carelessly."""
    touch = Touch(folder / "touched")
    for key in ("training", "network", "format"):
        torch.save(load_checkpoint(saved) | {key: touch}, folder / f"{key}.pt")
        yield folder / f"{key}.pt"
    torch.save(touch, folder / "alone.pt")
    yield folder / "alone.pt"
    torch.save(load_checkpoint(saved) | {"training": touch}, folder / "old.pt", _use_new_zipfile_serialization=False)
    yield folder / "old.pt"
    (folder / "pickle.pt").write_bytes(pickle.dumps(touch))
    yield folder / "pickle.pt"


def test_a_hostile_checkpoint_is_refused_and_does_not_run(tmp_path, saved):
    said = {path.name: refusal(path) for path in hostile_files(tmp_path, saved)}
    assert not (tmp_path / "touched").exists()
    assert all(
        "could run code and is not loaded" in said[f"{name}.pt"] for name in ("training", "network", "format", "alone")
    )
    assert all("is truncated, damaged or no checkpoint" in said[f"{name}.pt"] for name in ("old", "pickle"))
    torch.load(tmp_path / "alone.pt", weights_only=False).close()
    assert (tmp_path / "touched").exists()  # it was not harmless


def test_predict_refuses_a_hostile_checkpoint_in_one_line(command, phantom, tmp_path, saved):
    for number, path in enumerate(hostile_files(tmp_path, saved)):
        done = command("predict", path, "-i", phantom, "-o", tmp_path / f"out{number}")
        assert (done.code, str(path) in done.line) == (2, True)
        assert not (tmp_path / f"out{number}").exists()
    assert not (tmp_path / "touched").exists()


def test_nothing_is_unpickled_but_in_one_place_and_safely():
    """Checkpoints are loaded in one place, with weights_only; nothing else in the package reads what could run code."""
    sources = {path: path.read_text() for path in Path(unet4d.__file__).parent.rglob("*.py")}
    loads = [(path.name, call) for path, text in sources.items() for call in re.findall(r"torch\.load\(.*", text)]
    assert loads == [("checkpoint.py", 'torch.load(file, map_location="cpu", weights_only=True)')]
    unsafe = (
        r"pickle\.loads?\(|Unpickler\(|allow_pickle=True|weights_only=False|yaml\.(unsafe_|full_)?load(_all)?\(|UnsafeLoader"
        r"|from (torch|pickle) import .*load|import (marshal|shelve|dill|joblib|cloudpickle)|read_pickle|torch\.(jit|package|hub)"
        r"|(?<![.\w])(eval|exec)\("
    )
    others = [path.name for path, text in sources.items() if re.search(unsafe, text)]
    assert others == ["tensor_shapes.py"]  # its own unpickler, which builds shapes and plain values alone


def flip_bit(path, share, bit=0):
    """Flip one bit at this share of a file's length."""
    content = bytearray(path.read_bytes())
    content[min(int(share * len(content)), len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)


def test_a_truncated_checkpoint_is_an_error(saved):
    whole = saved.read_bytes()
    for length in (0, 1, 3, 29, 30, 64, 100, *range(200, len(whole), 401), len(whole) - 23, len(whole) - 1):
        saved.write_bytes(whole[:length])
        assert "give " in refusal(saved)


def test_a_flipped_bit_is_an_error_or_makes_no_difference(saved):
    """Bits outside of what is read (padding, dates) may flip; those within a number, a name or a length may not go unseen."""
    content, length = load_checkpoint(saved), saved.stat().st_size
    whole, seen = saved.read_bytes(), 0
    for place in range(0, length, 53):
        flip_bit(saved, (place + 0.5) / length, place % 8)
        try:
            assert equal(load_checkpoint(saved), content)
        except InputError:
            seen += 1
        saved.write_bytes(whole)
    assert seen > 0.3 * length / 53


def test_every_flipped_bit_of_a_number_is_an_error(tmp_path, network):
    """torch writes checksums and does not compare them: without our comparison such a model loads, and is another one."""
    torch.save({"weights": torch.zeros(1000)}, tmp_path / "a.pt")
    flip_bit(tmp_path / "a.pt", 0.5, 6)
    assert torch.load(tmp_path / "a.pt")["weights"].any()
    assert "is truncated, damaged or no checkpoint" in refusal(tmp_path / "a.pt")


def test_a_damaged_checkpoint_is_never_a_traceback(saved):
    whole, dice = saved.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        saved.write_bytes(damaged)
        refusal(saved)


def equal(a, b) -> bool:
    """Return whether two contents are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds 'list'"),
        ({"state_dict": {}}, "holds 'something else'"),
        (
            {"format": "unet4d checkpoint 9"},
            "(got unet4d checkpoint 9, expected unet4d checkpoint 2), because another version made it; train again",
        ),
        ({"format": "unet4d checkpoint 2"}, "expected 'unet4d checkpoint 2'"),
    ],
)
def test_a_file_of_another_program_is_an_error(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pt")
    assert words in refusal(tmp_path / "other.pt")


OLD = {"memory": {}, "data": {"workers": 2}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", {"model": {"chanels": [4, 8]}}),
        ("config", {"model": 3}),
        ("config", OLD),
        ("config", [1]),
        ("task", {"labels": {"background": 0}}),
        ("network", {}),
        ("network", {"head.weight": torch.zeros(1)}),
        ("network", 5),
    ],
)
def test_what_does_not_fit_this_version_is_an_error(saved, key, value):
    torch.save(load_checkpoint(saved) | {key: value}, saved)
    line = refusal(saved)
    assert "does not fit this version of unet4d" in line
    assert "another version made it; train again" in line
    assert ("'memory', it is called recompute now, 'data.workers', it is called" in line) == (value == OLD)


def test_a_missing_checkpoint_is_an_error(tmp_path):
    assert "model.pt is missing; give a run folder or a checkpoint file" in refusal(tmp_path / "model.pt")


def test_a_full_disk_leaves_the_checkpoint_before(saved, network, monkeypatch):
    before = saved.read_bytes()

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unet4DError, match="No space left on device"):
        save_checkpoint(saved, CONFIG, TASK, network, {"epoch": 4})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [LAST]


def bomb() -> list:
    """A list of few bytes that is 10**30 texts when it is written out."""
    repeated: list = ["x"] * 10
    for _ in range(30):
        repeated = [repeated] * 10
    return repeated


TAMPERED = {
    "label -1": (("task", "labels", "aorta"), -1),
    "label 1e9": (("task", "labels", "aorta"), 10**9),
    "label 1.5": (("task", "labels", "aorta"), 1.5),
    "label True": (("task", "labels", "aorta"), True),
    "two classes of one value": (("task", "labels", "aorta"), 30),
    "background 5": (("task", "labels", "background"), 5),
    "names that are numbers": (("task", "labels"), {0: 0, 1: 1, 2: 2}),
    "a name that steers a terminal": (("task", "labels"), {"background": 0, "a\x1b[2J": 1, "b": 2}),
    "more classes than the head": (("task", "labels", "spleen"), 7),
    "channel_names a dict": (("task", "channel_names"), {"0": "magnitude"}),
    "cyclic a text": (("task", "cyclic"), "yes"),
    "held_out a bomb": (("task", "held_out"), bomb()),
    "no task": (("task",), None),
    "patch_size null": (("config", "data", "patch_size"), None),
    "patch_size huge": (("config", "data", "patch_size"), [10**9] * 3),
    "patch_size beyond floats": (("config", "data", "patch_size"), [10**5000] * 3),
    "lstm_channels 1e8": (("config", "model", "lstm_channels"), 10**8),
    "a network larger than its weights": (("config", "model", "channels"), [4096, 8192]),
    "channels 1e5 levels": (("config", "model", "channels"), [4] * 10**5),
    "too few strides": (("config", "model", "strides"), []),
    "strides null": (("config", "model", "strides"), None),
    "kernel huge": (("config", "model", "kernel_size"), [[999, 999, 999]] * 2),
    "lstm_layers 1e8": (("config", "model", "lstm_layers"), 10**8),
    "spacing NaN": (("config", "data", "plane_spacing_mm"), float("nan")),
    "spacing 0": (("config", "data", "plane_spacing_mm"), 0.0),
    "spacing negative": (("config", "data", "slice_spacing_mm"), -1.0),
    "a key that is a number": (("config", 5), 1),
    "config a list": (("config",), []),
    "seed a bomb": (("config", "seed"), bomb()),
    "training a list": (("training",), [1]),
    "format a bomb": (("format",), bomb()),
    "weights NaN": (("network", "head.weight"), torch.full((3, 4, 1, 1, 1), float("nan"))),
    "weights complex": (("network", "head.weight"), torch.zeros(3, 4, 1, 1, 1, dtype=torch.complex64)),
    "weights of whole numbers": (("network", "head.weight"), torch.zeros(3, 4, 1, 1, 1, dtype=torch.int32)),
    "weights sparse": (("network", "head.weight"), torch.zeros(3, 4, 1, 1, 1).to_sparse()),
    "weights that the file does not hold": (("network", "head.weight"), torch.zeros(1).expand(10**12)),
    "weights of another shape": (("network", "head.weight"), torch.zeros(3)),
    "weights no tensor": (("network", "head.weight"), [1.0]),
    "weights beyond float32": (("network", "head.weight"), torch.full((3, 4, 1, 1, 1), 1e300, dtype=torch.float64)),
    "an extra weight": (("network", "another"), torch.zeros(2)),
    "no weights": (("network",), {}),
}


@pytest.mark.parametrize(("keys", "value"), TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_checkpoint_is_one_printable_line(saved, keys, value):
    content = torch.load(saved, weights_only=True)
    *path, last = keys
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    torch.save(content, saved)
    line = refusal(saved)
    assert line.isprintable()
    assert len(line) < 1000
    assert str(saved) in line


def test_a_weight_that_is_missing_is_named(saved):
    content = torch.load(saved, weights_only=True)
    del content["network"]["head.weight"]
    torch.save(content, saved)
    assert "head.weight" in refusal(saved)


def test_a_file_that_is_larger_in_memory_than_on_disk_is_refused_before_it_is_read(saved, monkeypatch):
    packed = saved.with_name("packed.pt")
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("data/99", b"\0" * 10**7)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("it was unpacked"))
    assert "no checkpoint" in refusal(packed)


@needs_posix("pipes in folders")
def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is a pipe" in refusal(tmp_path / "pipe.pt")


def test_a_missing_file_is_refused(tmp_path):
    assert "missing" in refusal(tmp_path / "gone.pt")


def archive(path: Path, content: bytes) -> Path:
    """Write a file as `torch.save` does, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        file.writestr("archive/version", b"3\n")
    return path


PICKLES = {
    "a function": b"cos\nsystem\nU\x01.\x85R",
    "a function of builtins": b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R",
    "a function by way of torch": b"ctorch\nload\nX\x01\x00\x00\x001\x85R",
    "a function within a name": b"ctorch\nserialization.os.system\nX\x01\x00\x00\x001\x85R",
    "a function from the stack": b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93)R",
    "an instance": b"(ios\nsystem\n",
    "a registered extension": b"\x82\x01)R",
    "a new object": b"ccollections\nOrderedDict\n)\x81",
    "a changed function": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aNsb",
    "a value that is called": b"))R",
    "a number of a stored value that is a huge table": b"}r\xff\xff\xff\x00",
    "a key with shared parts": b"})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(20)) + b"Ns",
    "a deep key": b"})" + b"\x85" * 20_000 + b"Ns",
    "a key of more than 64 bits": b"}\x8a\x0a" + (2**70).to_bytes(10, "little") + b"Ns",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_a_crafted_pickle_calls_nothing_and_takes_neither_memory_nor_time(tmp_path, content):
    path = archive(tmp_path / "crafted.pt", content)
    for load in (load_checkpoint, load_outline):
        with pytest.raises(InputError, match="could run code and is not loaded"):
            load(path)


@pytest.mark.parametrize("name", ["get", "keys"])
def test_a_dictionary_with_methods_of_the_file_is_one_line(tmp_path, name):
    value = b"ccollections\nOrderedDict\n)R}X%c\x00\x00\x00%sccollections\nOrderedDict\nsb" % (len(name), name.encode())
    with pytest.raises(InputError, match="OrderedDict"):
        load_outline(archive(tmp_path / "crafted.pt", value))


def test_what_stands_before_an_archive_is_refused(saved):
    saved.write_bytes(pickle.dumps({"format": "another"}) + saved.read_bytes())
    assert "no checkpoint" in refusal(saved)


def test_the_weights_of_another_program_are_refused_as_such(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    assert "expected 'unet4d checkpoint 2'" in refusal(tmp_path / "weights.pt")
