"""The report in a real browser: opened from disk, it requests nothing, shows the study in the right orientation, and plays."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, NO_WEBGL, Browser
from PIL import Image, ImageColor

from tests.builders import write_prediction
from unet4d.images.image4d import Image4D, read_image, write_image
from unet4d.report.pictures.render import class_color
from unet4d.report.report import report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

FRAMES, SIDE, SLICES = 5, 64, 4
AFFINES = {
    "RAS": np.diag([1.5, 1.5, 8.0, 1.0]),
    "RAS, feet last": np.diag([1.5, 1.5, -8.0, 1.0]),
    "LPS": np.diag([-1.5, -1.5, 8.0, 1.0]),
    "LAS, axes swapped": np.array([[0, -1.5, 0, 0], [1.5, 0, 0, 0], [0, 0, 8.0, 0], [0, 0, 0, 1]]),
    "short axis, oblique": np.array([[1.2, -0.5, 3.0, 0], [0.7, 0.6, -6.0, 0], [0.4, 1.25, 4.0, 0], [0, 0, 0, 1]]),
}


def make_study(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label (T, X, Y, Z): a ventricle that shrinks about the middle, and a small class 2.

    Class 2 is to the patient's left of the ventricle, in front where slices are axial, towards the head where they are not.
    """
    label = np.zeros((FRAMES, SIDE, SIDE, SLICES), np.uint8)
    x, y = np.meshgrid(np.arange(SIDE) - SIDE / 2, np.arange(SIDE) - SIDE / 2, indexing="ij")
    for t, radius in enumerate((14, 12, 9, 11, 13)):
        label[t, np.hypot(x, y) < radius] = 1
    up = 1 if abs(affine[2, 2]) > max(abs(affine[0, 2]), abs(affine[1, 2])) else 2
    there = np.stack([affine[r, 0] * x + affine[r, 1] * y for r in range(3)])
    left = np.hypot(there[0] + 27, there[up] - 24) < 9  # mm: right is positive
    label[:, left] = 2
    image = np.random.default_rng(0).normal(80, 12, label.shape) + 60 * (label == 1)
    return image.astype(np.float32), label


