"""Every planted fault is found, in the right file and for the right reason, and nothing else is; clean data are clean."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data.phantom.make import make
from tests.datasets.verify import planting as p
from tests.datasets.verify.planting import Spoil, blank, both, case, duration, frames, image, label, put, rewrite
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import open_dataset, read_dataset
from unet4d.datasets.issues import ERROR, ISSUE_KINDS
from unet4d.datasets.verify.run_checks import verify_dataset
from unet4d.errors import InputError
from unet4d.phantom import write_phantom

FRAMES = 14


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms of 14 frames of 32 x 32 x 4 voxels, all labelled; not to be changed."""
    return write_phantom(tmp_path_factory.mktemp("clean") / "phantom", 6, FRAMES, shape=(32, 32, 4), seed=5).parent


@pytest.fixture
def own(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "own", ignore=shutil.ignore_patterns("truth"))


class Planted(NamedTuple):
    """A planted mistake, its expected issue (kind, file, words), and whether training refuses to read it."""

    spoil: Spoil
    kind: str
    file: str
    words: str
    refused: bool


def move(order: list[int], come_from: int, to: int) -> None:
    order.insert(to, order.pop(come_from))


def swap(order: list[int], t: int) -> None:
    order[t], order[t + 1] = order[t + 1], order[t]


