"""What all figures share: the look, panels on a canvas, one legend outside, and files as bytes.

Figures are made without pyplot's global state, and the same drawing gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

Look = dict[str, Any]
"""Keyword arguments of a line."""
Entries = Sequence[Line2D | Patch]
"""Of a legend."""

# Okabe and Ito's colour-blind-safe set without its yellow, which vanishes on white; black first,
# so that random pruning, the method to beat, stands out.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
GREY = "#555555"
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"

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

LONGEST_NAME = 48
"""Letters of a name in a figure, where there is not even less room; the rest is cut off."""
UNIT_LETTERS = 22
"""Letters of the name of a class or group beside a row."""
DPI = 150
"""Dots per inch of a PNG, and of what is pixels in an SVG."""

_METADATA = {
    "svg": ("Date", "Creator", "Format", "Type"),
    "png": ("Software",),
    "pdf": ("CreationDate", "Creator", "Producer"),
}
_COORDINATES = re.compile(r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*|translate\([^)]*\)')
_DECIMALS = re.compile(r"-?\d*\.\d{3,}")
_PNG = re.compile('data:image/png;base64,([^"]+)')
_LINE_END = re.compile(r"\s*\n\s*")


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG without date or other metadata, to a hundredth of a point.

    Photographs in it are JPEG, which takes a third of what PNG takes of a report.
    """
    svg = _drawn(figure, "svg", FigureCanvasSVG).decode()
    # Line ends and what nobody sees of coordinates are a sixth of the file.
    svg = _COORDINATES.sub(lambda found: _DECIMALS.sub(_hundredths, found[0]), svg)
    svg = _PNG.sub(_smaller_picture, svg)
    return (_LINE_END.sub(" ", svg).replace("> <", "><") + "\n").encode()


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG at 150 dots per inch."""
    return _drawn(figure, "png", FigureCanvasAgg)


def to_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF with text as text, and without date or other metadata."""
    return _drawn(figure, "pdf", FigureCanvasPdf)


def _drawn(figure: Figure, kind: str, canvas_of: Any) -> bytes:
    """Draw once by a canvas; ``savefig`` would draw twice, once for nothing."""
    buffer, canvas, dpi = io.BytesIO(), figure.canvas, figure.dpi
    with styled(), mpl.rc_context({"pdf.fonttype": 42}):
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            # Once for all formats, since it takes as long as drawing.
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.set_dpi(DPI)
        try:
            write = getattr(canvas_of(figure), f"print_{kind}")
            write(buffer, metadata=dict.fromkeys(_METADATA[kind]))
        finally:
            figure.set_dpi(dpi)
            figure.set_canvas(canvas)
    return buffer.getvalue()


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


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


@contextmanager
def styled() -> Iterator[None]:
    """Have our look on top of Matplotlib's own, whatever the user's settings are.

    It decorates whatever makes a figure, since lines and texts take settings when they are made.
    """
    with matplotlib.style.context(["default", STYLE]):
        yield


def new_figure(width: float, height: float, entries: Entries = (), **layout: str) -> Figure:
    """Return a figure of some width and height in inches, or higher if the legend takes more."""
    figure = Figure(figsize=(width, max(height, 0.3 + 0.23 * len(entries))), **layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def panel_grid(
    titles: Sequence[str],
    places: Sequence[tuple[int, int]],
    panel: tuple[float, float],
    entries: Entries,
    *,
    letters: int = LONGEST_NAME + 1,
    labels: tuple[str, str] = ("", ""),
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of some inches on shared axes, and its legend.

    Panels have ``places``, their rows and columns; others stay empty. ``letters`` fit above one;
    longer titles are wrapped. The ``labels`` of both axes stand at the outermost panels.
    """
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    size = panel[0] * columns + (2.2 if entries else 1.2), panel[1] * rows + 0.3
    figure = new_figure(*size, entries, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place in np.ndindex(rows, columns):
        if place not in places:
            figure.delaxes(axes.item(place))
    for title, (row, column) in zip(titles, places, strict=True):
        ax = axes.item(row, column)
        shown = textwrap.fill(cut(title), letters, break_long_words=False)
        ax.set_title(shown, fontsize=9 if letters <= LONGEST_NAME else "large")
        left = all((row, other) not in places for other in range(column))
        bottom = all((other, column) not in places for other in range(row + 1, rows))
        ax.tick_params(labelleft=left, labelbottom=bottom)
        ax.set_xlabel(labels[0] if bottom else "")
        ax.set_ylabel(labels[1] if left else "")
    draw_legend(figure, entries)
    return figure, [axes[place] for place in places]


def in_rows(count: int, columns: int) -> list[tuple[int, int]]:
    """Return the rows and columns of panels that fill a grid row by row."""
    return [divmod(number, columns) for number in range(count)]


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return axes at some inches from the left and from the top.

    Where labels are many, a layout engine would take longer than the drawing.
    """
    across, down = figure.get_size_inches()
    return figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))


def text_width(texts: Iterable[str], size: float) -> float:
    """Return inches that suffice for the longest of some texts of ``size`` points."""
    return 0.62 * size / 72 * max(map(len, texts), default=0)


def draw_legend(figure: Figure, entries: Entries, x: float | None = None) -> None:
    """Draw the one legend: to the right of all panels, or at some inches from the left."""
    if not entries:
        return
    place: Look = {"loc": "outside right upper", "handlelength": 2.6}
    if x is not None:
        across, down = figure.get_size_inches()
        place = {"loc": "upper left", "bbox_to_anchor": (x / across, 1 - 0.15 / down)}
        place |= {"fontsize": 8, "handlelength": 2.2}
    legend = figure.legend(handles=list(entries), **place)
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if entry.get_gid() == "heading" else "normal")


def heading(text: str) -> Line2D:
    """Return the entry of a legend that names the entries below it."""
    return legend_entry(text, {"linestyle": "none", "gid": "heading"})


def legend_entry(label: str, look: Look) -> Line2D:
    """Return the entry of a legend that shows a look."""
    # Matplotlib takes an underscore at the beginning for "leave this out".
    shown = re.sub("^_", " _", cut(label, end=LONGEST_NAME // 2))
    return Line2D([], [], label=shown, **look)


def write_beside(ax: Axes, text: str, place: tuple[float, float], colour: Any = "black") -> None:
    """Write a short text right of a place, perhaps beyond the frame."""
    look: Look = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
    ax.annotate(cut(text), place, (6, 0), color=colour, fontsize=8, **look)


def without_frame(ax: Axes) -> None:
    """Leave nothing of a panel but what is drawn in it, and the labels of its ticks."""
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def cut(name: str, longest: int = LONGEST_NAME, end: int = 0) -> str:
    """Return a name, or as much as there is room for: ``end`` letters of its end, and its begin."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


def ordered_from(names: Iterable[str], first: str) -> list[str]:
    """Return different names in their order, but one of them, if it is there, first."""
    return sorted(set(names), key=lambda name: (name != first, name))
