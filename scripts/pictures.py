"""Makes the terminal pictures of the documents from real output: `make pictures`.

Each command runs as a person types it, in a home of its own, and what it prints is drawn as an SVG by rich.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURES = {"plan-b7-mod": ("lumina plan b7 --arch mod", 118)}
"""File name: the command, and the width of the terminal in columns."""


def draw(command: str, columns: int, target: Path, home: Path) -> None:
    """Run `command` and write its picture to `target`."""
    environment = {**os.environ, "LUMINA_HOME": str(home), "COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    program = Path(sys.executable).with_name("lumina")
    argv = [str(program), *shlex.split(command)[1:]]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    console = Console(record=True, width=columns, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(f"$ {command}\n{done.stdout}"))
    target.write_text(console.export_svg(title=command, theme=MONOKAI, unique_id=target.stem), encoding="utf-8")


def main() -> None:
    """Draw all pictures into `docs/pictures`."""
    folder = ROOT / "docs" / "pictures"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        for name, (command, columns) in PICTURES.items():
            draw(command, columns, folder / f"{name}.svg", Path(home))


if __name__ == "__main__":
    main()
