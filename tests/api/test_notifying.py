"""Notices reach a webhook: a real server on the loopback, which refuses, hangs up, and comes back."""

import json
import threading
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lumina_cloud.api import notifying
from lumina_cloud.api.session import Session
from lumina_cloud.api.settings import Settings
from lumina_cloud.ledger import Ledger
from tests.api.test_budgets import Clock
from tests.ledger.conftest import NOW, fill


class Receiver:
    """A webhook that answers as it is told to."""

    def __init__(self):
        self.taken, self.answers = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if answer == "hang up":
                    self.connection.close()
                    return
                if answer < 300:
                    receiver.taken.append(json.loads(body))
                self.send_response(answer)
                self.end_headers()

            def log_message(self, *_args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=secret-of-the-hook"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def session(tmp_path, receiver):
    clock = Clock()
    ledger = Ledger.open(tmp_path, clock)
    settings = Settings(tmp_path, tmp_path / "config.toml", Decimal("0.05"), webhook=receiver.url)
    yield Session(settings, ledger, clock, lambda name: None)
    ledger.close()


def end(session, run="r1", state="succeeded", reason="finished"):
    fill(session.ledger, run, state="finishing")
    with session.ledger.transaction() as tx:
        tx.update_run(run, state=state, reason=reason, ended_at=NOW)


@pytest.mark.parametrize(("state", "kind"), [("succeeded", "end"), ("stopped", "end"), ("failed", "failure")])
def test_the_end_of_a_run_is_told(session, receiver, state, kind):
    end(session, state=state, reason="trainer_crashed")
    assert notifying.tell(session) == 1
    (told,) = receiver.taken
    assert (told["kind"], told["run"], told["state"], told["reason"]) == (kind, "r1", state, "trainer_crashed")
    assert notifying.tell(session) == 0


def test_an_interruption_is_told(session, receiver):
    fill(session.ledger)
    with session.ledger.transaction() as tx:
        tx.update_rental("debug-dense-1-1", ending="interrupted")
    notifying.tell(session)
    assert [(t["kind"], t["rental"]) for t in receiver.taken] == [("interruption", "debug-dense-1-1")]


def test_a_run_that_is_slower_than_planned_is_told_once(session, receiver):
    progress = {"step": 10, "steps": 100, "tokens": 10_000, "tokens_per_second": 1.0}
    fill(session.ledger, state="training", progress=progress, planned={"seconds": {"low": 50.0, "mid": 100.0, "high": 200.0}})
    for _nth in range(2):
        notifying.tell(session)
    assert [(t["kind"], t["seconds"]) for t in receiver.taken] == [("drift", 90_000.0)]


def test_a_receiver_that_fails_is_asked_again_at_once_and_later(session, receiver):
    end(session)
    receiver.answers = [500, "hang up", 503]
    assert notifying.tell(session) == 0
    (notice,) = session.ledger.due_notices(NOW + timedelta(days=1))
    assert (notice.attempts, notice.error, notice.state) == (3, "HTTP 503", "due")
    assert notifying.tell(session) == 0
    session.clock.sleep(90)
    assert notifying.tell(session) == 1
    assert len(receiver.taken) == 1


def test_a_second_answer_is_taken_within_the_same_command(session, receiver):
    end(session)
    receiver.answers = [429]
    assert notifying.tell(session) == 1


def test_what_a_killed_command_was_sending_is_sent_by_a_later_one(session, receiver):
    end(session)

    def killed(_url, _body):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notifying.tell(session, post=killed)
    session.clock.sleep(61)
    assert notifying.tell(session) == 1


def test_after_a_day_it_is_given_up(session, receiver):
    end(session)
    session.clock.sleep(2 * 86400)
    assert notifying.tell(session) == 0
    assert receiver.taken == []
    assert session.ledger.due_notices(session.clock.now()) == []


def test_the_address_is_never_kept(session, receiver, tmp_path):
    end(session)
    receiver.answers = [500, 500, 500]
    notifying.tell(session)
    session.ledger.close()
    assert all(b"secret-of-the-hook" not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
