"""SVG files as elements of an HTML page that holds several, in as few bytes as they need."""

from __future__ import annotations

import html
import re
from collections import Counter

_REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')
# Matplotlib's rule for all elements would reach beyond the figure; its parts inherit it instead.
_OWN_STYLE = re.compile(r'<defs>\s*<style type="text/css">\*\{[^<]*</style>\s*</defs>')
_INHERITED = "stroke-linejoin: round; stroke-linecap: butt"
_STYLE = re.compile(r'\sstyle="([^"&<]*)"')
_OFTEN = 4


def inline_svg(svg: bytes, prefix: str, description: str) -> str:
    """Return a file of :func:`~raydrop.frontier.figures.canvas.to_svg` as an element of a page.

    Comments and ids that nothing refers to are left out, and styles that many parts share are
    written once. Ids and classes begin with the prefix, since these must differ between the figures
    of a page; a screen reader says the description.
    """
    text = svg.decode()
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL).strip()
    text = _OWN_STYLE.sub("", text.replace("xlink:href=", "href="))
    text = _with_classes(_with_ids(text, prefix), prefix)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = f'role="img" aria-label="{html.escape(description)}"'
    return f'{head} style="{_INHERITED}" {label}>{rest}'


def _with_ids(text: str, prefix: str) -> str:
    """Return an SVG with short ids behind a prefix, and none that nothing refers to."""
    names = dict.fromkeys(_REFERENCE.findall(text))
    short = {name: f"{prefix}-{number:x}" for number, name in enumerate(names)}

    def own(found: re.Match[str]) -> str:
        return f' id="{short[found[1]]}"' if found[1] in short else ""

    text = re.sub(r'\sid="([^"]*)"', own, text)
    return _REFERENCE.sub(lambda found: found[0][: -len(found[1])] + short[found[1]], text)


def _with_classes(text: str, prefix: str) -> str:
    """Return an SVG with styles that are frequent as classes."""
    counts = Counter(_STYLE.findall(text))
    frequent = [style for style, count in counts.items() if count >= _OFTEN]
    named = {style: f"{prefix}-{number:x}c" for number, style in enumerate(frequent)}

    def own(found: re.Match[str]) -> str:
        return f' class="{named[found[1]]}"' if found[1] in named else found[0]

    head, rest = _STYLE.sub(own, text).split(">", 1)
    rules = "".join(f".{name}{{{style}}}" for style, name in named.items())
    return f"{head}><style>{rules}</style>{rest}" if rules else f"{head}>{rest}"
