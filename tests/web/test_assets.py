"""What is vendored is what its makers released, and nothing on a page is asked of another computer."""

import hashlib
import re
from pathlib import Path

import lumina_cloud.web
from lumina_cloud.web.figures import ARCHS, MODELS
from trainer import config

STATIC = Path(lumina_cloud.web.__file__).parent / "static"
TEMPLATES = Path(__file__).parents[2] / "templates" / "ui"
UPLOT = {
    # uPlot 1.6.32 as `npm pack uplot@1.6.32` gives it: https://www.npmjs.com/package/uplot
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


def test_the_chart_library_is_the_released_one():
    for name, digest in UPLOT.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (STATIC / "uPlot.LICENSE").read_text()


def test_our_own_files_name_no_other_computer_and_make_no_markup():
    ours = [p for p in (*STATIC.iterdir(), *TEMPLATES.iterdir()) if not p.name.startswith("uPlot")]
    assert len(ours) > 10
    for path in ours:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|src=\"//|@import|innerHTML|insertAdjacentHTML|document\.write|eval\(|\|\s*safe", text), path.name
        # The policy lets nothing inline run: it would be silently dead.
        assert not re.search(r"\son\w+=|<script>|\sstyle=|javascript:", text), path.name


def test_the_planner_offers_every_model_and_architecture():
    assert MODELS == config.MODELS
    assert set(ARCHS) == set(config.ARCHS)
