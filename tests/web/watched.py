"""A page in a real browser, and everything that must not happen on it."""

from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe

AXE = Axe()
# What belongs to pages as a whole is asked of them as a whole; the rest is every rule of WCAG 2 A and AA, and axe's own advice.
SERIOUS = ("serious", "critical")


@contextmanager
def watched(browser, site, **options):
    """Give a page that has the key. At its end: no console error, no script error, no request that left this computer, nothing owned."""
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    seen, asked = [], []
    page.on("console", lambda message: seen.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.base}/?token={site.token}")
    yield page
    assert page.evaluate("window.owned") is None
    assert seen == []
    outside = [url for url in asked if not url.startswith((f"{site.base}/", "data:,"))]
    assert outside == []
    context.close()


def findings(page):
    """Return axe's serious findings on a page, each with the elements it is about."""
    found = AXE.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found if v["impact"] in SERIOUS]


def overflow(page):
    """Return by how many pixels a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
