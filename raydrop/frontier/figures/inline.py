"""Figures as elements of an HTML page that holds several, in as few bytes as they need."""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter

from PIL import Image

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COORDINATES = re.compile(r' (?:d|x|y|points)="[^"]*"|translate\([^)]*\)')
_REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')
_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
# Matplotlib's rule for all elements would reach beyond the figure; its parts inherit it instead.
_OWN_STYLE = re.compile(r'<defs><style type="text/css">\*\{[^<]*</style></defs>')
_INHERITED = "stroke-linejoin: round; stroke-linecap: butt"
_STYLE = re.compile(r'\sstyle="([^"&<]*)"')
_OFTEN = 4


def inline_svg(svg: bytes, prefix: str, description: str) -> str:
    """Return an SVG file as an element for an HTML page that holds several.

    What is drawn stays the same, to a hundredth of a point; comments, indentation and ids that
    nothing refers to are left out, and styles that many parts share are written once.

    Args:
        svg: A file that Matplotlib wrote.
        prefix: Put before every id and class, since these must differ between the figures of a
            page.
        description: What a screen reader says.
    """
    text = svg.decode()
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    text = _COORDINATES.sub(lambda found: _NUMBER.sub(_hundredths, found[0]), text)
    text = _with_ids(text.replace("xlink:href=", "href="), prefix)
    text = _with_classes(_OWN_STYLE.sub("", text), prefix)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = f'role="img" aria-label="{html.escape(description)}"'
    return f'{head} style="{_INHERITED}" {label}>{rest}'


def inline_png(png: bytes, description: str) -> str:
    """Return a PNG file as an element for an HTML page.

    Args:
        png: The file.
        description: What a screen reader says.
    """
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def with_lossy_images(element: str, quality: int = 80) -> str:
    """Return an element with the PNG images in it as WebP, which is smaller and not exact.

    Args:
        element: As from :func:`inline_svg` or :func:`inline_png`.
        quality: Of WebP, at most 100.
    """

    def smaller(found: re.Match[str]) -> str:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
            image.save(buffer, "WEBP", quality=quality, method=4)
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    return _PNG.sub(smaller, element)


def _hundredths(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _with_ids(text: str, prefix: str) -> str:
    """Return an SVG with short ids behind a prefix, and none that nothing refers to."""
    names = dict.fromkeys(_REFERENCE.findall(text))
    short = {name: f"{prefix}-{number:x}" for number, name in enumerate(names)}

    def own(found: re.Match[str]) -> str:
        return f' id="{short[found[1]]}"' if found[1] in short else ""

    text = re.sub(r'\sid="([^"]*)"', own, text)
    return _REFERENCE.sub(
        lambda found: found[0][: -len(found[1])] + short[found[1]],
        text,
    )


def _with_classes(text: str, prefix: str) -> str:
    """Return an SVG with styles that are frequent as classes."""
    frequent = [style for style, count in Counter(_STYLE.findall(text)).items() if count >= _OFTEN]
    if not frequent:
        return text
    named = {style: f"{prefix}-{number:x}c" for number, style in enumerate(frequent)}

    def own(found: re.Match[str]) -> str:
        return f' class="{named[found[1]]}"' if found[1] in named else found[0]

    head, rest = _STYLE.sub(own, text).split(">", 1)
    rules = "".join(f".{name}{{{style}}}" for style, name in named.items())
    return f"{head}><style>{rules}</style>{rest}"
