"""The report on a phone: only pictures scroll sideways, text can be read, words are explained beside their table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from unet4d.evaluation.evaluate import evaluate
from unet4d.images.image4d import read_image, read_label, write_image
from unet4d.report.report import report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

PHONES = [(375, 667), (320, 568)]
SMALLEST_TEXT_PX = 11
BOXES = """(selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length)
  .map((e) => { const b = e.getBoundingClientRect(); return [e.textContent, b.left, b.right]; })"""
SCROLLING = "[...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth"
SCROLLING += " && getComputedStyle(e).overflowX !== 'visible').map((e) => e.outerHTML.slice(0, 90))"
SIZES = """[...document.querySelectorAll('main *, svg text')].filter((e) => e.getClientRects().length
  && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((e) => { const m = e.getScreenCTM ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1;
    return [e.textContent, m * parseFloat(getComputedStyle(e).fontSize)]; })"""


@pytest.fixture(scope="module")
def pages(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the index and the page of one flagged study with scores: one frame of its left ventricle is missing."""
    root = tmp_path_factory.mktemp("phone")
    entry = json.loads((phantom / "dataset.json").read_text())
    case = entry["training"][0]["case"]
    shutil.copytree(phantom, root / "dataset")
    label = read_label(phantom / f"truth/{case}.nii.gz")
    label[1] = np.where(label[1] == entry["labels"]["left ventricle"], 0, label[1])
    write_image(root / f"found/{case}.nii.gz", label, like=read_image(phantom / f"images/{case}.nii.gz"))
    (root / "found/prediction.json").write_text(
        json.dumps({"labels": entry["labels"], "cases": {case: {"time": "cyclic"}}})
    )
    evaluate(root / "dataset", root / "found", root / "scores", cases=[case])
    index = report(root / "dataset", root / "found", root / "report", root / "scores")
    return {"index": index, "study": root / "report" / f"{case}.html"}


@pytest.fixture(scope="module", params=PHONES, ids=lambda size: f"{size[0]}px")
def phone(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser(size=request.param) as browser:
        yield browser


@pytest.fixture(params=["index", "study"])
def page(request: pytest.FixtureRequest, phone: Browser, pages: dict[str, Path]) -> tuple[str, Browser]:
    """Return one of the two pages, open and complete."""
    ready = "true" if request.param == "index" else "document.body.dataset.stage"
    phone.open(pages[request.param], ready)
    return request.param, phone


def test_only_pictures_scroll_sideways(page: tuple[str, Browser]):
    _, browser = page
    browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert [html for html in browser.ask(SCROLLING) if "<img" not in html] == []


def test_key_figures_lie_inside_the_screen(page: tuple[str, Browser]):
    name, browser = page
    boxes = browser.ask(f"({BOXES})('td, h1, .flags, .flags li, figcaption, .legend li, button, output, dl, summary')")
    width = browser.ask("innerWidth")
    assert [box for box in boxes if not 0 <= box[1] <= box[2] <= width] == []
    text = browser.ask("document.querySelector('main').innerText")
    labels = browser.ask(
        "[...document.querySelectorAll('td')].map((e) => getComputedStyle(e, '::before').content).join(' ')"
    )
    figures = ("EDV", "ESV", "EF") if name == "index" else ("flag", "Dice")
    columns = ('"flags"', '"Dice"') if name == "index" else ('"EDV mL"', '"ESV mL"', '"EF %"', '"Dice"', '"HD95 mm"')
    assert [word for word in figures if word not in text] == []
    assert [word for word in columns if word not in labels] == [], "each cell names its column"


def test_text_is_large_enough_to_read_also_in_the_curve(page: tuple[str, Browser]):
    name, browser = page
    sizes = browser.ask(SIZES)
    assert [one for one in sizes if one[1] < SMALLEST_TEXT_PX] == []
    if name == "study":
        axes = [words for words, _ in sizes if words in ("volume (mL)", "time (ms)", "time (s)")]
        assert len(axes) == 2


def test_every_column_is_explained_beside_its_table(page: tuple[str, Browser]):
    _, browser = page
    unexplained = browser.ask(
        "[...document.querySelectorAll('section th abbr')].filter((e) => ![...e.closest('section').querySelectorAll('dt')]"
        ".some((word) => word.textContent === e.textContent)).map((e) => e.textContent)"
    )
    assert unexplained == []
    browser.click("section details.words summary")
    assert browser.ask("document.querySelector('section details.words dd').getClientRects().length") > 0


def test_the_curve_is_redrawn_when_the_screen_turns(phone: Browser, pages: dict[str, Path]):
    phone.open(pages["study"], "document.body.dataset.stage")
    width = phone.ask("innerWidth")
    phone.ask("(document.querySelector('[data-frame]').click(), 1)")
    marked = phone.ask("document.getElementById('now').dataset.frame")
    change = {"height": 400, "deviceScaleFactor": 1, "mobile": False}
    try:
        phone.call("Emulation.setDeviceMetricsOverride", width=667, **change)
        phone.wait(
            "document.querySelector('svg.curve').viewBox.baseVal.width === document.getElementById('curve').clientWidth"
        )
        assert phone.ask("document.querySelector('svg.curve').viewBox.baseVal.width") > width
        assert phone.ask("document.getElementById('now').dataset.frame") == marked
    finally:
        phone.call("Emulation.setDeviceMetricsOverride", width=width, **change)
