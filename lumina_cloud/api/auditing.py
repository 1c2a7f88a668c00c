"""`lumina audit`: the published benchmark, or a user's own table, held against arithmetic and physics. Touches no ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.api.documents.of_claims import AuditDocument, FindingDocument

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.planner.audit import Finding


def audit(file: Path | None) -> AuditDocument:
    """Audit a user's CSV or TOML file, or the published benchmark without one. Raises UsageError for a file that is no table."""
    from lumina_cloud.planner.unchecked import unchecked

    if file is None:
        from lumina_cloud.catalog import benchmarks
        from lumina_cloud.planner.audit_document import audit_document
        from lumina_cloud.planner.claims import of_document

        document = benchmarks.load()
        return _document("the published benchmark", len(document.rows), audit_document(document), unchecked(of_document(document)), ())
    from lumina_cloud.api import claim_tables
    from lumina_cloud.planner.audit import audit as audit_claims

    claims, ignored = claim_tables.read(file)
    return _document(str(file), len(claims.rows), audit_claims(claims), unchecked(claims), ignored)


def _document(source: str, rows: int, findings: tuple[Finding, ...], notes: tuple[str, ...], ignored: tuple[str, ...]) -> AuditDocument:
    made = [FindingDocument(row=f.row, rule=f.rule, claimed=f.claimed, possible=f.possible, ratio=f.ratio, text=f.text) for f in findings]
    return AuditDocument(source=source, rows=rows, findings=made, notes=list(notes), ignored_columns=list(ignored))
