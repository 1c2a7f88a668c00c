"""`lumina launch`: rent the machine, train there, bring everything back, switch it off."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import completing, options, output
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.launching import Prepared
    from lumina_cloud.api.lumina import Lumina


def launch(
    model: Annotated[
        str | None, typer.Argument(help="debug, debug200m, b1 or b7; without one, the last plan.", autocompletion=completing.model)
    ] = None,
    arch: Annotated[str | None, typer.Option(help="dense, moe, mod or hybrid.", autocompletion=completing.arch)] = None,
    plan: Annotated[
        str | None, typer.Option(help="Launch this plan: its id, or a file that lumina plan --out wrote.", autocompletion=completing.plan)
    ] = None,
    gpu: options.Gpu = None,
    count: options.Count = None,
    provider: options.Provider = None,
    tokens: options.Tokens = None,
    unique_tokens: options.UniqueTokens = None,
    epochs: options.Epochs = None,
    global_batch: options.GlobalBatch = None,
    data: options.Data = None,
    set_: options.Set = None,
    config: options.Config = None,
    seed: options.Seed = None,
    recipe: options.Recipe = None,
    init_from: options.InitFrom = None,
    max_cost: options.MaxCost = None,
    max_hours: options.MaxHours = None,
    lease: options.Lease = None,
    store: options.Store = None,
    secret: options.Secret = None,
    accept_unguarded: options.AcceptUnguarded = False,
    interruptible: Annotated[bool, typer.Option("--interruptible", help="Rent a cheaper machine that may be taken away.")] = False,
    project: options.Project = None,
    label: options.Label = None,
    on_drift: Annotated[str, typer.Option(help="When the run goes beyond its plan: tell (the default) or stop.")] = "tell",
    follow: options.Follow = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once: a controller in the background does the rest.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be rented and the most it could cost.")] = False,
    yes: options.Yes = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Rent a machine, train there, bring everything back, switch it off."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import sharing
        from lumina_cloud.api.launching import Limits, purpose_of
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.api.planning import MachineFilter
        from lumina_cloud.api.requests import Options, narrowed_request, workload_request
        from lumina_cloud.cli.following import Screen

        if model is not None and plan is not None:
            raise UsageError("a MODEL and --plan say two things", "leave one of them out")
        if follow and detach:
            raise UsageError("--follow stays, and --detach returns at once", "leave one of them out")
        if arch == "all":
            raise UsageError("a run has one architecture, and --arch all means four", "take one of dense, moe, mod, hybrid")
        given = Options(arch, tokens, unique_tokens, epochs, global_batch, data, seed, set_ or [], config, recipe, init_from)
        limits = Limits(max_cost=options.amount("--max-cost", max_cost), max_hours=max_hours)
        purpose = purpose_of(project, label or [], on_drift)
        shared = sharing.load(Path(plan).expanduser()) if plan is not None and sharing.is_file(plan) else None
        with Lumina(Screen()) as lumina:
            said = MachineFilter(provider=provider, gpu=gpu, count=count)
            if model is not None or init_from is not None:
                request, wanted = workload_request(model, given), MachineFilter().narrowed(said)
            else:
                planned, asked = (shared.request, shared.wanted) if shared is not None else lumina.request_from_plan(plan)
                request, wanted = narrowed_request(planned, given), asked.narrowed(said)
            as_planned = interruptible or (shared is not None and shared.interruptible)
            terms = options.terms(lease, store, secret, accept_unguarded=accept_unguarded, interruptible=as_planned)
            prepared = lumina.prepare(request, wanted, limits, purpose, terms)
            if shared is not None:
                prepared = replace(prepared, price_changes=sharing.price_changes(shared, prepared.row))
            if dry_run:
                _show_dry_run(prepared, as_json=json)
                return
            confirm_rental(prepared, yes=yes)
            begun = lumina.begin(prepared).run_id
            if detach:
                lumina.detach(begun)
                _show_detached(lumina, begun, as_json=json)
                return
            follow_to_end(lumina, begun, follow=follow, as_json=json)


def _show_detached(lumina: Lumina, run_id: str, *, as_json: bool) -> None:
    from lumina_cloud.api.documents.of_runs import LaunchDocument

    run = lumina.find(run_id)
    if as_json:
        output.emit(LaunchDocument(run=run_id, state=run.state, reason=run.reason, usd="0.00"))
    else:
        output.console().print(f"{run_id}  {run.state}", markup=False)
        output.tell("a controller in the background rents and drives it")
        output.tell(f"next: lumina logs -f {run_id}    or    lumina stop {run_id}")


def _show_dry_run(prepared: Prepared, *, as_json: bool) -> None:
    from lumina_cloud.cli import tables

    if as_json:
        output.emit(prepared.as_document())
    else:
        output.show(
            *tables.launch(prepared.as_document()), "nothing was rented (--dry-run)", tables.next_step("the same without --dry-run")
        )


def confirm_rental(prepared: Prepared, question: str = "rent it?", *, yes: bool) -> None:
    """Show what will be rented and ask. Raises UsageError where nobody can answer."""
    from lumina_cloud.cli import tables

    console = output.console(stderr=True)
    for part in tables.launch(prepared.as_document()):
        console.print(part)
    confirm(question, yes=yes)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal. Raises UsageError where nobody can answer, and when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this spends money, and nobody is there to ask", "add --yes to spend without asking")
    if not typer.confirm(question, err=True):
        raise UsageError("not confirmed: nothing was rented", "")


def follow_to_end(lumina: Lumina, run_id: str, *, follow: bool, as_json: bool) -> None:
    """Follow a run if asked to, and print how it stands as the last line."""
    from lumina_cloud.cli.following import conclude, follow_run

    # Without --follow it is driven until its trainer works, and then left to a process in the background.
    run = follow_run(lumina, run_id, until_at_work=not follow)
    conclude(lumina, run, as_json=as_json, followed=follow)
