"""How quick the pages are on a large ledger, measured by the browser itself: `python -m tests.web.speed --runs 1000 --points 10000`.

First paint is the browser's first-contentful-paint, from the start of the navigation: the server's work is in it. An interaction is the
longest Event Timing duration (from the key or the click to the next picture, in steps of 8 ms) while the page is used by keyboard.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from tests.web.conftest import CHROMIUM, served
from tests.web.watched import watched

PAINT_MS, INTERACTION_MS = 1000, 100
OBSERVE = """window.longest = 0; new PerformanceObserver(list => {
  for (const e of list.getEntries()) window.longest = Math.max(window.longest, e.duration);
}).observe({type: 'event', durationThreshold: 16, buffered: true});"""
PAINTED = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.web.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000, help="points of a run's curve")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="lumina-speed-") as folder:
        home = Path(folder) / "home"
        scale = ("--runs", str(options.runs), "--points", str(options.runs * options.points), "--home", str(home))
        subprocess.run([sys.executable, "-m", "tests.scale", *scale], check=True)
        found = measured(home, options.times)
    for name, kind, value, most in found:
        print(f"{name:28} {kind:12} {value:6.0f} ms  (at most {most})")
    print(json.dumps({"runs": options.runs, "points": options.points, "ms": {f"{n} {k}": round(v) for n, k, v, _ in found}}))
    sys.exit(any(value > most for *_, value, most in found))


def measured(home, times=1):
    """Return (page, kind, median milliseconds, the most it may be) of each page of a home."""
    with served(home) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with watched(browser, site) as page:
            run = page.locator("#runs tbody a").first.get_attribute("href").removeprefix(site.base.removeprefix(site.origin))
            other = page.locator("#runs tbody a").nth(1).inner_text()
            uses = {
                "/": typed, "/?all=1": typed, run: lambda page: drawn(page, other), "/plan?model=b7&arch=all": planned,
                "/money?by=month": None, "/money?by=day": None, "/accuracy": None, "/published": None,
            }  # fmt: skip
            out = []
            for path, use in uses.items():
                rounds = [visit(page, site.base + path, use) for _ in range(times)]
                out.append((path, "first paint", median(r[0] for r in rounds), PAINT_MS))
                if use:
                    out.append((path, "interaction", median(r[1] for r in rounds), INTERACTION_MS))
        browser.close()
    return out


def visit(page, address, use):
    """Open a page and use it; return when it was painted, and its longest interaction."""
    page.goto(address)
    page.wait_for_load_state("load")
    page.wait_for_function(f"() => {PAINTED} !== undefined")
    painted = page.evaluate(PAINTED)
    if use:
        page.evaluate(OBSERVE)
        use(page)
        page.wait_for_timeout(300)
    return painted, page.evaluate("window.longest || 0")


def typed(page):
    """Narrow the table of runs by typing."""
    page.locator("#filter").focus()
    for letter in "b7 hybrid":
        page.keyboard.press(letter)
    for _ in range(9):
        page.keyboard.press("Backspace")


def drawn(page, other):
    """Compare two runs, smooth their curves, and scale them."""
    page.wait_for_selector("#loss canvas")
    page.locator("#with").select_option(other)
    page.wait_for_selector(f"#loss .u-legend >> text={other}")
    page.locator("#smoothing").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.locator("#log").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Space")


def planned(page):
    """Move tokens and budget."""
    page.wait_for_selector("#rows tbody tr")
    for name in ("tokens", "budget"):
        page.locator(f"input[name={name}]").focus()
        for _ in range(10):
            page.keyboard.press("ArrowLeft" if name == "budget" else "ArrowRight")


if __name__ == "__main__":
    main()
