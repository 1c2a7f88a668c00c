"""Makes docs/tour.md and its pictures from the pages themselves, in Chromium: `make page-pictures`.

The ledger is the tests' own (tests/web/shelf.py): its runs, prices and money are made up; plans are the planner's.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright  # noqa: E402  # the tests' folder has to be found first

from tests.web import shelf  # noqa: E402
from tests.web.conftest import CHROMIUM, served  # noqa: E402
from tests.web.watched import watched  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

RUN = "debug200m-hybrid-8"
FOLDER = ROOT / "docs" / "pictures"
TARGET = ROOT / "docs" / "tour.md"
WIDTHS = {"phone": 390, "laptop": 1024, "wide": 1920}


@dataclass(frozen=True)
class Picture:
    """One picture: the page, the window, and what is said of it."""

    name: str
    title: str
    path: str
    text: str
    window: str = "laptop"
    height: int = 760
    dark: bool = False
    drawn: str = ""
    """What is on the page once it is drawn."""


PICTURES = (
    Picture(
        "pages-runs", "Runs", "/",
        "All runs, moving while they train. Type to narrow the table.",
    ),
    Picture(
        "pages-run", "A run", f"/runs/{RUN}?with=debug-dense-1",
        "Loss and throughput against tokens, beside another run's; smoothing and a logarithmic scale are a key away. Below: planned and "
        "actual, what the model writes, charges, machines, the end of the log. A run that goes on has a button that stops it, and a page "
        "that asks first.", drawn="#loss canvas", height=1000,
    ),
    Picture(
        "pages-plan", "The planner", "/plan?model=b1&arch=all",
        "Model, arch, tokens, budget and deadline are moved, and the front of cost against time is drawn anew with each move. The figures "
        "are those of `lumina plan`.", drawn="#front canvas", height=1000,
    ),
    Picture(
        "pages-money", "Money", "/money?by=month",
        "What was spent by month, arch, provider and six other keys, what of it trained nothing, where the month is going, and budgets.",
        height=1000,
    ),
    Picture(
        "pages-prices", "Prices", "/prices",
        "What the markets asked whenever `lumina offers` looked, beside the price book.", drawn="#prices canvas",
    ),
    Picture(
        "pages-published", "Published and modelled", "/published",
        "Every row of the published benchmark beside what physics gives for the same work, with the checks that the row fails.",
    ),
    Picture(
        "pages-accuracy", "Plan and actual", "/accuracy",
        "How finished runs turned out against their plans.",
    ),
    Picture(
        "pages-phone", "On a phone, and in the dark", f"/runs/{RUN}", "The pages fit 390 pixels, and follow the system's dark mode.",
        window="phone", height=844, dark=True, drawn="#loss canvas",
    ),
)  # fmt: skip

HEAD = """# The pages

<!-- Written by scripts/page_pictures.py (make page-pictures). -->

`lumina ui` (`pip install 'lumina-cloud[ui]'`) serves these pages on this computer until Ctrl-C:

```
$ lumina ui
http://127.0.0.1:40123/wF3…/?token=…
```

Only this computer can reach them, and only a browser that was given the printed address: it holds a key that is new each time. Nothing is
loaded from elsewhere, so the pages work without the internet. They say what the command line says, from the same ledger. The runs and
prices in these pictures are made up. The command line's own screens are [the terminal](tour-terminal.md).
"""


def take(page: Page, base: str, picture: Picture, target: Path) -> None:
    """Open a page and write its picture."""
    page.set_viewport_size({"width": WIDTHS[picture.window], "height": picture.height})
    page.emulate_media(color_scheme="dark" if picture.dark else "light")
    page.goto(base + picture.path)
    if picture.drawn:
        page.wait_for_selector(picture.drawn)
    page.wait_for_timeout(400)
    page.screenshot(path=target)


def main() -> None:
    """Write all pictures and the page about them."""
    if CHROMIUM is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="lumina-pictures-") as folder:
        home = Path(folder) / "home"
        shelf.fill(home)
        with served(home) as site, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            with watched(browser, site) as page:
                for picture in PICTURES:
                    take(page, site.base, picture, FOLDER / f"{picture.name}.png")
            browser.close()
    parts = [f"## {p.title}\n\n{p.text}\n\n![{p.title}](pictures/{p.name}.png)\n" for p in PICTURES]
    TARGET.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
