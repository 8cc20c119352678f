"""A first run: each file is read once, for verification, digests and the cache, and the results are those of separate passes."""

from __future__ import annotations

import functools
import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.verify import planting
from tests.datasets.verify.test_planted import FOUND, clean, own  # noqa: F401
from tests.masking import needs_posix
from unet4d.config import DataConfig
from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset import open_dataset, read_dataset
from unet4d.datasets.verify.load_verified import load_verified_dataset
from unet4d.datasets.verify.run_checks import verify_dataset
from unet4d.errors import InputError, Unet4DError
from unet4d.phantom import write_phantom
from unet4d.pipeline.cache import MEMO, cached_studies, verify_and_build
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.system import digests

CONFIG = DataConfig(num_workers=2)
IO = Path("/proc/self/io")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training studies and a test study in files far larger than a header; not to be changed."""
    root = write_phantom(tmp_path_factory.mktemp("large") / "phantom", 3, 4, shape=(128, 120, 6)).parent
    planting.change_dataset(root, lambda entry: planting.to_test(entry, 3))
    shutil.rmtree(root / "truth", ignore_errors=True)
    return root


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    # Python reads 128 KB ahead, also of a header: gzip from 3.12 on, any file from 3.14 on. That is as much as a small study.
    monkeypatch.setattr(gzip, "READ_BUFFER_SIZE", 8192, raising=False)
    monkeypatch.setattr("builtins.open", functools.partial(open, buffering=8192))


def counts_bytes(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that counts the bytes read: Linux counts them, also those of modules that workers read where they start anew."""
    there = pytest.mark.skipif(not IO.exists(), reason="needs Linux's count of bytes read")
    return there(needs_posix("workers that read no modules")(test))


def first_run(root: Path, cache: Path, skip_verify: bool = False, config: DataConfig = CONFIG) -> list[CachedStudy]:
    """Do what `train` does before it trains."""
    checks = verify_and_build(config, lambda _: cache)
    dataset, known = load_verified_dataset(root, lambda _: cache, skip_verify, checks)
    plane = compute_fingerprint(dataset.training, CONFIG, known).plane_spacing_mm
    return cached_studies(dataset.training, dataset, CONFIG, plane, cache)


def separate_passes(root: Path, cache: Path) -> list[CachedStudy]:
    dataset = read_dataset(root)
    plane = compute_fingerprint(dataset.training, CONFIG).plane_spacing_mm
    return cached_studies(dataset.training, dataset, CONFIG, plane, cache)


def bytes_read(work: Callable[[], object]) -> int:
    def count() -> int:
        return int(IO.read_text(encoding="utf-8").split()[1])

    before = count()
    work()
    return count() - before


def content(cache: Path) -> dict[Path, bytes]:
    return {path.relative_to(cache): path.read_bytes() for path in cache.glob("*-*/*")}


@counts_bytes
@pytest.mark.parametrize("skip_verify", [False, True], ids=["verified", "not verified"])
def test_a_first_run_reads_each_file_once_and_a_second_run_none(large, phantom_dataset, tmp_path, skip_verify):
    first_run(phantom_dataset.root, tmp_path / "other")  # imports what is imported late
    dataset = read_dataset(large)
    cases = dataset.training if skip_verify else (*dataset.training, *dataset.test)
    size = sum(file.stat().st_size for case in cases for file in case.files)
    assert size > 5 * 10**5
    assert size <= bytes_read(lambda: first_run(large, tmp_path / "cache", skip_verify)) < 1.5 * size
    assert bytes_read(lambda: first_run(large, tmp_path / "cache", skip_verify)) < 0.5 * size


def test_entries_are_those_of_separate_passes_to_the_bit(large, tmp_path):
    together, separate = first_run(large, tmp_path / "together"), separate_passes(large, tmp_path / "separate")
    assert [study.entry for study in together] == [study.entry for study in separate]
    assert content(tmp_path / "together") == content(tmp_path / "separate")
    assert len(content(tmp_path / "together")) == 2 * 4


