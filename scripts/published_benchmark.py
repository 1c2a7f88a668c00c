"""Writes `docs/the-published-benchmark.md` from the catalog and `lumina audit`: `make docs`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from lumina_cloud.catalog import benchmarks
from lumina_cloud.planner import claims
from lumina_cloud.planner.audit_document import audit_document
from lumina_cloud.planner.unchecked import unchecked

TARGET = Path(__file__).parent.parent / "docs" / "the-published-benchmark.md"

HEAD = """# The published benchmark

<!-- Written by scripts/published_benchmark.py (make docs). Do not edit. -->

The document that Lumina starts from is kept whole as data (`lumina_cloud/catalog/data/benchmarks.toml`), is shown as `published` beside
our own figures, and decides nothing: most of it contradicts itself or physics. `lumina audit` checks all of it, or a table of your own
(`lumina audit FILE.csv`; `lumina audit --columns` lists what a table may have), and leaves with exit code 1 when it finds something.

Every doubt is decided in the claim's favour: two statements of one thing may differ by 10 %, memory is held against 8 bytes a parameter
(AdamW entirely in bf16; mixed precision takes 16), FLOPs are 6 per active parameter and token without attention, and depth routing takes
off what the row says. A capacity is the most that a routed block lets in: more tokens may skip it than are left over, fewer may not.
Batches and sums are held against what is written; where rounding of the figures could explain the difference, the finding says so.
"""


def page() -> str:
    """Return the page's text."""
    document = benchmarks.load()
    findings = audit_document(document)
    lines = [HEAD, "## The rows as published", ""]
    lines += ["| model | loss | PPL | hours | GB | tokens/s | $ | machine | findings |", "| --- | " + "---: | " * 6 + "--- | ---: |"]
    for r in document.rows:
        name = f"{r.model}/{r.arch}"
        count = sum(f.row == name for f in findings)
        figures = f"{r.loss:g} | {r.ppl:g} | {r.hours:.3g} | {r.vram_gb:g} | {r.tokens_per_second:,.0f} | {r.usd} | {r.machine}"
        lines.append(f"| {name} | {figures} | {count} |")
    lines += ["", f"## {len(findings)} findings", ""]
    lines.append("`off by` is the larger of both figures over the smaller. Each line can be checked with a pocket calculator.")
    for row, found in groupby(findings, key=lambda f: f.row):
        lines += ["", f"### {row}", "", "| rule | claimed | possible | off by | arithmetic |", "| --- | ---: | ---: | ---: | --- |"]
        for f in found:
            ratio = "-" if f.ratio is None else f"{f.ratio:.3g} x"
            lines.append(f"| {f.rule} | {_figure(f.claimed)} | {_figure(f.possible)} | {ratio} | {f.text} |")
    clean = [row for row in ("tiers", "scenario", "winners", "conclusion") if not any(f.row.startswith(row) for f in findings)]
    lines += ["", "## What holds", ""]
    lines.append("- Every perplexity is the exponential of its loss, within rounding.")
    lines.append(f"- These sections repeat the rows that they are made from: {', '.join(clean)}.")
    lines.append("- The percentages that stand beside figures agree with the rows that they compare, but for those above.")
    lines.append(
        "- Best Budget is the cheapest row of the section that is named for budgets (Budget Training, the B1 rows). The debug rows cost "
        "less, but their section is for tests. In a table of your own, `budget` is the cheapest of all rows."
    )
    lines += ["", "## What could not be checked", "", *(f"- {note}" for note in unchecked(claims.of_document(document)))]
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main() -> None:
    """Write the page, or with `--check` fail when it is not what would be written."""
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == page() else f"{TARGET.name} is out of date: make docs")
    TARGET.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
