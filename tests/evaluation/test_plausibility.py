"""Label maps that must raise a flag, the same without the fault, which must not, and exact labels, which may raise none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from data.phantom.dce import make_dce
from unet4d.evaluation.plausibility import LabelShape, describe_checks, find_flags
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.phantom import make_cine

CINE = ("right ventricle", "myocardium", "left ventricle")


def beat(frames: int = 20, edv: float = 120.0, ef: float = 0.6, begin: int = 0) -> np.ndarray:
    """Return the curve of a ventricle: emptied over a third of the cycle, filled over the rest; begun `begin` frames later."""
    phase = ((np.arange(frames) + begin) % frames) / frames
    emptied = np.where(
        phase < 1 / 3, (1 - np.cos(3 * np.pi * phase)) / 2, (1 + np.cos(1.5 * np.pi * (phase - 1 / 3))) / 2
    )
    return edv * (1 - ef * emptied)


def kinds(name: str, curve: np.ndarray, cyclic: bool | None = True) -> list[str]:
    return [flag.kind for flag in find_flags({name: np.asarray(curve, float)}, cyclic)]


def flags_of(label: np.ndarray, affine: np.ndarray, classes=CINE, cyclic: bool | None = True) -> list:
    """Return the flags of a label map (T, X, Y, Z) of these classes, numbered from 1."""
    values = list(range(1, len(classes) + 1))
    curves = volumes_ml(label, values, voxel_volume_ml(affine))
    return find_flags(dict(zip(classes, curves.T, strict=True)), cyclic, shape=LabelShape.measure(label, values))


@pytest.mark.parametrize("frames", [6, 8, 12, 20, 30, 50])
@pytest.mark.parametrize("begin", [0, 3])
@pytest.mark.parametrize("ef", [0.1, 0.35, 0.6, 0.8])
def test_a_beating_ventricle_raises_none(frames, begin, ef):
    assert kinds("left ventricle", beat(frames, ef=ef, begin=begin)) == []


@pytest.mark.parametrize("frames", [6, 10, 16, 25])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_labels_of_phantoms_raise_none(frames, seed):
    study = make_cine(seed, frames, shape=(64, 60, 7))
    assert flags_of(study.label, study.affine) == []


def test_exact_labels_of_a_contrast_series_raise_none():
    study = make_dce(0, 12, shape=(40, 36, 10))
    curves = {f"organ {k}": study.volumes_ml[:, k] for k in range(1, study.volumes_ml.shape[1])}
    assert find_flags(curves, False) == []


@pytest.mark.parametrize(
    ("at", "factor"), [(0, 0.6), (0, 1.3), (1, 0.6), (7, 2.0), (7, 0.4), (15, 1.4), (18, 0.6), (19, 0.6)]
)
def test_a_frame_that_went_wrong_is_a_jump_there(at, factor):
    curve = beat()
    curve[at] *= factor
    (flag,) = [flag for flag in find_flags({"left ventricle": curve}, True) if flag.kind == "jump"]
    assert flag.frames == (at,)
    assert f"at frame {at}." in flag.sentence
    assert flag.sentence.startswith("left ventricle: jumps by ")


def test_the_jump_is_measured_from_its_neighbors():
    curve = np.full(20, 100.0)
    curve[7] = 60
    (flag,) = find_flags({"liver": curve}, False)
    assert flag.sentence == "liver: jumps by 40.0 mL there and back at frame 7."
    curve[8:] = 30  # and one that lasts
    (flag,) = [flag for flag in find_flags({"liver": curve}, False) if 7 not in flag.frames] or [None]
    assert flag is None, "60 lies between 100 and 30"
    curve = np.where(np.arange(20) < 9, 100.0, 40.0)
    (flag,) = find_flags({"liver": curve}, False)
    assert flag.sentence == "liver: jumps by 60.0 mL from the frame before at frame 9."


def test_small_steps_and_noise_are_no_jumps():
    noise = 100 + np.random.default_rng(0).normal(0, 3, 60)
    assert kinds("liver", noise, False) == []
    slice_lost = np.where(np.arange(20) < 9, 100.0, 70.0)
    assert kinds("liver", slice_lost, False) == []


def test_a_missing_class_is_listed_with_its_frames_and_not_as_a_jump():
    curve = beat()
    curve[[3, 4, 5, 9]] = 0
    found = find_flags({"left ventricle": curve}, None)
    assert [(flag.kind, flag.frames) for flag in found] == [("missing", (3, 4, 5, 9))]
    assert kinds("left ventricle", curve) == ["missing"], "an ejection fraction of 100 % is no further news"
    assert found[0].sentence == "left ventricle: nothing found in frames 3 to 5 and 9."
    (nowhere,) = find_flags({"valve": np.zeros(5)}, True)
    assert nowhere.sentence == "valve: nothing found in every frame."
    assert kinds("valve", [0.0]) == ["missing"]


def test_a_cycle_that_does_not_close():
    drift = beat() * np.linspace(1, 0.55, 20)
    assert kinds("left ventricle", drift) == ["not closed"]
    assert kinds("left ventricle", drift, cyclic=False) == []
    assert kinds("left ventricle", drift, cyclic=None) == []
    cut_off = beat(30)[:13]  # a recording that ends soon after end-systole
    assert kinds("left ventricle", cut_off) == ["not closed"]
    (flag,) = find_flags({"left ventricle": drift}, True)
    assert flag.frames == (0, 19)
    assert f"{drift[0] - drift[-1]:.1f} mL from the first" in flag.sentence


def test_a_cold_start_is_seen_in_a_cycle_and_not_at_the_beginning_of_an_open_series():
    curve = beat(25)
    curve[0] *= 0.5
    assert [(flag.kind, flag.frames) for flag in find_flags({"left ventricle": curve}, True)] == [("jump", (0,))]
    assert kinds("left ventricle", curve, cyclic=False) == []


def test_muscle_keeps_its_volume():
    wave = np.cos(np.linspace(0, 2 * np.pi, 20, endpoint=False))
    assert kinds("myocardium", 100 + 10 * wave) == []  # 20 % from end to end, as contours of patients have it
    assert kinds("myocardium", 100 + 20 * wave) == ["myocardium"]
    assert kinds("LV wall", 100 + 20 * wave) == ["myocardium"]
    assert kinds("left ventricle", 100 + 20 * wave) == []
    assert kinds("myocardium", 100 + 20 * wave, cyclic=False) == []
    assert "40 %" in find_flags({"myocardium": 100 + 20 * wave}, True)[0].sentence


@pytest.mark.parametrize(("ef", "raised"), [(0.03, True), (0.06, False), (0.88, False), (0.95, True)])
def test_ejection_fractions_that_no_heart_has(ef, raised):
    found = find_flags({"left ventricle": beat(30, ef=ef)}, True)
    assert [flag.kind for flag in found] == ["ejection fraction"] * raised
    assert kinds("airway", beat(30, ef=ef)) == []
    assert kinds("left ventricle", beat(30, ef=ef), None) == []


@pytest.mark.parametrize(
    ("name", "volume", "raised"),
    [
        ("right ventricle", 884, True), ("RV", 590, False), ("LV", 3, True), ("LV", 6, False), ("left atrium", 700, True),
        ("left atrium", 40, False), ("ventricle", 900, False), ("liver", 1500, False),
    ],
)  # fmt: skip
def test_volumes_that_no_chamber_has(name, volume, raised):
    curve = volume * beat(30) / 120
    assert kinds(name, curve) == ["volume"] * raised
    assert kinds(name, curve, None) == ["volume"] * raised, "whatever the time"


def test_a_single_frame_may_be_end_systole():
    assert kinds("LV", [3.0]) == []
    (flag,) = find_flags({"LV": [884.0]}, None)
    assert flag.sentence == "LV: 884 mL at its largest, where 5 to 600 mL is plausible for a left ventricle."


def test_an_atrium_is_no_ventricle():
    """A left atrium that hardly changes has no ejection fraction of a ventricle."""
    assert kinds("LA", beat(30, edv=80, ef=0.02)) == []
    assert kinds("LV", beat(30, edv=80, ef=0.02)) == ["ejection fraction"]
    given = {"LA": "left ventricle"}
    assert [flag.kind for flag in find_flags({"LA": beat(30, ef=0.02)}, True, given)] == ["ejection fraction"]


@pytest.mark.parametrize(("grams", "raised"), [(3, True), (10, False), (690, False), (900, True)])
def test_masses_that_no_heart_has(grams, raised):
    assert kinds("MLV", np.full(8, grams / 1.05)) == ["mass"] * raised


@pytest.mark.parametrize(("right", "raised"), [(0.6, False), (0.25, False), (0.15, True)])
def test_both_ventricles_pump_the_same_blood(right, raised):
    """Stroke volumes of 72 mL to the left; 72, 30 and 18 mL to the right."""
    curves = {"RV": beat(30, ef=right), "LV": beat(30)}
    found = find_flags(curves, True)
    assert [flag.kind for flag in found] == ["stroke volume"] * raised
    assert not raised or "72 mL (LV) and 18 mL (RV)" in found[0].sentence
    assert find_flags(curves, False) == []


def heart(frames: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact label of a phantom, and its affine."""
    study = make_cine(1, frames, shape=(64, 60, 7))
    return np.array(study.label), study.affine


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 2, 1), (4, 4, 1)])
def test_a_checkerboard_is_flagged_whatever_its_classes(block):
    label, affine = heart()
    fields = np.indices(label.shape[1:]) // np.reshape(block, (3, 1, 1, 1))
    board = np.broadcast_to((fields.sum(axis=0) % 2).astype(np.uint8), label.shape)
    assert "pieces" in [flag.kind for flag in flags_of(board, affine, ("right ventricle",))]
    if np.prod(block) < 8:
        assert "pieces" in [flag.kind for flag in flags_of(board, affine, ("liver",), None)]
    torn = np.where(board == 1, label, 0)
    assert {"pieces"} <= {flag.kind for flag in flags_of(torn, affine)}