JSON = "dataset.json"
FOUND = {
    # dataset.json
    "unknown key": Planted(
        lambda r: p.change_dataset(r, lambda e: e.update(lables=1)), "dataset-json", JSON, "unknown key 'lables'", True
    ),
    "nnU-Net's": Planted(
        lambda r: (r / JSON).write_text(
            '{"file_ending": ".nii.gz", "numTraining": 3, "labels": {}, "channel_names": {}}'
        ),
        "dataset-json",
        JSON,
        "dataset.json is nnU-Net's; convert it: unet4d convert nnunet",
        True,
    ),
    "case twice": Planted(case(2, case="phantom001"), "case-twice", JSON, "2 cases are named phantom001", True),
    "subject in two parts": Planted(
        lambda r: p.change_dataset(r, lambda e: p.to_test(e, 3, subject="phantom001")),
        "subject-split",
        JSON,
        "subject phantom001 is in training and in test",
        True,
    ),
    "absent class": Planted(
        lambda r: p.change_dataset(r, lambda e: e["labels"].update(scar=9)),
        "class-absent",
        JSON,
        "the class 'scar' (value 9)",
        False,
    ),
    "region after the one that holds it": Planted(
        lambda r: p.change_dataset(
            r,
            lambda e: e.update(
                labels={"background": 0, "left heart": [2, 3], "heart": [1, 2, 3]}, regions_class_order=[2, 1]
            ),
        ),
        "region-hidden",
        JSON,
        "'heart' comes after its part 'left heart'",
        False,
    ),
    "labelled frame beyond": Planted(
        case(2, labelled_frames=[0, FRAMES]),
        "frames",
        JSON,
        f"frame {FRAMES} is in labelled_frames, expected frames 0 to 13",
        True,
    ),
    "frames of one subject under several": Planted(
        lambda r: p.change_dataset(
            r, lambda e: [e["training"][i].update(case=f"p1_frame0{i}", subject=f"p1_frame0{i}") for i in (0, 1)]
        ),
        "stem-split",
        JSON,
        "p1_frame00, p1_frame01 share the stem p1 and are of 2 subjects",
        False,
    ),
    "label mirrored": Planted(
        lambda r: rewrite(r / label(2), lambda v: v[:, ::-1]),
        "label-mirrored",
        label(2),
        "the label of case phantom002 seems to be mirrored: mirrored along X its classes",
        False,
    ),
    # files
    "image missing": Planted(
        lambda r: (r / image(2)).unlink(), "missing-file", image(2), "1 file is missing: phantom002", True
    ),
    "label missing": Planted(
        lambda r: (r / label(2)).unlink(), "missing-file", label(2), "1 file is missing: phantom002", True
    ),
    "image truncated": Planted(
        lambda r: (r / image(2)).write_bytes((r / image(2)).read_bytes()[:9000]),
        "unreadable",
        image(2),
        "is truncated",
        True,
    ),
    "label truncated": Planted(
        lambda r: (r / label(2)).write_bytes((r / label(2)).read_bytes()[:700]),
        "unreadable",
        label(2),
        "is truncated",
        True,
    ),
    "empty file": Planted(
        lambda r: (r / image(2)).write_bytes(b""), "unreadable", image(2), "is truncated (it is empty)", True
    ),
    "no NIfTI": Planted(
        lambda r: (r / image(2)).write_bytes(b"DICM" * 99), "unreadable", image(2), "cannot be read as NIfTI", True
    ),
    "spacing of zero": Planted(
        lambda r: rewrite(r / image(2), header=p.field("pixdim", 1, 0.0)),
        "unreadable",
        image(2),
        "got the spacing (0.0",
        True,
    ),
    "affine without inverse": Planted(
        lambda r: rewrite(r / image(2), header=p.field("srow_x", slice(None), 0.0)),
        "unreadable",
        image(2),
        "has no inverse",
        True,
    ),
    # grids
    "label with fewer frames": Planted(
        lambda r: rewrite(r / label(2), lambda v: v[:9]), "frames", label(2), "has 9 frames, the image 14", True
    ),
    "label of another shape": Planted(
        lambda r: rewrite(r / label(2), lambda v: v[:, 1:]), "shape", label(2), "(X, Y, Z) is (31, 32, 4)", True
    ),
    "label shifted": Planted(
        lambda r: rewrite(r / label(2), header=p.moved(5)), "affine", label(2), "corners up to 5 mm apart", True
    ),
    "label flipped": Planted(lambda r: rewrite(r / label(2), header=p.FLIPPED), "affine", label(2), "its affine", True),
    "label with other voxels": Planted(
        lambda r: rewrite(r / label(2), header=p.scaled(1.1, slice(3))), "spacing", label(2), "its affine", True
    ),
    "3D label of several frames": Planted(
        lambda r: case(2, label={"0": label(2)})(r), "frames", label(2), "14 frames, a file for one frame 1", True
    ),
    # voxels of images
    "NaN": Planted(
        lambda r: rewrite(r / image(2), put(np.nan), dtype=np.float32),
        "not-finite",
        image(2),
        "NaN or infinite",
        True,
    ),
    "infinity": Planted(
        lambda r: rewrite(r / image(2), put(np.inf), dtype=np.float32), "not-finite", image(2), "infinite", True
    ),
    "too large for float32": Planted(
        lambda r: rewrite(r / image(2), put(1e300), dtype=np.float64), "not-finite", image(2), "infinite", True
    ),
    "constant frame": Planted(
        lambda r: rewrite(r / image(2), blank(3, value=7)),
        "constant-frame",
        image(2),
        "frame 3 holds one single value",
        False,
    ),
    "constant image": Planted(
        lambda r: rewrite(r / image(2), blank(*range(FRAMES))),
        "constant-frame",
        image(2),
        "the whole image is one single value",
        False,
    ),
    "frame repeated": Planted(
        lambda r: rewrite(r / image(2), frames(lambda o: o.__setitem__(9, 4))),
        "duplicate-frame",
        image(2),
        "frames 4 and 9 are the same voxel by voxel",
        False,
    ),
    "cycle closed twice": Planted(
        lambda r: rewrite(r / image(2), frames(lambda o: o.__setitem__(13, 0))),
        "duplicate-frame",
        image(2),
        "its last frame, 13, repeats frame 0, and a cycle counts it once",
        False,
    ),
    "frames swapped": Planted(
        lambda r: rewrite(r / image(1), frames(lambda o: swap(o, 2))),
        "frame-order",
        image(1),
        "frames 2 and 3 seem to",
        False,
    ),
    "frame moved": Planted(
        lambda r: rewrite(r / image(1), frames(lambda o: move(o, 2, 10))),
        "frame-order",
        image(1),
        "frame 10 seems to belong between frames 1 and 2",
        False,
    ),
    # time
    "duration without unit": Planted(duration(2, 0.05, 0), "frame-duration", image(2), "of 0.05 with no unit", False),
    "duration of zero": Planted(duration(2, 0.0), "frame-duration", image(2), "a frame duration of 0 with s", False),
    "duration below zero": Planted(
        duration(2, -0.05), "frame-duration", image(2), "a frame duration of -0.05 with s", False
    ),
    "duration in Hz": Planted(
        duration(2, 0.05, 32), "frame-duration", image(2), "with a unit that is not of time", False
    ),
    "too slow for a heartbeat": Planted(
        duration(2, 0.9), "frame-duration", image(2), "which makes a cycle of 12.6 s out of 14", False
    ),
    "one second a frame": Planted(
        p.together(p.shortened(2, 8), duration(2, 1.0)), "frame-duration", image(2), "of 1 s exactly", False
    ),
    "TR for the frame duration": Planted(
        duration(2, 2.8, 16), "frame-duration", image(2), "makes a cycle of 0.0392 s", False
    ),
    "TR for the frame duration, open": Planted(
        p.together(lambda r: p.change_dataset(r, lambda e: e.update(time="open")), duration(2, 4.0, 16)),
        "frame-duration",
        image(2),
        "a frame duration of 0.004 s, expected 0.01 to 600 s",
        False,
    ),
    "dataset.json gives ms": Planted(
        case(2, frame_duration_s=45), "frame-duration", image(2), "dataset.json gives a frame duration of 45 s", False
    ),
    "open series of one second": Planted(
        p.together(lambda r: p.change_dataset(r, lambda e: e.update(time="open")), duration(2, 1.0)),
        "frame-duration",
        image(2),
        "of 1 s exactly, which many tools write",
        False,
    ),
    # labels
    "unnamed value": Planted(
        lambda r: rewrite(r / label(2), put(7)),
        "label-value",
        label(2),
        "label value 7 in frame 2 of case phantom002",
        True,
    ),
    "fraction": Planted(
        lambda r: rewrite(r / label(2), put(1.5), dtype=np.float32),
        "label-not-whole",
        label(2),
        "label value 1.5 at frame 2, voxel (3, 4, 1) (1 such in this frame)",
        True,
    ),
    "negative": Planted(
        lambda r: rewrite(r / label(2), put(-1), dtype=np.int16),
        "label-not-whole",
        label(2),
        "label value -1 at frame 2",
        True,
    ),
    "above 255": Planted(
        lambda r: rewrite(r / label(2), put(300), dtype=np.int16),
        "label-not-whole",
        label(2),
        "label value 300 at frame 2",
        True,
    ),
    "NaN in the label": Planted(
        lambda r: rewrite(r / label(2), put(np.nan), dtype=np.float32),
        "label-not-whole",
        label(2),
        "label value nan",
        True,
    ),
    "labelled frame empty": Planted(
        lambda r: rewrite(r / label(2), blank(3)),
        "empty-label",
        label(2),
        "frame 3 of case phantom002 is labelled and is empty",
        False,
    ),
    "3D label empty": Planted(
        p.together(lambda r: rewrite(r / label(2), blank(3)), lambda r: p.by_frame(r, 2, 0, 3)),
        "empty-label",
        "labels/phantom002_f3.nii.gz",
        "frame 3 of case phantom002",
        False,
    ),
    "slices beyond the study": Planted(
        case(2, labelled_slices=[0, 4]), "partial-label", JSON, "slice 4, expected slices 0 to 3", True
    ),
    "labelled_frames forgotten": Planted(
        lambda r: rewrite(r / label(2), blank(*range(1, 6), *range(7, 14))),
        "labelled-frames",
        label(2),
        'give the case "labelled_frames": [0, 6]',
        False,
    ),
    "unlabelled frame drawn": Planted(
        p.together(
            lambda r: rewrite(r / label(2), blank(*range(1, 6), *range(7, 13))), case(2, labelled_frames=[0, 6])
        ),
        "unlabelled-drawn",
        label(2),
        'frame 13 of case phantom002 holds a label and is not in "labelled_frames"',
        False,
    ),
    # across studies
    "image copied": Planted(p.voxels_of(1, image), "same-image", image(2), "the same voxels as phantom001", False),
    "image copied in another type": Planted(
        p.voxels_of(1, image, np.float64),
        "same-image",
        image(2),
        "the same voxels as phantom001",
        False,
    ),
    "image and label copied": Planted(
        p.together(p.voxels_of(1, image), p.voxels_of(1, label)),
        "same-image",
        image(2),
        "the same voxels as phantom001",
        False,
    ),
    "image twice of one subject": Planted(
        p.together(p.voxels_of(1, image), case(2, subject="phantom001")),
        "image-twice",
        image(2),
        "the same voxels as phantom001",
        False,
    ),
    "label of another": Planted(
        p.voxels_of(1, label), "same-label", label(2), "the label of case phantom002 is that of phantom001", False
    ),
    "voxels of another size": Planted(
        both(2, p.scaled(3.0, slice(2))), "outlier-spacing", image(2), "the median of the studies is", False
    ),
    "intensities of another scale": Planted(
        lambda r: rewrite(r / image(2), lambda v: v * 50, dtype=np.float32),
        "outlier-intensity",
        image(2),
        "cine MRI intensities that span",
        False,
    ),
    "inverted": Planted(
        lambda r: rewrite(r / image(2), lambda v: v.max() - v),
        "outlier-intensity",
        image(2),
        "median intensity at",
        False,
    ),
    "flipped in space": Planted(
        both(2, p.FLIPPED), "outlier-orientation", image(2), "the axes of case phantom002 run towards", False
    ),
    "another frame duration": Planted(
        p.together(lambda r: p.change_dataset(r, lambda e: e.update(time="open")), case(2, frame_duration_s=0.9)),
        "outlier-duration",
        image(2),
        "a frame duration of 0.9 s",
        False,
    ),
    # what a header says
    "in metres": Planted(
        lambda r: rewrite(r / image(2), header=p.at_once(p.scaled(0.001, slice(4)), p.field("xyzt_units", None, 9))),
        "units",
        image(2),
        "its header is in metre",
        False,
    ),
    "two forms": Planted(
        lambda r: rewrite(r / image(2), header=p.field("qoffset_x", None, 77.0)),
        "forms",
        image(2),
        "qform and its sform",
        False,
    ),
    "quaternion beyond one": Planted(
        lambda r: rewrite(r / image(2), header=p.quaternion(0.9)),
        "forms",
        image(2),
        "its qform cannot be computed, and the sform counts",
        False,
    ),
    "quaternion that is no number": Planted(
        lambda r: rewrite(r / label(2), header=p.quaternion(np.nan)),
        "forms",
        label(2),
        "its qform cannot be computed, and the sform counts",
        False,
    ),
    # channels
    "first channel missing": Planted(
        lambda r: [p.channels(r), (r / image(2)).unlink()], "missing-file", image(2), "1 file is missing", True
    ),
    "first channel missing beside a map": Planted(
        lambda r: [p.channels(r, {"1": "map"}), (r / image(2)).unlink()],
        "missing-file",
        image(2),
        "1 file is missing",
        True,
    ),
    "channel copied as another": Planted(
        lambda r: [p.channels(r), shutil.copy(r / image(2), r / p.second(2))],
        "image-twice",
        p.second(2),
        f"holds the same voxels as {image(2)}",
        False,
    ),
    "channel copied in one file": Planted(
        lambda r: [p.channels_last(r), rewrite(r / image(2), lambda v: v[[0, 1, 1]])],
        "image-twice",
        image(2),
        "channels 1 and 2 are the same voxel by voxel",
        False,
    ),
    "channel constant": Planted(
        lambda r: [p.channels_last(r), rewrite(r / image(2), blank(1))],
        "constant-frame",
        image(2),
        "channel 1 holds one single value",
        False,
    ),
    "map constant": Planted(
        lambda r: [p.channels(r, {"1": "map"}), rewrite(r / p.second(2), blank(0))],
        "constant-frame",
        p.second(2),
        "the map is one single value",
        False,
    ),
    "channel missing": Planted(
        lambda r: [p.channels(r), (r / p.second(2)).unlink()],
        "missing-file",
        p.second(2),
        "1 file is missing",
        True,
    ),
    "channel with fewer frames": Planted(
        lambda r: [p.channels(r), rewrite(r / p.second(2), lambda v: v[:9])],
        "frames",
        p.second(2),
        "(T, X, Y, Z) is (9, 32, 32, 4)",
        True,
    ),
    "channel elsewhere": Planted(
        lambda r: [p.channels(r), rewrite(r / p.second(2), header=p.moved(5))],
        "affine",
        p.second(2),
        "corners up to 5 mm apart",
        True,
    ),
    "channel with NaN": Planted(
        lambda r: [p.channels(r), rewrite(r / p.second(2), put(np.nan), dtype=np.float32)],
        "not-finite",
        p.second(2),
        "NaN",
        True,
    ),
    "map of several frames": Planted(
        lambda r: [p.channels(r, {"1": "map"}), rewrite(r / p.second(1), lambda v: v.repeat(FRAMES, 0))],
        "frames",
        p.second(1),
        "14 frames",
        True,
    ),
}


