"""The trainer's command line. Exit codes: 0 done, 2 refused, 3 loss not finite, 75 stopped with a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import ConfigError, check, load
from trainer.errors import DataError, LossNotFinite, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED, NOT_FINITE, STOPPED = 2, 3, 75
CK = "a checkpoint, or a run's results folder"


def main() -> None:
    """Parse the arguments, do what is asked, and leave with the exit code that says how it went."""
    options = _parser().parse_args()
    sys.exit(_done(options.do, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains a language model on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train, or go on from the last checkpoint")
    train.add_argument("--config", type=Path, required=True, help="a run.json")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and results")
    train.add_argument("--data", help="a file or folder of text, in place of the configuration's own source")
    train.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out")
    train.add_argument("--init-from", help=f"start from these weights: {CK}, or a model of transformers")
    train.set_defaults(do=_train)
    sample = verbs.add_parser("sample", help="print what a model writes after a prompt")
    sample.add_argument("checkpoint", metavar="CK", type=Path, help=CK)
    sample.add_argument("--prompt", required=True, help="text to go on from")
    sample.add_argument("--max-new-tokens", type=int, default=100, help="stop after so many tokens (100)")
    sample.add_argument("--temperature", type=float, default=0.0, help="0: always the most likely token (0)")
    sample.add_argument("--seed", type=int, default=0, help="of the draws, above temperature 0 (0)")
    sample.set_defaults(do=_sample)
    export = verbs.add_parser("export", help="write a model for transformers: safetensors, config.json, tokenizer")
    export.add_argument("checkpoint", metavar="CK", type=Path, help=CK)
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    export.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (float32: exact)")
    export.set_defaults(do=_export)
    bring = verbs.add_parser("import", help="make a checkpoint of a Llama- or Mixtral-shaped model of transformers")
    bring.add_argument("source", metavar="HF_DIR", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    bring.add_argument("--to", type=Path, required=True, help="a new folder, which other verbs take as CK")
    bring.set_defaults(do=_import)
    bench = verbs.add_parser("bench", help="time training steps beside transformers' on this machine")
    bench.add_argument("--json", action="store_true", help="one line of JSON")
    bench.set_defaults(do=_bench)
    return parser


def _done(do: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    try:
        do(options)
    except ConfigError as error:
        return _say(f"error: {error.message} ({error.hint})", REFUSED)
    except DataError as error:
        return _say(f"error: {error}", REFUSED)
    except LossNotFinite as error:
        return _say(f"error: {error}", NOT_FINITE)
    except Stopped as stopped:
        return _say(str(stopped), STOPPED)
    return 0


def _train(options: argparse.Namespace) -> None:
    config = load(options.config)
    check(config)
    from trainer.train import train

    train(config, options.out, data=options.data, resume=options.resume, init_from=options.init_from)


def _sample(options: argparse.Namespace) -> None:
    if options.max_new_tokens < 1 or options.temperature < 0:
        raise ConfigError(
            "sample", options.temperature, "--max-new-tokens is at least 1, --temperature at least 0", "e.g. --temperature 0.8"
        )
    from trainer import weights
    from trainer.sample import sample

    saved = weights.find(options.checkpoint)
    tokenizer = saved.tokenizer()
    wanted = {"new_tokens": options.max_new_tokens, "temperature": options.temperature, "seed": options.seed}
    print(sample(saved.model(), tokenizer, options.prompt, **wanted))


def _export(options: argparse.Namespace) -> None:
    from trainer.export import export

    name = export(options.checkpoint, options.to, dtype=options.dtype)
    code = ", trust_remote_code=True" if name == "LuminaForCausalLM" else ""
    print(f"{name} in {options.to}: transformers.AutoModelForCausalLM.from_pretrained({str(options.to)!r}{code})")


def _import(options: argparse.Namespace) -> None:
    from trainer.config import count_parameters
    from trainer.importing import import_model

    config = import_model(options.source, options.to)
    counted = count_parameters(config.model)
    print(f"{config.model.arch}, {counted.total:,} parameters, {counted.active:,} active: a checkpoint in {options.to}")


def _bench(options: argparse.Namespace) -> None:
    from trainer import bench

    print(bench.as_json(bench.measure()) if options.json else bench.as_markdown(bench.measure()))


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
