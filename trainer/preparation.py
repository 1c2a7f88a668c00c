"""The data of a run, made ready: prepared before, found in `out` from an earlier start, or made now by rank 0."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import shards, sources
from trainer import tokenizer as tokenizers
from trainer.batches import Windows
from trainer.checkpoint import barrier
from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.checkpoint import Place
    from trainer.config import RunConfig
    from trainer.reports import Reports
    from trainer.tokenizer import Tokenizer
    from trainer.watch import Watch


def ready(config: RunConfig, out: Path, place: Place, watch: Watch, reports: Reports) -> tuple[Path, shards.Index, Tokenizer]:
    """Return folder and index of the shards, and the tokenizer: prepared before, found in `out`, or made now by rank 0."""
    started = time.monotonic()

    def tick(tokens: int) -> None:
        reports.alive(tokens_prepared=tokens)
        watch.beat(f"preparing token {tokens}")
        watch.leave_before_training()

    if place.rank == 0:
        _prepared(config, out, tick, reports)
    with watch.patient("waiting for rank 0 to prepare the data"):
        barrier()
    source = sources.fetched(config.data.source, out)
    folder = Path(source) if shards.is_prepared(Path(source)) else out / "shards"
    index = shards.read(folder)
    shards.require(index, config.training.seq_len)
    training = config.training
    windows = len(Windows(folder, index, "train", training.seq_len))
    epochs = training.tokens / (windows * training.seq_len)
    reports.say(
        f"data: {index.count('train'):,} tokens to train on, {index.count('validation'):,} held out, {epochs:.2f} epochs "
        f"({time.monotonic() - started:.1f} s)"
    )
    if epochs > max(1.0, 1.05 * training.epochs):
        reports.say(f"the text has fewer than the {training.unique_tokens:,} unique tokens asked for: it is seen {epochs:.1f} times")
    return folder, index, tokenizers.open_in(out, index.tokenizer)


def _prepared(config: RunConfig, out: Path, tick: Callable[[int], None], reports: Reports) -> None:
    source, training = sources.fetched(config.data.source, out), config.training
    if shards.is_prepared(Path(source)):
        index = shards.read(Path(source))
        if index.vocab > config.model.vocab:
            raise DataError(f"{source} was prepared for {index.vocab:,} tokens, and the model's vocabulary is {config.model.vocab:,}")
        for problem in shards.damage(Path(source), index, tick):
            raise DataError(f"{problem} in {source}: prepare the data again, or copy that shard once more")
        if index.tokenizer != "bytes" and not (out / "tokenizer.json").is_file():
            tokenizers.copy_folder(Path(source), out / "tokenizer.json")
        return
    recipe = shards.Recipe(
        source=source,
        tokenizer=config.data.tokenizer,
        vocab=config.model.vocab,
        wanted=min(training.unique_tokens, training.tokens),
        validation_tokens=training.validation_tokens,
        seq_len=training.seq_len,
        seed=training.seed,
    )
    if shards.existing(recipe, out / "shards", reports.say) is None:
        shards.prepare(recipe, out / "shards", out / "tokenizer.json", tick)