def found_in(root: Path) -> list[tuple[str, str, str]]:
    """Kind, file and message of every fault; of a dataset.json that cannot be understood, the one line."""
    try:
        dataset = open_dataset(root)
    except InputError as error:
        return [("dataset-json", "dataset.json", str(error))]
    return [(fault.kind, fault.file, fault.message) for fault in verify_dataset(dataset).issues]


def refusal(root: Path) -> str:
    """Return the error of training when it reads these studies; empty where it reads them."""
    try:
        dataset = read_dataset(root)
        for one in (*dataset.training, *dataset.test):
            study = one.image()
            if one.label is not None:
                read_labelled(one, dataset, study)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FOUND)
def test_a_planted_fault_is_found_with_its_file_and_reason_and_nothing_else(name, own):
    """Training refuses each error for the same reason, and reads studies without one."""
    fault = FOUND[name]
    fault.spoil(own)
    found = found_in(own)
    assert [(kind, file) for kind, file, _ in found] == [(fault.kind, fault.file)], found
    assert fault.words in found[0][2]
    said = refusal(own)
    assert bool(said) == fault.refused
    if fault.refused:
        assert ISSUE_KINDS[fault.kind][0] == ERROR
        assert fault.words in said


def test_a_velocity_that_turning_the_study_needs_and_no_channel_holds(own):
    """Thick along X, so that another axis is the network's X."""
    p.channels(own)
    p.change_dataset(own, lambda entry: entry.update(channel_kinds={"1": "velocity X"}))
    for file in (image(2), label(2), p.second(2)):
        rewrite(own / file, header=p.scaled(20, slice(1)))
    wanted = [(kind, file, words) for kind, file, words in found_in(own) if kind == "channels"]
    assert [(kind, file) for kind, file, _ in wanted] == [("channels", image(2))]
    assert 'got velocity X, expected "velocity Z", too' in wanted[0][2]


