"""The report in a real browser: no error in its console, and filters that change what is shown.

A script is put into a copy of a report, and let run by the copy's policy; what it finds, it tells
the page around, which the browser prints.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_study import NETWORKS, TRANSFER, FakeStudy

from raydrop.frontier import load_records
from raydrop.frontier.figures.canvas import COLOURS
from raydrop.frontier.report.page import render_report
from raydrop.frontier.table import table_of

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the report in"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--v=0",
    # Milliseconds by the page's own clock, which waits for nothing.
    "--virtual-time-budget=20000",
]

STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"))

LOOK = """
const figure = document.getElementById("frontier-figure");
const form = document.getElementById("filters");
const rows = (table) => [...document.querySelectorAll(`${table} tbody tr`)]
  .filter((row) => row.checkVisibility());
const look = () => ({
  said: document.getElementById("shown").value,
  rows: rows("table.sortable").map((row) => Number(row.dataset.point)),
  recalls: rows("table.recalls").map((row) => Number(row.dataset.point)),
  drawn: figure.data.filter((trace) => trace.customdata).flatMap((trace) => trace.customdata),
  markers: figure.querySelectorAll(".scatterlayer .point").length,
  panels: figure.layout.annotations.map((each) => each.text),
  legend: [...figure.querySelectorAll(".legendtext")].map((each) => each.textContent),
  grey: figure.data.filter((t) => t.visible === "legendonly").map((t) => t.name),
});
const box = (name, label) => [...form.querySelectorAll(`input[name="${name}"]`)]
  .find((input) => input.parentElement.textContent.trim() === label);
const settle = () => new Promise((done) => setTimeout(done, 300));
const press = async (name, label) => { box(name, label).click(); await settle(); return look(); };
const choose = async (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("change", { bubbles: true }));
  await settle();
};
"""
"""What the injected scripts are written with."""

FRAMES = """<!doctype html><html><body style="margin: 0"><script>
addEventListener("message", (event) => {
  const place = document.createElement("pre");
  place.className = "found"; place.textContent = event.data; document.body.append(place);
});
</script>%s</body></html>
"""
FRAME = """<iframe src="%s.html" style="position: absolute; top: 0; left: 0; width: %dpx;
height: 900px; border: 0; color-scheme: %s"></iframe>"""


@dataclasses.dataclass(frozen=True)
class Visit:
    """What is done with a page, in which kind of window."""

    page: str
    body: str
    width: int = 1600
    scheme: str = "light"


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a browser made of a page."""

    console: list[str]
    """What was written to the console: errors, warnings, and what the page logs."""
    found: Any
    """What the injected script left."""


def injected(page: str, body: str, name: str) -> str:
    """Return a copy of a page with a script at its end, which its policy lets run."""
    script = (
        f"(async () => {{ {LOOK}\n"
        "for (let i = 0; i < 60 && !figure.dataset.ready; i += 1) await settle();\n"
        f"const found = await (async () => {{ {body} }})();\n"
        f'parent.postMessage(JSON.stringify(["{name}", found ?? null]), "*"); }})();'
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    before, end, after = page.rpartition("</body>")
    return f"{before}<script>{script}</script>{end}{after}"


def opened_in_one_browser(visits: Mapping[str, Visit], folder: Path) -> dict[str, Opened]:
    """Open pages beside each other, a frame each, and let a script look at each of them."""
    frames = [FRAME % (name, visit.width, visit.scheme) for name, visit in visits.items()]
    (folder / "frames.html").write_text(FRAMES % "".join(frames), encoding="utf-8")
    for name, visit in visits.items():
        page = injected(visit.page, visit.body, name)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    assert BROWSER
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1700,1000", "--dump-dom", (folder / "frames.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    # The browser's own troubles are logged too; what pages say is marked.
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    places = re.findall(r'<pre class="found">(.*?)</pre>', result.stdout, re.DOTALL)
    found = dict(json.loads(html.unescape(place)) for place in places)
    assert set(found) == set(visits), (console, result.stdout[-500:], result.stderr[-2000:])
    return {
        name: Opened([line for line in console if f"/{name}.html" in line], found[name])
        for name in visits
    }


def page_of(study: FakeStudy, folder: Path) -> str:
    records = load_records(study.write(folder))
    return render_report(records, table_of(records))


OPENING = """
  const root = document.documentElement;
  const colours = figure.data.filter((t) => t.customdata).map((t) => t.marker.color);
  return { ...look(), wide: root.scrollWidth, width: root.clientWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, colours,
    paper: getComputedStyle(document.body).backgroundColor,
    figure: figure._fullLayout.paper_bgcolor, over: figure._fullLayout.width,
    tools: [...figure.querySelectorAll(".modebar-btn")].map((b) => b.dataset.title) };
