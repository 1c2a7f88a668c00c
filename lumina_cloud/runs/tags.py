"""The label that a rented machine carries: it finds the machine again, and says whose it is.

`lumina-RUN-ATTEMPT-CODE`: the code is a keyed hash under the ledger's own id, so that a label that imitates ours, or that of another
ledger on the same account, is not taken for ours. Tags of releases before the code are known by their rentals alone.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from hashlib import blake2b

TAG = re.compile(r"lumina-(?P<run>.+?)-(?P<attempt>\d{1,6})(?:-(?P<code>[0-9a-f]{8}))?")


@dataclass(frozen=True)
class Tag:
    """What a tag says."""

    run_id: str
    attempt: int
    code: str
    """Empty in a tag of an early release."""


def make(ledger_id: str, run_id: str, attempt: int) -> str:
    """Return the tag of a rental."""
    return f"lumina-{run_id}-{attempt}-{_code(ledger_id, run_id, attempt)}"


def read(text: str) -> Tag | None:
    """Return what a label says, None for one that is no tag."""
    found = TAG.fullmatch(text)
    return None if found is None else Tag(found["run"], int(found["attempt"]), found["code"] or "")


def is_of(ledger_id: str, text: str) -> bool:
    """Whether a label was made by this ledger."""
    tag = read(text)
    return tag is not None and hmac.compare_digest(tag.code, _code(ledger_id, tag.run_id, tag.attempt))


def _code(ledger_id: str, run_id: str, attempt: int) -> str:
    return blake2b(f"{run_id}-{attempt}".encode(), key=ledger_id.encode()[:64], digest_size=4).hexdigest()
