"""The guard's own end of a rental, as a real process against a real HTTP server: what the machine made comes home first."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lumina_cloud.remote import guard


@contextmanager
def provider(folder):
    """A provider's API that notes what lay in the machine's folder when it was asked to delete it."""
    asked = []

    class Api(BaseHTTPRequestHandler):
        def do_DELETE(self):
            asked.append((self.path, {p.name for p in folder.iterdir()}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/instances/{{id}}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def guarded(folder, url, **limits):
    """A guard at work in a folder in which the trainer was started."""
    api = {"id_variable": "ID", "key_variable": "KEY", "method": "DELETE", "url": url}
    told = {"deadline_seconds": 86400, "budget_seconds": 86400, "lease_seconds": 86400, "grace_seconds": 20, "api": api, **limits}
    (folder / "limits.json").write_text(json.dumps(told))
    (folder / "started").touch()
    (folder / "guard.py").write_text(Path(guard.__file__).read_text())
    process = subprocess.Popen([sys.executable, "guard.py"], cwd=folder, env={"ID": "7", "KEY": "k"})
    yield process
    process.kill()
    process.wait()


def wait_for(true, seconds=30.0):
    give_up = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if true():
            return
        give_up.wait(0.05)
    raise AssertionError("it did not happen")


@pytest.mark.pain(13)
@pytest.mark.parametrize("reason", ["deadline", "budget"])
def test_at_a_limit_the_results_come_home_before_the_machine_is_deleted(tmp_path, reason):
    with provider(tmp_path) as (url, asked), guarded(tmp_path, url, home_seconds=60, **{f"{reason}_seconds": 0.1}):
        wait_for((tmp_path / "stop").exists)
        assert (tmp_path / "stop").read_text() == reason
        (tmp_path / "exit.json").write_text("{}")
        # Longer than a guard that does not wait would take.
        threading.Event().wait(1.5)
        assert not asked
        (tmp_path / "fetched").touch()
        wait_for(lambda: asked)
    path, there = asked[0]
    assert path == "/instances/7/"
    assert {"exit.json", "fetched"} <= there


def test_results_that_nobody_fetches_hold_it_no_longer_than_they_may(tmp_path):
    with provider(tmp_path) as (url, asked), guarded(tmp_path, url, home_seconds=0.5, deadline_seconds=0.1):
        wait_for((tmp_path / "stop").exists)
        (tmp_path / "exit.json").write_text("{}")
        wait_for(lambda: asked)
    assert "fetched" not in asked[0][1]


def test_where_nobody_was_heard_of_nobody_is_waited_for(tmp_path):
    with provider(tmp_path) as (url, asked), guarded(tmp_path, url, home_seconds=600, lease_seconds=0.1):
        wait_for((tmp_path / "stop").exists)
        assert (tmp_path / "stop").read_text() == "lease"
        (tmp_path / "exit.json").write_text("{}")
        wait_for(lambda: asked)
