"use strict";
// Line charts by uPlot that follow the page's width and its colours.
const charts = (() => {
  const drawn = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
  const short = (value) => (value == null ? "" : value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : compact.format(value));

  function axis(extra) {
    return { stroke: colour("--dim"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule") }, ...extra };
  }

  // `build` returns { data, series, scales, x }: it is asked anew when colours change.
  function draw(id, build) {
    const box = document.getElementById(id);
    const old = drawn.get(id);
    if (old) old.plot.destroy();
    const made = build(colour);
    box.replaceChildren();
    if (!made || !made.data[0].length) {
      box.textContent = "Nothing to draw yet.";
      drawn.delete(id);
      return;
    }
    const plot = new uPlot(
      {
        width: Math.max(260, box.clientWidth),
        height: window.innerWidth < 640 ? 240 : 320,
        scales: made.scales,
        series: made.series,
        axes: [
          axis(made.x || { values: (_u, ticks) => ticks.map(short) }),
          axis({ size: 58, values: (_u, ticks) => ticks.map(short) }),
        ],
        cursor: { drag: { x: true, y: false } },
        legend: { live: true },
      },
      made.data,
      box,
    );
    drawn.set(id, { plot, build });
  }

  function redraw() {
    for (const [id, { build }] of [...drawn]) draw(id, build);
  }
  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 100);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return { draw, short };
})();
