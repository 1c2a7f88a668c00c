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
from trainer.errors import Ended, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = 2
CK = "a checkpoint, or a run's results folder"


def main() -> None:
    """Parse the arguments, do what they say, and leave with the exit code that says how it went."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains a language model on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_train(verbs)
    _add_data(verbs)
    _add_probe(verbs)
    _add_weights_verbs(verbs)
    _add_study(verbs)
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
    train.add_argument("--init-from", help=f"start from these weights: {CK}, or a model of transformers")
    train.set_defaults(run=_train)


def _micro_batch(text: str) -> str:
    if text != "auto" and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor auto")
    return text


def _train(options: argparse.Namespace) -> None:
    config = load(options.config)
    check(config)
    from trainer.engine import OF_A_GROUP
    from trainer.microbatch import too_much
    from trainer.train import Options, train

    # A worker that torchrun starts again goes on where the last checkpoint is.
    resume = options.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    try:
        train(config, options.out, Options(options.data, resume, options.micro_batch, options.store, options.init_from))
    except OutOfMemory as error:
        # Under torchrun the launcher starts all ranks again; the size that was too much is remembered for them.
        if options.micro_batch != "auto" or "TORCHELASTIC_RUN_ID" in os.environ or too_much(options.out) <= 1:
            raise
        print(f"{error}; going on with less", flush=True)
        # The group of one that this process made for itself is not the next one's.
        kept = {k: v for k, v in os.environ.items() if k not in OF_A_GROUP}
        os.execve(sys.executable, [sys.executable, "-m", "trainer", *resuming(sys.argv[1:])], kept)  # noqa: S606 (no shell is the point)


def resuming(arguments: list[str]) -> list[str]:
    """Return the arguments that go on where a run with these ended."""
    return [*(word for word in arguments if word != "--resume"), "--resume"]


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


def _add_weights_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sample = verbs.add_parser("sample", help="print what a model writes after a prompt")
    sample.add_argument("checkpoint", metavar="CK", type=Path, help=CK)
    sample.add_argument("--prompt", required=True, help="text to go on from")
    sample.add_argument("--max-new-tokens", type=int, default=100, help="stop after so many tokens (100)")
    sample.add_argument("--temperature", type=float, default=0.0, help="0: always the most likely token (0)")
    sample.add_argument("--seed", type=int, default=0, help="of the draws, above temperature 0 (0)")
    sample.set_defaults(run=_sample)
    export = verbs.add_parser("export", help="write a model for transformers: safetensors, config.json, tokenizer")
    export.add_argument("checkpoint", metavar="CK", type=Path, help=CK)
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    export.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (float32: exact)")
    export.set_defaults(run=_export)
    bring = verbs.add_parser("import", help="make a checkpoint of a Llama- or Mixtral-shaped model of transformers")
    bring.add_argument("source", metavar="HF_DIR", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    bring.add_argument("--to", type=Path, required=True, help="a new folder, which other verbs take as CK")
    bring.set_defaults(run=_import)
    bench = verbs.add_parser("bench", help="time training steps beside transformers' on this machine")
    bench.add_argument("--json", action="store_true", help="one line of JSON")
    bench.add_argument(
        "--gpu", type=Path, metavar="FILE", help="preset b1 on one Hopper GPU instead, as JSON into this file, beside other GPUs there"
    )
    bench.add_argument("--page", type=Path, help="write docs/performance.md here, with the time to the first step as well")
    bench.set_defaults(run=_bench)
    evaluate = verbs.add_parser("evaluate", help="score a model on lm-eval's tasks (extra: eval)")
    evaluate.add_argument("checkpoint", metavar="CK", type=Path, help=CK)
    evaluate.add_argument("--tasks", required=True, help="names, with a comma between, as lm-eval has them")
    evaluate.add_argument("--limit", type=int, help="examples a task, all without it")
    evaluate.set_defaults(run=_evaluate)


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
    from trainer import bench, performance, step_profile

    if options.gpu is not None:
        _bench_gpu(options.gpu)
    elif options.page is not None:
        figures = {**bench.measure(), "seconds_to_first_step": performance.seconds_to_first_step()}
        figures["profiles"] = step_profile.profiles(compiled=bench.has_compiler())
        options.page.write_text(performance.page(figures, performance.gpu_figures(options.page.parent)), encoding="utf-8")
    else:
        figures = bench.measure()
        print(bench.as_json(figures) if options.json else bench.as_markdown(figures))


def _bench_gpu(file: Path) -> None:
    from trainer import bench_gpu

    if not bench_gpu.at_hand():
        raise ConfigError("gpu", str(file), "preset b1 is timed on one H100 or H200 (SXM), and there is none", "leave --gpu out")
    try:
        known = bench_gpu.known(file)
    except ValueError as error:
        raise ConfigError("gpu", str(file), f"what is there is no list of measured GPUs: {error}", "name another file") from error
    bench_gpu.write(file, known, bench_gpu.measure())


def _evaluate(options: argparse.Namespace) -> None:
    import json

    from trainer.harness import evaluate

    print(json.dumps(evaluate(options.checkpoint, options.tasks.split(","), options.limit)))


def _add_study(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    study = verbs.add_parser("study", help="train the four architectures beside each other (an hour on two cores), and write the page")
    study.add_argument("--out", type=Path, default=Path("study"), help="folder for runs; one that is there goes on (study)")
    study.add_argument("--page", type=Path, default=Path("docs/study.md"), help="what to write (docs/study.md)")
    study.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> None:
    from trainer import study

    study.main(options.out, options.page)


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
