"""`lumina sandbox up|down|status|faults`: three clouds on this machine, to rehearse everything without paying."""

from __future__ import annotations

import json as json_module
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lumina_cloud.cli import options, output
from lumina_cloud.core.errors import ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(help="Three clouds emulated on this machine, to rehearse everything without paying.", no_args_is_help=True)

UP_KEYS = ("vastai_url", "runpod_url", "lambda_url", "api_key", "pid")
MARKETS = ("still", "calm", "wild")
Scenario = Annotated[Path | None, typer.Option(help="A TOML file of settings and [[fault]] tables.")]


@app.command()
def up(
    seed: Annotated[int | None, typer.Option(help="Seed of market, prices and faults.")] = None,
    real_delays: Annotated[bool, typer.Option("--real-delays", help="Boot and end in minutes, as the clouds do, not in seconds.")] = False,
    time_scale: Annotated[float | None, typer.Option(help="How many seconds pass there in one second here.")] = None,
    market: Annotated[str | None, typer.Option(help="still, calm or wild.")] = None,
    deposit: Annotated[str | None, typer.Option(help="Dollars of credit at each provider.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="Arm this fault at once. Repeatable; see lumina sandbox faults.")] = None,
    switch: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="What nobody has verified, see docs/sandbox.md.")] = None,
    scenario: Scenario = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Start the sandbox. Returns when it answers."""
    with output.errors_shown(as_json=json), _errors():
        from lumina_cloud.api.documents import of_sandbox
        from providers.emulator import faults, sandbox

        settings: dict[str, Any] = {}
        if scenario is not None:
            table, armed = faults.read_scenario(_text(scenario))
            settings |= table
            settings["faults"] = [_plain(one) for one in armed]
        given = {"seed": seed, "time_scale": time_scale, "market": market, "deposit_usd": deposit}
        settings |= {name: value for name, value in given.items() if value is not None}
        if real_delays:
            settings["delays"] = "real"
        if time_scale is not None and time_scale <= 0:
            raise UsageError(f"--time-scale is {time_scale}, but must be above zero", "e.g. --time-scale 60")
        if market is not None and market not in MARKETS:
            raise UsageError(f"--market is {market!r}", f"take {', '.join(MARKETS[:-1])} or {MARKETS[-1]}")
        if deposit is not None:
            options.amount("--deposit", deposit)
        if fault:
            settings["faults"] = settings.get("faults", []) + [_plain(faults.from_mapping({"name": name})) for name in fault]
        if switch:
            settings["switches"] = settings.get("switches", {}) | dict(_switch(one) for one in switch)
        document, started = sandbox.up(_home(), settings)
        if json:
            output.emit(of_sandbox.UpDocument(**{key: document[key] for key in UP_KEYS}))
            return
        output.tell(f"the sandbox {'is up' if started else 'was up already'} (process {document['pid']})")
        for key in UP_KEYS[:3]:
            output.tell(f"  {key.removesuffix('_url'):7} {document[key]}")
        output.tell("every verb with --sandbox, or LUMINA_SANDBOX=1, works on it; lumina sandbox down ends it")
        output.tell("next: lumina plan debug --live --sandbox")


@app.command()
def down(json: options.Json = False, debug: options.Debug = False) -> None:
    """Stop the sandbox, with all that runs in it."""
    with output.errors_shown(as_json=json), _errors():
        from lumina_cloud.api.documents import of_sandbox
        from providers.emulator import sandbox

        stopped = sandbox.down(_home())
        if json:
            output.emit(of_sandbox.DownDocument(stopped=stopped))
        else:
            output.tell("the sandbox is down; what was rehearsed stays in its ledger" if stopped else "no sandbox was up")
            output.tell("next: lumina sandbox up")


@app.command()
def status(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show every instance that ever was in the sandbox, and its invoice."""
    with output.errors_shown(as_json=json), _errors():
        from lumina_cloud.api.documents import of_sandbox
        from providers.emulator import sandbox

        document = sandbox.ask(_home(), "GET", "/status")
        if json:
            output.emit(of_sandbox.SandboxStatusDocument.model_validate(document))
            return
        from lumina_cloud.cli import tables
        from lumina_cloud.core import untrusted

        made = tables.table(
            f"the sandbox's own invoice: ${document['invoice_usd']}", "provider", "id", "state", "tag", "billed", right=("billed",)
        )
        for one in document["instances"]:
            cells = [untrusted.line(str(one[key])) for key in ("provider", "id", "state", "tag")]
            made.add_row(*cells, f"${one['usd_billed']}")
        if document["instances"]:
            output.show(made, tables.next_step("lumina costs --check --sandbox"))
        else:
            output.show("no machine was ever rented in it", tables.next_step("lumina plan debug --live --sandbox"))


@app.command("faults")
def faults_(
    name: Annotated[str | None, typer.Argument(help="The fault to arm; without one, all faults are shown.")] = None,
    provider: options.Provider = None,
    call: Annotated[str | None, typer.Option(help="Only this call: offers, create, list, get, terminate, …")] = None,
    times: Annotated[int | None, typer.Option(help="How often it strikes; -1 for ever.")] = None,
    after: Annotated[int, typer.Option(help="Occasions that pass before.")] = 0,
    chance: Annotated[float, typer.Option(help="Of striking at an occasion.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(help="How long it lasts.")] = None,
    at_seconds: Annotated[float | None, typer.Option(help="When it strikes, after an instance began to run.")] = None,
    factor: Annotated[float | None, typer.Option(help="By how much, of price_rise and box_clock_skew.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Strike the instances that run already.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Disarm the named fault, or all.")] = False,
    scenario: Scenario = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what can go wrong, and let it."""
    with output.errors_shown(as_json=json), _errors():
        from providers.emulator import faults, sandbox

        home = _home()
        if clear:
            faults.check(faults.Armed(name or "timeout"))
            sandbox.ask(home, "DELETE", f"/faults?name={name}" if name else "/faults")
        elif scenario is not None:
            _, armed = faults.read_scenario(_text(scenario))
            sandbox.ask(home, "POST", "/faults", {"faults": [_plain(one) for one in armed], "now": now})
        elif name is not None:
            more = {"times": times, "seconds": seconds, "at_seconds": at_seconds, "factor": factor}
            one = faults.check(faults.Armed(name, provider=provider, call=call, after=after, chance=chance, **more))  # type: ignore[arg-type]
            sandbox.ask(home, "POST", "/faults", {"faults": [_plain(one)], "now": now})
        _show_faults(home, as_json=json)


def _show_faults(home: Path, *, as_json: bool) -> None:
    from lumina_cloud.api.documents import of_sandbox
    from providers.emulator import faults, sandbox

    try:
        armed = sandbox.ask(home, "GET", "/faults")["armed"]
    except sandbox.SandboxDown:
        armed = []
    count = {fault.name: sum(1 for one in armed if one["name"] == fault.name) for fault in faults.CATALOGUE}
    if as_json:
        known = [{"name": one.name, "kind": one.kind, "what": one.what, "armed": count[one.name]} for one in faults.CATALOGUE]
        output.emit(of_sandbox.FaultsDocument.model_validate({"faults": known, "armed": armed}))
        return
    from lumina_cloud.cli import tables

    made = tables.table("what can go wrong", "fault", "strikes", "what it does", "armed", right=("armed",), whole=("fault",))
    for one in faults.CATALOGUE:
        made.add_row(one.name, one.kind, one.what, str(count[one.name] or ""))
    output.show(made, tables.next_step("lumina sandbox faults NAME    or    lumina sandbox faults --clear"))


def _plain(armed: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(armed).items() if value is not None}


def _switch(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark:
        raise UsageError(f"--switch takes NAME=VALUE, not {text!r}", "e.g. --switch lambda_billing_starts_at=active")
    try:
        return name, json_module.loads(value)
    except ValueError:
        return name, value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a TOML file that is there") from error


def _home() -> Path:
    from lumina_cloud.cli.sandboxed import base_home

    return base_home()


@contextmanager
def _errors() -> Iterator[None]:
    from providers.emulator.sandbox import SandboxError

    try:
        yield
    except SandboxError as error:
        raise ProviderError(str(error), error.hint) from error
    except ValueError as error:
        raise UsageError(str(error), "lumina sandbox faults shows the names") from error
