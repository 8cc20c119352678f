"""Screenshot of a page of the report of `make demo`, in Chromium: `python docs/drawing/report_pictures.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "report"))
from browser import Browser  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
REPORT = ROOT / "demo" / "report"
SIZE = (1280, 960)


def write(page: Path, ready: str, picture: Path) -> None:
    """Write a screenshot of a page."""
    with tempfile.TemporaryDirectory() as folder, Browser(size=SIZE) as browser:
        browser.open(page, ready)
        screenshot = browser.picture(Path(folder) / "page.png")
        with Image.open(screenshot) as image:
            image.convert("RGB").save(picture, quality=60, method=6)


def main() -> int:
    """Write the screenshot."""
    if not (REPORT / "index.html").exists():
        print(f"{REPORT} is missing, expected the report of make demo; run it first", file=sys.stderr)
        return 2
    page = sorted(REPORT.glob("phantom*.html"))[0]
    write(page, "document.body.dataset.stage === 'ready'", PICTURES / "report.webp")
    return 0


if __name__ == "__main__":
    sys.exit(main())