def write_study(folder: Path, affine: np.ndarray, name: str = "heart") -> None:
    image, label = make_study(affine)
    write_prediction(folder, name, Image4D.from_array(image, affine, 0.1), label)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of one study for each way to store it."""
    folder = tmp_path_factory.mktemp("report")
    for name, affine in AFFINES.items():
        write_study(folder, affine, name)
    labels = {"background": 0, "left ventricle": 1, "</script><script>window.hacked = 1</script>": 2}
    cases = {name: {"time": "cyclic", "model": "</script><img src=x onerror='window.hacked = 1'>"} for name in AFFINES}
    (folder / "found/prediction.json").write_text(json.dumps({"labels": labels, "cases": cases}))
    report(folder / "images", folder / "found", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, out: Path) -> Browser:
    """Return the page of the study stored as LPS, ready."""
    chromium.requests.clear()
    chromium.errors.clear()
    chromium.open(out / "LPS.html", "document.body.dataset.stage")
    assert chromium.ask("document.body.dataset.stage") == "ready", chromium.errors
    return chromium


def pixels(browser: Browser) -> np.ndarray:
    """Return the pixels of the canvas, (H, W, 3): drawn and read in one call, because WebGL clears its buffer."""
    address = browser.ask("(stage.viewer.drawScene(), document.getElementById('canvas').toDataURL('image/png'))")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def tinted(picture: np.ndarray, value: int) -> np.ndarray:
    """Return (H, W) bool: where the hue is about that of a class laid over gray."""
    color = np.array(ImageColor.getrgb(class_color(value)))
    away, own = picture - picture.mean(-1, keepdims=True), color - color.mean()
    lengths = np.linalg.norm(away, axis=-1)
    return (lengths > 12) & (away @ own > 0.95 * lengths * np.linalg.norm(own))


def center(mask: np.ndarray) -> np.ndarray:
    """Return row and column."""
    assert mask.sum() > 50
    return np.argwhere(mask).mean(0)


def test_it_requests_nothing_and_logs_no_error(page: Browser, out: Path):
    assert page.errors == []
    outward = [address for address in page.requests if not address.startswith("data:")]
    assert outward == [(out / "LPS.html").as_uri()]
    assert page.ask("window.hacked") is None
    answer = page.ask("fetch('http://127.0.0.1:9/').then(() => 'reached').catch((error) => String(error))")
    assert "Failed to fetch" in answer
    assert "Content Security Policy" in " ".join(page.errors), "the policy, and not the absence of a server"


@pytest.mark.parametrize("name", AFFINES)
def test_the_patients_left_is_on_the_right_and_front_or_head_above(chromium: Browser, out: Path, name: str):
    chromium.open(out / f"{name}.html", "document.body.dataset.stage === 'ready'")
    picture = pixels(chromium)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200, "an image, not a plain color"
    ventricle, lateral = center(tinted(picture, 1)), center(tinted(picture, 2))
    assert lateral[1] > ventricle[1] + 20, "left of the patient: right in the picture"
    assert lateral[0] < ventricle[0] - 20, "in front, or towards the head: above"
    with Image.open(out / "pictures" / f"{name}_contours.png") as sheet:
        printed = np.asarray(sheet.convert("RGB")).astype(int)[24:200, 28:218]  # frame 0 of the first slice
    contours = [center(np.abs(printed - ImageColor.getrgb(class_color(k))).max(-1) < 40) for k in (1, 2)]
    assert contours[1][1] > contours[0][1]
    assert contours[1][0] < contours[0][0], "the printed picture is the same way round"


def test_the_slider_changes_frame_picture_and_curve(page: Browser):
    areas, marks = [], []
    for frame in range(FRAMES):
        page.ask(
            f"(() => {{ const s = document.getElementById('frame'); s.value = {frame}; s.dispatchEvent(new Event('input')); }})()"
        )
        assert page.ask("stage.viewer.volumes.map((volume) => volume.frame4D)") == [frame, frame]
        assert page.ask("document.getElementById('now').dataset.frame") == str(frame)
        marks.append(float(page.ask("document.getElementById('now').getAttribute('x1')")))
        assert page.ask("document.getElementById('frame-value').textContent") == f"{frame} · {100 * frame} ms"
        areas.append(int(tinted(pixels(page), 1).sum()))
    np.testing.assert_allclose(np.diff(marks), np.diff(marks)[0], atol=0.01)
    assert marks[1] > marks[0] + 20
    shares = np.array(areas) / areas[0]
    np.testing.assert_allclose(shares, (np.array([14, 12, 9, 11, 13]) / 14) ** 2, atol=0.05)
    _, label = make_study(AFFINES["LPS"])
    answer = page.ask("document.querySelector('#curve-legend b').textContent")
    assert answer == f"{(label[4] == 1).sum() * 1.5 * 1.5 * 8 / 1000:.1f} mL"
    assert page.errors == []


def test_keys_buttons_and_the_curve_lead_to_frames(page: Browser):
    assert page.ask("stage.frame()") == 0
    page.press("ArrowRight")
    assert page.ask("stage.frame()") == 1
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.ask("stage.frame()") == FRAMES - 1, "a cycle goes round"
    page.click("[data-frame='2']")
    assert page.ask("[document.querySelector('[data-frame=\"2\"]').textContent, stage.frame()]") == ["ES", 2]
    page.click("svg.curve", right=0.98)
    assert page.ask("stage.frame()") == FRAMES - 1
    page.click("svg.curve", right=0.09)
    assert page.ask("stage.frame()") == 0


CLOCK = """(() => {
    let now = 0, turns = [];
    performance.now = () => now;
    window.requestAnimationFrame = (turn) => turns.push(turn);
    window.advance = (ms) => { now += ms; turns.splice(0).forEach((turn) => turn(now)); return stage.frame(); };
})()"""
"""A clock of the page that the test alone moves; the test runs its callbacks, too."""


def test_play_advances_in_the_studys_time_and_pauses(page: Browser):
    page.ask(CLOCK)
    page.ask("document.getElementById('speed').value = '1'")
    page.click("#play")
    times = np.arange(10, 1250, 30)
    frames = [page.ask("advance(10)"), *(page.ask("advance(30)") for _ in times[1:])]
    assert frames == (times // 100 % FRAMES).tolist(), "0.1 s a frame, round and round"
    page.click("#play")
    assert [page.ask("advance(300)") for _ in range(3)] == 3 * [frames[-1]]
    assert page.ask("document.getElementById('play').textContent") == "▶ Play"


def test_opacity_outline_slices_and_views(page: Browser):
    def set_slider(anchor: str, value: int) -> None:
        page.ask(f"(() => {{ const s = document.getElementById('{anchor}'); s.value = {value};"
                 "s.dispatchEvent(new Event('input')); })()")  # fmt: skip

    whole = int(tinted(pixels(page), 1).sum())
    page.click("#outline")
    ring = tinted(pixels(page), 1)
    assert 0.05 * whole < ring.sum() < 0.4 * whole
    row, column = center(ring).astype(int)
    assert not ring[row - 5 : row + 5, column - 5 : column + 5].any()
    page.click("#outline")
    assert int(tinted(pixels(page), 1).sum()) == pytest.approx(whole, rel=0.02)
    set_slider("opacity", 0)
    assert tinted(pixels(page), 1).sum() < 0.01 * whole
    set_slider("opacity", 60)
    for index in range(SLICES):
        set_slider("slice", index)
        assert page.ask("[stage.slice(), stage.studySlice()]") == [index, index]
        assert page.ask("document.getElementById('slice-value').textContent") == str(index)
    page.click("[data-view=mosaic]")
    mosaic = tinted(pixels(page), 2)
    columns, rows = mosaic.any(0), mosaic.any(1)
    pieces = [int((np.diff(line.astype(int)) == 1).sum()) for line in (columns, rows)]
    assert np.prod(pieces) == SLICES, "every slice once"
    assert page.ask("document.getElementById('slice').disabled")
    for view in ("planes", "coronal", "sagittal", "axial", "slices"):
        page.click(f"[data-view={view}]")
        assert tinted(pixels(page), 1).any(), view
        assert page.ask("document.querySelector('.chosen').dataset.view") == view
    assert page.errors == []


def test_slices_are_counted_as_the_file_and_the_printed_pictures_count_them(chromium: Browser, out: Path):
    """Slice 0 is the one nearest to the feet in one study, and nearest to the head in the other."""
    for name, foremost in (("RAS", False), ("RAS, feet last", True)):
        chromium.open(out / f"{name}.html", "document.body.dataset.stage === 'ready'")
        chromium.ask("stage.setSlice(0)")
        assert chromium.ask("[stage.slice(), stage.studySlice()]") == [0, 0]
        assert (chromium.ask("stage.viewer.scene.crosshairPos[2]") > 0.5) == foremost
    assert chromium.errors == []


def test_without_webgl_the_page_keeps_pictures_and_curve(out: Path):
    with Browser(NO_WEBGL) as browser:
        browser.open(out / "RAS.html", "document.body.dataset.stage")
        assert browser.ask("document.body.dataset.stage") == "none"
        assert browser.ask("document.getElementById('no-stage').innerText").startswith("This browser has no WebGL2")
        assert browser.ask("document.getElementById('stage').offsetHeight") == 0
        assert browser.ask("[...document.images].every((image) => image.naturalWidth > 0)")
        browser.press("ArrowRight")
        assert browser.ask("document.getElementById('now').dataset.frame") == "1"


def test_a_reference_far_above_the_curve_is_in_the_picture_too(chromium: Browser, phantom: Path, tmp_path: Path):
    """Keep the rings of the reference inside the axes."""
    case = next(one["case"] for one in json.loads((phantom / "dataset.json").read_text())["training"])
    study = read_image(phantom / f"images/{case}.nii.gz")
    write_image(tmp_path / f"found/{case}.nii.gz", np.zeros((study.frames, *study.grid), np.uint8), like=study)
    report(phantom, tmp_path / "found", tmp_path / "out")
    chromium.open(tmp_path / f"out/{case}.html", "document.body.dataset.stage")
    curve = "document.querySelector('.curve').getBoundingClientRect()"
    tops = chromium.ask("[...document.querySelectorAll('.reference')].map((ring) => ring.getBoundingClientRect().top)")
    assert len(tops) >= 3
    assert min(tops) >= chromium.ask(f"{curve}.top")


def test_print_hides_viewer_and_animation(page: Browser, tmp_path: Path):
    def heights() -> list[int]:
        return page.ask(
            "['#curve', '.curve-picture', '#stage', '.loop'].map((s) => document.querySelector(s).offsetHeight)"
        )

    curve, picture, stage, loop = heights()
    assert (curve > 0, picture, stage > 300, loop > 0) == (True, 0, True, True)
    page.call("Emulation.setEmulatedMedia", media="print")
    curve, picture, stage, loop = heights()
    page.call("Emulation.setEmulatedMedia", media="")
    assert (curve, picture > 0, stage, loop) == (0, True, 0, 0)
    assert page.printed(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_index_links_to_every_study_and_back(chromium: Browser, out: Path):
    chromium.errors.clear()
    for name in AFFINES:
        chromium.open(out / "index.html")
        assert chromium.ask("[...document.images].every((image) => image.naturalWidth > 100)")
        chromium.ask(f"[...document.links].find((link) => link.textContent === {json.dumps(name)}).click()")
        chromium.wait(
            f"document.readyState === 'complete' && document.querySelector('h1').textContent === {json.dumps(name)}"
        )
        chromium.ask("document.querySelector('nav a').click()")
        chromium.wait("document.readyState === 'complete' && location.pathname.endsWith('/index.html')")
    assert chromium.errors == []
