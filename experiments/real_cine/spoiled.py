"""Copies of real studies with spoiled frames, and the scores of arms on spoiled and on other frames.

    python -m experiments.real_cine.spoiled DATASET SPOILED                      writes the copies, outside of the checkout
    python -m experiments.real_cine.run SPOILED WORK --all --view spoiled        predicts and scores them with what was trained
    python -m experiments.real_cine.spoiled DATASET SPOILED --work WORK          writes Dice by kind of frame, and the planned tests

A fifth of the frames of a copy is spoiled, never two neighbors of the closed cycle: a network that sees time sees intact frames on
both sides. Truth is the label of the frame before it was spoiled. Only two frames of a study are drawn, so each study has two
copies: in "hit" both drawn frames are spoiled, in "spared" neither is. Every drawn frame is scored once spoiled, and once intact
among spoiled ones: 28 frames of each kind for 14 patients, where one copy with frames chosen at random would have about six.

Artifacts are those of `data.artifacts`, see `ARTIFACT_PRESETS["severe"]`; drawn frames have each kind equally often. A mistriggered
frame has lines of an intact frame a quarter to half a cycle away, as an irregular beat brings them: the next frame is too alike.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.real_cine.protocol import SUITES, read_suite
from experiments.real_cine.scores import RESULTS, Rows, finished_jobs, keep, mean_rows
from experiments.real_cine.table import describe_rows, markdown_table, markdown_tests, mean_and_interval, run_tests
from unet4d.datasets.cases import Case
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import write_image
from unet4d.pipeline.augmentation.artifacts import FrameArtifact, Mistriggering, apply_artifacts, sample_artifact
from unet4d.pipeline.augmentation.presets import ARTIFACT_PRESETS
from unet4d.pipeline.normalization import IntensityScale
from unet4d.system.files import read_json, write_json, write_text

SHARE = 0.2
"""Share of a copy's frames that are spoiled."""
COPIES = ("hit", "spared")
KINDS = ("dropout", "ghosting", "mistriggered", "noise")
"""Fields of `ArtifactPreset`."""
SPOILED_JSON = "spoiled.json"
VIEW = "spoiled"
SPOILED, OTHERS = "spoiled frames", "other frames"


def write_copies(dataset: Path, out: Path, seed: int = 0) -> None:
    """Write the copies of all labelled studies of one channel as a dataset, and spoiled.json: case to frame to artifact.

    The copies of patient001 are patient001_hit and patient001_spared, of the same subject, so that folds are those of the studies.

    Raises:
        InputError: the dataset cannot be read, or `out` is not empty.
    """
    content = read_dataset(dataset)
    entries = read_json(content.root / "dataset.json")
    cases: list[dict[str, Any]] = []
    spoiled: dict[str, Any] = {}
    with fill_dataset_folder(out):
        for number, (case, entry) in enumerate(zip(content.training, entries["training"], strict=True)):
            (label,) = case.files[1:]
            name = f"labels/{case.name}{''.join(label.suffixes)}"
            (out / "labels").mkdir(exist_ok=True)
            shutil.copyfile(label, out / name)
            for copy in COPIES:
                rng = np.random.default_rng([seed, number, COPIES.index(copy)])
                copied = f"{case.name}_{copy}"
                spoiled[copied] = _write_copy(case, out / f"images/{copied}.nii.gz", rng, copy == "hit", number)
                cases.append(entry | {"case": copied, "image": f"images/{copied}.nii.gz", "label": name})
        write_json(out / SPOILED_JSON, spoiled)
        write_json(out / "dataset.json", entries | {"training": cases, "test": []})


def _write_copy(case: Case, path: Path, rng: np.random.Generator, hit: bool, number: int) -> dict[str, Any]:
    """Write a copy of a study; return its artifacts by frame."""
    image, drawn = case.image(), case.labelled_frames or ()
    frames = choose_frames(rng, image.frames, drawn, hit)
    kinds = {t: str(rng.choice(KINDS)) for t in frames}
    kinds |= {t: KINDS[(number + 2 * row) % len(KINDS)] for row, t in enumerate(drawn) if hit}
    artifacts = [sample_severe(rng, kinds[t], t, frames, image.array.shape[1:]) for t in frames]
    scale = IntensityScale.from_frames(lambda: image.array.swapaxes(0, 1), image.array.shape, "zscore")
    values = apply_artifacts(torch.from_numpy(image.array.copy()), artifacts, (SIGNAL,), [scale.channels[0][3]])
    path.parent.mkdir(exist_ok=True)
    write_image(path, values[0].numpy(), like=image)
    return {str(one.frame): {"kind": kinds[one.frame]} | asdict(one.artifact) for one in artifacts}


