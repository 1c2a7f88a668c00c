"""The trainer's command line.

Exit codes: 0 done, 2 refused, 3 loss not finite or a spike, 4 cannot write, 5 a rank is stuck, 6 out of memory, 75 stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import ConfigError, check, load
from trainer.errors import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = 2


def main() -> None:
    """Parse the arguments, do what they say, and leave with the exit code that says how it went."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains a language model on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_train(verbs)
    _add_data(verbs)
    _add_probe(verbs)
    options = parser.parse_args()
    sys.exit(_guarded(lambda: options.run(options)))


def _add_train(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = verbs.add_parser("train", help="train, or go on from the last checkpoint")
    train.add_argument("--config", type=Path, required=True, help="a run.json")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and results")
    train.add_argument("--data", help="text, or prepared shards, in place of the configuration's own source")
    train.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out (and --store)")
    train.add_argument(
        "--micro-batch", metavar="N|auto", type=_micro_batch, help="sequences a pass; auto tries which is the largest that fits"
    )
    train.add_argument("--store", metavar="URL", help="keep checkpoints and results in object storage too, e.g. s3://bucket/run")
    train.set_defaults(run=_train)


def _micro_batch(text: str) -> str:
    if text != "auto" and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor auto")
    return text


def _train(options: argparse.Namespace) -> None:
    config = load(options.config)
    check(config)
    from trainer.train import Options, train

    # A worker that torchrun starts again goes on where the last checkpoint is.
    resume = options.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    train(config, options.out, Options(options.data, resume, options.micro_batch, options.store))


def _add_probe(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    probe = verbs.add_parser("probe", help="try whether a configuration fits into memory (used by --micro-batch auto)")
    probe.add_argument("--config", type=Path, required=True, help="a run.json")
    probe.set_defaults(run=_probe)


def _probe(options: argparse.Namespace) -> None:
    from trainer.microbatch import probe

    probe(load(options.config))


def _add_data(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from trainer.data import add_check, add_prepare

    data = verbs.add_parser("data", help="prepare text for training, or check what there is")
    whats = data.add_subparsers(dest="what", required=True)
    add_prepare(whats)
    add_check(whats)


def _guarded(run: Callable[[], None]) -> int:
    try:
        run()
    except ConfigError as error:
        return _say(f"error: {error.message} ({error.hint})", REFUSED)
    except Ended as ended:
        return _say(str(ended) if ended.reason == "stopped" else f"error: {ended}", ended.code)
    return 0


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
