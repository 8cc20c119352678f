"""Post-processing chosen on held-out cases: what helps is kept, what hurts or does nothing is not, and the record says so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.builders import save_network, tiny_config, write_dataset_json
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.subject_folds import split_folds
from unet4d.errors import InputError, Unet4DError
from unet4d.evaluation.evaluate import evaluate
from unet4d.images.image4d import Image4D, read_label, write_image
from unet4d.inference.batch.case_records import CaseRecords
from unet4d.inference.postprocess import FEW_SUBJECTS, postprocess
from unet4d.inference.postprocessing_search import (
    MARGIN,
    TOLERANCE,
    HeldOutPrediction,
    candidate_steps,
    choose_steps,
)
from unet4d.inference.postprocessing_steps import (
    EVERY_CLASS,
    OPERATIONS,
    POSTPROCESSING,
    Step,
    apply_steps,
    read_steps,
    write_steps,
)
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import BEST
from unet4d.models.task import Task
from unet4d.system.digests import file_sha256

pytestmark = pytest.mark.usefixtures("partial_documents")

LABELS = {"background": 0, "muscle": 1, "cavity": 3}
LARGEST, LARGEST_4D, HOLES, SINGLE, MAJORITY = OPERATIONS
SUBJECTS = ("anna", "ben", "carl")
GRID = (14, 12, 4)
RING_IN_ONE_SLICE = np.zeros((1, 5, 5, 3), np.uint8)
RING_IN_ONE_SLICE[0, 1:4, 1:4, 1] = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def heart(frames: int = 5) -> np.ndarray:
    """A muscle around a cavity in slices 1 and 2, and a second muscle apart from it: (T, *GRID)."""
    label = np.zeros((frames, *GRID), np.uint8)
    label[:, 2:7, 2:7, 1:3] = 1
    label[:, 4:6, 4:6, 1:3] = 3
    label[:, 9:11, 8:11, 1:3] = 1
    return label


def with_islands(frames: slice = slice(None), value: int = 3, size: int = 2) -> np.ndarray:
    label = heart()
    label[frames, 12 : 12 + size, 0:size, 0] = value
    return label


def saved_run(folder: Path, held_out: tuple[str, ...], fold: int = 0, labels: Mapping[str, int] = LABELS) -> Path:
    """A run that held these subjects out; its network is untrained."""
    data = {"folds": 3, "in_plane_spacing_mm": 2.0, "patch_size": (16, 16, 4)}
    config = tiny_config(lstm_channels=0, precision="auto", fold=fold, **data)
    torch.manual_seed(fold)
    save_network(folder / BEST, config, Task(dict(labels), ("cine MRI",), True, held_out))
    return folder


def like(frames: int) -> Image4D:
    return Image4D.from_array(np.zeros((1, frames, *GRID), np.float32), np.diag([2.0, 2.0, 10.0, 1.0]), 0.04)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A heart of 5 frames a subject, frames 0, 2 and 4 labelled; the files of the labels hold nothing elsewhere."""
    root = tmp_path / "dataset"
    label = heart()
    label[[1, 3]] = 0
    for name in SUBJECTS:
        write_image(root / f"images/{name}_1.nii.gz", np.float32(heart() * 10), like=like(5))
        write_image(root / f"labels/{name}_1.nii.gz", label, like=like(5))
    training = [{"case": f"{name}_1", "subject": name, "labelled_frames": [0, 2, 4]} for name in SUBJECTS]
    return write_dataset_json(root, training, LABELS, name="hearts", time="cyclic", channel_names={"0": "cine MRI"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_run(tmp_path / "run", SUBJECTS)


@pytest.fixture
def predicted(tmp_path: Path, run: Path) -> Callable[..., Path]:
    """A folder as `predict --held_out` leaves it, of label maps by subject; keywords change the record of how."""

    def written(maps: Mapping[str, np.ndarray], **made: object) -> Path:
        folder = tmp_path / "predicted"
        records = CaseRecords(folder)
        for name, label in maps.items():
            write_image(folder / f"{name}_1.nii.gz", label, like=like(len(label)))
            plain = {
                "models": [file_sha256(run / BEST)],
                "time": "cyclic",
                "settings": {"overlap": None},
                "postprocessing": [],
            }
            records.write(f"{name}_1", {"made": plain | made, "entry": {}}, [folder / f"{name}_1.nii.gz"])
        return folder

    return written


def held_out(*pairs: tuple[np.ndarray, np.ndarray]) -> list[HeldOutPrediction]:
    """Predictions with references, one subject each, all frames labelled."""
    frames = np.ones(len(pairs[0][0]), bool)
    return [HeldOutPrediction.crop(f"{i}", *pair, frames, True) for i, pair in enumerate(pairs)]


def test_islands_of_a_class_are_removed_of_that_class_alone(run, dataset, predicted, tmp_path, capsys):
    folder = predicted(dict.fromkeys(SUBJECTS, with_islands()))
    record = postprocess(run, dataset, predictions=folder)
    assert read_steps(run) == [Step(LARGEST, "cavity")]
    assert record == json.loads((run / POSTPROCESSING).read_text())
    # 8 of 8 voxels and 4 of an island: 2 * 8 / (8 + 12); the muscle is right
    assert record["before"] == {
        "mean_foreground_dice": pytest.approx(0.9),
        "dice": {"muscle": 1, "cavity": pytest.approx(0.8)},
        "subjects": dict.fromkeys(SUBJECTS, pytest.approx(0.9)),
    }
    assert record["after"]["mean_foreground_dice"] == 1
    assert (record["cases"], record["labelled_frames"], record["dataset"]) == (3, 9, "hearts")
    told = capsys.readouterr().out
    assert "3 held-out cases of 3 subjects, 9 labelled frames; mean foreground Dice 0.9000" in told
    assert f"{LARGEST} of cavity: mean foreground Dice 0.9000 -> 1.0000" in told
    assert "optimistic" in told
    assert "weak evidence" not in told


def test_what_is_recorded_is_what_evaluate_says_of_the_label_maps(run, dataset, predicted, tmp_path):
    maps = {name: with_islands(size=size) for name, size in zip(SUBJECTS, (1, 2, 1), strict=True)}
    folder = predicted(maps)
    record = postprocess(run, dataset, predictions=folder)
    before = evaluate(dataset, folder, tmp_path / "before")
    steps = read_steps(run)
    cleaned = predicted({name: apply_steps(label, steps, LABELS, True) for name, label in maps.items()})
    after = evaluate(dataset, cleaned, tmp_path / "after")
    for when, summary in (("before", before), ("after", after)):
        assert record[when]["mean_foreground_dice"] == summary["mean_foreground_dice"]
        assert record[when]["dice"] == {name: entry["dice"]["mean"] for name, entry in summary["classes"].items()}
        per_case = {
            name.removesuffix("_1"): entry["mean_foreground_dice"] for name, entry in summary["per_case"].items()
        }
        assert record[when]["subjects"] == per_case
    assert before["mean_foreground_dice"] < after["mean_foreground_dice"] == 1


def test_nothing_helps_and_that_is_recorded(run, dataset, predicted, capsys):
    folder = predicted(dict.fromkeys(SUBJECTS, np.roll(heart(), 1, 1)))
    record = postprocess(run, dataset, predictions=folder)
    assert record["steps"] == read_steps(run) == []
    assert record["before"] == record["after"]
    assert "nothing helped" in capsys.readouterr().out


def test_what_helps_one_subject_alone_is_not_kept(run, dataset, predicted):
    folder = predicted(dict.fromkeys(SUBJECTS, heart()) | {"ben": with_islands()})
    record = postprocess(run, dataset, predictions=folder)
    assert record["before"]["subjects"] == {"anna": 1, "ben": pytest.approx(0.9), "carl": 1}
    assert record["steps"] == []


def test_what_helps_no_more_subjects_than_it_harms_is_not_kept():
    """Two subjects have a true second component of one voxel, two an island of four."""
    island, second = with_islands(), with_islands(size=1)
    cases = held_out((island, heart()), (island, heart()), (second, second), (second, second))
    assert choose_steps(cases, LABELS)[0] == []
    assert choose_steps(cases[:3], LABELS)[0][0] == Step(LARGEST, "cavity")


def test_a_gain_below_the_margin_is_not_kept():
    """One voxel of 4000 too many: the Dice rises by 1/8001, that of two classes on average by half of it."""
    reference = np.zeros((1, 24, 24, 24), np.uint8)
    reference[0, 1:21, 1:21, 1:11] = 1
    reference[0, 5, 22, 22] = 3
    label = reference.copy()
    label[0, 23, 23, 23] = 1
    steps, [score] = choose_steps(held_out(*[(label, reference)] * 3), LABELS)
    assert (steps, score.mean_foreground_dice) == ([], pytest.approx(1 - 1 / 8001 / 2))


def test_a_step_that_lowers_a_class_is_not_kept():
    """All islands away as one raises the mean, and takes the second muscle, too."""
    label = with_islands(size=2)
    steps, scores = choose_steps(held_out(*[(label, heart())] * 3), LABELS)
    assert steps == [Step(LARGEST, "cavity")]
    other = apply_steps(label, [Step(LARGEST, EVERY_CLASS)], LABELS, True)
    _, [lowered] = choose_steps(held_out(*[(other, heart())] * 3), LABELS)
    assert lowered.mean_foreground_dice > scores[0].mean_foreground_dice
    assert lowered.dice["muscle"] < scores[0].dice["muscle"] - TOLERANCE


def test_a_step_that_only_helps_after_another_is_found_in_the_next_round():
    reference = np.zeros((5, *GRID), np.uint8)
    reference[:, 1:8, 1:8] = 1
    reference[:, 5:7, 5:7, 1:3] = 3
    label = reference.copy()
    label[:, 2, 2, 1] = 3  # an island of cavity in the muscle: away with it, and the muscle has a hole
    steps, scores = choose_steps(held_out(*[(label, reference)] * 3), LABELS)
    assert steps == [Step(LARGEST, "cavity"), Step(HOLES, "muscle")]
    assert [score.mean_foreground_dice for score in scores[1:]] == [pytest.approx(scores[1].mean_foreground_dice), 1]
    assert scores[0].mean_foreground_dice < scores[1].mean_foreground_dice < 1


def test_a_class_found_where_there_is_none_counts_for_the_subject():
    """A subject without the class: its Dice is 0 where anything is found, and undefined once nothing is."""
    reference = np.where(heart() == 3, 0, heart())
    blip = reference.copy()
    blip[1, 12, 0, 0] = 3
    full = heart()
    full[1, 12, 0, 0] = 3
    steps, scores = choose_steps(held_out((blip, reference), (blip, reference), (full, heart())), LABELS)
    assert steps == [Step(SINGLE, "cavity")]
    assert all(scores[0].subjects[name] < scores[1].subjects[name] for name in "012")
    wrong = np.where(blip == 3, blip, 0)
    steps, [score] = choose_steps(held_out(*[(wrong, wrong * 0)] * 3), LABELS)
    assert score.mean_foreground_dice == 0
    assert steps == []  # the mean Dice has no value then: no claim


def test_a_subject_in_whom_all_that_was_found_was_wrong_improves_when_it_goes():
    nothing, blip = heart() * 0, heart() * 0
    blip[1, 12, 0, 0] = 3
    steps, scores = choose_steps(held_out((blip, nothing), (blip, nothing), (heart(), heart())), LABELS)
    assert steps == [Step(SINGLE, "cavity")]
    assert scores[0].subjects == {"0": 0, "1": 0, "2": 1}
    assert scores[1].subjects == {"0": None, "1": None, "2": 1}


def test_what_helps_most_comes_first():
    reference = heart()
    reference[:, 9:11, 8:11] = 0
    label = reference.copy()
    label[:, 13, 11, 0] = 1
    label[:, 12:14, 0:2, 0] = 3
    steps, _ = choose_steps(held_out(*[(label, reference)] * 3), LABELS)
    assert steps[0] == Step(LARGEST, EVERY_CLASS)  # both islands at once
    assert candidate_steps(LABELS).index(Step(LARGEST, "muscle")) < candidate_steps(LABELS).index(steps[0])


def test_blips_are_judged_on_labelled_frames(run, dataset, predicted):
    majority = Step(MAJORITY, EVERY_CLASS)
    for frame, found in ((2, [Step(SINGLE, "muscle")]), (1, [majority])):  # frame 1 is not labelled
        folder = predicted(dict.fromkeys(SUBJECTS, with_islands(slice(frame, frame + 1), value=1)))
        postprocess(run, dataset, predictions=folder)
        assert read_steps(run) == found


def test_the_majority_over_time_is_kept_where_it_smooths_and_lowers_no_dice():
    """A muscle that grows by a row in one frame: where that frame is labelled and right, the majority would lose the row."""
    label = heart()
    label[2, 7, 2:7, 1:3] = 1
    steps, scores = choose_steps(held_out(*[(label, label)] * 3), LABELS)
    assert (steps, len(scores)) == ([], 1)
    wrong = HeldOutPrediction.crop("a", label, heart(), np.array([True, False, False, False, True]), True)
    steps, scores = choose_steps([wrong], LABELS)
    assert steps == [Step(MAJORITY, EVERY_CLASS)]
    assert [score.mean_foreground_dice for score in scores] == [1, 1]


def test_train_chooses_at_its_end_and_again_only_for_other_checkpoints(command, phantom, tmp_path, tiny_options):
    run = tmp_path / "run"
    words = ["train", "--dataset", phantom, "--out", run, *tiny_options]
    assert command(*words).code == 0
    first = json.loads((run / POSTPROCESSING).read_text())
    assert list(first["checkpoints"]) == [BEST]
    write_steps(run, [], [run / BEST], {"own": True})
    assert command(*words, "--resume").code == 0
    assert json.loads((run / POSTPROCESSING).read_text())["own"] is True
    (run / POSTPROCESSING).write_text(json.dumps(first | {"checkpoints": {BEST: "0" * 64}}))
    assert command(*words, "--resume").code == 0
    assert json.loads((run / POSTPROCESSING).read_text()) == first


def test_a_search_that_fails_leaves_the_training_done(command, phantom, tmp_path, tiny_options, monkeypatch):
    def full(*_, **__):
        raise Unet4DError("no space is left")

    monkeypatch.setattr("unet4d.inference.postprocess.postprocess", full)
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options)
    assert done.code == 0
    assert "no post-processing was chosen: no space is left" in done.error


def test_train_without_held_out_subjects_or_with_off_chooses_nothing(command, phantom, tmp_path, tiny_options):
    for name, options in (("none", ["--data.val_subjects", "[]"]), ("off", ["--postprocess", "off"])):
        done = command("train", "--dataset", phantom, "--out", tmp_path / name, *tiny_options, *options)
        assert done.code == 0
        assert "post-processing" not in done.told
        assert read_steps(tmp_path / name) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    label=arrays(
        np.uint8, st.tuples(*(st.integers(1, n) for n in (3, 5, 5, 3))), elements=st.sampled_from([0, 0, 0, 1, 3])
    ),
    pad=st.integers(0, 3),
)
@example(label=RING_IN_ONE_SLICE, pad=0)  # open above and below, and must stay so
@example(label=RING_IN_ONE_SLICE[..., 1:2], pad=0)  # of one slice, closed
def test_what_is_kept_of_a_label_map_is_all_that_steps_need(label, pad):
    label = np.pad(label, [(0, 0), *((pad, pad) if n > 1 else (0, 0) for n in label.shape[1:])])
    case = HeldOutPrediction.crop("a", label, label, np.ones(len(label), bool), True)
    assert case.label.size <= label.size
    for step in candidate_steps(LABELS):
        whole, kept = (apply_steps(one, [step], LABELS, True) for one in (label, case.label))
        assert [np.count_nonzero(whole == v) for v in (1, 3)] == [np.count_nonzero(kept == v) for v in (1, 3)]
        assert np.count_nonzero(whole != label) == np.count_nonzero(kept != case.label)


