"""Spoiled copies of real cine: which frames are spoiled, that no other changes, and scores by kind of frame."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.real_cine.spoiled import (
    COPIES,
    KINDS,
    OTHERS,
    SPOILED,
    choose_frames,
    markdown,
    sample_severe,
    score_by_kind,
    write_copies,
)
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError
from unet4d.phantom import write_phantom
from unet4d.pipeline.augmentation.artifacts import Ghosting, Mistriggering, SignalDropout
from unet4d.pipeline.augmentation.intensity import NoiseParams


@pytest.mark.parametrize("hit", [False, True])
@pytest.mark.parametrize(("frames", "drawn"), [(30, (0, 11)), (15, (0, 7)), (10, (9, 4))])
def test_a_fifth_is_spoiled_never_two_neighbors_and_both_drawn_frames_or_none(frames, drawn, hit):
    seen = set()
    for seed in range(50):
        chosen = choose_frames(np.random.default_rng(seed), frames, drawn, hit)
        assert len(chosen) == frames / 5
        assert not {(t + 1) % frames for t in chosen} & set(chosen)
        assert len(set(drawn) & set(chosen)) == 2 * hit
        seen |= set(chosen)
    assert hit or seen == set(range(frames)) - set(drawn)


def test_drawn_frames_that_cannot_both_be_spoiled_are_refused():
    for frames, drawn in ((30, (0, 29)), (5, (0, 2))):
        with pytest.raises(InputError, match="no two of them neighbors"):
            choose_frames(np.random.default_rng(0), frames, drawn, True)


@pytest.mark.parametrize(
    ("kind", "type_"), [*zip(KINDS, (SignalDropout, Ghosting, Mistriggering, NoiseParams), strict=True)]
)
def test_an_artifact_is_of_its_kind_and_lines_come_from_an_intact_frame_far_away(kind, type_):
    for seed in range(40):
        one = sample_severe(np.random.default_rng(seed), kind, 0, [0, 4, 8], (15, 20, 18, 4))
        assert (one.frame, type(one.artifact)) == (0, type_)
        if kind == "mistriggered":
            assert one.artifact.source in {5, 6, 7, 9, 10, 11}


def test_copies_differ_in_their_spoiled_frames_alone(tmp_path):
    root = write_phantom(tmp_path / "phantom", 2, 10, shape=(32, 32, 4), labelled="two").parent
    write_copies(root, tmp_path / "spoiled")
    before, after = read_dataset(root), read_dataset(tmp_path / "spoiled")
    spoiled = json.loads((tmp_path / "spoiled" / "spoiled.json").read_text())
    assert (after.labels, after.time, after.subjects) == (before.labels, before.time, before.subjects)
    assert [case.name for case in after.training] == [
        f"{case.name}_{copy}" for case in before.training for copy in COPIES
    ]
    for case in before.training:
        image = case.image()
        for copy in COPIES:
            copied = after.case(f"{case.name}_{copy}")
            found, artifacts = copied.image(), spoiled[copied.name]
            assert (copied.subject, copied.labelled_frames) == (case.subject, case.labelled_frames)
            changed = [t for t in range(10) if not np.array_equal(found.array[:, t], image.array[:, t])]
            assert changed == [int(t) for t in artifacts]
            assert np.array_equal(found.affine, image.affine)
            assert all(
                np.array_equal(a, b)
                for a, b in zip(read_labelled(copied, after, found), read_labelled(case, before, image), strict=True)
            )
            assert {one["kind"] for one in artifacts.values()} <= set(KINDS)
    drawn = [spoiled[f"{case.name}_hit"][str(t)]["kind"] for case in before.training for t in case.labelled_frames]
    assert sorted(drawn) == sorted(KINDS)
    write_copies(root, tmp_path / "again")
    first, again = ((tmp_path / name / "spoiled.json").read_text() for name in ("spoiled", "again"))
    assert first == again


def test_scores_are_split_by_kind_of_frame_and_compared_by_patient():
    spoiled = {
        **{f"p{i}_hit": {"0": {"kind": "noise" if i % 2 else "dropout"}, "4": {"kind": "ghosting"}} for i in range(8)},
        **{f"p{i}_spared": {"2": {"kind": "noise"}} for i in range(8)},
    }

    def rows(hit: float, spared: float):
        found = {}
        for i in range(8):
            for frame in ("0", "4"):
                found[f"p{i}_hit", frame, "heart"] = (f"p{i}", hit + i / 100)
                found[f"p{i}_spared", frame, "heart"] = (f"p{i}", spared + i / 100)
        return found

    scores = score_by_kind({"framewise": rows(0.4, 0.8), "clstm": rows(0.7, 0.8)}, spoiled, {"framewise": "clstm"})
    clstm = scores["arms"]["clstm"]
    assert clstm[SPOILED]["mean"] == pytest.approx(0.735)
    assert clstm[OTHERS]["mean"] == pytest.approx(0.835)
    assert clstm["noise"]["mean"] == pytest.approx(0.74)
    assert (clstm[SPOILED]["n"], clstm["dropout"]["n"], "mistriggered" in clstm) == (8, 4, False)
    hurt, other = scores["tests"]
    assert (hurt["of"], hurt["n"], hurt["p"]) == (SPOILED, 8, pytest.approx(2 / 2**8))
    assert hurt["difference"] == pytest.approx(0.3)
    assert hurt["p_holm"] == pytest.approx(2 * hurt["p"])
    assert (other["of"], other["difference"], other["p"]) == (OTHERS, pytest.approx(0), None)
    text = markdown(scores)
    assert "| clstm | 0.735 (" in text
    assert "1 of 2 planned tests made." in text
    assert "| clstm minus framewise, spoiled frames | 8 | +0.300 |" in text
