"""`python -m tests.runs.record HOME`: keep the events of a ledger's runs as a history of this release, for ever.

Each line is one run: its state, its rentals' states, and its events. `test_history.py` walks all of them.
"""

import json
import sys
from pathlib import Path

from lumina_cloud import __version__
from lumina_cloud.core.clock import SystemClock
from lumina_cloud.ledger import Ledger

FOLDER = Path(__file__).with_name("histories")


def main(home):
    """Write the file of this release anew."""
    ledger = Ledger.open(Path(home), SystemClock())
    lines = []
    for run in sorted(ledger.runs(), key=lambda r: r.created_at):
        rentals = {r.rental_id: r.state for r in ledger.rentals(run.run_id)}
        # What moves nothing is left out, but for the reason of an end.
        events = [[e.kind, e.rental_id, {k: v for k, v in e.data.items() if k == "reason"}] for e in ledger.events(run.run_id)]
        lines.append(json.dumps({"run": run.run_id, "state": run.state, "rentals": rentals, "events": events}))
    ledger.close()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{__version__}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