def test_one_subject_is_weak_evidence_and_a_dry_run_leaves_nothing(command, trained, phantom, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    done = command("postprocess", run, "--dataset", phantom, "--device", "cpu", "--dry_run")
    assert done.code == 0, done.error
    assert "1 held-out case of 1 subject, 4 labelled frames" in done.told
    assert "1 held-out subject: weak evidence" in done.told
    assert "a dry run: nothing is recorded" in done.told
    assert read_steps(run) is None
    assert command("postprocess", run, "--dataset", phantom, "--device", "cpu").code == 0
    assert read_steps(run) is not None


def test_each_case_is_judged_by_the_fold_that_held_it_out(command, phantom, tmp_path):
    labels = json.loads((phantom / "dataset.json").read_text())["labels"]
    for fold, subjects in enumerate(split_folds(read_dataset(phantom), 3)):
        saved_run(tmp_path / f"folds/fold_{fold}", tuple(subjects), fold, labels)
    folds, by_hand = tmp_path / "folds", tmp_path / "predicted"
    assert command("postprocess", folds, "--dataset", phantom, "--device", "cpu").code == 0
    record = json.loads((folds / POSTPROCESSING).read_text())
    assert list(record["checkpoints"]) == [f"fold_{fold}/{BEST}" for fold in range(3)]
    assert (record["cases"], len(record["before"]["subjects"])) == (3, 3)
    assert read_steps(folds) is not None
    for fold in range(3):
        assert read_steps(folds / f"fold_{fold}") is None
    plain = ["--held_out", "--postprocess", "off", "--device", "cpu"]
    assert command("predict", folds, "-i", phantom, "-o", by_hand, *plain).code == 0
    assert command("postprocess", folds, "--dataset", phantom, "--predictions", by_hand).code == 0
    again = json.loads((folds / POSTPROCESSING).read_text())
    assert again == record
    cases = CaseRecords(by_hand)
    shutil.copy(cases.path("phantom001"), cases.path("phantom002"))  # as of the fold that was trained on phantom002
    done = command("postprocess", folds, "--dataset", phantom, "--predictions", by_hand)
    assert "phantom002" in done.line
    assert "by the checkpoint that held it out" in done.line


def test_what_was_chosen_before_has_no_say(trained, phantom, tmp_path):
    """Steps in the run are not applied to what is chosen on, and predict applies what was chosen."""
    run = shutil.copytree(trained, tmp_path / "run")
    first = postprocess(run, phantom, device="cpu")
    labels = json.loads((phantom / "dataset.json").read_text())["labels"]
    write_steps(run, [Step(LARGEST, EVERY_CLASS)], [run / BEST], {})
    again = postprocess(run, phantom, device="cpu")
    assert again == first
    write_steps(run, [Step(LARGEST, EVERY_CLASS)], [run / BEST], {})
    for name in ("auto", "off"):
        predict(run, [phantom], tmp_path / name, device="cpu", held_out=True, postprocess=name)
    (plain,) = (tmp_path / "off").glob("*.nii.gz")
    cleaned = apply_steps(read_label(plain), [Step(LARGEST, EVERY_CLASS)], labels, True)
    np.testing.assert_array_equal(read_label(tmp_path / "auto" / plain.name), cleaned)
    with pytest.raises(InputError, match="has no plain label map"):
        postprocess(run, phantom, predictions=tmp_path / "auto")


def test_bad_runs_and_datasets_are_one_line(command, run, dataset, tmp_path):
    no_subject = saved_run(tmp_path / "no_subject", ())
    strangers = saved_run(tmp_path / "strangers", ("dora",))
    other = saved_run(tmp_path / "other", SUBJECTS, labels={"background": 0, "muscle": 1, "blood": 3})
    (tmp_path / "empty").mkdir()
    entry = json.loads((dataset / "dataset.json").read_text())
    unlabelled = tmp_path / "unlabelled"
    shutil.copytree(dataset, unlabelled)
    tests = [{key: value for key, value in case.items() if not key.startswith("label")} for case in entry["training"]]
    (unlabelled / "dataset.json").write_text(json.dumps(entry | {"training": [], "test": tests}))
    partly = {"every": {"labelled_slices": [0, 2]}, "by_frame": {"labelled_slices": {"0": [0], "2": [1], "4": [1]}}}
    for name, said in (partly | {"class": {"annotated_labels": [1, 3]}}).items():
        shutil.copytree(dataset, tmp_path / name)
        drawn = [case | said for case in entry["training"]]
        (tmp_path / name / "dataset.json").write_text(json.dumps(entry | {"training": drawn}))
    for given_run, given_dataset, wanted in (
        (tmp_path / "empty", dataset, f"{tmp_path / 'empty'} holds neither"),
        (tmp_path / "gone", dataset, "gone is missing"),
        (run / BEST, dataset, "is a file; expected the folder of a run"),
        (no_subject, dataset, "of the 0 subjects that"),
        (strangers, dataset, "0 labelled cases of the 1 subject that"),
        (other, dataset, "give the dataset of the run"),
        (run, unlabelled, "0 labelled cases of the 3 subjects that"),
        (run, tmp_path / "gone", "gone is missing"),
        *(
            (run, tmp_path / name, "no wholly drawn frame of 3 labelled cases")
            for name in ("every", "by_frame", "class")
        ),
    ):
        done = command("postprocess", given_run, "--dataset", given_dataset, "--device", "cpu")
        assert done.code == 2
        assert wanted in done.line


def test_frames_with_ignored_voxels_are_judged_nowhere(run, dataset, predicted, tmp_path):
    """Nothing is chosen where there is no other frame: not even what would smooth the curves."""
    rough = heart()
    rough[1::2, 3:5] = 0
    maps = dict.fromkeys(SUBJECTS, rough)
    content = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(content | {"labels": {**LABELS, "ignore": 4}}))
    label = heart()
    label[:, 0, 0, 0] = 4
    for name in SUBJECTS:
        write_image(dataset / f"labels/{name}_1.nii.gz", label, like=like(5))
    with pytest.raises(InputError, match="no wholly drawn frame of 3 labelled cases"):
        postprocess(run, dataset, predictions=predicted(maps))
    write_image(dataset / "labels/anna_1.nii.gz", heart(), like=like(5))
    assert postprocess(run, dataset, predictions=tmp_path / "predicted")["cases"] == 1


