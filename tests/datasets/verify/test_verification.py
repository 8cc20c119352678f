"""Results are kept: an unchanged study is not opened again, and its issues are reported again."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.verify.planting import blank, by_frame, case, change_dataset, image, label, put, rewrite
from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.issues import Issue, sort_issues
from unet4d.datasets.verify import header_checks
from unet4d.datasets.verify.dataset_summary import describe_summary, summarize_studies
from unet4d.datasets.verify.run_checks import FINGERPRINT_FILE, Verification, verify_dataset
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.images import nifti
from unet4d.images.image4d import Image4D
from unet4d.phantom import write_phantom
from unet4d.system import digests
from unet4d.system.files import read_json
from unet4d.system.text import describe_frames


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms of 4 frames, two labelled; not to be changed."""
    out = tmp_path_factory.mktemp("clean") / "phantom"
    return write_phantom(out, 3, 4, "two", shape=(32, 32, 4)).parent


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count written files as old at once."""
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)


@pytest.fixture
def own(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "own", ignore=shutil.ignore_patterns("truth"))


def verified(root: Path, keep_in: Path | None = None) -> Verification:
    return verify_dataset(open_dataset(root), keep_in)


def told(found: Verification) -> list[tuple[str, str]]:
    return [(fault.kind, fault.file) for fault in found.issues]


def test_each_file_is_read_once_and_not_again(own, tmp_path, monkeypatch):
    by_frame(own, 2, *json.loads((own / "dataset.json").read_text())["training"][1]["labelled_frames"])
    opened, lock, real = [], threading.Lock(), nifti._open_gzip

    def counted(path, *given, **named):
        with lock:
            opened.append(str(getattr(path, "name", path)))
        return real(path, *given, **named)

    monkeypatch.setattr(nifti, "_open_gzip", counted)
    first = verified(own, tmp_path / "kept")
    dataset = open_dataset(own)
    assert sorted(opened) == sorted(str(file) for one in dataset.training for file in one.files)
    opened.clear()
    again = verified(own, tmp_path / "kept")
    assert opened == []
    assert (first.opened, again.opened) == (3, 0)
    assert (again.issues, again.studies) == (first.issues, first.studies)


def test_what_was_wrong_is_reported_again_and_is_gone_once_it_is_put_right(own, clean, tmp_path):
    rewrite(own / label(2), put(7, _labelled(own, 2)))
    kept = tmp_path / "kept"
    assert [told(verified(own, kept)) for _ in range(2)] == [[("label-value", label(2))]] * 2
    shutil.copy(clean / label(2), own / label(2))
    found = verified(own, kept)
    assert (told(found), found.opened) == ([], 1)


def test_a_study_is_opened_again_when_what_dataset_json_says_of_it_changes(own, tmp_path):
    kept = tmp_path / "kept"
    verified(own, kept)
    case(2, labelled_frames=[_labelled(own, 2)])(own)
    found = verified(own, kept)
    assert (told(found), found.opened) == ([("unlabelled-drawn", label(2))], 1)
    change_dataset(own, lambda entry: entry["labels"].pop("left ventricle"))
    found = verified(own, kept)
    assert found.opened == 3
    assert {kind for kind, _ in told(found)} == {"label-value", "unlabelled-drawn"}


def test_a_changed_file_of_the_same_size_and_time_is_opened_again(own, tmp_path):
    """Pins a result kept by size and time of change alone, which some tools set back."""
    path, kept = own / "images" / "plain.nii", tmp_path / "kept"
    path.write_bytes(gzip.decompress((own / image(1)).read_bytes()))
    case(1, image="images/plain.nii")(own)
    assert told(verified(own, kept)) == []
    before = path.stat()
    rewrite(path, blank(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert told(verified(own, kept)) == [("constant-frame", "images/plain.nii")]


def test_a_study_that_was_just_written_is_opened_again(own, tmp_path, monkeypatch):
    """Its file could change once more within a tick of the file system's clock. The fingerprint has it nevertheless."""
    kept = tmp_path / "kept"
    monkeypatch.setattr(digests, "SETTLED_S", 3600.0)
    assert [verified(own, kept).opened for _ in range(2)] == [3, 3]
    assert [study["case"] for study in read_json(kept / FINGERPRINT_FILE)["studies"]] == [
        "phantom001",
        "phantom002",
        "phantom003",
    ]
    young = digests.stamp(own / label(2))
    monkeypatch.setattr("unet4d.datasets.verify.run_checks.settled", lambda taken, now_ns: taken != young)
    assert [verified(own, kept).opened for _ in range(2)] == [3, 1]


