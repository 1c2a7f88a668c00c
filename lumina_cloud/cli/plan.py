"""`lumina plan`: what a model will need, take, cost and yield, before anything is rented."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import completing, options, output
from lumina_cloud.core.errors import UsageError

if TYPE_CHECKING:
    from lumina_cloud.api.documents.of_plans import PlanDocument
    from lumina_cloud.api.planning import MachineFilter
    from lumina_cloud.api.requests import Options
    from lumina_cloud.runs.workloads import WorkloadRequest


def plan(
    model: Annotated[
        str | None, typer.Argument(help="debug, debug200m, b1 or b7; with --init-from not needed.", autocompletion=completing.model)
    ] = None,
    arch: Annotated[str | None, typer.Option(help="dense (the default), moe, mod, hybrid or all.", autocompletion=completing.arch)] = None,
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
    budget: Annotated[str | None, typer.Option(help="Dollars: without MODEL, what is the best model for them?")] = None,
    deadline: Annotated[str | None, typer.Option(help="Time, as 48h or 2d: without MODEL, the best model until then.")] = None,
    target_loss: Annotated[float | None, typer.Option(help="Nats a token: the cheapest way there.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Plan on what the markets offer now, in place of the price book.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Derive the recommended row line by line, with numbers and sources.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the recommended plan to a file, for lumina launch --plan FILE.")] = None,
    csv: options.Csv = False,
    plot: Annotated[Path | None, typer.Option(help="Draw cost against time, the front marked, into a .png, .svg or .pdf file.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure a few real steps first, on the recommended machine: here, or rented for cents.")
    ] = False,
    probe_cost: Annotated[
        str | None,
        typer.Option("--probe-cost", help="The most that a probe on a rented machine may cost, in dollars; at most 0.99 by itself."),
    ] = None,
    accept_unguarded: options.AcceptUnguarded = False,
    yes: options.Yes = False,
    no_ledger: Annotated[bool, typer.Option("--no-ledger", help="Leave out what finished runs teach.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what training a model needs, takes, costs and yields on each machine."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.api.planning import MachineFilter, explanation
        from lumina_cloud.api.requests import Options, workload_request
        from lumina_cloud.cli.following import Screen

        output.refuse_two_forms(csv=csv, json=json)
        if probe_cost is not None and not probe:
            raise UsageError("--probe-cost caps a probe, and none is asked for", "add --probe, or leave it out")
        given = Options(arch, tokens, unique_tokens, epochs, global_batch, data, seed, set_ or [], config, recipe, init_from)
        if budget is not None or deadline is not None or target_loss is not None:
            forwards = {"--live": live, "--explain": explain, "--probe": probe, "--no-ledger": no_ledger}
            _refuse_forwards([name for name, asked in forwards.items() if asked])
            machines = MachineFilter(provider=provider, gpu=gpu, count=count)
            document = _backwards(model, given, machines, (budget, deadline, target_loss), out=out)
            _answer(document, plot=plot, as_csv=csv, as_json=json)
            return
        request = workload_request(model, given)
        with Lumina(Screen() if probe else None) as lumina:
            wanted = MachineFilter(provider=provider, gpu=gpu, count=count)
            planned = lumina.plan(request, wanted, live=live, taught=not no_ledger)
            if probe:
                from lumina_cloud.cli.probing import probed

                terms = options.terms(None, None, None, accept_unguarded=accept_unguarded)
                most = options.amount("--probe-cost", probe_cost)
                planned = probed(lumina, request, wanted, planned, terms, max_cost=most, yes=yes, live=live, taught=not no_ledger)
        document = planned.document
        if out is not None:
            _save(out, request, document)
        if explain:
            document = document.model_copy(update={"explanation": explanation(planned)})
        _answer(document, plot=plot, as_csv=csv, as_json=json)


def _refuse_forwards(asked: list[str]) -> None:
    """Refuse options that only a plan of one model knows, beside a budget, deadline or loss. Raises UsageError."""
    if asked:
        names = " and ".join(asked)
        raise UsageError(
            f"{names} cannot stand beside --budget, --deadline or --target-loss, which look for a model in the price book",
            f"leave out {names}; the command that the answer then prints as next, lumina plan MODEL --arch ... --tokens N, takes {names}",
        )


def _backwards(
    model: str | None, given: Options, wanted: MachineFilter, said: tuple[str | None, str | None, float | None], *, out: Path | None
) -> PlanDocument:
    """Return the answer to a budget, a deadline or a loss, its first planned and, with `out`, written to a file."""
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.requests import workload_request
    from lumina_cloud.api.turning import goal_of

    if given.init_from is not None:
        raise UsageError("--init-from has a model already, and a budget or a loss asks for one", "leave one of them out")
    budget, deadline, target_loss = said
    goal = goal_of(options.amount("--budget", budget), deadline, target_loss)
    base = workload_request(model or "debug200m", given)
    with Lumina() as lumina:
        document = lumina.plan_backwards(base, model, wanted, goal)
        if out is not None:
            request = lumina.request_from_plan(document.plan)[0] if document.plan else base
            _save(out, request, document)
    return document


def _save(out: Path, request: WorkloadRequest, document: PlanDocument) -> None:
    from lumina_cloud.api import sharing

    sharing.save(out, request, document)
    output.tell(f"wrote {out}; lumina launch --plan {out} rents it as it stands")


def _answer(document: PlanDocument, *, plot: Path | None, as_csv: bool, as_json: bool) -> None:
    """Print a plan in the form that was asked for, and draw it."""
    if plot is not None:
        from lumina_cloud.api import plotting

        plotting.draw(plot, document)
        output.tell(f"wrote {plot}")
    if as_json:
        output.emit(document)
    elif as_csv:
        from lumina_cloud.api.documents import of_plans

        if document.backwards is not None:
            output.print_rows(of_plans.BackwardsAnswer, document.backwards.answers)
        else:
            output.print_rows(of_plans.PlanRow, document.rows, without=("hours_by_part", "usd_by_part"))
    else:
        from lumina_cloud.cli import tables, tables_decisions

        width = output.console().width
        found = document.backwards
        parts = tables.plan(document, width=width) if found is None else tables_decisions.backwards(document, found, width=width)
        output.show(*parts)
