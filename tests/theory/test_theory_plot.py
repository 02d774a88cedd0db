"""The figure of two Gaussian classes, and the command that draws it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from raydrop import cli
from raydrop.errors import ConfigError, StoreError
from raydrop.theory import TwoGaussians
from raydrop.theory.figures import (
    LOOKS,
    STRATEGIES,
    plot_densities,
    plot_risks,
    theory_figure,
    write_theory_figure,
)

FIRST = TwoGaussians((-1, 1), (0.5, 1), 0.5)
IGNORED = TwoGaussians((0, 0.5), (1, 3), 0.1)
"""Where class 0 is never predicted."""


def _lines(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.lines}


def _legend(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_thresholds_are_drawn_and_named() -> None:
    ax = plot_densities(FIRST, Figure().subplots())
    assert _legend(ax) == [
        "class 0, a share of 0.5",
        "class 1, a share of 0.5",
        "least average risk, t* = -0.170",
        "after one DRoP step = -0.390",
        "least worst-class risk, t̂ = -0.333",
    ]
    drawn = [c.get_segments()[0][0, 0] for c in ax.collections if hasattr(c, "get_segments")]
    expected = [FIRST.threshold, FIRST.drop_step().threshold, FIRST.minimax_threshold]
    np.testing.assert_allclose(drawn, expected)
    later = _legend(plot_densities(FIRST, Figure().subplots(), density=0.8))
    assert later[3] == "after one DRoP step = -0.289"


def test_weighted_densities_cross_at_the_threshold() -> None:
    ax = plot_densities(FIRST, Figure().subplots())
    first, second = (np.asarray(line.get_xydata()) for line in ax.lines)
    above = second[:, 1] > first[:, 1]
    inside = np.abs(first[:, 0]) < 1
    np.testing.assert_array_equal(above[inside], first[inside, 0] > FIRST.threshold)


def test_infinite_thresholds_are_named_but_not_drawn() -> None:
    ax = plot_densities(IGNORED, Figure().subplots())
    assert "least average risk, t* = -∞" in _legend(ax)
    assert "after one DRoP step = ∞" in _legend(ax)
    assert np.isfinite(ax.get_xlim()).all()
    theory_figure(IGNORED).canvas.draw()


def test_risks_are_those_of_the_theory() -> None:
    lines = _lines(plot_risks(FIRST, Figure().subplots()))
    assert len(lines) == 7
    for name, label in STRATEGIES.items():
        for k in (0, 1):
            densities, risks = lines[f"{label}, class {k}"].T
            expected = [FIRST.strategies(float(d))[name].risks[k] for d in densities]
            np.testing.assert_allclose(risks, expected)
    np.testing.assert_allclose(lines["minimax risk"][:, 1], FIRST.minimax_risk)
    ends = {tuple(line[-1]) for label, line in lines.items() if label.endswith("class 1")}
    assert len(ends) == 1  # with all the data, there is nothing to choose


def test_strategies_and_classes_differ_in_grey() -> None:
    ax = plot_risks(FIRST, Figure().subplots())
    looks = {
        (str(line.get_linestyle()), line.get_marker(), line.get_fillstyle())
        for line in ax.lines
        if line.get_label() != "minimax risk"
    }
    assert len(looks) == 6
    greys = [np.dot(to_rgb(look["color"]), [0.299, 0.587, 0.114]) for look in LOOKS.values()]
    assert len(greys) == 3
    assert max(greys) < 0.6


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png"):
        write_theory_figure(tmp_path / name, FIRST, 0.5)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg or \.pdf, found .*theory\.txt; rename"):
        write_theory_figure(tmp_path / "theory.txt", FIRST)
    with pytest.raises(StoreError, match=r"to write .*, found: No such file or directory;"):
        write_theory_figure(tmp_path / "none" / "theory.png", FIRST)


# The command.


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raydrop", "theory", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_the_command_prints_the_numbers_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "theory.png"
    given = ("--means", -1, 1, "--sigmas", 0.5, 1, "--prior", 0.8, "--keep-fraction", 0.1)
    assert _main(monkeypatch, *given, "--out", out) == 0
    said = capsys.readouterr().out
    mixture = TwoGaussians((-1, 1), (0.5, 1), 0.8)
    for name, pruning in mixture.strategies(0.1).items():
        (line,) = [each for each in said.splitlines() if STRATEGIES[name] in each]
        for number in (pruning.prior0, pruning.threshold, *pruning.risks):
            assert f"{number:.6f}" in line
        assert f"{pruning.densities[0]:.4f} / {pruning.densities[1]:.4f}" in line
    assert f"{mixture.minimax_risk:.6f} at the threshold -0.333333" in said
    assert str(out) in said.replace("\n", "")
    assert out.stat().st_size > 10_000


def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _main(monkeypatch, "--means", 1, -1) == 1
    assert "means in ascending order, found 1 and -1" in " ".join(capsys.readouterr().err.split())
    assert _main(monkeypatch, "--keep-fraction", 0) == 1
    assert "a density in (0, 1], found 0" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, "--help") == 0
    assert "Example: raydrop theory" in " ".join(capsys.readouterr().out.split())
