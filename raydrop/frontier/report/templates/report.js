"use strict";
(() => {
  const data = JSON.parse(document.getElementById("frontier-data").textContent);
  const figure = document.getElementById("frontier-figure");
  const form = document.getElementById("filters");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const count = data.points.size.length;
  const worst = "worst_accuracy";
  // Rings that were hidden in the legend, by name.
  const hiddenRings = new Set();

  // Sorting and filtering of the tables.

  const rowsOf = Array.from({ length: count }, () => []);
  for (const row of document.querySelectorAll("tr[data-point]")) {
    rowsOf[Number(row.dataset.point)].push(row);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const value = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      };
      body.append(...[...body.rows].sort(order));
    }));
  }

  function boxes(name) {
    return [...form.querySelectorAll(`input[name="${name}"]`)];
  }

  /** Whether each point passes every filter; -1 is a point that a filter does not concern. */
  function passing() {
    const shown = new Array(count).fill(true);
    for (const [name, filter] of Object.entries(data.filters)) {
      const all = boxes(name);
      if (!all.length) continue;
      const ticked = new Set(all.filter((box) => box.checked).map((box) => Number(box.value)));
      filter.of.forEach((option, i) => { shown[i] &&= option < 0 || ticked.has(option); });
    }
    return shown;
  }

  function filterTables(shown) {
    rowsOf.forEach((rows, i) => rows.forEach((row) => { row.hidden = !shown[i]; }));
    const number = shown.filter(Boolean).length;
    document.getElementById("shown").value = `${number} of ${count} points shown.`;
  }

  // What the pointer is told.

  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const fixed = (value) => (value === null ? "not known" : value.toFixed(3));

  function option(name, i) {
    const { options, of } = data.filters[name];
    return of[i] < 0 ? "" : escaped(options[of[i]]);
  }

  function hoverText(i) {
    const { points, measures } = data;
    const range = (name) => `${fixed(points[`${name}_min`][i])} to ${fixed(points[`${name}_max`][i])}`;
    const seeds = points.seeds[i] === 1 ? "one seed" : `${points.seeds[i]} seeds`;
    const quotas = option("quotas", i);
    const lines = [
      `<b>${option("method", i)}${quotas && ` + ${quotas}`}</b>`,
      `${data.filters.model.options.length > 1 ? `${option("model", i)}, ` : ""}${option("loss", i)}`,
      `keep fraction ${option("keep", i)} (${Math.round(points.kept[i])} kept), ${seeds}`,
      `average ${fixed(measures.average_accuracy.values[i])} (${range("average")})`,
      `worst ${data.unit} ${fixed(measures[worst].values[i])} (${range("worst")}),`,
      `  95 % interval ${fixed(points.low[i])} to ${fixed(points.high[i])}`,
      `  lowest on average: ${escaped(points.worst_is[i])}`,
    ];
    if (data.filters.network.options.length) {
      const removed = measures.macs_removed?.values[i];
      const gone = removed == null ? "" : `, ${(100 * removed).toFixed(1)} % of MACs removed`;
      const how = option("network", i);
      lines.splice(2, 0, `network: ${how && `${how}, `}${option("sparsity", i)}${gone}`);
    }
    if (measures.front_probability?.values[i] != null) {
      lines.push(`on the front with probability ${measures.front_probability.values[i].toFixed(2)}`);
    }
    return lines.join("<br>");
  }

  // The figure.

  /** A copy of a trace with the colours of a dark page. */
  function coloured(value) {
    if (typeof value === "string") return (dark.matches && data.dark[value]) || value;
    if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, coloured(part)]));
  }

  const axis = (letter, place) => `${letter}${place ? place + 1 : ""}`;

  function seriesTraces(axes, shown, places) {
    const [x, y] = [data.measures[axes.x].values, data.measures[axes.y].values];
    const traces = [];
    for (const series of data.series) {
      const points = series.points.filter((i) => shown[i] && x[i] !== null && y[i] !== null);
      if (!points.length) continue;
      for (const panel of series.panels.filter((k) => places.has(k))) {
        const trace = coloured(series.trace);
        const place = places.get(panel);
        Object.assign(trace, {
          x: points.map((i) => x[i]),
          y: points.map((i) => y[i]),
          customdata: points,
          hovertext: points.map(hoverText),
          hoverinfo: "text",
          showlegend: false,
          xaxis: axis("x", place),
          yaxis: axis("y", place),
        });
        trace.marker.size ??= points.map((i) => data.points.size[i]);
        if (axes.intervals && axes.y === worst) {
          trace.error_y = {
            type: "data",
            symmetric: false,
            array: points.map((i) => data.points.high[i] - y[i]),
            arrayminus: points.map((i) => y[i] - data.points.low[i]),
            thickness: 0.8,
            width: 3,
          };
        }
        traces.push(trace);
      }
    }
    return traces;
  }

  function ringTraces(axes, shown, places) {
    const [x, y] = [data.measures[axes.x].values, data.measures[axes.y].values];
    return data.rings.flatMap(({ points, trace }) => {
      const seen = new Set(points);
      const found = [...places].map(([panel, place]) => {
        const here = data.series
          .filter((series) => !series.alone && series.panels.includes(panel))
          .flatMap((series) => series.points)
          .filter((i) => shown[i] && seen.has(i) && x[i] !== null && y[i] !== null);
        return Object.assign(coloured(trace), {
          // Without a point there would be no entry in the legend.
          x: here.length ? here.map((i) => x[i]) : [null],
          y: here.length ? here.map((i) => y[i]) : [null],
          xaxis: axis("x", place),
          yaxis: axis("y", place),
          legendgroup: trace.name,
          legendrank: 2000,
          showlegend: false,
          visible: hiddenRings.has(trace.name) ? "legendonly" : true,
        });
      });
      if (found.length) found[0].showlegend = true;
      return found;
    });
  }

  /** An entry for each method, grey where its box is not ticked. */
  function legendTraces() {
    return data.legend.map((entry, i) => Object.assign(coloured(entry.trace), {
      x: [null],
      y: [null],
      legendrank: 1000 + i,
      hoverinfo: "skip",
      visible: boxes(entry.filter)[entry.option]?.checked ?? true ? true : "legendonly",
    }));
  }

  function shownPanels(shown) {
    return data.panels
      .map((_, k) => k)
      .filter((k) => data.series.some(
        (series) => !series.alone && series.panels[0] === k && series.points.some((i) => shown[i]),
      ));
  }

  /** What an axis spans; Plotly's own choice would include all of the line of equality. */
  function rangeOf(letter, traces) {
    const values = traces.flatMap((trace) => {
      const bars = letter === "y" ? trace.error_y : null;
      return trace[letter].flatMap((v, i) => (bars ? [v - bars.arrayminus[i], v + bars.array[i]] : [v]));
    });
    const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const room = 0.06 * (high - low) || 0.05;
    return [low - room, high + room];
  }

  function layoutOf(axes, panels, width, ranges) {
    const narrow = width < 700;
    const columns = Math.max(1, Math.min(panels.length, narrow ? 1 : width < 1150 ? 2 : 3));
    const rows = Math.max(1, Math.ceil(panels.length / columns));
    const entries = data.legend.length + data.rings.length;
    const legend = narrow ? 22 * entries + 40 : 0;
    const plain = axes.x === "average_accuracy" && axes.y === worst;
    const layout = {
      template: data.templates[dark.matches ? "dark" : "light"],
      width,
      height: (narrow ? 330 : rows > 1 ? 400 : 480) * rows + (narrow ? 90 : 60) + legend,
      margin: { l: 56, r: 14, t: narrow ? 62 : 34, b: 50 + legend },
      dragmode: narrow ? false : "zoom",
      grid: { rows, columns, pattern: "independent", xgap: 0.16, ygap: rows > 1 ? (narrow ? 0.34 : 0.26) : 0 },
      legend: narrow
        ? { orientation: "v", yref: "container", yanchor: "bottom", y: 0, x: 0, xanchor: "left" }
        : { title: { text: "<b>method</b>" }, tracegroupgap: 0 },
      annotations: [],
      shapes: [],
      uirevision: `${axes.x} ${axes.y} ${panels}`,
    };
    panels.forEach((panel, place) => {
      const last = place + columns >= panels.length;
      const first = place % columns === 0;
      layout[`xaxis${place ? place + 1 : ""}`] = {
        matches: place ? "x" : undefined,
        range: ranges.x,
        title: { text: last || narrow ? data.measures[axes.x].label : "" },
      };
      layout[`yaxis${place ? place + 1 : ""}`] = {
        matches: place ? "y" : undefined,
        range: ranges.y,
        title: { text: first ? data.measures[axes.y].label : "" },
      };
      const [x, y] = [axis("x", place), axis("y", place)];
      layout.annotations.push({
        text: data.panels[panel], showarrow: false, x: 0.5, y: 1, xref: `${x} domain`,
        yref: `${y} domain`, xanchor: "center", yanchor: "bottom", yshift: 4, font: { size: 14 },
      });
      if (plain) {
        layout.shapes.push({
          type: "line", layer: "below", x0: 0, y0: 0, x1: 1, y1: 1, xref: x, yref: y,
          line: { color: "#999999", width: 1, dash: "dot" },
        });
      }
    });
    if (!panels.length) {
      layout.annotations.push({
        text: "No point passes the filters.", showarrow: false, x: 0.5, y: 0.5, xref: "paper",
        yref: "paper", font: { size: 16 },
      });
    }
    return layout;
  }

  const config = {
    displaylogo: false,
    // The page is offline: Plotly would offer to upload the figure.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: "frontier" },
  };

  function draw(shown) {
    const { x, y, intervals } = form.elements;
    const axes = { x: x.value, y: y.value, intervals: intervals.checked };
    const panels = shownPanels(shown);
    const places = new Map(panels.map((panel, place) => [panel, place]));
    const series = seriesTraces(axes, shown, places);
    const ranges = { x: rangeOf("x", series), y: rangeOf("y", series) };
    const traces = [...ringTraces(axes, shown, places), ...series, ...legendTraces()];
    const layout = layoutOf(axes, panels, figure.clientWidth, ranges);
    return Plotly.react(figure, traces, layout, config);
  }

  function update() {
    const shown = passing();
    filterTables(shown);
    return draw(shown);
  }

  /** Hide or show a method by its box, so that the legend filters what the boxes filter. */
  function pressLegend({ curveNumber, data: traces }) {
    const { name } = traces[curveNumber];
    if (traces[curveNumber].legendgroup === name) {
      if (!hiddenRings.delete(name)) hiddenRings.add(name);
    } else {
      const entry = data.legend.find(({ trace }) => trace.name === name);
      const box = entry && boxes(entry.filter)[entry.option];
      if (box) box.checked = !box.checked;
    }
    update();
    return false;
  }

  /** Show a method alone or, where it is alone, all of them. */
  function pressLegendTwice({ curveNumber, data: traces }) {
    const entry = data.legend.find(({ trace }) => trace.name === traces[curveNumber].name);
    const all = entry ? boxes(entry.filter) : [];
    if (all.length) {
      const alone = all.every((box, i) => box.checked === (i === entry.option));
      all.forEach((box, i) => { box.checked = alone || i === entry.option; });
      update();
    }
    return false;
  }

  function pressPoint({ points }) {
    const rows = rowsOf[points[0].customdata] ?? [];
    document.querySelectorAll("tr.pressed").forEach((row) => row.classList.remove("pressed"));
    rows.forEach((row) => row.classList.add("pressed"));
    rows[0]?.scrollIntoView({ block: "center", behavior: "smooth" });
  }

  form.hidden = false;
  let width = figure.clientWidth;
  update().then(() => {
    figure.on("plotly_legendclick", pressLegend);
    figure.on("plotly_legenddoubleclick", pressLegendTwice);
    figure.on("plotly_click", pressPoint);
    figure.dataset.ready = "yes";
  });
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  // Boxes are ticked again only after the event.
  form.addEventListener("reset", () => { hiddenRings.clear(); setTimeout(update); });
  dark.addEventListener("change", update);
  new ResizeObserver(() => {
    if (figure.clientWidth === width) return;
    width = figure.clientWidth;
    update();
  }).observe(figure);
})();
