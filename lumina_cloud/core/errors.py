"""Every error that a user can meet, and the exit code it ends with.

LuminaError                    1   a bug of ours, until proven otherwise
├── UsageError                 2   what was typed cannot be meant: unknown name, wrong value, missing confirmation
│   └── DataError              2   the text to train on is missing, empty or unreadable
├── CredentialsError           3   a provider's key is missing or refused
├── RefusedError               4   understood and refused before renting: it does not fit, or could exceed a cap
├── RunFailed                  5   the run was rented and did not succeed
├── LedgerError                6   the ledger cannot be read or written: locked, foreign, newer, disk full
├── ProviderError              7   a provider or a machine did not do what was asked
│   ├── NoCapacity             7   nothing of that kind can be had now
│   ├── BadReply               7   a reply that is not understood: never taken for "nothing there"
│   ├── OutcomeUnknown         7   a request may have happened: look it up, never repeat it blindly
│   ├── StillTerminating       7   ask again
│   └── NotFound               7   gone by id
└── RunStopped                 8   the run was stopped by the user, the budget or the deadline

A class stands for a reaction, not for a cause. `message` says what was wrong and with which value; `hint` what to type next.
"""

from __future__ import annotations


class LuminaError(Exception):
    """Root of all errors that are shown to a user as one panel."""

    exit_code = 1
    kind = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LuminaError):
    """What was typed cannot be meant."""

    exit_code = 2
    kind = "usage"


class DataError(UsageError):
    """The text to train on is missing, empty or unreadable."""

    kind = "data"


class CredentialsError(LuminaError):
    """A provider's key is missing or refused."""

    exit_code = 3
    kind = "credentials"


class RefusedError(LuminaError):
    """Understood, and refused before anything was rented."""

    exit_code = 4
    kind = "refused"


class RunFailed(LuminaError):
    """The run was rented and did not succeed."""

    exit_code = 5
    kind = "run_failed"


class LedgerError(LuminaError):
    """The ledger cannot be read or written."""

    exit_code = 6
    kind = "ledger"


class ProviderError(LuminaError):
    """A provider or a machine did not do what was asked."""

    exit_code = 7
    kind = "provider"


class NoCapacity(ProviderError):
    """Nothing of that kind can be had now."""

    kind = "no_capacity"


class BadReply(ProviderError):
    """A reply that is not understood. It is never taken for an empty one."""

    kind = "bad_reply"


class OutcomeUnknown(ProviderError):
    """A request may have happened. `created_id` is the instance that an error named, if it named one."""

    kind = "outcome_unknown"

    def __init__(self, message: str, hint: str = "", created_id: str | None = None) -> None:
        super().__init__(message, hint)
        self.created_id = created_id


class StillTerminating(ProviderError):
    """The instance is on its way out: ask again."""

    kind = "still_terminating"


class NotFound(ProviderError):
    """The provider knows no such instance."""

    kind = "not_found"


class RunStopped(LuminaError):
    """The run ended early on purpose: by the user, the budget or the deadline."""

    exit_code = 8
    kind = "run_stopped"


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "an error of ours; `--debug` shows the traceback",
    2: "what was typed cannot be meant, or the data is not there",
    3: "a provider's credentials are missing or refused",
    4: "refused before renting: it does not fit, or could exceed a cap",
    5: "the run failed",
    6: "the ledger cannot be read or written",
    7: "a provider or a machine failed",
    8: "the run was stopped before its end",
    130: "Ctrl-C: a followed run goes on without the follower",
}
"""The exit codes of `lumina`, as documented."""
