"""Runs the commands of a page of documentation, as a reader types them: `python scripts/run_page.py PAGE [run|path]…`.

Each block of commands stands below a comment that says what becomes of it:

    <!-- run -->            run by the tests, with a stand-in for the trainer
    <!-- path -->           needs the real trainer, or minutes: README's are typed by CI (scripts/strangers_path.sh), those of guides by
                            whoever runs this script on a page; no test does
    <!-- shown: REASON -->  never run: it needs an account, money, or another computer

Blocks run in their order, in one folder, and end at the first command that fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?:<!-- (?P<mark>run|path|shown: [^>]+) -->\n)?```(?:sh|console)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Commands of a page. `mark` is run, path, shown, or empty where the page does not say."""

    mark: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of commands in a page's text."""
    return [Block((found["mark"] or "").split(":")[0], found["text"]) for found in _BLOCK.finditer(page)]


def script(page: str, marks: set[str]) -> str:
    """Return a shell script of a page's commands; each is shown before it runs, and what it reads in is part of it."""
    return "set -eu\n" + "\n".join(f"set -x\n{one.text}{{ set +x; }} 2>/dev/null" for one in blocks(page) if one.mark in marks) + "\n"


def main() -> None:
    """Run a page in the present folder and leave with its exit code."""
    page, marks = Path(sys.argv[1]).read_text(encoding="utf-8"), set(sys.argv[2:]) or {"run", "path"}
    sys.exit(subprocess.run(["bash", "-c", script(page, marks)], check=False).returncode)


if __name__ == "__main__":
    main()
