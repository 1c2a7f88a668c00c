"use strict";
// Market prices over time, as steps: a price holds until another is seen.
(() => {
  const { root } = document.documentElement.dataset;
  if (!document.getElementById("prices")) return;
  const [gpu, days] = ["gpu", "days"].map((id) => document.getElementById(id));
  const query = new URLSearchParams({ days: days.value, ...(gpu.value ? { gpu: gpu.value } : {}) });
  fetch(`${root}/api/prices?${query}`).then((answer) => answer.json()).then((found) => {
    if (found.left_out) document.getElementById("left-out").textContent = `${found.left_out} more kinds of machines are in the table only: choose a GPU.`;
    charts.draw("prices", (colour) => {
      if (!found.series.length) return null;
      const tables = found.series.map((s) => [s.points.map((p) => Date.parse(p[0]) / 1000), s.points.map((p) => p[1])]);
      return {
        data: uPlot.join(tables),
        x: {},
        scales: { x: { time: true } },
        series: [
          { label: "seen" },
          ...found.series.map((s, n) => ({
            label: s.name, stroke: colour(`--c${n % 6}`), width: 1.8, dash: n < 6 ? undefined : [6, 4], spanGaps: true,
            paths: uPlot.paths.stepped({ align: 1 }), points: { show: true, size: 5 }, value: (_u, v) => (v == null ? "" : `$${v.toFixed(2)}`),
          })),
        ],
      };
    });
  });
})();