def test_many_faults_are_all_found_in_one_pass(own):
    names = ["truncated", "NaN", "negative", "unnamed value"]
    (own / image(1)).write_bytes((own / image(1)).read_bytes()[:9000])
    (own / label(3)).unlink()
    rewrite(own / image(2), lambda v: put(np.nan)(blank(5)(v)), dtype=np.float32)
    rewrite(own / label(2), lambda v: put(-1, 7)(put(9, 3)(v)), dtype=np.int16)
    case(4, labelled_frames=[0, 99])(own)
    both(5, p.FLIPPED)(own)
    found = {(kind, file) for kind, file, _ in found_in(own)}
    assert found == {
        ("unreadable", image(1)),
        ("missing-file", label(3)),
        ("not-finite", image(2)),
        ("constant-frame", image(2)),
        ("label-not-whole", label(2)),
        ("label-value", label(2)),
        ("frames", JSON),
        ("outlier-orientation", image(5)),
    }, names


@pytest.mark.parametrize("kind", ["cine", "flow", "dce"])
@pytest.mark.parametrize("labelled", ["all", "two"])
def test_nothing_is_found_in_clean_phantoms(kind, labelled, tmp_path):
    if kind == "cine":
        path = write_phantom(tmp_path / kind, 5, 7, labelled, 0.3, 0, (40, 36, 5))
    else:
        path = make(kind, tmp_path / kind, 5, 7, labelled, 0, {"flow": (24, 24, 8), "dce": (24, 20, 6)}[kind])
    assert found_in(path.parent) == []


