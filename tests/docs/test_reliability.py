"""docs/reliability.md: each of its paragraphs names tests that are there, and its figures are those that were kept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_is_there(file, name):
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_each_paragraph_names_a_test():
    _intro, *paragraphs = re.split(r"^### …", PAGE, flags=re.MULTILINE)
    asked = {"your laptop dies", "the provider dies", "the price rises", "the machine lies", "the disk fills", "you press Ctrl-C"}
    assert asked <= {p.splitlines()[0] for p in paragraphs}
    for paragraph in paragraphs:
        assert re.search(r"Proof: `tests/", paragraph), paragraph


def test_the_figures_are_those_that_were_kept():
    command = [sys.executable, ROOT / "scripts" / "reliability_page.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
