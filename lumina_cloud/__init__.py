"""Lumina Cloud: plan, rent, train, bring back, switch off, and keep the books.

`from lumina_cloud import Lumina` is all that a program needs. Names are imported when they are asked for, so that `import lumina_cloud`
costs nothing: the command line begins with it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina_cloud.api.following import Listener, Progress
    from lumina_cloud.api.launching import Limits, Prepared, Purpose, Terms
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.api.planning import MachineFilter, Planned
    from lumina_cloud.core.errors import LuminaError
    from lumina_cloud.ledger.records import RunRecord
    from lumina_cloud.runs.workloads import WorkloadRequest

__version__ = "0.1.0"

__all__ = [
    "Limits",
    "Listener",
    "Lumina",
    "LuminaError",
    "MachineFilter",
    "Planned",
    "Prepared",
    "Progress",
    "Purpose",
    "RunRecord",
    "Terms",
    "WorkloadRequest",
    "__version__",
]

_PLACES = {
    "Limits": "api.launching",
    "Listener": "api.following",
    "Lumina": "api.lumina",
    "LuminaError": "core.errors",
    "MachineFilter": "api.planning",
    "Planned": "api.planning",
    "Prepared": "api.launching",
    "Progress": "api.following",
    "Purpose": "api.launching",
    "RunRecord": "ledger.records",
    "Terms": "api.launching",
    "WorkloadRequest": "runs.workloads",
}
"""Where each public name stands."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'lumina_cloud' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"lumina_cloud.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
