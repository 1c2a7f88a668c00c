"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import completing
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.launching import Terms

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for a script.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as comma-separated values.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Gpu = Annotated[str | None, typer.Option(help="Only this GPU, e.g. 4090 or a100-80gb.", autocompletion=completing.gpu)]
Count = Annotated[int | None, typer.Option(help="Only machines with this many GPUs.")]
Provider = Annotated[
    str | None, typer.Option(help="Only this provider: local, runpod, vastai or lambda.", autocompletion=completing.provider)
]
Tokens = Annotated[str | None, typer.Option(help="Tokens to train on in all: 1.5M, 20B, or chinchilla (20 a parameter).")]
UniqueTokens = Annotated[str | None, typer.Option(help="Tokens of different text among them.")]
Epochs = Annotated[float | None, typer.Option(help="How often each unique token is seen.")]
GlobalBatch = Annotated[str | None, typer.Option(help="Tokens per optimizer step, a multiple of the sequence length.")]
Data = Annotated[str | None, typer.Option(help="Your own text: a file or folder of .txt, .jsonl, .parquet or source files.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. seq_len=512. Repeatable.")]
Recipe = Annotated[str | None, typer.Option(help="Depth routing (mod, hybrid): paper (the default) or published.")]
InitFrom = Annotated[str | None, typer.Option(help="Train these weights further: a folder of transformers, or a checkpoint.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights and data order.")]
Config = Annotated[str | None, typer.Option(help="A TOML file of settings, as for --set.")]
MaxCost = Annotated[str | None, typer.Option(help="The most that the run may cost, in dollars.")]
MaxHours = Annotated[float | None, typer.Option(help="The longest that the run may take.")]
Lease = Annotated[str | None, typer.Option(help="How long a rented machine goes on without hearing from us: 15m, 90s, 2h.")]
Store = Annotated[str | None, typer.Option(help="Keep checkpoints and results in object storage: s3://bucket/path, gs://..., file:///...")]
Secret = Annotated[
    list[str] | None, typer.Option("--secret", metavar="NAME", help="Give the machine this environment variable of yours. Repeatable.")
]
AcceptUnguarded = Annotated[
    bool, typer.Option("--accept-unguarded", help="Rent a machine that cannot end itself (Lambda), knowing what that may cost.")
]
Project = Annotated[str | None, typer.Option(help="What the money is for: costs and budgets can be by project.")]
Label = Annotated[list[str] | None, typer.Option(help="A word, or name=value, that costs can be shown by. Repeatable.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Rent without asking.")]
YesToo = Annotated[bool, typer.Option("--yes", "-y", help="For scripts: ending a run is never asked about.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and show the run to its end.")]
Run = Annotated[str, typer.Argument(help="A run's name, its beginning, or last.", autocompletion=completing.run)]


def amount(option: str, text: str | None) -> Decimal | None:
    """Return an option's dollars. Raises UsageError for text that is no amount."""
    if text is None:
        return None
    try:
        return money.usd(text.lstrip("$"))
    except ValueError:
        raise UsageError(f"{option} takes dollars, at most 10^12, not {text!r}", f"e.g. {option} 5 or {option} 0.10") from None


def terms(lease: str | None, store: str | None, secrets: list[str] | None, *, accept_unguarded: bool, interruptible: bool = False) -> Terms:
    """Return the terms on which is rented. Raises UsageError for a span, a store or a name that cannot be meant."""
    from lumina_cloud.api import launching

    return launching.terms_from(lease, store, secrets or [], accept_unguarded=accept_unguarded, interruptible=interruptible)