"""
FAULTS = {
    "broken": 'console.error("broken")',
    "thrown": "setTimeout(() => { throw new Error('thrown'); })",
    "a.org": "document.body.append(Object.assign(new Image(), { src: 'https://a.org/a.png' }))",
    "inline event handler": "document.body.insertAdjacentHTML('beforeend', "
    '\'<img src="data:," onerror="x()">\')',
}
"""What a page may do wrong, by what the console says of it."""
BODIES = {
    "filters": """
        const seen = [await press("loss", "cdb_w")];
        seen.push(await press("quotas", "none"));
        seen.push(await press("keep", "0.5"));
        form.querySelector("button[type=reset]").click(); await settle();
        seen.push(look());
        seen.push(await press("method", "el2n"));
        return seen;
    """,
    "nothing": 'await press("loss", "cdb_w"); return press("loss", "cross_entropy");',
    "legend": """
        const toggle = async (name, times) => {
          for (let i = 0; i < times; i += 1) {
            const target = [...figure.querySelectorAll(".legendtext")]
              .find((each) => each.textContent === name)
              .closest(".traces").querySelector(".legendtoggle");
            const at = target.getBoundingClientRect();
            const init = { bubbles: true, clientX: at.x + 5, clientY: at.y + 5 };
            target.dispatchEvent(new MouseEvent("mousedown", init));
            target.dispatchEvent(new MouseEvent("mouseup", init));
          }
          await settle(); await settle(); await settle();
          return { ...look(), ticked: box("method", "random").checked };
        };
        return [await toggle("random", 1), await toggle("random", 1), await toggle("el2n", 2),
          await toggle("Pareto front", 1)];
    """,
    "axes": """
        await choose("x", "keep_fraction");
        form.elements.intervals.click(); await settle();
        const trace = figure.data.find((each) => each.customdata && each.mode.includes("lines"));
        const bars = figure.querySelectorAll(".errorbar").length;
        const labels = [figure.layout.xaxis.title.text, figure.layout.shapes.length];
        await choose("y", "average_accuracy");
        return { x: trace.x, bars, labels, then: figure.querySelectorAll(".errorbar").length };
    """,
    "sorting": """
        figure.emit("plotly_click", { points: [{ customdata: 7 }] });
        const pressed = [...document.querySelectorAll("tr.pressed")].map((r) => r.dataset.point);
        const head = (text) => [...document.querySelectorAll("table.sortable th button")]
          .find((button) => button.textContent === text);
        const column = (text) => head(text).parentElement.cellIndex;
        head("worst class").click();
        const texts = (name) => rows("table.sortable")
          .map((row) => row.cells[column(name)].textContent);
        const falling = texts("worst class");
        head("method").click(); head("method").click();
        const names = texts("method");
        const controls = [...document.querySelectorAll(
          "a[href], button, input, select, summary, [role=region]")]
          .filter((each) => each.checkVisibility() && !figure.contains(each));
        const reached = controls.filter((control) => {
          control.focus();
          return document.activeElement === control && control.tabIndex >= 0;
        });
        const unnamed = [...form.querySelectorAll("input, select")].filter((e) => !e.labels.length);
        const sort = head("method").parentElement.getAttribute("aria-sort");
        return { pressed, falling, names, sort,
          controls: [controls.length, reached.length, unnamed.length],
          ...(await press("method", "random")) };
    """,
}
EVIL = "<a href='https://example.org'>b</a> & c"
POINTING = """
    const curve = figure.data.findIndex((each) => each.customdata && each.x.length === 2);
    Plotly.Fx.hover(figure, [{ curveNumber: curve, pointNumber: 0 }],
      [figure.data[curve].xaxis + figure.data[curve].yaxis]);
    await settle();
    const index = figure.data[curve].customdata[0];
    const row = document.querySelector(`table.sortable tr[data-point="${index}"]`);
    return {
      lines: [...figure.querySelectorAll(".hoverlayer .nums, .hoverlayer tspan.line")]
        .map((each) => each.textContent),
      links: figure.querySelectorAll("a[href]").length,
      // The page's own style leaves Plotly's texts alone.
      strokes: [...figure.querySelectorAll(".hoverlayer tspan.line")]
        .map((each) => getComputedStyle(each).stroke),
      row: [...row.cells].map((cell) => cell.textContent.trim()),
      panels: look().panels,
      titles: [...figure.querySelectorAll(".annotation-text")].map((each) => each.textContent),
    };
