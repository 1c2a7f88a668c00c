"""The ledger: what was planned, rented, trained and paid. The only code that touches the database."""

from lumina_cloud.ledger.ledger import Ledger, Transaction
from lumina_cloud.ledger.records import (
    RENTAL_STATES,
    RUN_STATES,
    ArtifactRecord,
    ChargeRecord,
    CostRow,
    EventRecord,
    MetricRecord,
    PlanRecord,
    PriceRecord,
    RentalRecord,
    RunRecord,
)

__all__ = [
    "RENTAL_STATES",
    "RUN_STATES",
    "ArtifactRecord",
    "ChargeRecord",
    "CostRow",
    "EventRecord",
    "Ledger",
    "MetricRecord",
    "PlanRecord",
    "PriceRecord",
    "RentalRecord",
    "RunRecord",
    "Transaction",
]
