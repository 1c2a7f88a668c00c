"""Every error that a user can meet, and the exit code it ends with.

LuminaError                    1   a bug of ours, until proven otherwise
├── UsageError                 2   what was typed cannot be meant: unknown name, wrong value, missing confirmation
│   └── DataError              2   the text to train on is missing, empty or unreadable
├── CredentialsError           3   a provider's key is missing
│   └── AuthError              3   a provider refused the key, or it lacks a permission
├── RefusedError               4   understood and refused before renting: it does not fit, or could exceed a cap
├── RunFailed                  5   the run was rented and did not succeed
├── LedgerError                6   the ledger cannot be read or written: locked, foreign, newer, disk full
├── DiskError                 6   something cannot be written on this computer: disk full, folder read-only
├── ProviderError              7   a provider or a machine did not do what was asked
│   ├── NoCapacity             7   nothing of that kind can be had now: take another offer
│   ├── InsufficientBalance    7   the account has no money left for it: top it up
│   ├── RateLimited            7   asked too often: wait `retry_after` seconds
│   ├── InvalidRequest         7   understood and refused: the same request will never do
│   ├── ProviderDown           7   no answer, or an answer that says it failed: ask again later
│   ├── SandboxDown            7   a rehearsal, and no sandbox is up: no cloud was asked
│   ├── BadReply               7   a reply that is not understood: never taken for "nothing there"
│   ├── OutcomeUnknown         7   a request may have happened: look it up, never repeat it blindly
│   ├── StillTerminating       7   ask again
│   ├── NotFound               7   gone by id
│   ├── Unreachable            7   a machine does not answer SSH: it boots, it is gone, or the network is
│   └── HostKeyChanged         7   a machine shows another host key than the pinned one: nothing is sent to it
├── LeaseLost                  7   another controller drives the run now: this one does nothing more with it
├── RunStopped                 8   the run was stopped by the user, the budget or the deadline
└── BillDiffers                9   a provider's bill differs from the ledger, and nothing explains it

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
    """A provider's key is missing. Nothing but the user can mend it, so it is no ProviderError: nobody asks again."""

    exit_code = 3
    kind = "credentials"


class AuthError(CredentialsError):
    """A provider refused the key, or the key lacks a permission."""


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


class DiskError(LuminaError):
    """Something cannot be written on this computer. What it is stays where it was."""

    exit_code = 6
    kind = "disk"


class ProviderError(LuminaError):
    """A provider or a machine did not do what was asked."""

    exit_code = 7
    kind = "provider"


class NoCapacity(ProviderError):
    """Nothing of that kind can be had now."""

    kind = "no_capacity"


class InsufficientBalance(ProviderError):
    """The account has too little money for what was asked."""

    kind = "insufficient_balance"


class RateLimited(ProviderError):
    """Asked too often. `retry_after` is how many seconds the provider wants us to wait, None when it did not say."""

    kind = "rate_limited"

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class InvalidRequest(ProviderError):
    """The provider understood the request and refuses it for good: repeating it changes nothing."""

    kind = "invalid_request"


class ProviderDown(ProviderError):
    """The provider did not answer in time, or says that it failed. Nothing is known about what was asked for."""

    kind = "provider_down"


class SandboxDown(ProviderError):
    """A rehearsal, and no sandbox is up. No cloud is to blame, and none was asked."""

    kind = "sandbox_down"

    def __init__(self, message: str = "the sandbox is not running", hint: str = "lumina sandbox up") -> None:
        super().__init__(message, hint)


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


class Unreachable(ProviderError):
    """A machine cannot be reached. Whether it lives is for its provider to say."""

    kind = "unreachable"


class HostKeyChanged(ProviderError):
    """A machine shows another host key than the one that is known. Never asked again: the run has to leave it."""

    kind = "host_key_changed"


class LeaseLost(LuminaError):
    """Another controller has taken the run over. Whoever meets this stops driving it, and may watch."""

    exit_code = 7
    kind = "lease_lost"


class RunStopped(LuminaError):
    """The run ended early on purpose: by the user, the budget or the deadline."""

    exit_code = 8
    kind = "run_stopped"


class BillDiffers(LuminaError):
    """A provider has billed something else than the ledger holds, and nothing explains it."""

    exit_code = 9
    kind = "bill_differs"


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "an error of ours; `--debug` shows the traceback",
    2: "what was typed cannot be meant, or the data is not there",
    3: "a provider's credentials are missing or refused",
    4: "refused before renting: it does not fit, or could exceed a cap",
    5: "the run failed",
    6: "the ledger cannot be read or written, or a disk is full",
    7: "a provider or a machine failed",
    8: "the run was stopped before its end",
    9: "a provider's bill differs from the ledger, and nothing explains it",
    130: "Ctrl-C: a followed run goes on without the follower",
}
"""The exit codes of `lumina`, as documented."""
