"""The command line. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Any

import typer

from lumina_cloud import __version__
from lumina_cloud.cli import completing, data, help, output, sandbox
from lumina_cloud.cli.accuracy import accuracy
from lumina_cloud.cli.audit import audit
from lumina_cloud.cli.compare import compare
from lumina_cloud.cli.config import config
from lumina_cloud.cli.controller import controller
from lumina_cloud.cli.costs import budget, costs
from lumina_cloud.cli.estimate import estimate
from lumina_cloud.cli.init import init
from lumina_cloud.cli.jobfile import jobfile
from lumina_cloud.cli.launch import launch
from lumina_cloud.cli.ledger import app as ledger_app
from lumina_cloud.cli.ledger import prune, rm
from lumina_cloud.cli.market import doctor, offers, prices
from lumina_cloud.cli.plan import plan
from lumina_cloud.cli.reconcile import reconcile
from lumina_cloud.cli.runs import extend, logs, report, results, resume, ssh, status, stop
from lumina_cloud.cli.sample import sample
from lumina_cloud.cli.sandboxed import Group
from lumina_cloud.cli.sweep import sweep
from lumina_cloud.cli.ui import ui
from lumina_cloud.cli.weights import weights
from lumina_cloud.core.errors import UsageError

app = typer.Typer(
    name="lumina",
    cls=Group,
    help="Plan, rent, train, bring back, switch off, and account for language models on rented GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = (
    init,
    *(plan, estimate, offers, prices, audit, launch, controller, sweep, status, reconcile, logs, ssh, stop, resume, extend, results),
    *(compare, sample, weights, costs, budget, report, ui, accuracy, jobfile, rm, prune, config, doctor),
)

for verb in VERBS:
    app.command()(verb)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(ledger_app)
app.add_typer(data.app)


def _version(value: bool) -> None:  # typer's callback shape
    if value:
        typer.echo(f"lumina {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Rehearse in the sandbox; accepted after any verb too.")] = False,
) -> None:
    """Plan, rent, train, bring back, switch off, and account for language models on rented GPUs."""


def _named(info: Any) -> str:
    """Return the word that calls a verb or a group of verbs."""
    of_group = getattr(info, "typer_instance", None)
    given = info.name if isinstance(info.name, str) else None
    if of_group is not None:
        return given or str(of_group.info.name)
    return given or info.callback.__name__.replace("_", "-")


def _only_what_was_typed() -> None:
    """Leave out all other verbs when a known one was typed: to build the options of all of them takes longer than most of them do."""
    asked = completing.typed()
    typed = next((word for word in (sys.argv[1:] if asked is None else asked) if not word.startswith("-")), "")
    if typed in {_named(info) for info in (*app.registered_commands, *app.registered_groups)}:
        app.registered_commands = [info for info in app.registered_commands if _named(info) == typed]
        app.registered_groups = [info for info in app.registered_groups if _named(info) == typed]


def _purposes() -> dict[str, str]:
    """Return what each verb is for, by name."""
    verbs = {_named(info): info.help or info.callback.__doc__ or "" for info in app.registered_commands if info.callback is not None}
    groups = {_named(info): str(getattr(info.typer_instance, "info", info).help) for info in app.registered_groups}
    return {**verbs, **groups}


def _start_quickly() -> None:
    """Spare a short process what only a long one needs."""
    # Imports make many objects and hardly any garbage: looking for it again and again was a seventh of `lumina plan`.
    gc.set_threshold(100_000, 20, 20)
    # Pydantic would read what every installed package says of itself, in search of plug-ins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> None:
    """Run the command line and leave with its exit code."""
    _start_quickly()
    if sys.argv[1:] in ([], ["-h"], ["--help"]) and completing.typed() is None:
        help.show(_purposes())
        sys.exit(0 if sys.argv[1:] else UsageError.exit_code)
    if not {"-h", "--help"} & set(sys.argv[1:2]):
        _only_what_was_typed()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        if not error.format_message():
            # Typer has shown the help: nothing was typed.
            sys.exit(UsageError.exit_code)
        from lumina_cloud.cli import mistyped

        output.fail(mistyped.error(error), as_json="--json" in sys.argv)
        sys.exit(UsageError.exit_code)
    except typer.Abort:
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