@counts_bytes
def test_a_copied_dataset_builds_nothing_and_is_read_once(large, tmp_path):
    first_run(large, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*-*/*")}
    copy = Path(shutil.copytree(large, tmp_path / "copy"))
    size = sum(file.stat().st_size for case in read_dataset(copy).training for file in case.files)
    assert bytes_read(lambda: first_run(copy, tmp_path / "cache")) < 2.2 * size  # the test study, too
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*-*/*")} == before


def test_one_changed_voxel_builds_its_study_alone(large, tmp_path):
    root = Path(shutil.copytree(large, tmp_path / "data"))
    before = {study.case: study.entry for study in first_run(root, tmp_path / "cache")}
    planting.rewrite(root / planting.image(2), planting.put(3.0))
    after = {study.case: study.entry for study in first_run(root, tmp_path / "cache")}
    assert [case for case in before if before[case] != after[case]] == ["phantom002"]
    assert len(list((tmp_path / "cache").glob("*-*"))) == 3


@pytest.mark.parametrize("name", FOUND)
def test_the_same_faults_and_properties_are_found_and_no_faulty_study_is_built(name, own, tmp_path):  # noqa: F811
    FOUND[name].spoil(own)
    try:
        dataset = open_dataset(own)
    except InputError:
        return
    streamed = verify_dataset(dataset)
    if faulty := {fault.case for fault in streamed.issues if fault.case}:
        for case in dataset.cases:  # the others count as built, which spares their work
            if case.name not in faulty:
                (tmp_path / "cache" / f"{case.name}-whole").mkdir(parents=True)
    together = verify_dataset(dataset, checks=verify_and_build(CONFIG, lambda _: tmp_path / "cache"))
    assert together.issues == streamed.issues
    assert together.studies == streamed.studies
    across = ("same-image", "case-twice")  # found once all studies are read
    wrong = {fault.case for fault in streamed.issues if fault.severity == "error" and fault.kind not in across}
    built = {path.name.rpartition("-")[0] for path in (tmp_path / "cache").glob("*-*")}
    assert not built & wrong


def test_a_dataset_with_errors_is_refused_with_all_of_them(large, tmp_path):
    root = Path(shutil.copytree(large, tmp_path / "data"))
    planting.rewrite(root / planting.label(1), planting.put(9))
    (root / planting.label(2)).unlink()
    with pytest.raises(InputError, match=r"has 2 errors: .*phantom002.*label value 9"):
        first_run(root, tmp_path / "cache")


def test_a_full_disk_ends_the_pass(large, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(Unet4DError, match="could not write the preprocessed study"):
        first_run(large, tmp_path / "cache", config=DataConfig(num_workers=1))
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {MEMO, "fingerprint.json"}


def test_label_files_by_frame_are_read_once_too(large, tmp_path):
    root = Path(shutil.copytree(large, tmp_path / "data"))
    planting.by_frame(root, 1, 0, 2)
    together, separate = first_run(root, tmp_path / "together"), separate_passes(root, tmp_path / "separate")
    assert [study.entry for study in together] == [study.entry for study in separate]


def test_a_setting_that_names_the_spacing_is_used(large, tmp_path):
    dataset: Dataset = read_dataset(large)
    config = replace(CONFIG, in_plane_spacing_mm=3.0)
    load_verified_dataset(large, lambda _: None, False, verify_and_build(config, lambda _: tmp_path / "cache"))
    before = set((tmp_path / "cache").glob("*-*"))
    cached_studies(dataset.training, dataset, config, 3.0, tmp_path / "cache")
    assert set((tmp_path / "cache").glob("*-*")) == before
    assert len(before) == 2


def test_the_median_slice_spacing_is_known_before_the_first_entry_is_built(large, tmp_path):
    config = replace(CONFIG, in_plane_spacing_mm=5.0, slice_spacing_mm="median")
    dataset, known = load_verified_dataset(
        large, lambda _: None, False, verify_and_build(config, lambda _: tmp_path / "cache")
    )
    before = set((tmp_path / "cache").glob("*-*"))
    seen = compute_fingerprint(dataset.training, config, known)
    assert isinstance(seen.slice_spacing_mm, float)
    resolved = replace(config, slice_spacing_mm=seen.slice_spacing_mm)
    cached_studies(dataset.training, dataset, resolved, 5.0, tmp_path / "cache")
    assert set((tmp_path / "cache").glob("*-*")) == before
    assert len(before) == 2
