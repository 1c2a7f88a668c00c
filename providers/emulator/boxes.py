"""Real machines: for each instance a process group in a folder of its own, with an SSH server on the loopback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from providers.emulator.machines import BoxSpec, Network
    from providers.emulator.wire import Json

HOST = "127.0.0.1"
URL_VARIABLES = {"vastai": ("VAST_URL", ""), "runpod": ("RUNPOD_API_BASE_URL", ""), "lambda": ("LAMBDA_CLOUD_BASE_URL", "")}
"""How a box finds its provider; on a real one its name is enough."""
LOG_BYTES = 1 << 20


class Boxes:
    """Makes machines below one folder, and kills what is left of them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.own_port = _usual_port()
        self._addresses = _addresses()
        self._urls: dict[str, str] = {}
        self._boxes: list[Box] = []
        self.powered_off: Callable[[str], None] = lambda _name: None

    def connect(self, urls: dict[str, str]) -> None:
        """Tell the boxes that come where their providers answer."""
        self._urls = urls

    def __call__(self, spec: BoxSpec) -> Box:
        """Make a machine; it does not run yet."""
        variable, path = URL_VARIABLES[spec.provider]
        url = self._urls.get(spec.provider, "")
        more = {variable: url + path}
        if spec.provider == "runpod":
            more |= {"RUNPOD_GRAPHQL_URL": f"{url}/graphql", "RUNPOD_API_URL": f"{url}/v1"}
        box = self._place(spec, more)
        self._boxes.append(box)
        return box

    def _place(self, spec: BoxSpec, more: dict[str, str]) -> Box:
        def power_off(name: str) -> None:
            self.powered_off(name)

        if not spec.own_address:
            return Box(spec, self.folder / spec.name, (HOST, 0), more, power_off)
        for _ in range(1000):
            with contextlib.suppress(OSError):
                return Box(spec, self.folder / spec.name, (next(self._addresses), self.own_port), more, power_off)
        raise OSError("no address is free on the loopback")

    def close(self) -> None:
        """End all machines and remove their disks."""
        for box in self._boxes:
            box.destroy()
        for box in self._boxes:
            box.wait_removed()


