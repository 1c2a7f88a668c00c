"""Commands in the documents do what the documents say: they run as a reader types them, and their verbs and options are there."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lumina_cloud.cli.app import app
from providers.emulator import sandbox
from scripts import run_page
from tests import measured

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_IN = ROOT / "tests" / "e2e" / "stand_in"


def name(page):
    return str(page.relative_to(ROOT))


def run(page, tmp_path, marks):
    """Run a page's commands in an empty folder of an empty home, with nobody's keys."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    own = {
        "HOME": str(tmp_path),
        "LUMINA_HOME": str(measured.shared_by(tmp_path / "home")),
        "LUMINA_TRAINER": str(STAND_IN),
        "NO_COLOR": "1",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    (tmp_path / "work").mkdir()
    return subprocess.run(
        ["bash", "-c", run_page.script(page.read_text(), marks)],
        cwd=tmp_path / "work",
        env={**kept, **own, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_each_block_of_a_guide_says_whether_it_is_run(page):
    assert [block.text for block in run_page.blocks(page.read_text()) if not block.mark] == []


@pytest.mark.parametrize("page", [p for p in GUIDES if any(b.mark == "run" for b in run_page.blocks(p.read_text()))], ids=name)
def test_a_guide_s_commands_run(page, tmp_path):
    try:
        done = run(page, tmp_path, {"run"})
    finally:
        sandbox.down(tmp_path / "home")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def typed(page):
    """Yield the words of each `lumina` command in the blocks and code spans of a page."""
    for block in run_page.blocks(page.read_text()):
        for line in block.text.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(lumina .*)", line)
            if found:
                yield shlex.split(re.split(r"\s{2,}| \|\| | \| | && | > ", found[1])[0], comments=True)
    for span in re.findall(r"`(lumina [a-z][^`\n]*)`", page.read_text()):
        yield span.split()


@functools.cache
def all_verbs():
    return typer.main.get_command(app)


def unknown(words):
    """Return what of a command is not there: its verb, or an option of it."""
    command, options = all_verbs(), {"--help", "-h", "--sandbox"}
    for word in words[1:]:
        if word == "--":
            break
        if hasattr(command, "commands") and re.fullmatch(r"[a-z-]+", word):
            if word not in command.commands:
                return word
            command = command.commands[word]
            options |= {name for option in command.params for name in option.opts}
        elif re.match(r"--?[a-z]", word) and word.split("=")[0].rstrip(",.;") not in options | {"--version"}:
            return word
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_command_that_a_page_names_is_there(page):
    assert [" ".join(words) for words in typed(page) if unknown(words)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
