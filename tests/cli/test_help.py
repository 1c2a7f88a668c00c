"""The first page names every verb, fits its terminal, and is plain where nobody looks."""

import re

import typer
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.cli import help
from lumina_cloud.cli.app import _purposes, app


def test_every_verb_is_on_the_page_with_what_it_is_for():
    page = help.page(_purposes(), columns=200, bold=False)
    verbs = typer.main.get_command(app).commands
    assert set(_purposes()) == set(verbs)
    for name in verbs:
        assert re.search(rf"^  {name} +[A-Z]", page, re.MULTILINE), name


@given(st.integers(40, 300))
def test_no_line_is_wider_than_the_terminal(columns):
    page = help.page(_purposes(), columns=columns, bold=False)
    body = [line for line in page.splitlines() if line.startswith("  ")]
    assert max(map(len, body)) <= columns


def test_a_verb_that_stands_in_no_section_is_shown_at_the_end():
    page = help.page({"plan": "Plan.", "novel": "Do what is new. And more."}, columns=80, bold=False)
    assert page.index("More") < page.index("  novel       Do what is new\n")


def test_bold_is_for_terminals():
    assert "\x1b[1mTrain\x1b[0m" in help.page(_purposes(), columns=80, bold=True)
    assert "\x1b" not in help.page(_purposes(), columns=80, bold=False)