class Box:
    """One machine."""

    def __init__(
        self, spec: BoxSpec, folder: Path, place: tuple[str, int], network_env: dict[str, str], powered_off: Callable[[str], None]
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.host, self.port = place
        self.proxy_port = 0
        self.key = ""
        self.ready = threading.Event()
        """Set when its SSH server answers."""
        self._network_env = network_env
        self._powered_off = powered_off
        self._process: subprocess.Popen[bytes] | None = None
        self._traffic = (0, 0)
        self._earlier = (0, 0)
        self._destroyed = False
        self._boots = 0
        self._keys = list(spec.authorized_keys)
        self._lock = threading.Lock()
        self._remover: threading.Thread | None = None
        self._sockets: list[socket.socket] = []
        self._bind()

    def _bind(self) -> None:
        """Reserve the ports. Nobody listens yet: a connection is refused until the machine is up."""
        fixed = self.port if self.spec.own_address else 0
        self._sockets = [_bound(self.host, fixed), _bound(HOST, 0)]
        self.port, self.proxy_port = (one.getsockname()[1] for one in self._sockets)

    def boot(self) -> None:
        """Start its processes, without waiting for them."""
        with self._lock:
            if self._destroyed or self._process is not None:
                return
            if self._boots and self.spec.provider == "runpod":
                self._bind()
            elif self._boots:
                self._sockets = [_bound(self.host, self.port, again=True), _bound(HOST, self.proxy_port, again=True)]
            self._boots += 1
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = (self.folder / "log").open("ab")
            with log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "providers.emulator.box"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.folder,
                    env=_outer_env(self.spec),
                    pass_fds=[one.fileno() for one in self._sockets],
                    start_new_session=True,
                )
            self._tell(self._birth())
            # From now on the box alone holds its ports, so that they are free when it is killed.
            for one in self._sockets:
                one.close()
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _birth(self) -> Json:
        spec = self.spec
        env = {**spec.env, **({spec.port_variable: str(self.port)} if spec.port_variable else {})}
        return {
            "folder": str(self.folder),
            "sockets": [one.fileno() for one in self._sockets],
            "places": [[self.host, self.port], [HOST, self.proxy_port]],
            "user": spec.user,
            "provider": spec.provider,
            "name": spec.name,
            "gpu": {"name": spec.gpu_name, "memory_mib": spec.gpu_memory_mib, "count": spec.gpu_count},
            "driver": spec.driver,
            "cuda": spec.cuda,
            "env": env,
            "network_env": self._network_env,
            "authorized_keys": self._keys,
            "start": list(spec.start) if spec.start else None,
            "start_is_entrypoint": spec.start_is_entrypoint,
            "user_data": spec.user_data,
            "login_sees_env": spec.login_sees_env,
            "first_boot": self._boots == 1,
            "download_kib_per_second": spec.download_kib_per_second,
        }

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                if "key" in event:
                    self.key = event["key"]
                elif event.get("listening"):
                    self.ready.set()
                elif "traffic" in event:
                    received, sent = event["traffic"]
                    self._traffic = (self._earlier[0] + int(received), self._earlier[1] + int(sent))
                elif event.get("powered_off"):
                    self._powered_off(self.spec.name)

    def _tell(self, message: Json) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()

    def warn(self) -> None:
        """Send SIGTERM to all that runs on it."""
        self._tell({"do": "warn"})

    def halt(self) -> None:
        """Kill all its processes; the disk stays."""
        with self._lock:
            process, self._process = self._process, None
            self.ready.clear()
            if process is None:
                return
            kill_tree(process.pid)
            process.wait()
            for stream in (process.stdin, process.stdout):
                _close(stream)
            self._earlier = self._traffic

    def destroy(self) -> None:
        """Kill all its processes and wipe the disk."""
        if self._destroyed:
            return
        self._destroyed = True
        self.halt()
        for one in self._sockets:
            one.close()
        self._remover = threading.Thread(target=self._remove, daemon=True)
        self._remover.start()

    def _remove(self) -> None:
        log = self.folder / "log"
        with contextlib.suppress(OSError):
            log.replace(self.folder.parent / f"{self.spec.name}.log")
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_removed(self) -> None:
        """Wait until a destroyed machine's disk is gone."""
        if self._remover is not None:
            self._remover.join()

    def network(self, mode: Network) -> None:
        """Cut it off, or connect it again."""
        self._tell({"do": "network", "mode": mode})

    def rotate_host_key(self) -> None:
        """Show another host key from now on."""
        self._tell({"do": "rotate_host_key"})

    def fill_disk(self) -> None:
        """Let every further write fail."""
        self._tell({"do": "fill_disk"})

    def authorize(self, keys: tuple[str, ...]) -> None:
        """Let these public keys in as well."""
        added = [key for key in keys if key not in self._keys]
        self._keys += added
        self._tell({"do": "authorize", "keys": added})

    def traffic(self) -> tuple[int, int]:
        """Return bytes received and sent over its public addresses so far."""
        return self._traffic

    def log(self) -> str:
        """Return the end of what the start-up program and the machine itself printed."""
        for path in (self.folder / "log", self.folder.parent / f"{self.spec.name}.log"):
            with contextlib.suppress(FileNotFoundError):
                return path.read_bytes()[-LOG_BYTES:].decode(errors="replace")
        return ""


def kill_tree(pid: int) -> None:
    """Kill a process and all that came from it. It is stopped first, so that nothing escapes meanwhile."""
    try:
        root = psutil.Process(pid)
        root.suspend()
        while children := root.children(recursive=True):
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=0.05)
            children = [one for one in root.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
            if not children:
                break
        root.kill()
    except psutil.NoSuchProcess:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _outer_env(spec: BoxSpec) -> dict[str, str]:
    """Return the environment of a box's first process: nothing of the caller's but what programs need to be found."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    extra = {"SANDBOX_BOX": spec.name, "PYTHONUNBUFFERED": "1"}
    if spec.clock_skew_seconds:
        from providers.emulator.box_shim import library

        shim = library()
        if shim is not None:
            extra |= {"LD_PRELOAD": str(shim), "SANDBOX_CLOCK_SKEW": str(spec.clock_skew_seconds)}
    return kept | extra


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def _bound(host: str, port: int, *, again: bool = False) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Two sockets that may be reused can both be bound as long as neither listens: not so for a port that is chosen now.
    if again:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    return one


def _usual_port() -> int:
    """Return the SSH port of machines with an address of their own: 22 where that may be bound, else one that is free."""
    for host, port in (("127.77.0.2", 22), ("127.0.0.1", 0)):
        with contextlib.suppress(OSError):
            one = _bound(host, port)
            found = int(one.getsockname()[1])
            one.close()
            return found
    raise OSError("no port is free on the loopback")


def _addresses() -> Iterator[str]:
    """Return loopback addresses for machines that have their own, each one once in a long while."""
    yield HOST
    while True:
        yield from (f"127.77.{high}.{low}" for high, low in itertools.product(range(100), range(2, 250)))
