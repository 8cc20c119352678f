"""Pages of a report: complete, self-contained, safe against hostile names, and open about what is missing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from tests.builders import edit_dataset, write_dataset_json, write_prediction
from tests.masking import needs_posix
from tests.mutations import mutated, outcome
from unet4d.errors import InputError
from unet4d.evaluation.evaluate import evaluate
from unet4d.images.image4d import Image4D, read_image, write_image
from unet4d.inference.predict import predict
from unet4d.report.pages.score_tables import read_scores
from unet4d.report.pages.template import render_page
from unet4d.report.pictures.render import class_color, save_picture
from unet4d.report.report import report
from unet4d.training.train import train

HOSTILE = "valve</script><script>alert(1)</script><b>&\u2028'\""
SHOWN = HOSTILE.replace("\u2028", r"\u2028")
NAMES = {"background": 0, "left ventricle": 1, HOSTILE: 3}
OBLIQUE = np.array([[-2.9, 0.1, 4.5, 40.0], [0.3, -3.0, 3.0, 30.0], [0.5, 0.6, 14.0, -20.0], [0, 0, 0, 1]])
VOXEL_ML = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000


class Page(HTMLParser):
    """Tags, texts, addresses and scripts of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.policy = ""
        self.blocks: dict[str, str] = {}  # of scripts with an id
        self.scripts: list[str] = []  # that run
        self._open: str | None = None
        self._script: str | None = None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")], "a handler in an attribute"
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        self._open, self._script = tag, found.get("id") or "" if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = self._script = None

    def handle_data(self, data):
        if self._open == "script" and self._script:
            self.blocks[self._script] = self.blocks.get(self._script, "") + data
        elif self._open == "script":
            self.scripts.append(data)
        elif self._open != "style":
            self.words += data + " "

    @property
    def study(self) -> dict:
        return json.loads(self.blocks["study"])

    def volume(self, which: str) -> nib.Nifti1Image:
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(self.blocks[f"{which}-data"])))


def image(frames: int = 3, seconds: float | None = 0.05) -> Image4D:
    noise = np.random.default_rng(0).normal(100, 20, (frames, 14, 12, 3))
    return Image4D.from_array(noise, OBLIQUE, seconds)


def label(frames: int = 3) -> np.ndarray:
    """Return a left ventricle of 60, 40, 20 voxels; the valve in frame 0 alone."""
    drawn = np.zeros((frames, 14, 12, 3), np.uint8)
    for t in range(frames):
        drawn[t, 3:8, 3 : 9 - 2 * (t % 3), :2] = 1
    drawn[0, 11, 10, 1] = 3
    return drawn


@pytest.fixture(autouse=True)
def draw_single_pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pictures of one pixel, except in tests of `pages`: drawing takes most of the time, and test_pictures.py tests it."""
    if "pages" in request.fixturenames:
        return

    def loop(path: Path, *given: object, **options: object) -> Path:
        return save_picture(path, np.zeros((1, 1, 3), np.uint8))

    monkeypatch.setattr("unet4d.report.report.write_animation", loop)
    for name in ("draw_contour_sheet", "draw_curves", "draw_thumbnail"):
        monkeypatch.setattr(f"unet4d.report.report.{name}", lambda *given, **options: np.zeros((1, 1, 3), np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write a dataset with one case, frame 0 labelled, and a prediction for it."""
    root, predictions = tmp_path / "dataset", tmp_path / "predictions"
    study = image()
    write_image(root / "images/heart.nii.gz", study.array[0], like=study)
    write_image(root / "labels/heart.nii.gz", label(), like=study)
    write_dataset_json(root, [{"case": "heart", "labelled_frames": [0]}], NAMES, name="A & B")
    write_image(predictions / "heart.nii.gz", label(), like=study)
    return root, predictions


def record_provenance(predictions: Path, **entry: object) -> None:
    about = {"labels": NAMES, "version": "9.8.7", "cases": {"heart": entry}}
    (predictions / "prediction.json").write_text(json.dumps(about))


