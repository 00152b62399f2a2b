"""The frame of every HTML page that Headwater writes, and its parts: one file, no script, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

IMAGE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #5b6472; --paper: #ffffff; --panel: #f5f7fa; --line: #dde2e9;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9f0; --soft: #a3adbb; --paper: #14181f; --panel: #1d232d;
  --line: #333c49; --accent: #6cb6e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; }
.answer { background: var(--panel); border-left: 4px solid var(--accent); border-radius: 6px; padding: .9rem 1.1rem; }
.answer p:first-child { font-size: 1.15rem; margin-top: 0; }
.answer p:last-child { margin-bottom: 0; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { text-align: left; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.fact + td.fact { overflow-wrap: anywhere; }
td.whole { white-space: nowrap; }
.wide + .wide { margin-top: 1rem; }
figure { margin: 1rem 0; background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: .6rem;
  text-align: center; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #5b6472; font-size: .88rem; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto;
  font-size: .86rem; line-height: 1.45; }
summary { cursor: pointer; color: var(--accent); }
meter { width: 8rem; max-width: 30vw; }
.players { display: flex; flex-wrap: wrap; gap: .8rem; }
.players div { flex: 1 1 15rem; font-size: .93rem; }
audio { display: block; width: 100%; margin-top: .3rem; }
"""


def page(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML already; `title` is text and is escaped."""
    head = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{head}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{head}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading over `body`, which is HTML already; nothing without a body."""
    return f"<section><h2>{escaped(title)}</h2>{body}</section>" if body else ""


def figure(caption: str, image: bytes, suffix: str) -> str:
    """An image within the page; `suffix` is one of `IMAGE_TYPES`."""
    said, source = escaped(caption), f"data:{IMAGE_TYPES[suffix]};base64,{base64.b64encode(image).decode()}"
    return f'<figure><img alt="{said}" src="{source}"><figcaption>{said}</figcaption></figure>'


def player(caption: str, sound: bytes, kind: str) -> str:
    """Sound of a media type that browsers know, within the page."""
    source = f"data:{kind};base64,{base64.b64encode(sound).decode()}"
    return f'<div>{escaped(caption)}<audio controls preload="metadata" src="{source}"></audio></div>'


def bullets(items: Iterable[Any]) -> str:
    inner = "".join(f"<li>{escaped(item)}</li>" for item in items)
    return f"<ul>{inner}</ul>" if inner else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a head, or where `head` is empty one of facts: a name and a value that may break anywhere."""
    kind = "" if head else ' class="fact"'
    body = "".join("<tr>" + "".join(f"<td{kind}>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    names = "<tr>" + "".join(f"<th>{escaped(name)}</th>" for name in head) + "</tr>" if head else ""
    return f'<div class="wide"><table>{names}{body}</table></div>'


def escaped(value: Any) -> str:
    return html.escape("" if value is None else str(value))
