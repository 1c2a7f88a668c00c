"""What the controller stands on, handed in so that tests can hand in something else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lumina_cloud.runs.lease import Renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lumina_cloud.core.clock import Clock
    from lumina_cloud.ledger import Ledger, RunRecord
    from lumina_cloud.runs.lease import Lease, Renewing
    from lumina_cloud.runs.machines import Machines
    from providers.contract import Provider


class Reporter(Protocol):
    """Hears what happens while a command follows a run."""

    def said(self, run_id: str, text: str) -> None:
        """Something happened, in one line."""
        ...

    def progressed(self, run: RunRecord) -> None:
        """The run's progress was read anew."""
        ...


class Silent:
    """A reporter that nobody listens to."""

    def said(self, run_id: str, text: str) -> None:
        """Drop the line."""

    def progressed(self, run: RunRecord) -> None:
        """Drop the progress."""


@dataclass(frozen=True)
class Context:
    """Ledger, providers, machines, time."""

    ledger: Ledger
    connect: Callable[[str], Provider]
    """Returns the provider of that name."""
    machines: Machines
    """Makes rented machines and reaches them."""
    clock: Clock
    home: Path
    python: str
    """The interpreter on a local machine."""
    trainer: Path
    """The package that is shipped as `trainer`."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """The user's environment, of which a run may be given what `--secret` names."""
    reporter: Reporter = field(default_factory=Silent)
    renewal: Callable[[Lease], Renewing] = Renewal
    """Renews the lease of a run that is driven: in a thread, which a simulation has not."""
