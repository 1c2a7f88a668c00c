"""`lumina config`: what is set, and where each value comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.cli import options, output, sandboxed
from lumina_cloud.core.commands import SANDBOX

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_keeping


def config(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show each setting, its value, and where that comes from: a flag, the environment, config.toml, or the default."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api import configuration

        document = configuration.explain((SANDBOX,) if sandboxed.typed() else ())
        if json:
            output.emit(document)
            return
        output.show(*_tables(document, width=output.console().width))


def _tables(document: of_keeping.ConfigDocument, *, width: int) -> list[RenderableType]:
    from rich.text import Text

    from lumina_cloud.cli.tables import WIDE, table

    described = ("what it is",) if width >= WIDE else ()
    made = table("", "setting", "value", "from", *described, whole=("setting",))
    for row in document.settings:
        source = Text(f"{row.source} {row.where}".strip(), style="dim" if row.source == "default" else "green")
        made.add_row(row.name, Text(row.value, overflow="fold"), source, *(Text(row.what, style="dim") for _ in described))
    return [
        made,
        Text(f"config.toml: {document.file}", style="dim"),
        Text("next: lumina doctor    checks keys, SSH, disk and clock", style="dim"),
    ]
