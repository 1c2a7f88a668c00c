"""Which documents each verb prints with `--json`, and their JSON schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina_cloud.api.documents import SCHEMA_VERSION, of_claims, of_keeping, of_markets, of_money, of_plans, of_runs, of_sandbox, root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.api.documents.root import Document

PRINTED: Mapping[str, tuple[type[Document], ...]] = {
    "plan": (of_plans.PlanDocument,),
    "offers": (of_markets.OffersDocument,),
    "prices": (of_markets.PricesDocument,),
    "audit": (of_claims.AuditDocument,),
    "launch": (of_runs.LaunchDocument, of_plans.DryRun),
    "sweep": (of_runs.SweepDocument,),
    "status": (of_runs.StatusDocument,),
    "logs": (of_runs.LogLine, of_runs.LaunchDocument),
    "stop": (of_runs.LaunchDocument,),
    "resume": (of_runs.LaunchDocument,),
    "extend": (of_runs.ExtendDocument,),
    "results": (of_runs.ResultsDocument,),
    "compare": (of_runs.ComparisonDocument, of_claims.SectionsDocument),
    "sample": (of_runs.SampleDocument,),
    "weights": (of_runs.WeightsDocument,),
    "costs": (of_money.CostsDocument, of_money.CheckDocument),
    "budget": (of_money.BudgetDocument,),
    "report": (of_runs.ReportDocument,),
    "ui": (of_keeping.UiDocument,),
    "accuracy": (of_plans.AccuracyDocument,),
    "rm": (of_keeping.RemovedDocument,),
    "prune": (of_keeping.RemovedDocument,),
    "doctor": (of_markets.DoctorDocument, of_keeping.RebuildDocument),
    "config": (of_keeping.ConfigDocument,),
    "sandbox up": (of_sandbox.UpDocument,),
    "sandbox down": (of_sandbox.DownDocument,),
    "sandbox status": (of_sandbox.SandboxStatusDocument,),
    "sandbox faults": (of_sandbox.FaultsDocument,),
    "reconcile": (of_keeping.ReconcileDocument,),
    "ledger backup": (of_keeping.BackupDocument,),
    "ledger restore": (of_keeping.RestoreDocument,),
    "ledger verify": (of_keeping.VerifyDocument,),
    "ledger import": (of_keeping.ImportDocument,),
    "data prepare": (of_keeping.PreparedDataDocument,),
    "data check": (of_keeping.CheckedDataDocument,),
}
"""The words of a verb: its documents, the usual one first."""

ERROR = root.ErrorDocument
"""What any verb prints on standard error when it fails."""


def all_documents() -> list[type[Document]]:
    """Return each document once, in the order of the verbs, the error last."""
    return list(dict.fromkeys([*(document for documents in PRINTED.values() for document in documents), ERROR]))


def json_schema(document: type[Document]) -> dict[str, Any]:
    """Return a document's JSON schema (draft 2020-12), as it is printed."""
    made = document.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"lumina:{document.__name__}:{SCHEMA_VERSION}",
        **made,
    }
