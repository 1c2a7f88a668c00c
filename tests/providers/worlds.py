"""Where the contract suite rents: this computer, and the sandbox's clouds."""

from decimal import Decimal

from lumina_cloud.core.clock import SystemClock
from providers.local import LocalProvider


def local(home):
    return LocalProvider(home / "local", Decimal("0.05"), SystemClock())
