from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from raydrop.frontier.figures.canvas import (
    DPI,
    LONGEST_NAME,
    cut,
    draw_legend,
    legend_entry,
    new_figure,
    styled,
    to_png,
    to_svg,
)

NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


@pytest.fixture
def figure() -> Figure:
    """Lines, markers, texts, and pixels in an SVG."""
    rng = np.random.default_rng(0)
    handles = [legend_entry("a line", {"color": "black"})]
    with styled():
        figure = new_figure(6, 4, handles)
        for ax in figure.subplots(2, 2, sharex=True).ravel():
            x, y = rng.normal(size=(2, 30))
            ax.plot(x, y, marker="^")
            ax.plot(y, x, "o", rasterized=True)
            ax.set_title("-0.004 of something")
        draw_legend(figure, handles)
    return figure


def saved(figure: Figure, kind: str) -> bytes:
    """What Matplotlib's own way of saving gives."""
    names = ("Software",) if kind == "png" else ("Date", "Creator", "Format", "Type")
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=dict.fromkeys(names))
    return buffer.getvalue()


def test_drawing_once_gives_the_file_that_saving_gives(figure: Figure) -> None:
    png = to_png(figure)
    assert saved(figure, "png") == png
    assert to_png(figure) == png


def test_an_svg_has_all_elements_and_coordinates_to_a_hundredth(figure: Figure) -> None:
    svg = to_svg(figure)
    whole = saved(figure, "svg")
    ours, theirs = (list(ET.fromstring(text).iter()) for text in (svg, whole))
    assert [element.tag for element in ours] == [element.tag for element in theirs]
    for short, long in zip(ours, theirs, strict=True):
        assert short.keys() == long.keys()
        for name, value in long.items():
            if name in ("d", "x", "y", "transform"):
                numbers = [list(map(float, NUMBER.findall(t))) for t in (short.get(name), value)]
                np.testing.assert_allclose(*numbers, atol=0.00501)
            else:
                assert "".join(short.get(name, "").split()) == "".join(value.split())
    assert len(svg) < 0.95 * len(whole)


def test_files_do_not_depend_on_each_other_or_on_settings(figure: Figure) -> None:
    before, dpi = to_svg(figure), figure.dpi
    with mpl.rc_context({"savefig.facecolor": "red", "svg.hashsalt": None, "font.size": 30}):
        to_png(figure)
        assert to_svg(figure) == before
    assert figure.dpi == dpi
    assert to_svg(figure) == before


def pictures_in(svg: bytes) -> list[tuple[str, np.ndarray]]:
    found = re.findall(rb'data:image/(png|jpeg);base64,([^"]+)', svg)
    opened = [PIL.Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]
    return [(p.format or "", np.asarray(p.convert("RGB")).astype(int)) for p in opened]


def test_photographs_are_jpeg_and_drawings_stay_as_they_are() -> None:
    y, x = np.mgrid[:120, :160]
    grain = np.random.default_rng(0).integers(0, 8, (120, 160, 3))
    photograph = (np.stack([x, y, x + y], axis=-1) * 0.8 + grain).astype(np.uint8)
    drawing = np.where((x // 16 + y // 16)[..., None] % 2, 255, 0).astype(np.uint8)
    drawing = np.repeat(drawing, 3, axis=-1)
    figure = Figure()
    for ax, pixels in zip(figure.subplots(1, 2), (photograph, drawing), strict=True):
        ax.imshow(pixels, interpolation="none")
    svg = to_svg(figure)
    (first, ours), (second, exact) = pictures_in(svg)
    assert (first, second) == ("JPEG", "PNG")
    assert np.abs(ours - photograph).mean() < 4
    np.testing.assert_array_equal(exact, drawing)
    assert to_svg(figure) == svg


def test_a_long_entry_of_a_legend_keeps_both_of_its_ends() -> None:
    entry = str(legend_entry(f"_{'m' * 300}: moso + drop", {}).get_label())
    assert len(entry) == LONGEST_NAME + 1
    assert entry.startswith(" _mm")
    assert entry.endswith("mm: moso + drop")
    assert legend_entry("moso + drop", {}).get_label() == "moso + drop"
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"
