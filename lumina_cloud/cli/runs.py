"""Verbs on one run: `logs`, `stop`, `resume`, `extend`, `results`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def logs(
    run: options.Run = "last",
    follow: options.Follow = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what a run's trainer printed; with -f, follow the run to its end. With --json, one object a line of the log."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.documents import of_runs
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli.following import Screen, conclude, follow_run
        from lumina_cloud.core import untrusted

        with Lumina(Screen() if follow else None) as lumina:
            lumina.settle()
            record = lumina.find(run)
            offset = 0
            while chunk := lumina.log_chunk(record, offset):
                text = untrusted.block(chunk, max_lines=10**9)
                if json:
                    for line in text.splitlines():
                        output.emit(of_runs.LogLine(run=record.run_id, line=line))
                else:
                    sys.stdout.write(text)
                offset += len(chunk)
            sys.stdout.flush()
            if follow:
                conclude(lumina, follow_run(lumina, record.run_id), as_json=json, followed=True)


def stop(run: options.Run = "last", yes: options.YesToo = False, json: options.Json = False, debug: options.Debug = False) -> None:
    """End a run in good order: checkpoint, results home, rental over."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli.following import Screen, conclude, letting_go

        with Lumina(Screen()) as lumina:
            lumina.settle()
            name = lumina.find(run).run_id
            with letting_go(lumina, lambda: name):
                ended = lumina.stop(name)
            conclude(lumina, ended, as_json=json, followed=False)


def resume(
    run: options.Run = "last",
    max_cost: options.MaxCost = None,
    max_hours: options.MaxHours = None,
    follow: options.Follow = False,
    yes: options.Yes = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Go on with a failed or stopped run from its last checkpoint, in a new rental."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.launching import Limits
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli.following import Screen
        from lumina_cloud.cli.launch import confirm, follow_to_end
        from lumina_cloud.core import money

        with Lumina(Screen()) as lumina:
            lumina.settle()
            limits = Limits(max_cost=options.amount("--max-cost", max_cost), max_hours=max_hours)
            record = lumina.check_resumable(lumina.find(run), limits)
            cap = money.show(limits.max_cost or record.usd_cap)
            output.tell(
                f"{record.run_id}: another {record.count} x {record.gpu} at {record.provider}, "
                f"{money.show(record.usd_per_hour)}/h, at most {cap} in all, {money.show(lumina.spent(record))} of it spent"
            )
            confirm("rent it?", yes=yes)
            follow_to_end(lumina, lumina.take_up(record.run_id, limits).run_id, follow=follow, as_json=json)


def extend(
    run: options.Run = "last",
    max_cost: options.MaxCost = None,
    max_hours: options.MaxHours = None,
    yes: options.Yes = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Change what a run at work may cost or take in all, in the ledger and on its machine."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.launching import Limits
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli.following import Screen
        from lumina_cloud.cli.launch import confirm
        from lumina_cloud.core import money, units

        with Lumina(Screen()) as lumina:
            lumina.settle()
            record = lumina.find(run)
            limits = Limits(max_cost=options.amount("--max-cost", max_cost), max_hours=max_hours)
            cap = lumina.check_extendable(record, limits)
            output.tell(
                f"{record.run_id}: at most {money.show(cap.usd)} in all in place of {money.show(record.usd_cap)}, "
                f"{money.show(lumina.spent(record))} of it spent; its machine may live {units.duration(cap.seconds)}"
            )
            if cap.usd > record.usd_cap:
                confirm("may it cost that?", yes=yes)
            document = lumina.extend(record.run_id, limits)
        if json:
            output.emit(document)
        else:
            output.tell(
                "its machine has been told\nnext: lumina status"
                if document.told
                else "its machine does not answer now: whoever drives the run tells it as soon as it does\nnext: lumina status"
            )


def ssh(
    run: options.Run = "last",
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="A command to run there; a shell without one.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Open a shell on a run's machine, or run one command there: lumina ssh RUN -- nvidia-smi."""
    with output.errors_shown(as_json=False):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.remote import ssh_shell

        with Lumina() as lumina:
            connection = lumina.ssh(lumina.find(run).run_id)
            try:
                code = ssh_shell.run(connection, command or [])
            finally:
                connection.close()
        raise typer.Exit(code)


def results(run: options.Run = "last", json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what a run was planned to be beside what it became, and where its files are."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables

        with Lumina() as lumina:
            document = lumina.results(run)
        if json:
            output.emit(document)
        else:
            output.show(*tables.results(document))


def status(
    everything: Annotated[bool, typer.Option("--all", help="All runs, not the newest only.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what is running, since when, what it has cost, and when it will end."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.cli import tables

        with Lumina() as lumina:
            document = lumina.status(everything=everything)
        if json:
            output.emit(document)
        else:
            output.show(*tables.status(document, width=output.console().width))


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs by name, its beginning, or last; all runs without one.")
    ] = None,
    month: Annotated[str | None, typer.Option(help="Runs begun in this month (UTC), e.g. 2026-03.")] = None,
    project: Annotated[str | None, typer.Option(help="Runs of this project.")] = None,
    out: Annotated[str | None, typer.Option(help="Where to write the page; a name that ends in .md makes it Markdown.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write one page to send: planned and actual, curves, routing, costs with lost money apart, samples, how to do it again."""
    with output.errors_shown(as_json=json):
        from pathlib import Path

        from lumina_cloud.api.documents import of_runs
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.api.reporting import Selection
        from lumina_cloud.web import report as page

        with Lumina() as lumina:
            path = page.write(lumina, Selection(tuple(runs or ()), month, project), None if out is None else Path(out))
        if json:
            output.emit(of_runs.ReportDocument(path=str(path)))
        else:
            output.console().print(str(path), markup=False, soft_wrap=True)
