"use strict";
// Draws every chart of the page from the JSON beside it: hover for values, drag to zoom (double click to go back),
// click a name in the legend to hide a series.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (value) => {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  // A name that goes to a new line between the parts of an address, and never inside an index.
  const whole = (name) => name.replace(/, (?=[\d:]+[\],])/g, ",\u00a0").replace(/\.(?=[A-Za-z_\d]*[A-Za-z_.[])/g, ".\u200b").replace(/\[/g, "\u200b[");
  const drawn = [];

  function draw(chart, place) {
    const data = [chart.x], series = [{ label: chart.x_title, value: (_, v) => short(v) }], bands = [], bandsOf = {};
    chart.series.forEach((one, n) => {
      const stroke = colour("--s" + (n % 6));
      const positive = (values) => values.map((v) => (v === null || (chart.log && v <= 0) ? null : v));
      data.push(positive(one.values));
      series.push({
        label: whole(one.name), stroke, width: one.points ? 0 : 2, dash: one.dashed ? [6, 4] : undefined, spanGaps: true,
        points: { show: one.points || chart.x.length < 40, size: one.points ? 9 : 5, fill: stroke }, value: (_, v) => short(v),
      });
      if (one.low.length) {
        const at = data.length;
        bandsOf[at - 1] = [at, at + 1];
        for (const [end, values] of [["high", one.high], ["low", one.low]]) {
          data.push(positive(values));
          series.push({ label: whole(one.name) + ", " + end, class: "band", stroke: stroke + "55", width: 1, points: { show: false }, value: (_, v) => short(v), spanGaps: true });
        }
        bands.push({ series: [at, at + 1], fill: stroke + "22" });
      }
    });
    const axis = (extra) => ({ stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, ...extra });
    const options = {
      width: place.clientWidth, height: 320, series, bands,
      scales: { x: { time: false }, y: chart.log ? { distr: 3 } : {} },
      axes: [axis({ label: chart.x_title, labelSize: 22 }), axis({ size: 66, values: (u, ticks) => ticks.map(short) })],
      legend: { live: true },
      hooks: { setSeries: [(u, k, change) => { if (change.show != null) (bandsOf[k] || []).forEach((n) => u.setSeries(n, { show: change.show })); }] },
    };
    return new uPlot(options, data, place);
  }

  function drawAll() {
    drawn.splice(0).forEach((plot) => plot.destroy());
    charts.forEach((chart, n) => {
      const place = document.getElementById("chart" + n), plot = draw(chart, place);
      drawn.push(plot);
      // The legend by keyboard as well: each name is a button that says whether its series is shown.
      plot.root.querySelectorAll(".u-legend th").forEach((name, k) => {
        if (k === 0) return;
        name.tabIndex = 0;
        name.setAttribute("role", "button");
        const tell = () => name.setAttribute("aria-pressed", String(plot.series[k].show));
        tell();
        name.addEventListener("click", () => setTimeout(tell));
        name.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") { event.preventDefault(); plot.setSeries(k, { show: !plot.series[k].show }); tell(); }
        });
      });
      // Arrow keys move the cursor over the points of a chart that has the focus.
      let at = -1;
      place.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step || event.target !== place) return;
        event.preventDefault();
        at = Math.min(Math.max(at + step, 0), chart.x.length - 1);
        plot.setCursor({ left: plot.valToPos(chart.x[at], "x"), top: 10 });
      };
    });
  }

  let width = 0;
  const redraw = () => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawAll(); } };
  redraw();
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
