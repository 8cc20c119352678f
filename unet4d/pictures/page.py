"""A self-contained HTML page: style and pictures inside it, no script, no address outside it. All text is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_MEDIA = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}
_STYLE = """
:root { --ink: #17202a; --soft: #5d6d7e; --line: #dfe4ea; --paper: #ffffff; --ground: #f4f6f8; --accent: #1f5f99; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
       "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 27px; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 0 0 2px; }
h3 { font-size: 13px; margin: 22px 0 6px; color: var(--soft); text-transform: uppercase; letter-spacing: .06em; }
p { margin: 6px 0; } .soft { color: var(--soft); font-size: 13.5px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.limits { border-left: 4px solid #d68910; background: #fef5e7; padding: 9px 14px; margin: 16px 0;
  border-radius: 0 6px 6px 0; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px 24px; margin: 20px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; font-size: 13px; color: var(--soft); border-bottom: 2px solid var(--line); }
td { text-align: right; border-bottom: 1px solid var(--line); }
th, td { padding: 6px 10px; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
figure { margin: 14px 0 0; } figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; }
img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 8px; }
nav { columns: 4 180px; font-size: 14px; } nav a { display: block; overflow-wrap: anywhere; }
.warn { color: #a04000; }
@media print { body { background: white; font-size: 12px; } main { padding: 0; max-width: none; } nav { display: none; }
  section { border: 0; padding: 0; break-before: page; } section.lead { break-before: auto; }
  figure, tr { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """The whole page, around pieces of HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def text(words: str, tag: str = "p", kind: str = "") -> str:
    """One element holding text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<{tag}{attribute}>{html.escape(words)}</{tag}>"


def section(pieces: Sequence[str], anchor: str = "", kind: str = "") -> str:
    """A card of pieces of HTML, to which `links` with the same anchor lead."""
    return f'<section id="{html.escape(anchor)}" class="{kind}">' + "\n".join(pieces) + "</section>"


def links(targets: Sequence[tuple[str, str]]) -> str:
    """A list of (anchor, name) within the page."""
    listed = (f'<a href="#{html.escape(anchor)}">{html.escape(name)}</a>' for anchor, name in targets)
    return "<nav>" + "".join(listed) + "</nav>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str] = ()) -> str:
    """A table of text; where `colours` are given, a dot of that colour begins each row."""
    lines = []
    for index, row in enumerate(rows):
        dot = f'<span class="dot" style="background:{html.escape(colours[index])}"></span>' if colours else ""
        cells = [html.escape(cell) for cell in row]
        lines.append("<tr>" + "".join(f"<td>{c}</td>" for c in (dot + cells[0], *cells[1:])) + "</tr>")
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def figure(picture: Path, caption: str) -> str:
    """A picture file, put into the page, with its caption."""
    content = base64.b64encode(picture.read_bytes()).decode("ascii")
    source = f"data:{_MEDIA[picture.suffix]};base64,{content}"
    words = html.escape(caption)
    return f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'
