"""Builds the site into build/site, where every warning and every broken link is an error: `python -m generate` in docs/."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from generate import api, commands
from generate.links import broken_links
from generate.stage import ROOT, generated_pages, stage

BUILD = ROOT / "build"
ON_SERVER, LOCAL = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"
CONFIG = Path(__file__).with_name("zensical.toml")


def main() -> int:
    """Build; return the exit code."""
    stage(BUILD / "docs")
    config = CONFIG.read_text(encoding="utf-8")
    for folder in (commands.FOLDER, api.FOLDER):
        config = config.replace(
            f'"{folder}/"', json.dumps([name for name in generated_pages() if name.startswith(folder)])
        )
    (BUILD / "zensical.toml").write_text(config, encoding="utf-8")
    shutil.rmtree(BUILD / "site", ignore_errors=True)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(BUILD / "zensical.toml")]
    done = subprocess.run(
        build,
        cwd=ROOT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(done.stdout, end="")
    if done.returncode or "WARNING" in done.stdout:
        print("the site has warnings or errors, expected none; see above", file=sys.stderr)
        return done.returncode or 1
    (BUILD / "site" / "404.html").unlink()  # its addresses hold at the root of a server alone
    for page in (BUILD / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = text.replace(ON_SERVER, os.path.relpath(BUILD / "site" / LOCAL, page.parent))
        page.write_text(
            re.sub(r"<th([^>]*)></th>", r"<td\1></td>", text), encoding="utf-8"
        )  # a heading without text is none
    found = broken_links(BUILD / "site")
    print("\n".join(found) or f"no broken link; open {BUILD / 'site' / 'index.html'}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
