"""Commands of `lumina` in texts that tell a person what to type."""

from __future__ import annotations

import re

SANDBOX = "--sandbox"

GROUPS = ("data", "ledger")
"""Verbs that have verbs of their own."""

VERBS = frozenset({
    *("accuracy", "audit", "budget", "compare", "config", "controller", "costs", "doctor", "estimate", "extend", "init", "jobfile"),
    *("launch", "logs", "offers", "plan", "prices", "prune", "reconcile", "report", "results", "resume", "rm", "sample", "ssh"),
    *("status", "stop", "sweep", "ui", "weights", *GROUPS),
})  # fmt: skip
"""Every verb that works on a ledger or a market, which a rehearsal has of its own. `lumina sandbox` is the same in both worlds."""

# What says already that it is of the sandbox is left alone, up to where a sentence puts the next command; so is a look at the help.
_COMMAND = re.compile(rf"\blumina ((?:{'|'.join(GROUPS)}) [a-z]+|[a-z]+)\b(?![^\n,;]*(?:{SANDBOX}|--help))")


def in_sandbox(text: str) -> str:
    """Return a text with `--sandbox` behind the verb of each command in it.

    Behind the verb, and not at the end: where a command ends and the sentence about it goes on, nothing tells.
    """
    return _COMMAND.sub(lambda found: f"{found[0]} {SANDBOX}" if found[1].split()[0] in VERBS else found[0], text)