@pytest.fixture
def pages(folders: tuple[Path, Path], tmp_path: Path) -> tuple[Page, Page]:
    """Return the index, and the page of the one study, with scores."""
    root, predictions = folders
    record_provenance(predictions, time="cyclic", model="runs/best <1>", settings={"overlap": 0.5, "mirrored": False})
    evaluate(root, predictions, tmp_path / "evaluation")
    path = report(root, predictions, tmp_path / "out", tmp_path / "evaluation")
    assert path == tmp_path / "out/index.html"
    return Page(path), Page(tmp_path / "out/heart.html")


def test_pages_are_self_contained(pages, tmp_path: Path):
    index, study = pages
    for page in pages:
        assert not {"link", "iframe", "object", "embed", "b2", "base", "form"} & set(page.tags)
        outward = [a for a in page.addresses if not a.startswith("data:image/")]
        assert outward == (["heart.html"] * 2 if page is index else ["index.html"])
        allowed = dict(part.split(" ", 1) for part in page.policy.split("; "))
        assert allowed["default-src"] == "'none'"
        assert allowed["img-src"] == "data:"
        assert set(allowed) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
        hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
        assert allowed["script-src"] == (" ".join(f"'sha256-{one}'" for one in hashes) or "'none'")
        assert len(page.text) < 15_000_000
    assert len(study.scripts) == 2
    assert index.scripts == []
    assert study.tags.count("img") == 3  # loop, contours, curves
    assert index.tags.count("img") == 1
    pictures = sorted(file.name for file in (tmp_path / "out/pictures").iterdir())
    assert pictures == ["heart_contours.png", "heart_loop.webp", "heart_thumbnail.webp", "heart_volumes.png"]


def test_pages_are_complete(pages):
    index, study = pages
    for prose in (
        "A & B",
        "heart",
        "left ventricle",
        SHOWN,
        "not for diagnosis",
        "n_both_empty",
        "0.05 s per frame",
        "1.000",
    ):
        assert prose in index.words
    for prose in (
        "A & B",
        "heart",
        "left ventricle",
        SHOWN,
        "not for diagnosis",
        "0.05 s per frame · cyclic",
        "NiiVue 0.69.0",
    ):
        assert prose in study.words
    assert "mean foreground Dice 1.000" in study.words
    for name, value in {
        "model": "runs/best <1>",
        "settings, overlap": "0.5",
        "settings, mirrored": "no",
        "version": "9.8.7",
    }.items():
        assert re.search(rf"{re.escape(name)}\s+{re.escape(value)}", study.words)
    assert "alert(1)" not in "".join(study.scripts)
    assert study.tags.count("script") == 5
    assert "Redistribution and use in source and binary forms" in study.text


def test_the_scripts_have_the_values_of_the_tables(pages):
    _, page = pages
    study = page.study
    drawn = [[float((frame == value).sum()) * VOXEL_ML for frame in label()] for value in (1, 3)]
    assert [one["name"] for one in study["classes"]] == ["left ventricle", SHOWN]
    assert [one["color"] for one in study["classes"]] == [class_color(1), class_color(3)]
    (volumes,) = study["curves"]
    assert (volumes["axis"], volumes["unit"]) == ("volume (mL)", "mL")
    np.testing.assert_allclose(volumes["values"], drawn, atol=1e-4)
    for reference, curve in zip(volumes["reference"], drawn, strict=True):
        np.testing.assert_allclose(reference[0], curve[0], atol=1e-4)
        assert reference[1:] == [None, None]
    assert study["moments"] == [{"frame": 0, "name": "ED"}, {"frame": 2, "name": "ES"}]
    assert (study["frames"], study["frame_duration_s"], study["shown_frames"]) == (3, 0.05, [0, 1, 2])
    assert study["thick_axis"] == 2
    dots = re.findall(r'class="dot" style="background:(#\w+)"', page.text)
    assert set(dots) == {class_color(1), class_color(3)}
    assert re.search(
        rf"left ventricle\s+{drawn[0][0]:.3g}\s+{drawn[0][2]:.3g}\s+{drawn[0][0] - drawn[0][2]:.3g}\s+66.7", page.words
    )
    assert page.words.count("66.7") == 1, "a valve ejects nothing"


