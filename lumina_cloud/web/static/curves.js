"use strict";
// The curves of a run and of those it is compared with: smoothed and scaled here, thinned out by the server.
(() => {
  const { root } = document.documentElement.dataset;
  const form = document.getElementById("curves-form");
  const [others, smoothing, log, alone] = ["with", "smoothing", "log", "alone"].map((id) => document.getElementById(id));
  const said = document.getElementById("compared");
  const compared = new Set(new URLSearchParams(location.search).getAll("with"));
  let runs = [];

  async function load() {
    const query = new URLSearchParams([["run", form.dataset.run], ...[...compared].map((name) => ["run", name])]);
    const answer = await fetch(`${root}/api/curves?${query}`);
    const found = await answer.json();
    if (!answer.ok) {
      said.textContent = found.error.message;
      return;
    }
    runs = found.runs;
    said.textContent = compared.size ? `Compared with ${[...compared].join(", ")}` : "";
    alone.hidden = !compared.size;
    draw();
  }

  // An exponential mean that starts without a bias towards zero.
  function smoothed(values, weight) {
    if (!weight) return values;
    let mean = 0, share = 1;
    return values.map((value) => {
      mean = weight * mean + (1 - weight) * value;
      share *= weight;
      return mean / (1 - share);
    });
  }

  function chart(id, figure) {
    charts.draw(id, (colour) => {
      const filled = runs.filter((run) => run[figure].length);
      if (!filled.length) return null;
      const weight = Number(smoothing.value);
      const tables = filled.map((run) => [run[figure].map((p) => p[0] / 1e6), smoothed(run[figure].map((p) => p[1]), weight)]);
      return {
        data: tables.length > 1 ? uPlot.join(tables) : tables[0],
        scales: { x: { time: false }, y: { distr: log.checked ? 3 : 1 } },
        series: [
          { label: "million tokens", value: (_u, v) => charts.short(v) },
          ...filled.map((run, n) => ({
            label: run.run, stroke: colour(`--c${n % 6}`), width: 1.6, dash: n < 6 ? undefined : [6, 4], spanGaps: true,
            points: { show: false }, value: (_u, v) => charts.short(v),
          })),
        ],
      };
    });
  }

  function draw() {
    chart("loss", "loss");
    chart("speed", "tokens_per_second");
    const rows = [];
    for (const run of runs) {
      const points = run.loss, stride = Math.max(1, Math.ceil(points.length / 12));
      for (let n = 0; n < points.length; n += stride) rows.push([run.run, charts.short(points[n][0] / 1e6), points[n][1].toFixed(3)]);
    }
    document.querySelector("#points tbody").replaceChildren(...rows.map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((text, n) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        if (n) cell.className = "n";
        row.append(cell);
      });
      return row;
    }));
  }

  function compare() {
    const query = new URLSearchParams([...compared].map((name) => ["with", name]));
    history.replaceState(null, "", compared.size ? `?${query}` : location.pathname);
    load();
  }

  others.addEventListener("change", () => {
    if (others.value) compared.add(others.value);
    others.value = "";
    compare();
  });
  alone.addEventListener("click", () => {
    compared.clear();
    others.focus();
    compare();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  smoothing.addEventListener("input", draw);
  log.addEventListener("change", draw);
  document.addEventListener("lumina:moved", load);
  load();
})();
