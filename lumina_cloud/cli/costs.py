"""Verbs of money: `costs`, `budget`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import BillDiffers, UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.documents import of_money


def costs(
    by: Annotated[str, typer.Option(help="model, arch, provider, gpu, project, label, day, week or month.")] = "model",
    check: Annotated[bool, typer.Option("--check", help="Compare with what the providers have billed, line by line.")] = False,
    since: Annotated[str | None, typer.Option(help="With --check: from this day on (UTC), e.g. 2026-03-01; 60 days by default.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what was spent, what it bought, what was lost, and where this month is going."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina

        output.refuse_two_forms(csv=csv, json=json)
        if since is not None and not check:
            raise UsageError("--since goes with --check", "lumina costs --check --since 2026-03-01")
        with Lumina() as lumina:
            if check:
                _show_check(lumina.check_costs(since), as_csv=csv, as_json=json)
                return
            document = lumina.costs(by)
        if json:
            output.emit(document)
        elif csv:
            _print_csv(document)
        else:
            from lumina_cloud.cli import tables_money

            output.show(*tables_money.costs(document, width=output.console().width))


def _show_check(document: of_money.CheckDocument, *, as_csv: bool, as_json: bool) -> None:
    """Print the comparison, and leave with an error when something is not explained."""
    from lumina_cloud.cli import tables_money

    if as_json:
        output.emit(document)
    elif as_csv:
        from lumina_cloud.api.documents import of_money

        names = list(of_money.CheckLine.model_fields)
        output.print_csv(names, [[getattr(line, name) for name in names] for line in document.lines])
    else:
        output.show(*tables_money.check(document))
    if document.unexplained:
        raise BillDiffers(
            f"{document.unexplained} of {len(document.lines)} lines of the providers' bills differ from the ledger without an explanation",
            "look at them above; an instance that is not in the ledger may still run: lumina doctor --rebuild",
        )


def _print_csv(document: of_money.CostsDocument) -> None:
    from lumina_cloud.api.documents import of_money

    plain = [name for name in of_money.CostRow.model_fields if name != "lost"]
    lost = list(of_money.LostMoney.model_fields)
    names = [document.by if name == "key" else name for name in plain] + [f"usd_lost_{name}" for name in lost]
    rows = [[getattr(row, name) for name in plain] + [getattr(row.lost, name) for name in lost] for row in document.rows]
    output.print_csv(names, rows)


def budget(
    amount: Annotated[str | None, typer.Argument(metavar="[USD]", help="The most that may be spent in a month; without it, show.")] = None,
    project: Annotated[str, typer.Option(help="Of this project; without it, of all together.")] = "",
    month: Annotated[str, typer.Option(help="For this month only, e.g. 2026-03; without it, for every month.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the cap.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Set and show caps on what may be spent in a month: no launch may exceed them."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.launching import purpose_of
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables_money

        if remove and amount is not None:
            raise UsageError("an amount and --remove say two things", "leave one of them out")
        usd = options.amount("lumina budget", amount)
        if project:
            purpose_of(project, ())
        with Lumina() as lumina:
            if usd is not None:
                lumina.set_budget(usd, project=project, month=month)
            elif remove:
                lumina.remove_budget(project=project, month=month)
            document = lumina.budget()
        if json:
            output.emit(document)
        else:
            output.show(*tables_money.budget(document))
