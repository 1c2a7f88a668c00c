"""The fifteen ways in which others lost money: each has a test that carries its number, and the page names tests that are there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NUMBERS = range(1, 16)


def marked():
    """Return the node ids of the tests that carry each number."""
    found = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in (n for decorator in node.decorator_list for n in number_of(decorator)):
                    found.setdefault(number, set()).add(f"tests/{file.relative_to(TESTS)}::{node.name}")
    return found


def number_of(decorator):
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.pain":
        yield decorator.args[0].value


def test_each_number_has_the_tests_that_the_page_names():
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {int(number): set(re.findall(r"`(tests/[^`]+)`", row)) for number, row in rows}
    assert sorted(named) == list(NUMBERS)
    assert named == marked()
