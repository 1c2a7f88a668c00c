"""`lumina jobfile`: a plan as a job of an engine that runs on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lumina_cloud.cli import completing, options, output
from lumina_cloud.core.errors import UsageError


def jobfile(
    plan: Annotated[str, typer.Argument(help="A plan's id, or last.", autocompletion=completing.plan)] = "last",
    for_: Annotated[str, typer.Option("--for", metavar="ENGINE", help="skypilot, slurm or kubeflow.")] = "skypilot",
    nodes: Annotated[int, typer.Option(help="How many machines.")] = 1,
    gpus_per_node: Annotated[int | None, typer.Option("--gpus-per-node", help="GPUs of each; the plan's own count by default.")] = None,
    out: Annotated[str | None, typer.Option(help="A file to write to; standard output without it.")] = None,
    debug: options.Debug = False,
) -> None:
    """Write a plan as a job for an engine of many machines: SkyPilot, Slurm or Kubeflow."""
    with output.errors_shown(as_json=False):
        from lumina_cloud.api import jobfiles
        from lumina_cloud.api.lumina import Lumina

        engine = jobfiles.engine_named(for_)
        with Lumina() as lumina:
            made = jobfiles.write(lumina.session, None if plan == "last" else plan, engine, nodes, gpus_per_node)
        if out is None:
            typer.echo(made.text, nl=False)
            return
        target = Path(out) / made.name if Path(out).is_dir() else Path(out)
        try:
            target.write_text(made.text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}", "--out takes a file or a folder") from error
        output.console().print(str(target), markup=False, soft_wrap=True)
        output.tell(f"next: {jobfiles.START[engine]} {target}")