"""
NETWORK_FILTERS = """
    const seen = [look(), await press("network", "magnitude")];
    seen.push(await press("sparsity", "flops(0.75)"));
    seen.push(await press("sparsity", "dense"));
    return seen;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(STUDY, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def opened(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    """What one browser made of all visits."""
    networks = dataclasses.replace(NETWORKS, keeps=(0.5,), seeds=(0,))
    evil = dataclasses.replace(
        TRANSFER, models=("resnet18", EVIL), query_models=(EVIL,), seeds=(0, 1)
    )
    steps = {"light": OPENING, **BODIES}
    visits = {
        "dark": Visit(page, OPENING, 400, "dark"),
        "faults": Visit(page, f"{'; '.join(FAULTS.values())}; await settle();"),
        # One after another, each from the beginning.
        "light": Visit(
            page,
            "const seen = {};"
            + "".join(
                f"seen.{name} = await (async () => {{ {body} }})();"
                'form.querySelector("button[type=reset]").click(); await settle();'
                for name, body in steps.items()
            )
            + "return seen;",
        ),
    }
    visits["pointing"] = Visit(page_of(evil, tmp_path_factory.mktemp("evil")), POINTING)
    visits["networks"] = Visit(
        page_of(networks, tmp_path_factory.mktemp("networks")), NETWORK_FILTERS
    )
    found = opened_in_one_browser(visits, tmp_path_factory.mktemp("browser"))
    light = found.pop("light")
    return found | {name: Opened(light.console, light.found[name]) for name in steps}


@pytest.fixture(scope="module")
def points(page: str) -> dict[str, list[str]]:
    """What the filters tell apart, by point."""
    data = json.loads(page.partition('id="frontier-data">')[2].partition("</script>")[0])
    named = {}
    for name, found in data["filters"].items():
        named[name] = [found["options"][o] if o >= 0 else "" for o in found["of"]]
    return named


def those(points: dict[str, list[str]], name: str, hidden: Sequence[str]) -> list[int]:
    return [i for i, option in enumerate(points[name]) if option not in hidden]


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_the_page_opens_without_a_word_in_the_console(
    opened: dict[str, Opened], width: int, scheme: str
) -> None:
    visit = opened[scheme]
    found = visit.found
    assert visit.console == []
    assert found["dark"] == (scheme == "dark")
    assert found["said"] == "18 of 18 points shown."
    assert sorted(found["drawn"]) == found["rows"] == found["recalls"] == list(range(18))
    assert found["panels"] == ["loss: cdb_w", "loss: cross_entropy"]
    assert found["legend"][:3] == ["random", "el2n", "all the data"]
    # Nothing sticks out to the right of a narrow page.
    assert found["wide"] <= found["width"]
    assert found["over"] <= found["width"] <= width
    # Nor is there a button that would send the figure anywhere.
    assert len(found["tools"]) > 3
    assert not any("loud" in str(tool) or "hare" in str(tool) for tool in found["tools"])
    black = COLOURS[0] in found["colours"]
    assert black == (scheme == "light")
    paper = {"light": ("rgb(255, 255, 255)", "#FFFFFF"), "dark": ("rgb(22, 24, 28)", "#16181C")}
    assert (found["paper"], found["figure"]) == paper[scheme]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_console_is_listened_to(opened: dict[str, Opened], fault: str) -> None:
    assert any(fault in line for line in opened["faults"].console)


def test_filters_change_the_figure_and_both_tables(
    opened: dict[str, Opened], points: dict[str, list[str]]
) -> None:
    assert opened["filters"].console == []
    loss = those(points, "loss", ["cdb_w"])
    quotas = [i for i in loss if points["quotas"][i] != "none"]
    keep = [i for i in quotas if points["keep"][i] != "0.5"]
    everything = list(range(18))
    method = those(points, "method", ["el2n"])
    # The reference that keeps all the data has no quotas, so it stays with either.
    assert [len(each) for each in (loss, quotas, keep, method)] == [9, 5, 3, 10]
    seen = opened["filters"].found
    for found, expected in zip(seen, (loss, quotas, keep, everything, method), strict=True):
        assert sorted(found["drawn"]) == expected
        assert found["rows"] == found["recalls"] == expected
        assert found["said"] == f"{len(expected)} of 18 points shown."
    assert seen[0]["panels"] == ["loss: cross_entropy"]
    assert seen[-1]["grey"] == ["el2n"]


def test_networks_are_filtered_by_method_and_target(opened: dict[str, Opened]) -> None:
    assert opened["networks"].console == []
    seen = opened["networks"].found
    # Two dense networks; of each of two data selections and losses, three methods and targets.
    assert [len(each["rows"]) for each in seen] == [38, 26, 18, 16]
    for found in seen:
        assert found["rows"] == found["recalls"]
        # The dense network on all the data is in no other panel than its own.
        assert sorted(found["drawn"]) == found["rows"]
    everything, method, target, dense = seen
    assert len(everything["panels"]) == 7
    assert not any("flops(0.75)" in panel for panel in target["panels"])
    assert "loss: cross_entropy" not in dense["panels"]
    assert everything["grey"] == []
    assert method["grey"] == ["network: magnitude"]


def test_without_any_point_the_figure_says_so(opened: dict[str, Opened]) -> None:
    visit = opened["nothing"]
    assert visit.console == []
    assert visit.found["rows"] == visit.found["drawn"] == []
    assert visit.found["panels"] == ["No point passes the filters."]


def test_the_legend_toggles_methods_by_their_boxes(
    opened: dict[str, Opened], points: dict[str, list[str]]
) -> None:
    assert opened["legend"].console == []
    off, on, alone, rings = opened["legend"].found
    assert off["rows"] == sorted(off["drawn"]) == those(points, "method", ["random"])
    assert (off["ticked"], off["grey"]) == (False, ["random"])
    assert (on["ticked"], on["rows"], on["grey"]) == (True, list(range(18)), [])
    assert alone["rows"] == those(points, "method", ["random", "all the data"])
    assert "Pareto front" in rings["grey"]
    assert rings["rows"] == alone["rows"]


def test_axes_and_intervals_are_chosen(opened: dict[str, Opened]) -> None:
    found = opened["axes"].found
    assert opened["axes"].console == []
    assert found["x"] == [0.2, 0.5]
    assert found["labels"] == ["keep fraction", 0]
    assert (found["bars"], found["then"]) == (18, 0)


def test_pointing_at_a_marker_tells_its_trial(opened: dict[str, Opened]) -> None:
    found = opened["pointing"].found
    assert opened["pointing"].console == []
    assert found["links"] == 0
    assert set(found["strokes"]) == {"none"}
    text = " ".join(found["lines"])
    _, model, method, quotas, loss, keep, kept, seeds, worst, interval, *_ = found["row"]
    for words in (
        f"{method} + {quotas}",
        f"{model}, {loss}",
        f"keep fraction {keep} ({kept} kept), {seeds} seeds",
        f"worst class {worst.split()[0]}",
        f"95 % interval {interval}",
    ):
        assert words in text
    assert any(EVIL in title for title in found["titles"])


def test_headings_sort_rows_are_marked_and_every_control_has_a_name_and_the_keyboard(
    opened: dict[str, Opened],
) -> None:
    found = opened["sorting"].found
    assert opened["sorting"].console == []
    assert found["pressed"] == ["7", "7"]
    falling = [float(text.split()[0]) for text in found["falling"]]
    assert falling == sorted(falling, reverse=True)
    assert falling != sorted(falling)
    names = [name.strip() for name in found["names"]]
    assert names == sorted(names)
    assert found["sort"] == "ascending"
    # The filter still finds its rows.
    assert len(found["rows"]) == 10
    assert sorted(found["rows"]) == sorted(found["drawn"])
    controls, reached, unnamed = found["controls"]
    assert controls == reached > 30
    assert unnamed == 0
