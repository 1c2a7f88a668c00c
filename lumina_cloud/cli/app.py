"""The command line. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lumina_cloud import __version__
from lumina_cloud.cli import output, sandbox
from lumina_cloud.cli.audit import audit
from lumina_cloud.cli.launch import launch
from lumina_cloud.cli.market import doctor, offers, prices
from lumina_cloud.cli.plan import plan
from lumina_cloud.cli.runs import costs, logs, report, results, resume, ssh, status, stop
from lumina_cloud.cli.sandboxed import Group
from lumina_cloud.core.errors import UsageError

app = typer.Typer(
    name="lumina",
    cls=Group,
    help="Plan, rent, train, bring back, switch off, and account for language models on rented GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (plan, offers, prices, launch, status, logs, ssh, stop, resume, results, costs, report, audit, doctor):
    app.command()(verb)
app.add_typer(sandbox.app, name="sandbox")


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


def main() -> None:
    """Run the command line and leave with its exit code."""
    if "--json" not in sys.argv:
        app()
        return
    # For a script a mistyped option is a JSON document too.
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        verb = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""
        output.fail(UsageError(str(error), f"lumina {verb} --help".replace("  ", " ")), as_json=True)
        sys.exit(UsageError.exit_code)
    except typer.Abort:
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
