"""The variables that providers are reached by, in a rehearsal those of the sandbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.api.settings import Settings


def environment(chosen: Settings) -> Mapping[str, str]:
    """Return the variables that providers are reached by: in a rehearsal those of the sandbox, whoever calls, and never a real cloud's."""
    if not chosen.sandbox:
        return os.environ
    from providers.emulator import sandbox

    return {**os.environ, **sandbox.environment(chosen.home.parent)}


def is_up(env: Mapping[str, str]) -> bool:
    """Tell whether a rehearsal's variables lead to a sandbox, and not to nowhere."""
    from providers.emulator import sandbox

    return env["VAST_URL"] != sandbox.NOWHERE
