"""Prints the refusal table of docs/training.md; with a path, writes it there between its marks."""

import sys
from pathlib import Path

from trainer.config import REFUSALS

BEGIN, END = "<!-- refusals: written by scripts/refusal_table.py -->", "<!-- end of refusals -->"


def table() -> str:
    """Return one row for each entry of `trainer.config.REFUSALS`."""
    rows = ["| refused | field | why | instead |", "| --- | --- | --- | --- |"]
    for entry in REFUSALS:
        rows.append(f"| {entry.key} | `{entry.name}` | {_plain(entry.why)} | {_plain(entry.hint)} |")
    return "\n".join(rows)


def _plain(text: str) -> str:
    """Return a message with the values that it is filled with named by their fields."""
    for section in ("layout", "training", "model"):
        text = text.replace("{c." + section + ".", "{")
    return text.replace("{", "*").replace("!r}", "*").replace("}", "*")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        page = Path(sys.argv[1])
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
    else:
        sys.stdout.write(table() + "\n")