def choose_frames(rng: np.random.Generator, frames: int, drawn: Sequence[int], hit: bool) -> list[int]:
    """Return a fifth of a cycle's frames, no two of them neighbors: all that are drawn among them if `hit`, else none.

    Raises:
        InputError: two drawn frames are neighbors, or there are more than a fifth.
    """
    count = round(SHARE * frames)
    chosen: list[int] = []
    others = [t for t in rng.permutation(frames).tolist() if t not in drawn]
    for t in [*drawn, *others] if hit else others:
        if len(chosen) < count and not {(t - 1) % frames, (t + 1) % frames} & set(chosen):
            chosen.append(t)
    if len(chosen) < count or (hit and not set(drawn) <= set(chosen)):
        raise InputError(
            f"got the drawn frames {list(drawn)} of {frames}, expected at most {count}, no two of them neighbors"
        )
    return sorted(chosen)


def sample_severe(
    rng: np.random.Generator, kind: str, t: int, spoiled: Sequence[int], shape: Sequence[int]
) -> FrameArtifact:
    """Return a severe artifact of a kind in frame `t` of a study (T, X, Y, Z) in which the frames `spoiled` are spoiled."""
    frames, preset = shape[0], ARTIFACT_PRESETS["severe"]
    only = {name: getattr(preset, name)._replace(probability=float(name == kind)) for name in KINDS}
    artifact = sample_artifact(rng, preset._replace(**only), t, frames, shape[1:], gated=True)
    if isinstance(artifact, Mistriggering):
        away = range(-(-frames // 4), frames // 2 + 1)
        sources = {(t + sign * step) % frames for step in away for sign in (-1, 1)} - set(spoiled)
        artifact = replace(artifact, source=int(rng.choice(sorted(sources))))
    return FrameArtifact(t, artifact)


def score_by_kind(rows: Mapping[str, Rows], spoiled: Mapping[str, Any], against: Mapping[str, str]) -> dict[str, Any]:
    """Return the Dice of each arm by kind of frame, and the planned tests on spoiled and on other frames.

    Args:
        rows: of the metric, by arm, see `mean_rows`.
        spoiled: content of spoiled.json.
        against: the arms to test, with the arm that each is tested against; differences are the latter minus the former.
    """
    kinds = (SPOILED, OTHERS, *KINDS)
    by_kind = {arm: {kind: _of_kind(found, spoiled, kind) for kind in kinds} for arm, found in rows.items()}
    arms = {arm: {kind: describe_rows(of) for kind, of in found.items() if of} for arm, found in by_kind.items()}
    planned = [(arm, other, kind) for arm, other in against.items() for kind in (SPOILED, OTHERS)]
    return {"arms": arms, "tests": run_tests(planned, by_kind), "planned_tests": len(planned)}


def _of_kind(rows: Rows, spoiled: Mapping[str, Any], kind: str) -> Rows:
    """Return the rows of spoiled frames, of the others, or of frames with one kind of artifact."""

    def fits(case: str, frame: str) -> bool:
        artifact = spoiled[case].get(frame)
        return (kind == OTHERS) if artifact is None else kind in (SPOILED, artifact["kind"])

    return {key: value for key, value in rows.items() if fits(*key[:2])}


def markdown(scores: Mapping[str, Any]) -> str:
    """Return both tables as markdown."""
    kinds = (SPOILED, OTHERS, *KINDS)
    cells = [
        [arm, *(mean_and_interval(found[kind], 3) if kind in found else "-" for kind in kinds)]
        for arm, found in scores["arms"].items()
    ]
    table = markdown_table(["Dice, 95 % interval", *kinds], cells)
    return f"{table}\n\n{markdown_tests(scores, lambda kind: 3)}\n"


def main() -> None:
    """Write the copies unless they are there; with --work, write and print the scores of finished jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("copies", type=Path, metavar="SPOILED", help="folder of the copies; holds patients' images")
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        if not (given.copies / "dataset.json").exists():
            write_copies(given.dataset, given.copies)
        if given.work:
            suite = read_suite(given.suite)
            jobs = finished_jobs(suite, given.work, VIEW, given.out)
            keep(suite, VIEW, jobs, given.out)
            rows = {arm: mean_rows(done, "dice") for arm, done in jobs.items()}
            scores = score_by_kind(rows, read_json(given.copies / SPOILED_JSON), suite.against)
            name = VIEW if given.suite == SUITES[0] else f"{VIEW}_{given.suite}"
            write_json(given.out / f"{name}.json", scores)
            write_text(given.out / f"{name}.md", text := markdown(scores))
            print(text)
    except InputError as error:
        print(f"real_cine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