def test_a_second_piece_is_flagged_with_its_frames_and_a_speck_is_not():
    label, affine = heart()
    speck, half = label.copy(), label.copy()
    speck[3, 0, 0, 0] = 3
    half[[3, 4], :12, :12, :4] = 3
    assert flags_of(speck, affine) == []
    (flag,) = [flag for flag in flags_of(half, affine) if flag.kind == "pieces"]
    assert (flag.class_name, flag.frames) == ("left ventricle", (3, 4))
    assert re.fullmatch(
        r"left ventricle: in 2 pieces in frame 4, the largest with \d\d % of it; likewise in frame 3\.", flag.sentence
    )
    kidneys = np.where(half == 3, 1, 0).astype(np.uint8)
    assert [flag.kind for flag in flags_of(kidneys, affine, ("kidneys",), None)] == []


def test_frames_are_named_by_their_numbers_where_only_some_are_measured():
    label, affine = heart()
    label[9, :16, :16, :5] = 3
    curves = {"LV": volumes_ml(label, [3], voxel_volume_ml(affine))[:, 0]}
    found = find_flags(curves, None, shape=LabelShape.measure(label, [3], most_frames=4))
    assert [flag.frames for flag in found if flag.kind == "pieces"] == [(9,)]
    assert LabelShape.measure(label, [3], most_frames=4).frames.tolist() == [0, 3, 6, 9]
    assert LabelShape.measure(label[:2], [3], most_frames=4).frames.tolist() == [0, 1]


def test_a_heart_that_fills_the_field_of_view():
    label, affine = heart()
    label[2] = np.where(label[2] == 0, 1, label[2])
    found = {flag.kind: flag for flag in flags_of(label, affine)}
    assert found["field"].frames == (2,)
    assert found["field"].sentence == "the heart fills 100 % of the field of view in frame 2."
    brain = np.ones((3, 8, 8, 3), np.uint8)
    assert flags_of(brain, affine, ("brain",), None) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ventricles_with_swapped_roles(seed):
    """The myocardium surrounds what is called the right ventricle."""
    study = make_cine(seed, 10, shape=(64, 60, 7))
    (flag,) = [flag for flag in flags_of(study.label, study.affine, CINE[::-1]) if flag.kind == "sides"]
    assert (flag.class_name, flag.key) == ("right ventricle", "sides:right ventricle")
    assert "may be swapped" in flag.sentence


def test_checks_are_described():
    assert "30 %" in describe_checks(True)
    assert "5 to 90 %" in describe_checks(True)
    assert "cyclic studies only" in describe_checks(False)
    assert "one piece" in describe_checks(None, 1)
    assert "jump" not in describe_checks(None, 1)
