"""Real sockets: a request is over at its deadline, whatever the server does, and a create knows whether it was sent."""

import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from lumina_cloud.core.clock import SystemClock
from lumina_cloud.core.errors import BadReply, OutcomeUnknown, ProviderDown
from providers import transport
from providers.http import Call, Http
from providers.rate import Bucket

SECONDS = 0.6
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@contextmanager
def server(behave):
    """Serve connections on a loopback port, each with `behave`."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    over = threading.Event()
    met = []

    def serve():
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            met.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection):
        with connection:
            try:
                connection.recv(65536)
                behave(connection, over)
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", met
    over.set()
    thread.join()
    listening.close()


def drip(data):
    def behave(connection, over):
        for byte in data:
            if over.wait(0.05):
                return
            connection.send(bytes([byte]))
        over.wait(10)

    return behave


def silent(_connection, over):
    over.wait(10)


def hang_up(_connection, _over):
    pass


def test_a_request_that_slept_before_it_was_sent_is_not_sent(monkeypatch):
    """Who was stopped in between, and woke after its time, does not act on an old permission, however long a reply may take."""
    monkeypatch.setattr(transport, "SEND_SECONDS", 0.2)
    arrived = []

    def slept():
        time.sleep(0.5)
        yield b"{}"

    def note(connection, _over):
        arrived.append(connection.recv(65536))

    with server(note) as (url, _met), httpx.Client(transport=transport.DeadlineTransport()) as client:
        request = client.build_request("POST", url, content=slept())
        request.extensions[transport.SECONDS] = 60.0
        with pytest.raises(httpx.WriteTimeout):
            client.send(request)
    assert not b"".join(arrived)


def half_a_body(connection, _over):
    connection.send(HEADERS + b'{"data"')


def endless(connection, over):
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not over.is_set():
        connection.send(b" " * 65536)


NASTY = {
    "silent": silent,
    "drips its headers": drip(HEADERS * 100),
    "drips its body": lambda c, o: (c.send(HEADERS), drip(b"x" * 1000)(c, o)),
    "hangs up": hang_up,
    "half a body": half_a_body,
    "endless": endless,
}


def http(url):
    clock = SystemClock()
    return Http(provider="vastai", title="Vast.ai", base_url=url, key="k", bucket=Bucket(None, "vastai", "k", clock), clock=clock)


@pytest.mark.parametrize("behaviour", NASTY)
def test_a_read_ends_at_its_deadline(behaviour):
    with server(NASTY[behaviour]) as (url, _met):
        started = time.monotonic()
        with pytest.raises(ProviderDown):
            http(url).ask(Call("list", "the list", "GET", "/", seconds=SECONDS), lambda answer: answer.json())
        # Four attempts; the margin is for a busy machine, and a server that drips would take a minute and more.
        assert time.monotonic() - started < 4 * SECONDS + 15


@pytest.mark.parametrize("behaviour", NASTY)
def test_a_create_is_sent_once_and_its_outcome_is_unknown(behaviour):
    with server(NASTY[behaviour]) as (url, met):
        with pytest.raises(OutcomeUnknown):
            http(url).ask_once(Call("create", "a rental", "PUT", "/", body={}, seconds=SECONDS), lambda answer: answer.json())
        assert len(met) == 1


def test_a_create_that_reached_nobody_is_known_not_to_have_happened():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ProviderDown, match="cannot be reached"):
        http(f"http://127.0.0.1:{port}").ask_once(Call("create", "a rental", "PUT", "/", body={}), lambda answer: answer.json())


def test_a_good_server_is_understood_and_dates_its_answer():
    body = b'{"success": true}'
    reply = (
        b"HTTP/1.1 200 OK\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with server(lambda connection, _over: connection.sendall(reply)) as (url, _met):
        client = http(url)
        assert client.ask(Call("list", "the list", "GET", "/"), lambda answer: answer.json()) == {"success": True}
        assert client.clock_skew is not None


def test_a_redirect_is_not_followed_with_the_key():
    with server(lambda c, _o: c.sendall(b"HTTP/1.1 308 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")) as (url, met):
        from providers.http import refusal

        def read(answer):
            raise refusal(answer, "")

        with pytest.raises(BadReply):
            http(url).ask(Call("list", "the list", "GET", "/"), read)
        assert len(met) == 1
