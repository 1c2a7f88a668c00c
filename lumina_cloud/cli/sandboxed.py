"""`--sandbox` on any command, or `LUMINA_SANDBOX=1`: the command works on the sandbox, with a ledger of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from lumina_cloud.core.commands import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "LUMINA_SANDBOX"


def wanted() -> bool:
    """Tell whether this process works on the sandbox."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def typed() -> bool:
    """Tell whether `--sandbox` was typed now: the next command has to say it too, as it need not where the variable is set."""
    words = sys.argv[1:]
    return SANDBOX in words[: words.index("--") if "--" in words else None]


def base_home() -> Path:
    """Return LUMINA_HOME, of which the sandbox's own home is a part."""
    given = os.environ.get("LUMINA_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("lumina"))


def enter() -> Callable[[], None]:
    """Lead this process to the sandbox. Returns what leads it back."""
    from providers.emulator.sandbox import environment

    changes = {VARIABLE: "1", **environment(base_home())}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)

    def leave() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return leave


class Group(TyperGroup):
    """Accepts `--sandbox` before and after a verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the flag out of the arguments, up to a bare `--`, and act on it."""
        end = args.index("--") if "--" in args else len(args)
        ours = [one for one in args[:end] if one != SANDBOX]
        if len(ours) < end or wanted():
            ctx.call_on_close(enter())
        return super().parse_args(ctx, ours + args[end:])
