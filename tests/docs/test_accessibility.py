"""The site's first pages and a report break no rule of axe-core; `make accessibility` checks all pages."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PAGES = ("index.html", "start/demo.html", "reference/commands/evaluate.html", "reference/python/images.html")


@pytest.fixture
def check(monkeypatch) -> ModuleType:
    """The program that checks pages."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "accessibility")
    import check

    if check.CHROMIUM is None or not check.AXE.exists():
        pytest.skip("Chromium or axe-core is missing: npm ci in docs/accessibility")
    return check


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_report_breaks_no_rule(check, tmp_path):
    pages = sorted(check.make_report(tmp_path).rglob("*.html"))
    assert len(pages) == 3
    assert list(check.check(pages)) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not SITE.exists(), reason="the site is not built: make docs")
def test_pages_of_the_site_break_no_rule(check):
    assert list(check.check([SITE / page for page in PAGES])) == []


@pytest.mark.slow
def test_what_is_wrong_is_found(check, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><html lang="en"><title>t</title><main><h1>t</h1><img src="x"><p style="width: 3000px">x</p></main>'
    )
    found = "\n".join(check.check([page]))
    assert "(phone, light): image-alt, 1 times" in found
    assert "(desktop, light): width" in found
