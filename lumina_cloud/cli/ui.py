"""`lumina ui`: runs, money, prices and plans as pages in the browser of this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lumina_cloud.cli import options, output

if TYPE_CHECKING:
    from lumina_cloud.api.documents.of_keeping import UiDocument


def ui(
    port: Annotated[int, typer.Option(help="The port on this computer; any free one without it.")] = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show runs, money, prices and plans in the browser, until Ctrl-C. Nothing but this computer can reach the pages."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.web import serving

        def tell(served: UiDocument) -> None:
            if json:
                output.emit(served)
            else:
                output.console().print(served.url, markup=False, soft_wrap=True)
                output.tell("open it in a browser on this computer; Ctrl-C ends the pages, and no run")

        serving.serve(port, tell)