def test_the_study_in_the_page_lies_where_the_study_lies(pages, folders):
    _, page = pages
    source = read_image(folders[0] / "images/heart.nii.gz")
    for which in ("image", "label"):
        np.testing.assert_allclose(page.volume(which).affine, source.affine, atol=1e-5)
        assert page.volume(which).shape == (14, 12, 3, 3)
    np.testing.assert_array_equal(np.asarray(page.volume("label").dataobj), label().transpose(1, 2, 3, 0))
    gray, true = np.asarray(page.volume("image").dataobj).ravel(), source.array[0].transpose(1, 2, 3, 0).ravel()
    assert np.corrcoef(gray, true)[0, 1] > 0.99
    assert page.study["start"] == [0, 0, 0]
    assert page.words.count("he patient's left is on the right, as the header has it.") == 2
    middle = np.linalg.inv(source.affine) @ [*page.study["center"], 1]
    assert label()[0][tuple(middle[:3].round().astype(int))] == 1


def test_flags_are_on_both_pages(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    index = Page(report(root, predictions, tmp_path / "out"))
    page = Page(tmp_path / "out/heart.html")
    for prose in (index.words, page.words):
        assert prose.count(f"{SHOWN}: nothing found in frames 1 and 2.") >= 1
    assert "1 flag: look at this segmentation" in page.words
    assert "1 study, 1 flagged" in index.words
    write_image(predictions / "heart.nii.gz", np.where(label() == 1, 1, 0) + 3 * (label()[:1] == 3), like=image())
    assert "0 flagged" in Page(report(root, predictions, tmp_path / "out")).words
    assert "No flag." in Page(tmp_path / "out/heart.html").words


def test_the_report_tells_what_each_class_was_taken_for(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    index = Page(report(root, predictions, tmp_path / "out"))
    for page in (index, Page(tmp_path / "out/heart.html")):
        assert "Structures of a heart: left ventricle; " in page.words
    with edit_dataset(root) as about:
        about["roles"] = {"left ventricle": "left atrium"}
    index = Page(report(root, predictions, tmp_path / "out"))
    assert "left ventricle as left atrium" in index.words
    assert not re.search(r"EDV \d", index.words)


@pytest.mark.slow
def test_a_network_of_ten_steps_is_flagged(own_phantom: Path, tiny, tmp_path: Path):
    """Whatever it draws: nothing, a checkerboard, or a ventricle of the size of the image. Roles travel with the network."""
    with edit_dataset(own_phantom) as about:
        about["roles"] = {"myocardium": "right ventricular myocardium"}
    train(own_phantom, tmp_path / "run", tiny(epochs=1, steps_per_epoch=10), "cpu")
    with edit_dataset(own_phantom) as about:
        del about["roles"]
    train(own_phantom, tmp_path / "run", tiny(epochs=1, steps_per_epoch=10), "cpu", resume=True)  # roles may change
    predict(tmp_path / "run" / "checkpoint_best.pt", [own_phantom], tmp_path / "found", device="cpu")
    roles = json.loads((tmp_path / "found/prediction.json").read_text())["roles"]
    assert roles["myocardium"] == "right ventricular myocardium"
    report(own_phantom, tmp_path / "found", tmp_path / "out")
    assert "myocardium as right ventricular myocardium" in Page(tmp_path / "out/index.html").words
    for case in ("phantom001", "phantom002", "phantom003"):
        assert "No flag." not in Page(tmp_path / f"out/{case}.html").words


def test_scores_of_each_class_are_shown_with_their_frames(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "evaluation")
    report(root, predictions, tmp_path / "out", tmp_path / "evaluation")
    prose = Page(tmp_path / "out/heart.html").words
    assert re.search(r"Against the reference\s+class\s+frames\s+Dice\s+HD95 mm", prose)
    assert re.search(r"left ventricle\s+1\s+1\s+0", prose)
    (tmp_path / "evaluation/metrics.csv").unlink()  # of an evaluation that left its summary alone
    report(root, predictions, tmp_path / "out", tmp_path / "evaluation")
    prose = Page(tmp_path / "out/heart.html").words
    assert re.search(r"mean foreground dice\s+1\.000", prose)
    report(root, predictions, tmp_path / "out")
    assert "Against the reference" not in Page(tmp_path / "out/heart.html").words
    assert "Nothing is recorded of how this label map was made" in Page(tmp_path / "out/heart.html").words


def test_agreement_intervals_and_temporal_metrics_are_on_the_index(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    with edit_dataset(root) as about:
        about["training"][0]["labelled_frames"] = [0, 1, 2]
    smaller = label()
    smaller[0, 3] = 0  # 48 voxels of 60 in end-diastole
    write_image(predictions / "heart.nii.gz", smaller, like=image())
    summary = evaluate(root, predictions, tmp_path / "scores")
    prose = Page(report(root, predictions, tmp_path / "out", tmp_path / "scores")).words
    ml = VOXEL_ML * np.array([60, 48, -12])
    assert re.search(
        rf"left ventricle: EDV mL\s+1\s+{ml[0]:.1f}\s+{ml[1]:.1f}\s+{ml[2]:.2f}\s+-\s+-\s+{-ml[2]:.2f}", prose
    )
    assert re.search(r"left ventricle: EF %\s+1\s+66.7\s+58.3\s+-8.33", prose)
    temporal = summary["classes"]["left ventricle"]["temporal"]
    assert re.search(rf"left ventricle\s+{temporal['roughness']['mean']:.4f}", prose)
    assert summary["intervals"] in prose
    for name in ("intervals", "heart"):  # of an older version
        del summary[name]
    for one in summary["classes"].values():
        del one["temporal"], one["ci95"]
    (tmp_path / "scores/summary.json").write_text(json.dumps(summary))
    prose = Page(report(root, predictions, tmp_path / "out", tmp_path / "scores")).words
    assert "left ventricle: EDV" not in prose.split("Against the reference")[1]


def test_myocardium_without_its_ventricle_has_the_mean_mass_as_in_evaluate(tmp_path: Path):
    write_prediction(tmp_path, "one", image(), np.where(label() == 1, 1, 0).astype(np.uint8))
    (tmp_path / "found/prediction.json").write_text(json.dumps({"labels": {"background": 0, "myo": 1}, "cases": {}}))
    report(tmp_path / "images", tmp_path / "found", tmp_path / "out")
    prose, mean = Page(tmp_path / "out/one.html").words, 40 * VOXEL_ML  # of 60, 40 and 20 voxels
    assert re.search(rf"myo\s+{1.05 * mean:.3g}\s+{mean:.3g}\s+mean over all frames", prose)


@pytest.mark.parametrize("spoiled", [("1.0", "one"), ("class", "organ")])
def test_scores_that_cannot_be_read_are_one_line(folders: tuple[Path, Path], tmp_path: Path, spoiled: tuple[str, str]):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "scores")
    table = tmp_path / "scores/metrics.csv"
    table.write_text(table.read_text().replace(*spoiled, 1))
    with pytest.raises(InputError, match=r"metrics\.csv.*(expected a number|no column class).*evaluate again"):
        report(root, predictions, tmp_path / "out", tmp_path / "scores")


def test_a_folder_of_studies_needs_no_dataset(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    assert "class 1" in Page(report(root / "images", predictions, tmp_path / "out")).words
    record_provenance(predictions, time="cyclic")
    one = report(root / "images/heart.nii.gz", predictions / "heart.nii.gz", tmp_path / "one")
    assert "left ventricle" in Page(one).words


def test_the_back_is_on_the_right_in_a_sagittal_stack(tmp_path: Path):
    affine = np.array([[0, 0, 8.0, 0], [1.5, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    study = Image4D.from_array(image().array[0], affine, 0.05)
    write_prediction(tmp_path, "airway", study, label())
    report(tmp_path / "images", tmp_path / "found", tmp_path / "out")
    prose = Page(tmp_path / "out/airway.html").words
    assert prose.count("he patient's back is on the right, as the header has it.") == 2
    assert "patient's left" not in prose


def test_a_single_frame_without_time_has_no_curve(tmp_path: Path):
    study = image(1, None)
    write_prediction(tmp_path, "still", study, label(1))
    report(tmp_path / "images", tmp_path / "found", tmp_path / "out")
    page = Page(tmp_path / "out/still.html")
    assert page.tags.count("img") == 1
    assert "unknown" in page.words
    assert 'id="curve"' not in page.text
    assert page.volume("image").shape == (14, 12, 3)
    assert page.study["moments"] == []


def test_a_study_in_which_nothing_was_found(tmp_path: Path):
    study = image()
    write_prediction(tmp_path, "empty", study, label() * 0)
    (tmp_path / "found/prediction.json").write_text(json.dumps({"labels": {"background": 0, "myo": 1}, "cases": []}))
    index = Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out"))
    assert "myo: nothing found in every frame." in index.words
    assert Page(tmp_path / "out/empty.html").study["center"] is None
    (tmp_path / "found/prediction.json").unlink()
    assert (
        "0 flagged" in Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out")).words
    )  # no class, no claim


def test_several_channels_are_found_by_their_number(tmp_path: Path):
    study = image()
    for channel in ("0000", "0001"):
        write_image(tmp_path / f"images/heart_{channel}.nii.gz", study.array[0], like=study)
    write_image(tmp_path / "found/heart.nii.gz", label(), like=study)
    assert "heart" in Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out")).words


def test_a_suffix_in_capitals_is_accepted(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    for file in (root / "images/heart.nii.gz", predictions / "heart.nii.gz"):
        file.rename(file.with_name("heart.NII.GZ"))
    for given in ((root / "images", predictions), (root / "images/heart.NII.GZ", predictions / "heart.NII.GZ")):
        assert "heart" in Page(report(*given, tmp_path / "out")).words


@pytest.mark.parametrize(
    "name",
    [pytest.param("a#b %41 <img src=x>&'\"?", marks=needs_posix("Windows takes no such names")), "index", "Index"],
)
def test_a_case_of_any_name_has_a_page_linked_from_the_index(tmp_path: Path, name: str):
    study = image(2)
    write_prediction(tmp_path, name, study, label(2))
    index = Page(report(tmp_path / "images", tmp_path / "found", tmp_path / "out"))
    (address,) = {a for a in index.addresses if not a.startswith("data:")}
    assert not set("#?<>\"'& ") & set(address)
    page = Page(tmp_path / "out" / unquote(address))
    assert page.study["case"] == name
    assert name in page.words
    assert page.tags.count("img") == 3


def test_references_without_prediction_are_counted(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "evaluation")
    summary = json.loads((tmp_path / "evaluation/summary.json").read_text())
    (tmp_path / "evaluation/summary.json").write_text(json.dumps(summary | {"without_prediction": ["liver", "lung"]}))
    shown = Page(report(root, predictions, tmp_path / "out", tmp_path / "evaluation"))
    assert "1 labelled frame (2 references without prediction left out);" in shown.words


DAMAGES = {
    "empty": lambda text: "",
    "header alone": lambda text: text.splitlines(keepends=True)[0],
    "without its last row": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "within the last number": lambda text: text[:-2],
    "within the last row": lambda text: text[:-9],
    "of another case": lambda text: text.replace("heart,", "lung,"),
    "NUL": lambda text: text.replace("heart", "he\0art", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_truncated_scores_are_refused(folders: tuple[Path, Path], tmp_path: Path, damage: str):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "scores")
    table = tmp_path / "scores/metrics.csv"
    table.write_text(DAMAGES[damage](table.read_text()))
    with pytest.raises(InputError, match=r"metrics\.csv.*evaluate again") as refused:
        report(root, predictions, tmp_path / "out", evaluation=tmp_path / "scores")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out/index.html").exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_summary_is_refused_or_shown(folders: tuple[Path, Path], tmp_path: Path, seed: int):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "scores")
    file = tmp_path / "scores/summary.json"
    summary, rng, refused = json.loads(file.read_text()), random.Random(seed), 0
    for _ in range(60):
        file.write_text(json.dumps(mutated(summary, rng)))
        refused += bool(outcome(read_scores, file.parent))
    assert refused > 10


def test_scores_without_metrics_csv_are_shown_with_a_warning(folders: tuple[Path, Path], tmp_path: Path, capsys):
    root, predictions = folders
    evaluate(root, predictions, tmp_path / "scores")
    (tmp_path / "scores/metrics.csv").unlink()
    path = report(root, predictions, tmp_path / "out", evaluation=tmp_path / "scores")
    assert "metrics.csv is missing" in capsys.readouterr().err
    assert "metrics.csv is missing" in Page(path).words


def test_one_study_that_cannot_be_shown_does_not_stop_the_others(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    out = tmp_path / "out"
    for name in ("kidney", "liver"):  # before and after in the alphabet comes one that works
        write_image(predictions / f"{name}.nii.gz", label(), like=image())
    write_image(root / "images/lung.nii.gz", image().array[0], like=image())
    write_image(predictions / "lung.nii.gz", label(2), like=image(2))
    with edit_dataset(root) as about:
        about["test"] = [{"case": "lung", "image": "images/lung.nii.gz"}]
    with pytest.raises(
        InputError, match=r"3 of 4 studies could not be shown, the other 1 are in .*index\.html"
    ) as caught:
        report(root, predictions, out)
    for reason in ("no study for kidney", "no study for liver", "has 2 frames, its study 3"):
        assert reason in str(caught.value)
        assert reason in Page(out / "index.html").words
    assert sorted(file.name for file in out.glob("*.html")) == ["heart.html", "index.html"]


def test_bad_input_is_one_line(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    out = tmp_path / "out"
    for folder in (predictions, tmp_path / "missing"):
        with pytest.raises(InputError, match=rf"{folder.name}/summary\.json is missing.*`unet4d evaluate`"):
            report(root, predictions, out, evaluation=folder)
    with pytest.raises(InputError, match=r"no \.nii"):
        report(root, root, out)
    write_image(predictions / "heart.nii.gz", label(2), like=image(2))
    with pytest.raises(InputError, match=r"^\S+heart.nii.gz has 2 frames, its study 3"):
        report(root, predictions, out)
    assert not (out / "index.html").exists()


def test_a_script_that_would_end_itself_is_refused():
    for script in ("'</SCRIPT>'", "<!-- x", "a\r\nb"):
        with pytest.raises(ValueError, match="would end it"):
            render_page("page.html", [script], title="title")


def test_every_kind_of_recorded_value_is_shown(folders: tuple[Path, Path], tmp_path: Path):
    root, predictions = folders
    record_provenance(
        predictions,
        models=["a", "b"],
        fold=None,
        checkpoints=[{"path": "a", "sha256": "12ab"}, {"path": "b", "sha256": "34cd"}],
        settings={"memory": {"bytes": 5}, "steps": [], "window": {}, "cyclic_shifts": 1, "overlap": 0.0, "tf32": True},
    )
    report(root, predictions, tmp_path / "out")
    prose = " ".join(Page(tmp_path / "out/heart.html").words.split())
    for line in (
        "models a, b",
        "fold none",
        "checkpoints 0, sha256 12ab",
        "checkpoints 1, path b",
        "settings, memory, bytes 5",
        "settings, window none",
        "settings, cyclic shifts 1 settings, overlap 0.0 settings, tf32 yes",  # a number is never yes or no
    ):
        assert line in prose
    (predictions / "prediction.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        report(root, predictions, tmp_path / "out")


def test_every_column_has_its_meaning_as_text_not_as_a_tooltip_alone(pages):
    plain = {"study", "measures", "contours", "flags", ""}
    for page in pages:
        heads = set(re.findall(r"<th>(?:<abbr[^>]*>)?([^<]*)", page.text)) - plain
        meant = set(re.findall(r"<dt>([^<]*)</dt><dd>[^<]+</dd>", page.text))
        assert heads <= meant
        assert len(heads) > 6
        labels = set(re.findall(r'data-label="([^"]*)"', page.text)) - plain
        assert labels == heads
    assert {"EDV mL", "ESV mL", "EF %", "Dice", "flag"} <= meant | set(re.findall(r"<dt>([^<]*)", pages[0].text))