def test_bad_predictions_are_one_line(run, dataset, predicted, tmp_path):
    maps = dict.fromkeys(SUBJECTS, heart())

    def refused(wanted: str, folder: Path) -> None:
        with pytest.raises(InputError, match=wanted):
            postprocess(run, dataset, predictions=folder)
        assert read_steps(run) is None

    refused("predicted is missing", tmp_path / "predicted")
    no_ben = "predicted has no plain label map of ben_1 by the checkpoint that held it out"
    folder = predicted(maps)
    (folder / "ben_1.nii.gz").unlink()
    refused(no_ben, folder)
    folder = predicted(maps)
    CaseRecords(folder).path("ben_1").write_text("{}")
    refused(no_ben, folder)
    no_anna = no_ben.replace("ben", "anna")
    refused(no_anna, predicted(maps, models=["0" * 64]))
    refused(no_anna, predicted(maps, models=[file_sha256(run / BEST)] * 2))
    refused(no_anna, predicted(maps, postprocessing=[{"operation": LARGEST, "class": "muscle"}]))
    refused("got label value 2", predicted(maps | {"carl": np.full_like(heart(), 2)}))
    refused(r"carl_1.nii.gz: \(T, X, Y, Z\) is \(4, 14, 12, 4\)", predicted(maps | {"carl": heart(4)}))


