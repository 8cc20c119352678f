"""Links of a page, made absolute: `python deploy/absolute_links.py README.md https://server/owner/name TAG` changes the file.

A page of the package index shows the README without the files beside it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return a page of Markdown with its links to files replaced by those of a repository's tag; pictures by their contents."""

    def replaced(match: re.Match[str]) -> str:
        kind = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({repository}/{kind}/{tag}/{match[3]})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)", replaced, text)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: python {sys.argv[0]} PAGE REPOSITORY TAG")
    page = Path(sys.argv[1])
    page.write_text(absolute_links(page.read_text(encoding="utf-8"), *sys.argv[2:]), encoding="utf-8")
