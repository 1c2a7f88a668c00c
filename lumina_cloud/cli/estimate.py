"""`lumina estimate`: what training runs need and how fast they are, JSON lines in and out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def estimate(
    explain: Annotated[bool, typer.Option("--explain", help="Add the derivation of each estimate, line by line.")] = False,
    debug: options.Debug = False,
) -> None:
    """Estimate speed and memory of described training runs: one JSON line in, one out.

    A request names a model by its dimensions, a GPU, and in free text how it is trained; anything may be missing. Example:

    {"id": "x1", "model": {"n_layers": 32, "d_model": 4096}, "gpu": "A100-80GB-SXM", "n_gpus": 8, "parallelism": "FSDP full"}
    """
    with output.errors_shown(as_json=True):
        from lumina_cloud.api.estimating import answers

        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        for line in answers(sys.stdin, explained=explain):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
