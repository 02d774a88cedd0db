"""What all figures share: the look, the palette, one legend outside, and files as bytes.

Figures are made without pyplot's global state, and the same drawing gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.style
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

Look = dict[str, Any]
"""Keyword arguments of a line."""

# Okabe and Ito's colour-blind-safe set without its yellow, which vanishes on white; black first,
# so that random pruning, the method to beat, stands out.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")

FRONT_COLOUR = "#B8860B"

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    # Fixed, where it would be anyway: looking for ticks above a panel takes a tenth of the time.
    "axes.titley": 1.0,
    "legend.frameon": False,
    "svg.hashsalt": "raydrop",
    "svg.fonttype": "path",
    # Names may have dollar signs, which are no formulas.
    "text.parse_math": False,
}
"""On top of Matplotlib's own defaults."""

_COORDINATES = re.compile(r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*')
_DECIMALS = re.compile(r"-?\d*\.\d{3,}")
_PNG = re.compile('data:image/png;base64,([^"]+)')
_LINE_END = re.compile(r"\s*\n\s*")

LONGEST_NAME = 48
"""Letters of a name in a figure, where there is not even less room; the rest is cut off."""

DPI = 150
"""Dots per inch of a PNG, and of what is pixels in an SVG."""


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG without date or other metadata, to a hundredth of a point.

    Photographs in it are JPEG, which takes a third of what PNG takes of a report.
    """
    buffer, nothing = io.BytesIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _drawable(figure):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata=nothing)
    return _compact(buffer.getvalue().decode()).encode()


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG at 150 dots per inch."""
    buffer = io.BytesIO()
    with _drawable(figure):
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF with text as text, and without date or other metadata."""
    buffer, nothing = io.BytesIO(), dict.fromkeys(("CreationDate", "Creator", "Producer"))
    with _drawable(figure), mpl.rc_context({"pdf.fonttype": 42}):
        canvas: Any = FigureCanvasPdf(figure)
        canvas.print_pdf(buffer, metadata=nothing)
    return buffer.getvalue()


def _compact(svg: str) -> str:
    """Leave out line ends and what nobody sees of coordinates: about a sixth of the file."""
    short = _COORDINATES.sub(lambda found: _DECIMALS.sub(_hundredths, found[0]), svg)
    short = _PNG.sub(_smaller_picture, short)
    return _LINE_END.sub(" ", short).replace("> <", "><") + "\n"


def _smaller_picture(found: re.Match[str]) -> str:
    """Return a picture as JPEG if it is opaque and half as large then, or as it was."""
    png = base64.b64decode(found[1])
    picture = PIL.Image.open(io.BytesIO(png))
    if picture.getchannel("A").getextrema() != (255, 255):
        return found[0]
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "jpeg", quality=85, subsampling=0, optimize=True)
    if 2 * buffer.tell() > len(png):
        return found[0]
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


@contextmanager
def _drawable(figure: Figure) -> Iterator[None]:
    """Prepare for one drawing by a canvas; ``savefig`` would draw twice, once for nothing."""
    canvas, dpi = figure.canvas, figure.dpi
    with styled():
        _lay_out(figure)
        figure.set_dpi(DPI)
        try:
            yield
        finally:
            figure.set_dpi(dpi)
            figure.set_canvas(canvas)


def _lay_out(figure: Figure) -> None:
    """Place everything once, since that takes as long as drawing it, for every format."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        figure.set_layout_engine("none")


@contextmanager
def styled() -> Iterator[None]:
    """Have our look on top of Matplotlib's own, whatever the user's settings are.

    It decorates whatever makes a figure, since lines and texts take settings when they are made.
    """
    with matplotlib.style.context(["default", STYLE]):
        yield


def new_figure(width: float, height: float, handles: Sequence[Line2D]) -> Figure:
    """Return a figure of some width and height in inches, or higher if the legend takes more."""
    height = max(height, 0.3 + 0.23 * len(handles))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put the one legend to the right of all panels."""
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=2.6)
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if handle.get_gid() == "heading" else "normal")


def cut(name: str, longest: int = LONGEST_NAME, end: int = 0) -> str:
    """Return a name, or as much as there is room for: ``end`` letters of its end, and its begin."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


def heading(text: str) -> Line2D:
    """Return the entry of a legend that names the entries below it."""
    return legend_entry(text, {"linestyle": "none", "gid": "heading"})


def legend_entry(label: str, look: Look) -> Line2D:
    """Return the entry of a legend that shows a look."""
    # Matplotlib takes an underscore at the beginning for "leave this out".
    shown = re.sub("^_", " _", cut(label, end=LONGEST_NAME // 2))
    return Line2D([], [], label=shown, **look)


def equality_look() -> Look:
    """Return the look of the line on which the worst accuracy is the average."""
    return {"color": "#999999", "linewidth": 0.8, "linestyle": (0, (1, 3))}


def ring_look(width: float) -> Look:
    """Return the look of a ring of some line width around points of a front."""
    return {
        "color": FRONT_COLOUR,
        "marker": "o",
        "markersize": 17,
        "fillstyle": "none",
        "markeredgewidth": width,
        "linestyle": "none",
    }


def marker_size(keep_fraction: float) -> float:
    """Return a diameter in points, so that areas grow with the keep fraction."""
    return 3.5 + 7.0 * math.sqrt(keep_fraction)


def ordered_from(names: Iterable[str], first: str) -> list[str]:
    """Return different names in their order, but one of them, if it is there, first."""
    return sorted(set(names), key=lambda name: (name != first, name))
