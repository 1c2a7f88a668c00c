"""The measurement of the pages' speed runs, small: `python -m tests.web.speed` has the figures."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.conftest import CHROMIUM
from tests.web.speed import measured


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_every_page_is_measured(tmp_path):
    argv = [sys.executable, "-m", "tests.scale", "--runs", "150", "--points", "15000", "--home", str(tmp_path / "home")]
    subprocess.run(argv, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    found = measured(tmp_path / "home")
    assert len({name for name, *_ in found}) == 8
    assert {kind for _, kind, *_ in found} == {"first paint", "interaction"}
    assert all(value >= 0 for _, _, value, _ in found)
