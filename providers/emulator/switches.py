"""How the emulator behaves where that is a choice: delays, the market's mood, and what nobody has verified about the real services.

Each field of `Unverified` is a sentence that no source settles. Its default is the reading that costs a careless client more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Delays:
    """Seconds of the emulator's clock."""

    vastai_steps: tuple[float, float, float] = (0.3, 0.3, 0.6)
    """No status, `created`, `loading`."""
    vastai_destroy: float = 0.3
    vastai_balance: float = 1
    runpod_steps: tuple[float, float, float] = (0.3, 0.4, 0.8)
    """`PROVISIONING`, `STARTING`, and `RUNNING` without a runtime."""
    runpod_billing: float = 2
    """Between jobs that write the billing records."""
    lambda_boot: float = 1.5
    lambda_address: float = 0.7
    lambda_terminate: float = 1
    lambda_listed: float = 2
    """How long a terminated instance stays in the list."""
    stop_grace: float = 2
    restart: float = 0.6
    market_tick: float = 60


QUICK = Delays()
REAL = Delays(
    vastai_steps=(10, 20, 90),
    vastai_destroy=3,
    vastai_balance=5,
    runpod_steps=(5, 15, 40),
    runpod_billing=300,
    lambda_boot=210,
    lambda_address=120,
    lambda_terminate=30,
    lambda_listed=60,
    stop_grace=10,
    restart=20,
    market_tick=300,
)


@dataclass(frozen=True)
class Unverified:
    """Readings of sentences that no source settles."""

    vastai_bad_key_status: int = 404
    """404 was answered live, the specification says 401."""
    vastai_credit_status: int = 400
    """Of `insufficient_credit`: 400, 402 or 403."""
    vastai_gone_status: int = 200
    """Of an unknown instance by id: 200 with null, or 404 `no_such_instance`."""
    vastai_no_such_ask_status: int = 410
    """Of an offer that is gone: 400, 404 or 410."""
    vastai_offer_cap: int = 64
    vastai_retry_after: bool = True
    vastai_burst: int = 2
    """Requests at once to one endpoint before its interval holds; creates have no burst."""
    vastai_env_limit: int | None = None
    """The specification says 256 characters a value, larger ones were seen working."""
    vastai_bid_pays_bid: bool = True
    """Else the market's minimum bid."""
    vastai_same_machine_twice: bool = True
    """Whether two offers of one machine can both be rented."""
    runpod_v1_gone: bool = False
    runpod_graphql_gone: bool = False
    runpod_spot_sold: bool = True
    runpod_pod_key_rest: bool = True
    """Whether the key on the box may call REST v2, or GraphQL only."""
    runpod_terminate_after_lag_seconds: float = 0
    runpod_supply_code: bool = False
    runpod_host_loss_bills: bool = True
    runpod_billing_starts_at: str = "create"
    """`create` or `running`."""
    runpod_per_minute: int | None = 60
    lambda_429_is_json: bool = True
    lambda_duplicate_key_code: str = "global/invalid-parameters"
    lambda_billing_starts_at: str = "launch"
    """`launch` (start of the boot) or `active` (health checks passed)."""
    lambda_missing_object_status: int = 404
    """400 or 404 for an unknown type, key, image or file system at launch."""
    lambda_listed_seconds: float | None = None
    lambda_shutdown_bills: bool = True
    lambda_burst: int = 3
    """Requests at once before one per second holds. Launches have no burst."""

    @classmethod
    def from_mapping(cls, given: dict[str, Any]) -> Unverified:
        """Read switches by name. Raises ValueError for an unknown one."""
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"unknown switch {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**given)


MARKETS = {"still": 0.0, "calm": 0.02, "wild": 0.15}
"""How much of the market moves at a tick."""


@dataclass(frozen=True)
class Options:
    """All that a world is made with."""

    seed: int = 0
    delays: Delays = QUICK
    market: str = "calm"
    deposit_usd: str = "1000"
    rate_limits: bool = True
    unverified: Unverified = field(default_factory=Unverified)
