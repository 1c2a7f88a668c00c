"""The ledger: what was planned, rented, trained and paid. The only code that touches the database."""

from lumina_cloud.ledger.ledger import Ledger
from lumina_cloud.ledger.records import (
    RENTAL_STATES,
    RUN_STATES,
    ArtifactRecord,
    BudgetRecord,
    ChargeRecord,
    CostRow,
    CurveRecord,
    EventRecord,
    HoldRecord,
    MetricRecord,
    NoticeRecord,
    PlanRecord,
    PriceRecord,
    RentalRecord,
    RunRecord,
    SpendingRecord,
    SweepRecord,
)

__all__ = [
    "RENTAL_STATES",
    "RUN_STATES",
    "ArtifactRecord",
    "BudgetRecord",
    "ChargeRecord",
    "CostRow",
    "CurveRecord",
    "EventRecord",
    "HoldRecord",
    "Ledger",
    "MetricRecord",
    "NoticeRecord",
    "PlanRecord",
    "PriceRecord",
    "RentalRecord",
    "RunRecord",
    "SpendingRecord",
    "SweepRecord",
]
