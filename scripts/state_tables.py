"""Writes the two state tables and their pictures into docs/how-it-works.md, from the tables that the product runs on.

`--check` changes nothing and fails where the page says something else.
"""

import sys
from pathlib import Path
from typing import Any, get_args

from lumina_cloud.runs import states

PAGE = Path(__file__).parents[1] / "docs" / "how-it-works.md"
BEGIN, END = "<!-- states: written by scripts/state_tables.py -->", "<!-- end of states -->"


def drawing(cells: dict[Any, Any]) -> str:
    """Return a table as a picture that GitHub draws."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), to in cells.items():
        if to is not None:
            arrows.setdefault((state, to), []).append(event)
    lines = [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def grid(cells: dict[Any, Any], names: tuple[str, ...], events: tuple[str, ...]) -> str:
    """Return every cell of a table."""
    rows = [f"| | {' | '.join(events)} |", f"| --- | {' | '.join('---' for _ in events)} |"]
    rows += [f"| **{state}** | {' | '.join(cells[state, event] or '' for event in events)} |" for state in names]
    return "\n".join(rows)


def pages() -> str:
    """Return both machines."""
    actions = "\n".join(f"| {state} | {', '.join(todo)} |" for state, todo in states.ACTIONS.items())
    runs = grid(states.RUN_CELLS, get_args(states.RunState), get_args(states.RunEvent))
    rentals = grid(states.RENTAL_CELLS, get_args(states.RentalState), get_args(states.RentalEvent))
    return "\n\n".join(
        (
            "A run (an empty cell cannot happen):",
            drawing(states.RUN_CELLS),
            runs,
            "A rental:",
            drawing(states.RENTAL_CELLS),
            rentals,
            "What a controller may do with a run in each state:",
            f"| state | actions |\n| --- | --- |\n{actions}",
        )
    )


def main() -> None:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n\n{pages()}\n\n{END}{after}"
    if "--check" in sys.argv:
        if made != text:
            sys.exit(f"{PAGE} is not what the tables say: python scripts/state_tables.py")
        return
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