def test_a_missing_file_is_remembered_as_missing(own, tmp_path):
    (own / label(2)).unlink()
    assert [verified(own, tmp_path / "kept").opened for _ in range(2)] == [3, 0]


def test_the_same_folder_called_by_another_name_is_known_and_told_in_the_same_words(own, tmp_path, monkeypatch):
    (own / image(1)).write_bytes(b"")
    first = verified(own, tmp_path / "kept")
    monkeypatch.chdir(own.parent)
    again = verified(Path(own.name), tmp_path / "kept")
    assert again.opened == 0
    assert again.issues == first.issues
    assert str(tmp_path) not in first.issues[0].message


@pytest.mark.parametrize("spoil", [lambda text: "{", lambda text: "[]", lambda text: text.replace('"version": ', '"version": 9'),
                                   lambda text: text.replace('"key"', '"kye"')])  # fmt: skip
def test_kept_results_that_cannot_be_understood_are_made_anew(own, tmp_path, spoil):
    kept = tmp_path / "kept"
    verified(own, kept)
    (kept / FINGERPRINT_FILE).write_text(spoil((kept / FINGERPRINT_FILE).read_text()))
    assert verified(own, kept).opened == 3
    assert verified(own, kept).opened == 0


def test_where_nothing_can_be_kept_the_dataset_is_verified_all_the_same(own, tmp_path):
    (tmp_path / "file").touch()
    found = verified(own, tmp_path / "file" / "kept")
    assert (found.issues, found.kept, found.opened) == ((), None, 3)


