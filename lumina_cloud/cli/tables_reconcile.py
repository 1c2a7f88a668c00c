"""What is rented beside what the ledger knows, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from lumina_cloud.cli.tables import next_step, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lumina_cloud.api.documents import of_keeping


def reconciled(document: of_keeping.ReconcileDocument) -> list[RenderableType]:
    """Return one row for each machine."""
    if not document.findings:
        return [Text("nothing is rented, and nothing is missing"), *(Text(note) for note in document.notes), next_step("lumina status")]
    shown = table("", "provider", "instance", "tag", "state", "$/h", "what it is", "done", right=("$/h",))
    for row in document.findings:
        price = "" if row.usd_per_hour is None else f"${row.usd_per_hour}"
        done = row.done or ("nothing (--dry-run)" if document.dry_run else "nothing")
        shown.add_row(*(Text(t) for t in (row.provider, row.instance or "", row.tag, row.state or "", price, row.why, done)))
    return [shown, *(Text(note) for note in document.notes), next_step("lumina reconcile" if document.dry_run else "lumina status")]
