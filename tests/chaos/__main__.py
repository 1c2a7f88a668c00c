"""`python -m tests.chaos --launches N --seed S`: launches on a virtual clock with faults and kills, judged by the emulator's own record.

Prints one line of JSON, and leaves with 1 when anything was found. The same seed gives the same log (`log_sha256`). `--world NAME` plays
one world again, with its log on standard error; `--sabotage` breaks the product on purpose, and must be found.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.chaos import campaign, sabotage


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--launches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sabotage", choices=sabotage.NAMES, default="")
    parser.add_argument(
        "--lost-creates", action="store_true", help="of each launch one create's reply is lost or lies, and nothing else fails"
    )
    parser.add_argument("--world", default="", help="play this one world only, and print its log")
    options = parser.parse_args()
    if options.world:
        found = campaign.replay(options.world, options.sabotage, sys.stderr)
    else:
        found = campaign.play(options.launches, options.seed, options.sabotage, sys.stderr, losing=options.lost_creates)
    sys.stdout.write(json.dumps(found) + "\n")
    raise SystemExit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()