def test_nothing_is_found_in_label_files_by_frame_and_in_test_cases(own):
    p.by_frame(own, 2, 0, 6)
    p.by_frame(own, 3, 5)
    p.change_dataset(own, lambda entry: p.to_test(entry, 6))
    assert found_in(own) == []
    p.change_dataset(own, lambda entry: entry.update(training=[]))
    assert found_in(own) == []


def test_a_qfac_of_zero_counts_as_one(own):
    """Pins a header that training reads, and that ended the verification."""
    for number in range(1, 7):
        both(number, p.at_once(p.FLIPPED, p.field("pixdim", 0, 0.0)))(own)
    assert found_in(own) == []


def test_nothing_is_found_in_a_mouse(own):
    """144 ms a heartbeat."""
    for number in range(1, 7):
        case(number, frame_duration_s=0.144 / FRAMES)(own)
    assert found_in(own) == []


def test_a_map_of_zeros_beside_a_contrast_series(tmp_path):
    root = make("dce", tmp_path / "dce", 3, 5, "two", 0, (24, 20, 6)).parent
    series, t1_map = open_dataset(root).training[1].images
    rewrite(t1_map, blank(0))
    assert [(kind, root / file) for kind, file, _ in found_in(root)] == [("constant-frame", t1_map)]
    series.unlink()
    assert [(kind, root / file) for kind, file, _ in found_in(root)] == [
        ("missing-file", series),
        ("constant-frame", t1_map),
    ]


def test_what_lacks_its_first_channel_is_checked_for_values_alone(own):
    """Pins a label that was called wrong in its frames, as a map beside it has one."""
    p.channels(own, {"1": "map"})
    rewrite(own / label(2), put(7))
    (own / image(2)).unlink()
    assert [(kind, file) for kind, file, _ in found_in(own)] == [("missing-file", image(2)), ("label-value", label(2))]


def test_nothing_is_found_in_channels_of_one_file(own):
    p.channels_last(own)
    assert found_in(own) == []


def test_nothing_is_found_in_channels_and_a_map(own):
    p.channels(own, {"1": "map"})
    assert found_in(own) == []


def test_every_kind_of_fault_is_planted_somewhere():
    planted = {fault.kind for fault in FOUND.values()}
    elsewhere = {"channels", "frame-order", "frames-contradict", "no-drawn-frame", "outlier-volume", "outlier-size"}
    assert set(ISSUE_KINDS) - planted == elsewhere - planted
