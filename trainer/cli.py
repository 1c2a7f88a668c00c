"""The trainer's command line. Exit codes: 0 done, 2 refused, 3 loss not finite, 75 stopped with a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.config import ConfigError, check, load
from trainer.errors import DataError, LossNotFinite, Stopped

REFUSED, NOT_FINITE, STOPPED = 2, 3, 75


def main() -> None:
    """Parse the arguments, train, and leave with the exit code that says how it went."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains a language model on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train, or go on from the last checkpoint")
    train.add_argument("--config", type=Path, required=True, help="a run.json")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and results")
    train.add_argument("--data", help="a file or folder of text, in place of the configuration's own source")
    train.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out")
    options = parser.parse_args()
    sys.exit(_train(options))


def _train(options: argparse.Namespace) -> int:
    try:
        config = load(options.config)
        check(config)
        from trainer.train import train

        train(config, options.out, data=options.data, resume=options.resume)
    except ConfigError as error:
        return _say(f"error: {error.message} ({error.hint})", REFUSED)
    except DataError as error:
        return _say(f"error: {error}", REFUSED)
    except LossNotFinite as error:
        return _say(f"error: {error}", NOT_FINITE)
    except Stopped as stopped:
        return _say(str(stopped), STOPPED)
    return 0


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