def test_a_run_that_may_not_be_written_to_is_told_before_any_work(run, dataset, predicted, monkeypatch):
    folder = predicted(dict.fromkeys(SUBJECTS, heart()))
    monkeypatch.setattr(
        "unet4d.system.files.os.access", lambda path, mode: not Path(path).samefile(run)
    )  # root may write anywhere
    with pytest.raises(Unet4DError, match="no permission"):
        postprocess(run, dataset / "not_even_looked_at")
    assert postprocess(run, dataset, predictions=folder, dry_run=True)["steps"] == []


PAGE = (Path(__file__).parents[2] / "docs/how-to/postprocessing.md").read_text(encoding="utf-8")


def test_the_page_says_what_the_code_does(run, dataset, predicted):
    record = postprocess(run, dataset, predictions=predicted(dict.fromkeys(SUBJECTS, with_islands())))
    table_of_keys = PAGE[PAGE.index("`RUN/postprocessing.json` holds") :]
    assert [key for key in record if f"`{key}`" not in table_of_keys] == []
    assert f"more than {MARGIN}," in PAGE
    assert f"by more than {TOLERANCE}," in PAGE
    assert f"fewer than {FEW_SUBJECTS} held-out subjects" in PAGE
    assert re.findall(r"^\| `(\w+)` \| \w+ .*\| (?:a class|`\*`)", PAGE, re.M) == list(OPERATIONS)
    names = {"label": np.where(heart() == 1, 1, 0).astype(np.uint8)}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], names)
    assert names["cleaned"].shape == heart().shape
