"""Accessibility of pages by axe-core, in Chromium, at desktop and phone width, light and dark: `make accessibility`.

Without arguments: all pages of build/site, and a report of phantoms that is made for it. Else the pages, or folders of pages,
that are given. Every violation of a rule is an error. Chromium must be installed, and axe-core: `npm ci` in docs/accessibility.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "report")]
from browser import CHROMIUM, Browser  # noqa: E402

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
WIDTHS = {"desktop": (1280, 900), "phone": (375, 667)}
RULES = {"light": "", "dark": ", runOnly: ['color-contrast', 'link-in-text-block']"}
"""Options of axe-core by scheme: the dark one differs in its colors alone."""
RUN = """axe.run(document, {resultTypes: ['violations']%s}).then((found) => found.violations.map((rule) => ({
  rule: rule.id, help: rule.help, nodes: rule.nodes.map((node) => [node.target.join(' '), node.failureSummary])})))"""
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"


def make_report(folder: Path) -> Path:
    """Write a report of two phantoms with scores, one with a flag, into a folder; return the report's folder."""
    from unet4d.evaluation.evaluate import evaluate
    from unet4d.evaluation.signal_curves import CurveOptions
    from unet4d.images.image4d import read_image, read_label, write_image
    from unet4d.phantom import write_phantom
    from unet4d.report.report import report

    data = write_phantom(folder / "data", subjects=2, frames=4, shape=(40, 36, 5)).parent
    labels = json.loads((data / "dataset.json").read_text(encoding="utf-8"))["labels"]
    for truth in sorted((data / "truth").glob("*.nii.gz")):
        label = read_label(truth)
        if truth.name.startswith("phantom001"):
            label[1][label[1] == labels["left ventricle"]] = 0
        write_image(folder / "found" / truth.name, label, like=read_image(data / "images" / truth.name))
    evaluate(data, folder / "found", folder / "scores")
    report(data, folder / "found", folder / "report", folder / "scores", curves=CurveOptions(("intensity",)))
    return folder / "report"


def violations(page: Path, browser: Browser, rules: str) -> list[dict[str, Any]]:
    """Return what axe-core finds wrong on a page as it is shown, and whether it has to be scrolled sideways."""
    browser.open(page, "!document.getElementById('stage') || document.body.dataset.stage")
    browser.ask(AXE.read_text(encoding="utf-8") + ";0")
    found = browser.ask(RUN % rules)
    if browser.ask(SCROLLS):
        found.append({"rule": "width", "help": "the page is wider than the screen", "nodes": []})
    return found


def check(pages: Sequence[Path]) -> Iterator[str]:
    """Yield a line per violation of every page, at every width, light and dark."""
    for width, size in WIDTHS.items():
        with Browser(size=size) as browser:
            for scheme, rules in RULES.items():
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.call("Emulation.setEmulatedMedia", features=[feature])
                for page in pages:
                    for found in violations(page, browser, rules):
                        where = "".join(
                            f"\n    {target}: {' '.join(why.split())}" for target, why in found["nodes"][:5]
                        )
                        yield f"{page} ({width}, {scheme}): {found['rule']}, {len(found['nodes'])} times: {found['help']}{where}"


def main(arguments: Sequence[str]) -> int:
    """Check pages, print what is wrong, and return the exit code."""
    if CHROMIUM is None or not AXE.exists():
        print(
            "Chromium or axe-core is missing; install Chromium, and run npm ci in docs/accessibility", file=sys.stderr
        )
        return 2
    folder = Path(tempfile.mkdtemp(prefix="accessibility-"))
    try:
        given = [Path(one) for one in arguments] or [ROOT / "build" / "site", make_report(folder)]
        pages = [page for path in given for page in (sorted(path.rglob("*.html")) if path.is_dir() else [path])]
        count = 0
        for line in check(pages):
            print(line, flush=True)
            count += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(pages)} pages, at {len(WIDTHS)} widths, light and dark: {count} violations")
    return int(count > 0 or not pages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
