"""`lumina reconcile`: what is rented beside what the ledger knows."""

from __future__ import annotations

from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show.")] = False,
    adopt: Annotated[
        list[str] | None, typer.Option(metavar="INSTANCE", help="Take this machine of an unknown ledger into this one. Repeatable.")
    ] = None,
    terminate: Annotated[
        list[str] | None, typer.Option(metavar="INSTANCE", help="End this machine of an unknown ledger. Repeatable.")
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """End machines that no run needs any more; one that carries another ledger's tag is only shown, unless it is named."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.api.reconciling import Wanted
        from lumina_cloud.cli import tables_reconcile
        from lumina_cloud.cli.following import Screen

        with Lumina(Screen()) as lumina:
            document = lumina.reconcile(Wanted(dry_run, tuple(adopt or ()), tuple(terminate or ())))
        if json:
            output.emit(document)
        else:
            output.show(*tables_reconcile.reconciled(document))
