"""What runs on a simulated machine: the very guard and supervisor that are shipped to rented ones, on a virtual clock and a disk in memory.

Their source is executed as it arrived on the machine. What they import of the outside is handed in: time, files, locks, processes, HTTP.
"""

from __future__ import annotations

import builtins
import errno
import fcntl as real_fcntl
import io
import os as real_os
import signal as real_signal
import subprocess as real_subprocess
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.machine import SimMachine

LEAST_WAIT = 1.0
"""Programs on a machine look around once a second: what they ask for more often costs a simulation time, and shows nothing."""


class Files:
    """A disk: whole files by their path below the work folder. Full, it takes nothing more."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.full = False

    def write(self, path: str, data: bytes) -> None:
        """Put a file. Raises OSError where the disk is full."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.content[path] = data

    def read(self, path: str) -> bytes:
        """Return a file. Raises FileNotFoundError."""
        try:
            return self.content[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", path) from None

    def below(self, folder: str) -> list[str]:
        """Return the paths below a folder."""
        return sorted(path for path in self.content if path.startswith(f"{folder}/"))

    def move(self, source: str, target: str) -> None:
        """Rename a file or a folder, over whatever is there."""
        for path in [p for p in self.content if p == source or p.startswith(f"{source}/")]:
            self.content[target + path[len(source) :]] = self.content.pop(path)

    def remove(self, path: str) -> None:
        """Remove a file or a folder, if it is there."""
        for one in [p for p in self.content if p == path or p.startswith(f"{path}/")]:
            del self.content[one]


class _Writing(io.BytesIO):
    """A file that is open for writing; it is there when it is closed."""

    def __init__(self, files: Files, path: str, begin: bytes = b"") -> None:
        super().__init__()
        super().write(begin)
        self._files, self._path = files, path

    def write(self, data: Any) -> int:
        return super().write(data.encode() if isinstance(data, str) else data)

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._files.write(self._path, data)


class _Path:
    """As much of `pathlib.Path` as programs on a machine use."""

    def __init__(self, files: Files, path: str) -> None:
        self._files, self._path = files, path

    def __str__(self) -> str:
        return self._path

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    def with_name(self, name: str) -> _Path:
        folder = self._path.rpartition("/")[0]
        return _Path(self._files, f"{folder}/{name}" if folder else name)

    @property
    def parent(self) -> _Path:
        return _Path(self._files, ".")

    def absolute(self) -> _Path:
        return self

    def resolve(self) -> _Path:
        return self

    def exists(self) -> bool:
        return self._path in self._files.content or bool(self._files.below(self._path))

    def mkdir(self, **_more: Any) -> None:
        """Do nothing: folders are there with their files."""

    def touch(self) -> None:
        self._files.write(self._path, self._files.content.get(self._path, b""))

    def unlink(self) -> None:
        self._files.read(self._path)
        self._files.remove(self._path)

    def replace(self, target: str | _Path) -> None:
        self._files.read(self._path)
        self._files.move(self._path, str(target))

    def read_bytes(self) -> bytes:
        return self._files.read(self._path)

    def read_text(self, **_more: Any) -> str:
        return self._files.read(self._path).decode("utf-8", "replace")

    def write_text(self, text: str, **_more: Any) -> None:
        self._files.write(self._path, text.encode())

    def open(self, mode: str = "r") -> io.BytesIO:
        if mode == "rb":
            return io.BytesIO(self._files.read(self._path))
        return _Writing(self._files, self._path, self._files.content.get(self._path, b"") if "a" in mode else b"")


def run(machine: SimMachine, source: str, name: str, argv: list[str], env: dict[str, str]) -> int:
    """Run a program to its end, and return its exit code. Raises Killed with its machine."""
    handles: list[str] = []
    modules = _modules(machine, handles, argv, env)
    space: dict[str, Any] = {"__name__": "__main__", "__file__": name, "__builtins__": {**vars(builtins), "__import__": _importer(modules)}}
    try:
        exec(_compiled(source, name), space)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        # A lock lasts as long as its process.
        for path in handles:
            if machine.locks.get(path) is handles:
                del machine.locks[path]
    return 0


@cache
def _compiled(source: str, name: str) -> types.CodeType:
    return compile(source, name, "exec")


def _importer(modules: dict[str, Any]) -> Callable[..., Any]:
    def find(name: str, *rest: Any) -> Any:
        return modules[name] if name in modules else builtins.__import__(name, *rest)

    return find


def _modules(machine: SimMachine, handles: list[str], argv: list[str], env: dict[str, str]) -> dict[str, Any]:
    files = machine.files

    def path(text: str | _Path) -> _Path:
        return _Path(files, str(text))

    def urlopen(request: Any, timeout: float) -> Any:
        return machine.ask(request.get_method(), request.full_url, dict(request.header_items()), request.data, timeout)

    network = types.SimpleNamespace(request=types.SimpleNamespace(Request=urllib.request.Request, urlopen=urlopen), error=urllib.error)
    return {
        "time": types.SimpleNamespace(
            monotonic=lambda: machine.hub.now - machine.booted, sleep=lambda s: machine.hub.sleep(max(LEAST_WAIT, s))
        ),
        "datetime": types.SimpleNamespace(UTC=UTC, datetime=types.SimpleNamespace(now=lambda _zone: _wall(machine))),
        "pathlib": types.SimpleNamespace(Path=path),
        "os": _os(machine, handles, env),
        "fcntl": types.SimpleNamespace(
            LOCK_EX=real_fcntl.LOCK_EX, LOCK_NB=real_fcntl.LOCK_NB, flock=lambda handle, _how: _lock(machine, handles, handle)
        ),
        "signal": types.SimpleNamespace(
            SIGHUP=real_signal.SIGHUP, SIGINT=real_signal.SIGINT, SIGTERM=real_signal.SIGTERM, SIG_IGN=None, signal=lambda _n, _what: None
        ),
        "subprocess": types.SimpleNamespace(
            Popen=machine.start_process,
            run=lambda argv, **_more: machine.command(list(argv)),
            DEVNULL=real_subprocess.DEVNULL,
            TimeoutExpired=real_subprocess.TimeoutExpired,
        ),
        "sys": types.SimpleNamespace(argv=argv, executable="python3", exit=_leave),
        "urllib.request": network,
        "urllib.error": network,
    }


def _os(machine: SimMachine, handles: list[str], env: dict[str, str]) -> types.SimpleNamespace:
    files = machine.files

    def opened(path: str, flags: int, _mode: int = 0o600) -> int:
        if path not in files.content or flags & real_os.O_TRUNC:
            files.write(path, b"")
        handles.append(path)
        return len(handles) - 1

    def kill(pid: int, number: int) -> None:
        if number == 0 and not machine.is_process(pid):
            raise ProcessLookupError

    return types.SimpleNamespace(
        O_RDWR=real_os.O_RDWR,
        O_CREAT=real_os.O_CREAT,
        O_WRONLY=real_os.O_WRONLY,
        O_TRUNC=real_os.O_TRUNC,
        open=opened,
        fdopen=lambda handle, _mode: _Writing(files, handles[handle]),
        close=lambda _handle: None,
        environ=env,
        pathsep=":",
        kill=kill,
        chdir=lambda _path: None,
    )


def _lock(machine: SimMachine, handles: list[str], handle: int) -> None:
    path = handles[handle]
    if machine.locks.get(path, handles) is not handles:
        raise BlockingIOError(errno.EAGAIN, "locked")
    machine.locks[path] = handles


def _wall(machine: SimMachine) -> datetime:
    return datetime.fromtimestamp(machine.hub.now + machine.spec.clock_skew_seconds, UTC)


def _leave(code: int = 0) -> None:
    raise SystemExit(code)
