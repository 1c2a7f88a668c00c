"""Sends notices to the user's webhook: each is in the ledger before it is sent, and is sent again until it was taken.

The body is the notice as JSON: `id`, `kind` (end, failure, interruption, drift, budget), `at`, `run`, `text` and what belongs to the
kind. A receiver that answers 2xx has taken it. Another answer, or none, is followed by further attempts: two more at once, and then
by later commands after 1, 2, 4 … minutes, for a day. A notice may arrive twice (its `id` tells), but none is lost by a kill.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from lumina_cloud.api import views
from lumina_cloud.core.edge import edge
from lumina_cloud.ledger import notices
from lumina_cloud.runs.states import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from lumina_cloud.api.session import Session
    from lumina_cloud.ledger import NoticeRecord

    Post = Callable[[str, dict[str, object]], str]
    """Sends a body to an address and returns what went wrong, an empty string when it was taken."""

AT_ONCE = 3
"""Attempts within one command."""
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 5.0
CLAIM = timedelta(minutes=1)
"""How long another command leaves a notice alone that this one is sending."""
FIRST_DELAY = timedelta(minutes=1)
GIVE_UP = timedelta(days=1)


def tell(session: Session, post: Post | None = None) -> int:
    """Look for drift, then send what is due. Return how many notices were taken."""
    _look_for_drift(session)
    send = post or _post
    return sum(_send(session, notice, send) for notice in session.ledger.due_notices(session.clock.now()))


def _look_for_drift(session: Session) -> None:
    now = session.clock.now()
    found = []
    for run in session.ledger.runs(ACTIVE):
        left = views.seconds_left(run)
        if left is not None:
            found += list(notices.of_drift(run, (now - run.created_at).total_seconds() + left, now))
    new = [notice for notice in found if session.ledger.notice(notice.notice_id) is None]
    if new:
        with session.ledger.transaction() as tx:
            for notice in new:
                tx.add_notice(notice)


def _send(session: Session, notice: NoticeRecord, post: Post) -> bool:
    """Claim a notice, send it, and note what came of it."""
    now = session.clock.now()
    if now - notice.at > GIVE_UP:
        _note(session, replace(notice, state="given_up"))
        return False
    if not _claim(session, notice):
        return False
    problem = ""
    for attempt in range(AT_ONCE):
        with edge("notify.send"):
            problem = post(session.settings.webhook, notice.body)
        if not problem:
            _note(session, replace(notice, state="sent", attempts=notice.attempts + attempt + 1, error=""))
            return True
        if attempt + 1 < AT_ONCE:
            session.clock.sleep(PAUSE_SECONDS * 2**attempt)
    later = now + FIRST_DELAY * 2 ** min(notice.attempts // AT_ONCE, 9)
    _note(session, replace(notice, attempts=notice.attempts + AT_ONCE, due_at=later, error=problem[:200]))
    return False


def _claim(session: Session, notice: NoticeRecord) -> bool:
    """Push a notice's time back so that no other command sends it meanwhile; return whether it was still ours to take."""
    with session.ledger.transaction() as tx:
        known = tx.notice(notice.notice_id)
        if known != notice:
            return False
        tx.put_notice(replace(notice, due_at=session.clock.now() + CLAIM))
    return True


def _note(session: Session, notice: NoticeRecord) -> None:
    with session.ledger.transaction() as tx:
        tx.put_notice(notice)


def _post(url: str, body: dict[str, object]) -> str:
    """Send by HTTP. What went wrong is said without the address, which may hold a secret."""
    import httpx

    try:
        answer = httpx.post(url, json=body, timeout=TIMEOUT_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return "" if answer.is_success else f"HTTP {answer.status_code}"
