"""A real `lumina ui` on a ledger of its own, and a real browser where the machine has one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

LUMINA = Path(sys.executable).with_name("lumina")
CHROMIUM = shutil.which("chromium")


@dataclass(frozen=True)
class Site:
    """Where the pages are, the unguessable path with them, and the key to them."""

    base: str
    token: str
    home: Path
    pid: int

    @property
    def origin(self):
        return self.base.rsplit("/", 1)[0]

    @property
    def port(self):
        return int(self.origin.rsplit(":", 1)[1])

    @contextmanager
    def client(self, *, entered=True):
        """Give a client; one that has entered has the cookie."""
        with httpx.Client(base_url=self.base, timeout=30, trust_env=False) as client:
            if entered:
                assert client.get(f"/?token={self.token}").status_code == 303
            yield client


@contextmanager
def served(home, **extra):
    """Serve the pages of a home as a process of its own, `extra` in its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    environment = {**kept, "LUMINA_HOME": str(home), "NO_COLOR": "1", **extra}
    process = subprocess.Popen([LUMINA, "ui", "--json"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = json.loads(process.stdout.readline())
        base, token = said["url"].split("/?token=")
        yield Site(base, token, home, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.stdout.close()


@pytest.fixture
def browser():
    """Debian's chromium; without it the test is skipped by name."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
