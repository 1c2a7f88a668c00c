"""The first process of a box: SSH server, start-up program, and the parent of all that runs on the machine.

It reads one JSON line that says what it is, then commands, from its standard input; when that ends, its maker is gone and everything on
the box is killed. What it has to tell goes as JSON lines to its standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import asyncssh
import psutil

from providers.emulator.box_files import lay_out
from providers.emulator.box_relay import Relay
from providers.emulator.box_ssh import OWN_CHILDREN, Login, Server, Sessions, redirector

TELL_SECONDS = 0.2
RESTART_SECONDS = 1.0
PR_SET_CHILD_SUBREAPER = 36


class Box:
    """One running machine."""

    def __init__(self, birth: dict[str, Any]) -> None:
        self.birth = birth
        self.root = Path(birth["folder"])
        self.home = self.root / "home"
        self.redirect = redirector(self.root)
        self.key_file = self.root / "etc" / "ssh" / "ssh_host_ed25519_key"
        self.server = Server(
            lambda: Login(birth["user"], self.home / ".ssh" / "authorized_keys"),
            Sessions(self.home, self.login_env, self.redirect),
            self.redirect,
        )
        self.relay = Relay(lambda: self.server.port, birth["download_kib_per_second"])
        self._key_stamp = (0, 0)

    # Environments

    def base_env(self) -> dict[str, str]:
        """Return what every program on the box finds."""
        path = [str(self.root / "bin"), str(Path(sys.executable).parent), *os.environ.get("PATH", "/usr/bin:/bin").split(":")]
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ", "LD_PRELOAD", "LD_LIBRARY_PATH") if name in os.environ}
        sandbox = {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_")}
        return {
            **kept,
            **sandbox,
            **self.birth["network_env"],
            "PATH": ":".join(path),
            "HOME": str(self.home),
            "USER": self.birth["user"],
            "LOGNAME": self.birth["user"],
            "SHELL": "/bin/sh",
            "TMPDIR": str(self.root / "tmp"),
        }

    def instance_env(self) -> dict[str, str]:
        """Return what the start-up program finds: what the provider and the user set for this instance."""
        return {**self.base_env(), **{name: self.redirect(value) for name, value in self.birth["env"].items()}}

    def login_env(self) -> dict[str, str]:
        """Return what an SSH login finds: not the instance's environment, unless the image passes it on or somebody wrote it down."""
        env = self.instance_env() if self.birth["login_sees_env"] else self.base_env()
        with contextlib.suppress(OSError):
            for line in (self.root / "etc" / "environment").read_text(encoding="utf-8", errors="replace").splitlines():
                name, mark, value = line.partition("=")
                if mark and name.isidentifier() and name not in ("PATH", "HOME", "PWD"):
                    env[name] = value.strip('"')
        return env

    # Life

    async def run(self) -> None:
        """Boot, then do what the maker says, until it is gone."""
        lay_out(self.root, self.birth)
        os.chdir(self.home)
        environ = "".join(f"{name}={value}\0" for name, value in self.instance_env().items())
        (self.root / "etc" / "environ").write_text(environ, encoding="utf-8")
        (self.root / "etc" / "environ").chmod(0o600)
        if not self.key_file.exists():
            self._new_host_key()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, lambda: tell({"powered_off": True}))
        starting = asyncio.create_task(self._start_up())
        # With the run type `args` Vast.ai starts no SSH server; with the others it does, also when the on-start command brings the key.
        bare = self.birth["provider"] == "vastai" and self.birth["start_is_entrypoint"] and not self.birth["authorized_keys"]
        if not bare:
            await self._show_key()
            await self.relay.listen([socket.socket(fileno=number) for number in self.birth["sockets"]])
            tell({"listening": True})
        watching = asyncio.create_task(self._watch())
        try:
            await self._obey()
        finally:
            starting.cancel()
            watching.cancel()
            kill_descendants()

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            try:
                await self._do(json.loads(line))
            except OSError as error:
                print(f"the box could not do {line.decode().strip()}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the box's log

    async def _do(self, order: dict[str, Any]) -> None:
        what = order["do"]
        if what == "network":
            await self.relay.network(order["mode"])
        elif what == "rotate_host_key":
            self._new_host_key()
            await self._show_key()
        elif what == "fill_disk":
            fill_disk()
        elif what == "warn":
            signal_descendants(signal.SIGTERM)
        elif what == "authorize":
            with (self.home / ".ssh" / "authorized_keys").open("a", encoding="utf-8") as file:
                file.writelines(f"{key}\n" for key in order["keys"])

    async def _watch(self) -> None:
        """Tell the traffic, and take over a host key that somebody on the box put in its place."""
        told = (0, 0)
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if (counts := (self.relay.received, self.relay.sent)) != told:
                told = counts
                tell({"traffic": counts})
            reap_orphans()
            if self.server.port and self._stamp() not in (self._key_stamp, (0, 0)):
                with contextlib.suppress(asyncssh.KeyImportError, OSError):
                    await self._show_key()

    def _stamp(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            found = self.key_file.stat()
            return found.st_mtime_ns, found.st_ino
        return (0, 0)

    def _new_host_key(self) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        descriptor = os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
        self.key_file.with_suffix(".pub").write_bytes(key.export_public_key())

    async def _show_key(self) -> None:
        self._key_stamp = self._stamp()
        tell({"key": await self.server.show(self.key_file)})

    # What runs at boot

    async def _start_up(self) -> None:
        if self.birth["user_data"] and self.birth["first_boot"]:
            await self._user_data(self.birth["user_data"])
        argv = self.birth["start"]
        while argv:
            code = await self._execute([self.redirect(part) for part in argv])
            if not self.birth["start_is_entrypoint"]:
                return
            # A container whose program ends is started again, and is billed all the while.
            print(f"container exited with {code}, restarting", file=sys.stderr, flush=True)  # noqa: T201 - the box's log
            await asyncio.sleep(RESTART_SECONDS)

    async def _execute(self, argv: list[str]) -> int:
        try:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=sys.stderr,
                cwd=self.home,
                env=self.instance_env(),
                start_new_session=True,
                restore_signals=False,
            )
            OWN_CHILDREN.add(child.pid)
        except OSError as error:
            print(f"cannot start {shlex.join(argv[:1])}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the box's log
            return 127
        return await child.wait()

    async def _user_data(self, text: str) -> None:
        """Do what cloud-init does with a script, or with the commonest parts of a `#cloud-config`."""
        if text.startswith("#cloud-config"):
            import yaml

            config = yaml.safe_load(text) or {}
            for one in config.get("write_files") or []:
                path = Path(self.redirect(str(one["path"])))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(one.get("content") or ""), encoding="utf-8")
                path.chmod(int(str(one.get("permissions") or "0644"), 8))
            if private := (config.get("ssh_keys") or {}).get("ed25519_private"):
                self.key_file.write_text(private, encoding="utf-8")
                self.key_file.chmod(0o600)
            for command in config.get("runcmd") or []:
                argv = [str(part) for part in command] if isinstance(command, list) else ["/bin/sh", "-c", str(command)]
                await self._execute([self.redirect(part) for part in argv])
        elif text.startswith("#!"):
            script = self.root / "tmp" / "user-data"
            script.write_text(self.redirect(text), encoding="utf-8")
            script.chmod(0o700)
            await self._execute([str(script)])
        else:
            print("user data is neither a script nor a #cloud-config", file=sys.stderr, flush=True)  # noqa: T201 - the box's log


def tell(event: dict[str, Any]) -> None:
    """Report to the maker."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def descendants() -> list[psutil.Process]:
    """Return all processes on the box but this one."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def reap_orphans() -> None:
    """Take leave of the dead that this process adopted, so that their numbers do not look alive."""
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if one.pid not in OWN_CHILDREN and one.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(one.pid, os.WNOHANG)


def signal_descendants(number: int) -> None:
    """Send a signal to all of them."""
    for one in descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def kill_descendants() -> None:
    """Kill all of them, and those that they started meanwhile."""
    for _ in range(20):
        alive = [one for one in descendants() if one.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(alive, timeout=0.2)


def fill_disk() -> None:
    """Let no process on the box write to a file any more (EFBIG; the pipes and sockets go on)."""
    for one in [psutil.Process(), *descendants()]:
        with contextlib.suppress(psutil.Error, AttributeError):
            one.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def main() -> None:
    """Be a box."""
    with contextlib.suppress(OSError, AttributeError):
        # Whatever loses its parent on this box becomes a child of this process, so that nothing escapes when it ends.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A full disk is an error that a program gets from its write, not a signal that kills it.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    birth = json.loads(os.fdopen(os.dup(0), "rb", 0).readline())
    asyncio.run(Box(birth).run())


if __name__ == "__main__":
    main()
