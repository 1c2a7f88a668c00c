"use strict";
// What changes while a page is open: rows of runs, or the figures of one. Everything is set as text.
(() => {
  const { root } = document.documentElement.dataset;
  const table = document.querySelector("#runs tbody");
  const form = document.getElementById("curves-form");
  const filter = document.getElementById("filter");
  const rest = document.getElementById("rest");
  const numeric = new Set(["progress", "loss", "usd", "cap", "speed"]);
  const order = ["state", "progress", "loss", "usd", "cap", "model", "machine", "speed", "started", "end"];

  function cellOf(row, name) {
    return row.querySelector(`[data-cell="${name}"]`);
  }

  function newRow(run) {
    const row = document.createElement("tr");
    row.dataset.run = run.run;
    const head = document.createElement("th");
    head.scope = "row";
    const link = document.createElement("a");
    link.href = `${root}/runs/${encodeURIComponent(run.run)}`;
    link.textContent = run.run;
    head.append(link);
    row.append(head, ...order.map((name) => {
      const cell = document.createElement("td");
      cell.dataset.cell = name;
      if (numeric.has(name)) cell.className = "n";
      return cell;
    }));
    return row;
  }

  function put(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  function showRows(runs) {
    const known = new Map([...table.rows].map((row) => [row.dataset.run, row]));
    for (const run of [...runs].reverse()) {
      let row = known.get(run.run);
      if (!row) {
        row = newRow(run);
        table.prepend(row);
      }
      texts.delete(row);
      put(cellOf(row, "state"), run.state);
      cellOf(row, "state").className = `state ${run.state}`;
      for (const [name, text] of Object.entries(run.cells)) put(cellOf(row, name), text);
    }
    narrow();
  }

  // No more rows are laid out at once than a browser takes in its stride; the rest is a button away.
  const texts = new WeakMap();
  let most = 100;
  function narrow() {
    if (!filter) return;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of table.rows) {
      if (words.length && !texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      const fits = words.every((word) => texts.get(row).includes(word));
      if (fits) found += 1;
      const hidden = !fits || found > most;
      if (row.hidden !== hidden) row.hidden = hidden;
    }
    const shown = Math.min(found, most);
    put(document.getElementById("shown"), words.length || shown < found ? `${shown} of ${table.rows.length}` : "");
    rest.hidden = shown === found;
    put(rest, `Show ${found - shown} more`);
  }

  let last = "";
  function showRun(found) {
    const [run] = found.runs;
    if (!run) return;
    const state = document.getElementById("state");
    const ended = state.textContent !== run.state && !run.going;
    put(state, run.state);
    state.className = `state ${run.state}`;
    for (const place of document.querySelectorAll("[data-now]")) put(place, run.cells[place.dataset.now]);
    for (const [name, , actual] of found.figures) put(document.querySelector(`[data-actual="${name}"]`), actual);
    // What ended has results, a log and charges: the page is made anew.
    if (ended) location.reload();
    const now = run.cells.progress + run.cells.loss;
    if (last && now !== last) document.dispatchEvent(new Event("lumina:moved"));
    last = now;
  }

  const stream = new EventSource(form ? `${root}/live?run=${encodeURIComponent(form.dataset.run)}` : `${root}/live`);
  stream.onmessage = (event) => {
    const found = JSON.parse(event.data);
    put(document.getElementById("trouble"), found.trouble || "");
    put(document.getElementById("summary"), found.summary);
    if (form) showRun(found);
    else if (table) showRows(found.runs);
    else if (found.runs.length) location.reload();
  };
  window.addEventListener("pagehide", () => stream.close());
  if (filter) {
    narrow();
    rest.addEventListener("click", () => {
      most = Infinity;
      narrow();
    });
    filter.addEventListener("input", narrow);
    filter.form.addEventListener("submit", (event) => event.preventDefault());
  }
})();
