"""`lumina plan`: what a model will need, take, cost and yield, before anything is rented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output

if TYPE_CHECKING:
    from lumina_cloud.api.schema import PlanDocument


def plan(
    model: Annotated[str | None, typer.Argument(help="debug, debug200m, b1 or b7; with --init-from not needed.")] = None,
    arch: Annotated[str | None, typer.Option(help="dense (the default), moe, mod, hybrid or all.")] = None,
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
    live: Annotated[bool, typer.Option("--live", help="Plan on what the markets offer now, in place of the price book.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Derive the recommended row line by line, with numbers and sources.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what training a model needs, takes, costs and yields on each machine."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.api.planning import MachineFilter, explanation
        from lumina_cloud.api.requests import Options, workload_request

        given = Options(arch, tokens, unique_tokens, epochs, global_batch, data, seed, set_ or [], config, recipe, init_from)
        request = workload_request(model, given)
        with Lumina() as lumina:
            planned = lumina.plan(request, MachineFilter(provider=provider, gpu=gpu, count=count), live=live)
        document = planned.document
        if explain:
            document = document.model_copy(update={"explanation": explanation(planned)})
        if json:
            output.emit(document)
        else:
            _show(document)


def _show(document: PlanDocument) -> None:
    from lumina_cloud.cli import tables

    output.show(*tables.plan(document, width=output.console().width))
