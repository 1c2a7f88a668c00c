"""`lumina offers`, `lumina prices`, `lumina doctor`: what the market has, what it asked before, and what is missing here."""

from __future__ import annotations

from typing import Annotated

import typer

from lumina_cloud.cli import completing, options, output


def offers(
    gpu: options.Gpu = None,
    count: options.Count = None,
    max_usd: Annotated[str | None, typer.Option(help="The most that an hour of the machine may cost, all-in.")] = None,
    region: Annotated[str | None, typer.Option(help="A country, e.g. US, or the beginning of a provider's region, e.g. us-east.")] = None,
    secure: Annotated[bool, typer.Option("--secure", help="Only machines in data centres.")] = False,
    min_reliability: Annotated[float | None, typer.Option(help="Share of time that the host was up, e.g. 0.98.")] = None,
    interruptible: Annotated[bool, typer.Option("--interruptible", help="Only machines that may be taken away, for less.")] = False,
    provider: options.Provider = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can be rented now, over all providers, at all-in prices."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import market
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables_market as tables

        wanted = market.query(
            gpu=gpu,
            count=count,
            max_usd=options.amount("--max-usd", max_usd),
            region=region,
            secure=secure,
            min_reliability=min_reliability,
            interruptible=True if interruptible else None,
        )
        with Lumina() as lumina:
            found, document = lumina.offers(wanted, provider)
        if json:
            output.emit(document)
        else:
            output.show(*tables.offers(document, width=output.console().width))
        # One of several that is down is a footnote; when nobody answered, a script must not take that for an empty market.
        if (error := market.silence(found)) is not None:
            raise typer.Exit(error.exit_code)


def prices(
    gpu: Annotated[str | None, typer.Argument(help="A GPU, e.g. 4090; all of them without one.", autocompletion=completing.gpu)] = None,
    provider: options.Provider = None,
    days: Annotated[float, typer.Option(help="How far back.")] = 30.0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the price book, and what the markets asked whenever they were looked at."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables_market as tables

        with Lumina() as lumina:
            document = lumina.prices(gpu, provider, days)
        if json:
            output.emit(document)
        else:
            output.show(*tables.prices(document))


def doctor(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make a damaged or lost ledger anew of what can still be read.")] = False,
    yes: options.Yes = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check every provider, SSH, disk and clock, and say what is missing and how to get it."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables_market as tables
        from lumina_cloud.core.errors import CredentialsError, ProviderError

        if rebuild:
            from lumina_cloud.cli.ledger import rebuild_ledger

            rebuild_ledger(yes=yes, as_json=json)
            return
        with Lumina() as lumina:
            document = lumina.doctor()
        if json:
            output.emit(document)
        else:
            output.show(*tables.doctor(document))
        if not document.ok:
            refused = any(check.state == "failed" and check.provider is not None for check in document.checks)
            raise typer.Exit(CredentialsError.exit_code if refused else ProviderError.exit_code)