def test_what_was_verified_before_an_interruption_is_kept(own, tmp_path, monkeypatch):
    import unet4d.datasets.verify.run_checks as module

    real, lock, done = module.check_image, threading.Lock(), []

    def interrupted(one, *given):
        with lock:
            if one.name != "phantom001":
                raise KeyboardInterrupt
            done.append(one.name)
        return real(one, *given)

    monkeypatch.setattr(module, "PARALLEL_STUDIES", 1)
    monkeypatch.setattr(module, "check_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verified(own, tmp_path / "kept")
    monkeypatch.setattr(module, "check_image", real)
    assert done == ["phantom001"]
    assert verified(own, tmp_path / "kept").opened == 2


def test_the_kept_fingerprint_says_what_the_studies_are_like(own, tmp_path):
    rewrite(own / label(1), lambda v: np.where(np.isin(np.indices(v.shape)[1], (0, 1)), 2, 0).astype(np.uint8))
    rewrite(own / image(1), lambda v: np.arange(v.size, dtype=np.float32).reshape(v.shape), dtype=np.float32)
    change_dataset(own, lambda entry: entry["training"][0].update(labelled_frames=[0, 1, 2, 3]))
    change_dataset(own, lambda entry: entry.update(training=entry["training"][:1]))
    found = verified(own, tmp_path / "kept")
    entry = read_json(found.kept)
    study = entry["studies"][0]
    assert (study["size"], study["frames"], study["labelled_frames"]) == ([32, 32, 4], 4, [0, 1, 2, 3])
    one = open_dataset(own).training[0].image()
    assert study["spacing_mm"] == pytest.approx(one.spacing)
    np.testing.assert_allclose(study["affine"], one.affine)
    assert study["frame_duration_s"] == one.frame_duration_s
    milliliters = 2 * 32 * 4 * np.prod(one.spacing) / 1000
    assert study["volumes_ml"]["myocardium"] == pytest.approx([milliliters] * 4, rel=1e-3)
    assert study["volumes_ml"]["left ventricle"] == [0.0] * 4
    expected = np.percentile(one.array, (0.5, 50, 99.5))
    assert study["intensities"]["cine MRI"] == pytest.approx(expected, rel=1e-4)
    assert entry["summary"]["frames"] == {"median": 4, "min": 4, "max": 4}
    assert StudyProperties.from_dict(json.loads(json.dumps(study))) == found.studies[0]


def test_the_summary_has_the_median_and_the_range_of_the_studies():
    eye = tuple(tuple(row) for row in np.eye(4).tolist())
    studies = [
        StudyProperties(
            "a", "s", (10, 20, 5), (1.0, 1.0, 8.0), eye, 4, 0.1, (0, 2), {"heart": (3.0, 1.0)}, {"MRI": (0, 5, 9)}
        ),
        StudyProperties(
            "b", "s", (12, 20, 5), (1.0, 1.0, 9.0), eye, 7, None, (1,), {"heart": (8.0,)}, {"MRI": (1, 5, 7)}
        ),
        StudyProperties("c", "t", (14, 20, 5), (1.0, 1.0, 9.5), eye, 5),
    ]
    assert summarize_studies(studies)["size"] == {"median": [12, 20, 5], "min": [10, 20, 5], "max": [14, 20, 5]}
    assert [
        line.split("  ")[0] + ": " + line.split("  ")[-1].strip()
        for line in describe_summary(summarize_studies(studies))
    ] == [
        "studies: 3 of 2 subjects",
        "frames: 5 (4 to 7)",
        "size: 12 (10 to 14) x 20 x 5",
        "spacing: 1 x 1 x 9 (8 to 9.5) mm",
        "frame duration: 0.1 s",
        "labelled frames: 1.5 (1 to 2) per study",
        "heart: 3 (1 to 8) mL",
        "MRI: 0.5 %: 0.5 (0 to 1), 50 %: 5, 99.5 %: 8 (7 to 9)",
    ]


def _labelled(root: Path, number: int) -> int:
    return json.loads((root / "dataset.json").read_text())["training"][number - 1]["labelled_frames"][0]


def test_errors_come_first_and_what_follows_from_another_fault_is_left_out():
    faults = [
        Issue("frame-order", "b", "b", "x"),
        Issue("outlier-volume", "v", "v", "x"),
        Issue("outlier-spacing", "s", "s", "x"),
        Issue("outlier-volume", "v", "v", "y"),
        Issue("label-value", "l", "l", "x"),
    ]
    kinds = [(fault.kind, fault.case) for fault in sort_issues(faults)]
    assert kinds == [("label-value", "x"), ("frame-order", "x"), ("outlier-spacing", "x"), ("outlier-volume", "y")]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([3], "frame 3"),
        ([3, 7], "frames 3 and 7"),
        ([3, 4], "frames 3 and 4"),
        ([0, 2, 3, 4, 5, 9], "frames 0, 2 to 5 and 9"),
        ([0, 1, 2], "frames 0 to 2"),
    ],
)
def test_frames_in_words(frames, words):
    assert describe_frames(frames) == words


@pytest.mark.parametrize(("step_s", "frames", "reported"), [(0.0028, 40, True), (0.012, 12, False), (0.04, 25, False)])
def test_tr_is_no_frame_duration_however_many_frames_make_a_cycle_of_it(step_s, frames, reported, tmp_path):
    """2.8 ms is a TR of a balanced sequence; 12 ms is a mouse's cine, 40 ms a human's."""
    image = Image4D.from_array(np.zeros((1, frames, 2, 2, 2)), np.eye(4), step_s)
    assert bool(header_checks._untrue_duration(None, image.header, frames, "cyclic")) is reported
