"use strict";
// The planner: each move asks the server for the front anew, one question at a time; of the moves during an answer the last is asked after it.
(() => {
  const { root } = document.documentElement.dataset;
  const form = document.getElementById("planner");
  const field = (name) => form.elements[name];
  const money = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumSignificantDigits: 3 });
  let waiting = false;
  let moved = false;

  // A slider at its end means no limit; its places are powers of ten.
  function asNumber(slider, free) {
    return slider.value === free ? "" : String(Number(Math.pow(10, Number(slider.value)).toPrecision(3)));
  }

  function wanted() {
    const [tokens, budget, deadline] = [asNumber(field("tokens"), field("tokens").min), asNumber(field("budget"), field("budget").max), asNumber(field("deadline"), field("deadline").max)];
    document.getElementById("tokens-text").textContent = tokens ? charts.short(Number(tokens)) : "the model's own";
    document.getElementById("budget-text").textContent = budget ? money.format(Number(budget)) : "no limit";
    document.getElementById("deadline-text").textContent = deadline ? hours(Number(deadline)) : "no limit";
    return Object.entries({ model: field("model").value, arch: field("arch").value, tokens, budget, deadline }).filter(([, value]) => value);
  }

  function hours(value) {
    return value < 1 ? `${Math.round(value * 60)} min` : value < 48 ? `${value.toFixed(1)} h` : `${(value / 24).toFixed(1)} days`;
  }

  async function ask() {
    const typed = wanted();
    moved = waiting;
    if (waiting) return;
    waiting = true;
    try {
      await answered(typed);
    } finally {
      waiting = false;
      if (moved) ask();
    }
  }

  async function answered(typed) {
    const answer = await fetch(`${root}/api/plan?${new URLSearchParams(typed)}`);
    const found = await answer.json();
    if (moved) return;
    if (!answer.ok) {
      document.getElementById("answer").textContent = `${found.error.message}. ${found.error.hint}`;
      return;
    }
    show(found);
  }

  function show(found) {
    const within = found.rows.filter((row) => row.within);
    const best = within[0];
    document.getElementById("answer").textContent = best
      ? `${charts.short(found.tokens)} tokens, ${charts.short(found.parameters)} active parameters: cheapest on ${best.machine} at ${best.provider}, ${best.usd_text} and ${best.hours_text}. ${within.length} of ${found.rows.length} that fit keep within budget and deadline.`
      : `${charts.short(found.tokens)} tokens: nothing that fits keeps within this budget and deadline.`;
    document.getElementById("type").textContent = found.type;
    drawFront(found.rows);
    document.querySelector("#rows tbody").replaceChildren(...found.rows.map(rowOf));
  }

  function rowOf(row) {
    const made = document.createElement("tr");
    made.className = `${row.within ? "" : "beyond"} ${row.front ? "front-row" : ""}`.trim();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = row.machine;
    const last = row.within ? (row.front ? "on the front" : "") : "beyond the limits";
    const start = document.createElement("td");
    const link = document.createElement("a");
    const work = Object.fromEntries(wanted().filter(([name]) => name === "model" || name === "tokens"));
    link.href = `${root}/launch?${new URLSearchParams({ ...work, ...row.launch })}`;
    link.textContent = "Start…";
    link.setAttribute("aria-label", `Start on ${row.machine} at ${row.provider}, ${row.arch}`);
    start.append(link);
    // What a narrow window leaves to scrolling is what matters least.
    made.append(head, start, ...[row.provider, row.arch, row.usd_text, row.hours_text, row.loss_text, last, row.basis].map((text, n) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (n >= 2 && n <= 4) cell.className = "n";
      return cell;
    }));
    return made;
  }

  function drawFront(rows) {
    const sorted = [...rows].sort((a, b) => a.hours - b.hours || a.usd - b.usd);
    charts.draw("front", (colour) => ({
      data: [
        sorted.map((row) => row.hours),
        sorted.map((row) => (row.front && row.within ? row.usd : null)),
        sorted.map((row) => (!row.front && row.within ? row.usd : null)),
        sorted.map((row) => (row.within ? null : row.usd)),
      ],
      scales: { x: { time: false, distr: 3 }, y: { distr: 3 } },
      series: [
        { label: "hours", value: (_u, v) => charts.short(v) },
        { label: "on the front, $", stroke: colour("--c0"), width: 2, spanGaps: true, points: { show: true, size: 9, fill: colour("--c0") }, value: (_u, v) => charts.short(v) },
        { label: "others, $", stroke: colour("--c1"), width: 0, paths: () => null, points: { show: true, size: 7, fill: colour("--c1") }, value: (_u, v) => charts.short(v) },
        { label: "beyond the limits, $", stroke: colour("--dim"), width: 0, paths: () => null, points: { show: true, size: 5 }, value: (_u, v) => charts.short(v) },
      ],
    }));
  }

  form.addEventListener("input", ask);
  form.addEventListener("submit", (event) => event.preventDefault());
  ask();
})();
