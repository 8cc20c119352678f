"""A self-contained HTML page: style, scripts and pictures inside it, no address outside it. All text is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from unet4d.report.pages.glossary import MEANINGS
from unet4d.system.text import printable

_MEDIA = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}


def escaped(words: str) -> str:
    """Return text as HTML; characters that are not visible, such as those that turn the direction of text, become escapes."""
    return html.escape(printable(words, keep="\n"))


def page(title: str, body: Sequence[str], scripts: Sequence[str] = ()) -> str:
    """The whole page, around pieces of HTML.

    Its Content-Security-Policy forbids every connection, and every script but these, which it knows by their hashes.

    Args:
        title: of the window.
        body: pieces of HTML.
        scripts: run in this order at the end of the page; none may hold "</script".
    """
    for script in scripts:
        if "</script" in script.lower() or "<!--" in script or "\r" in script:
            raise ValueError("a script holds what would end it within a page")
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    policy += "; base-uri 'none'; form-action 'none'"
    style = (files("unet4d.report.pages") / "page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title)}</title><style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main>\n"
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body></html>\n"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def text(words: str, tag: str = "p", kind: str = "") -> str:
    """One element holding text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<{tag}{attribute}>{escaped(words)}</{tag}>"


def link(address: str, words: str) -> str:
    """A link to another page of the report."""
    return f'<a href="{html.escape(address)}">{escaped(words)}</a>'


def element(tag: str, pieces: Sequence[str], kind: str = "", anchor: str = "") -> str:
    """An element around pieces of HTML."""
    attributes = (f' id="{escaped(anchor)}"' if anchor else "") + (f' class="{kind}"' if kind else "")
    return f"<{tag}{attributes}>" + "\n".join(pieces) + f"</{tag}>"


def section(pieces: Sequence[str], kind: str = "", anchor: str = "") -> str:
    """A card of pieces of HTML."""
    return element("section", pieces, kind, anchor)


def listed(sentences: Sequence[str], kind: str = "") -> str:
    """A list of texts."""
    return element("ul", [text(sentence, "li") for sentence in sentences], kind)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str] = (), kind: str = "") -> str:
    """A table of text; where `colours` are given, a dot of that colour begins each row."""
    lines = []
    for index, row in enumerate(rows):
        cells = [escaped(cell) for cell in row]
        cells[0] = (dot(colours[index]) if colours else "") + cells[0]
        lines.append(cells)
    return rich_table(head, lines, kind)


def rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table with pieces of HTML as its cells; the head is text.

    On a narrow screen each row becomes a card without a head, so that each cell carries its column's name.
    """
    names = [f' data-label="{escaped(cell)}"' for cell in head]
    lines = [
        "<tr>" + "".join(f"<td{name}>{cell}</td>" for name, cell in zip_longest(names, row, fillvalue="")) + "</tr>"
        for row in rows
    ]
    titles = "".join(f"<th>{abbreviation(cell)}</th>" for cell in head)
    kind = " ".join(filter(None, (kind, "stacked" if head else "")))
    attribute = f' class="{kind}"' if kind else ""
    above = f"<thead><tr>{titles}</tr></thead>" if head else ""
    return f'<div class="wide"><table{attribute}>{above}<tbody>{"".join(lines)}</tbody></table></div>'


def abbreviation(words: str) -> str:
    """Words with their meaning as a tooltip, where `MEANINGS` has it."""
    meaning, shown = MEANINGS.get(words), escaped(words)
    return f'<abbr title="{escaped(meaning)}">{shown}</abbr>' if meaning else shown


def explained(words: Iterable[str]) -> str:
    """Return the meanings of words, of those that have one, as a list that a touch unfolds, for screens without tooltips."""
    known = [word for word in dict.fromkeys(words) if word in MEANINGS]
    if not known:
        return ""
    pairs = [f"<div>{text(word, 'dt')}{text(MEANINGS[word], 'dd')}</div>" for word in known]
    return element("details", [text("What these words mean", "summary"), element("dl", pairs)], kind="words")


def dot(colour: str) -> str:
    """A dot in a class's colour."""
    return f'<span class="dot" style="background:{escaped(colour)}"></span>'


def figure(picture: Path, caption: str, kind: str = "") -> str:
    """A picture file, put into the page, with its caption."""
    words = escaped(caption)
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<figure{attribute}><div class="wide">{image(picture, caption)}</div><figcaption>{words}</figcaption></figure>'
    )


def image(picture: Path, words: str) -> str:
    """A picture file, put into the page; `words` say what it shows."""
    content = base64.b64encode(picture.read_bytes()).decode("ascii")
    return f'<img src="data:{_MEDIA[picture.suffix]};base64,{content}" alt="{escaped(words)}">'


def data(anchor: str, value: Any) -> str:
    """What the scripts read, as JSON; nothing in it can end the element it stands in."""
    safe = (
        json.dumps(_visible(value), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    )
    return f'<script type="application/json" id="{anchor}">{safe.replace("&", chr(92) + "u0026")}</script>'


def _visible(value: Any) -> Any:
    """Return a value for JSON with its texts made printable."""
    if isinstance(value, str):
        return printable(value, keep="\n")
    if isinstance(value, dict):
        return {_visible(key): _visible(inner) for key, inner in value.items()}
    return [_visible(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def block(anchor: str, content: str) -> str:
    """Base64 that the scripts read."""
    return f'<script type="application/octet-stream" id="{anchor}">{content}</script>'
