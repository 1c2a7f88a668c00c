"""`lumina data prepare` and `lumina data check`: shards from text, and what a source holds, before anything is rented."""

from __future__ import annotations

from typing import Annotated

import typer

from lumina_cloud.cli import options, output

app = typer.Typer(name="data", help="Prepare text for training, or check what there is.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option(help="Take vocabulary and lengths of this size: debug, debug200m, b1 or b7.")]
Vocab = Annotated[str | None, typer.Option(help="Vocabulary of the model, by default 32000.")]
Tokenizer = Annotated[str | None, typer.Option(help="bpe (trained on the text), bytes, or a Hugging Face tokenizer folder.")]


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="Text, JSONL, Parquet or source files, a folder of them, hf:NAME:SUBSET, or stdlib.")],
    to: Annotated[str, typer.Option(help="Folder for shards, index and tokenizer.")],
    model: Model = None,
    vocab: Vocab = None,
    tokenizer: Tokenizer = None,
    tokens: options.Tokens = None,
    seq_len: Annotated[str | None, typer.Option(help="Each split must hold a sequence of this length.")] = None,
    seed: Annotated[int, typer.Option(help="In which order documents are shuffled.")] = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write memory-mapped shards with index and checksums; train on them with --data DIR."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import preparing

        request = preparing.DataRequest(source, model, vocab, tokenizer, tokens, seq_len, seed)
        document = preparing.prepare(request, to, (lambda _line: None) if json else output.tell)
        if json:
            output.emit(document)
        else:
            output.show(
                f"{document.documents:,} documents, {document.tokens:,} tokens to train on, {document.validation_tokens:,} held out, "
                f"{document.upload_bytes / 2**20:,.1f} MiB in {document.shards} shards ({document.seconds:.1f} s)"
            )
            output.tell(f"next: lumina plan MODEL --data {document.path}")


@app.command()
def check(
    path: Annotated[str, typer.Argument(help="Text, or prepared shards.")],
    model: Model = None,
    vocab: Vocab = None,
    tokenizer: Tokenizer = None,
    tokens: options.Tokens = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say how many tokens there are, how many epochs result, and what an upload takes; name what is damaged."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import preparing

        document = preparing.check(preparing.DataRequest(path, model, vocab, tokenizer, tokens))
        if json:
            output.emit(document)
            return
        about = "" if document.exact else "about "
        where = "" if document.documents is None else f" in {document.documents:,} documents"
        output.show(f"{about}{document.tokens:,} tokens{where}, {document.upload_bytes / 2**20:,.1f} MiB to upload")
        if document.epochs is not None:
            output.show(f"{document.epochs:.2f} epochs for {document.wanted_tokens:,} tokens")
        output.tell(f"next: lumina plan {model or 'MODEL'} --data {path}")
