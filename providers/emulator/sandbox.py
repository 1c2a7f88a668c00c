"""The sandbox from outside: start it, find it, ask it, stop it. All of it lies below one folder.

Nothing here imports the emulator itself, so that finding it costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]
START_SECONDS = 60.0
STOP_SECONDS = 60.0
BURIAL_SECONDS = 3.0
ASK_SECONDS = 30.0
NOWHERE = "http://127.0.0.1:1"
"""Where variables lead while no sandbox is up: nobody answers there."""
_ours: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this very process started."""
NEEDED = {"asyncssh": "asyncssh", "graphql": "graphql-core", "yaml": "pyyaml"}


class SandboxError(Exception):
    """Something about the sandbox is not as it must be. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SandboxDown(SandboxError):
    """No sandbox is up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"no sandbox is up below {folder}", "lumina sandbox up")


@dataclass(frozen=True)
class Connection:
    """How to reach a sandbox that is up."""

    vastai_url: str
    """What VAST_URL takes."""
    runpod_url: str
    """What RUNPOD_API_BASE_URL takes: `/graphql`, `/v2` and `/v1` lie below it."""
    lambda_url: str
    """The host; `/api/v1` lies below it."""
    api_key: str = field(repr=False)
    """The account's key at all three."""
    read_only_key: str = field(repr=False)
    """A key of the account that may only read."""
    lambda_ssh_port: int
    """At which Lambda's machines answer: 22 where an ordinary user may bind it."""
    control_url: str
    pid: int


def folder_below(home: Path) -> Path:
    """Return where the sandbox of a LUMINA_HOME lives."""
    return home / "sandbox" / "emulator"


def connection(home: Path) -> Connection:
    """Return how to reach the sandbox of a LUMINA_HOME. Raises SandboxDown."""
    folder = folder_below(home)
    document = _read(folder)
    if document is None or not _alive(document):
        raise SandboxDown(folder)
    return Connection(**{name: document[name] for name in Connection.__dataclass_fields__})


def environment(home: Path) -> dict[str, str]:
    """Return the variables that lead the official clients, and ours, to the sandbox and nowhere else.

    When no sandbox is up they lead to a port where nobody answers: what is meant as a rehearsal must never reach a real cloud.
    """
    try:
        found = connection(home)
        urls, key = (found.vastai_url, found.runpod_url, found.lambda_url), found.api_key
        more = {"LUMINA_LAMBDA_SSH_PORT": str(found.lambda_ssh_port)}
    except SandboxDown:
        urls, key, more = (NOWHERE,) * 3, "no-sandbox", {}
    vastai, runpod, lambda_ = urls
    return {
        "VAST_URL": vastai,
        "VAST_API_KEY": key,
        "RUNPOD_API_BASE_URL": runpod,
        "RUNPOD_API_KEY": key,
        "LAMBDA_CLOUD_BASE_URL": lambda_,
        "LAMBDA_API_KEY": key,
        **more,
    }


def up(home: Path, settings: Json) -> tuple[Json, bool]:
    """Start the sandbox, and wait until it answers. Returns its document and whether it was started now, and not before.

    Raises SandboxError when a library is missing, it cannot start, or it runs already with other settings.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SandboxError(f"the sandbox needs {', '.join(missing)}", "pip install 'lumina-cloud[sandbox]'")
    folder = folder_below(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(folder):
        document = _read(folder)
        if document is not None and _alive(document):
            if settings and settings != document["settings"]:
                raise SandboxError("a sandbox is up already, with other settings", "lumina sandbox down, then up again")
            return document, False
        return _start(folder, settings), True


def down(home: Path) -> bool:
    """Stop the sandbox and everything that runs in it. Returns False when none was up. Raises SandboxError when it does not end."""
    folder = folder_below(home)
    document = _read(folder)
    if document is None or not _alive(document):
        (folder / "server.json").unlink(missing_ok=True)
        return False
    pid = int(document["pid"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(document):
        if time.monotonic() > deadline:
            raise SandboxError(f"the sandbox (process {pid}) does not end", f"kill -9 {pid}")
        time.sleep(0.05)
    if pid in _ours:
        _ours.pop(pid).wait()
    import psutil

    # Somebody has to bury it; who asks for its number right after this should not find it.
    buried = time.monotonic() + BURIAL_SECONDS
    while psutil.pid_exists(pid) and time.monotonic() < buried:
        time.sleep(0.02)
    (folder / "server.json").unlink(missing_ok=True)
    return True


def ask(home: Path, method: str, path: str, body: Json | None = None) -> Json:
    """Send a request to the control port. Raises SandboxDown, and SandboxError for a refusal."""
    found = connection(home)
    request = urllib.request.Request(  # noqa: S310 - the address comes from our own file
        found.control_url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {found.api_key}", "Content-Type": "application/json"},
    )
    # The loopback is never reached through a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ASK_SECONDS) as reply:
            answer: Json = json.load(reply)
            return answer
    except urllib.error.HTTPError as error:
        raise SandboxError(json.load(error).get("error", str(error))) from None
    except (OSError, ValueError) as error:
        raise SandboxError(f"the sandbox does not answer: {error}", "lumina sandbox down, then up again") from error


def _start(folder: Path, settings: Json) -> Json:
    (folder / "server.json").unlink(missing_ok=True)
    options = folder / "options.json"
    options.write_text(json.dumps(settings), encoding="utf-8")
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "providers.emulator.server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            close_fds=True,
            start_new_session=True,
        )
    _ours[process.pid] = process
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        document = _read(folder)
        if document is not None and document["pid"] == process.pid:
            return document
        if process.poll() is not None:
            break
        time.sleep(0.02)
    else:
        process.kill()
    _ours.pop(process.pid).wait()
    text = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise SandboxError(f"the sandbox did not start: {text[-1] if text else 'it said nothing'}", f"see {log_file}")


def _read(folder: Path) -> Json | None:
    try:
        document = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _alive(document: Json) -> bool:
    """Tell whether the very process that wrote the document still runs."""
    import psutil

    try:
        process = psutil.Process(int(document["pid"]))
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(document["started"])) < 2)
    except (psutil.Error, KeyError, ValueError):
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
