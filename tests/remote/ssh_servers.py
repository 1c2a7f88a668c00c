"""Real SSH servers for tests, on the loopback with real keys: asyncssh, and OpenSSH's sshd where it is installed."""

import asyncio
import functools
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import asyncssh

SSHD = shutil.which("sshd") or (Path("/usr/sbin/sshd") if Path("/usr/sbin/sshd").exists() else None)
SFTP_SERVER = next((p for p in (Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server")) if p.exists()), None)


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def _loop():
    """One loop for all servers of this process; it ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class AsyncSshServer:
    """An asyncssh server in a thread; files and commands see `home`. Counts what clients ask for."""

    def __init__(self, home, authorized_key, port=None):
        self.home, self.port = home, port or free_port()
        self.user = "root"
        self._authorized = asyncssh.import_authorized_keys(authorized_key + "\n")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.auth_attempts = 0
        self.agent_requests = 0
        self._loop = _loop()
        self._server = None
        self._connections = []
        self.start()

    @property
    def key_line(self):
        return " ".join(self.host_key.export_public_key().decode().split()[:2])

    def start(self):
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self):
        """Refuse connections and drop those that there are."""

        async def end():
            if self._server is not None:
                self._server.close()
                for connection in self._connections:
                    connection.abort()
                await self._server.wait_closed()
                self._server = None
            self._connections.clear()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)

    def drop(self):
        """Break every connection, and go on listening."""

        async def abort():
            for connection in self._connections:
                connection.abort()
            self._connections.clear()

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result(10)

    def rotate(self):
        """Show another host key from now on."""
        self.stop()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.start()

    def close(self):
        self.stop()

    async def _listen(self):
        outer = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn):
                outer._connections.append(conn)

            def begin_auth(self, username):
                outer.auth_attempts += 1
                return True

            def public_key_auth_supported(self):
                return True

            def validate_public_key(self, username, key):
                return self is not None and outer._authorized.validate(key, "", "127.0.0.1", None) is not None

        class Sftp(asyncssh.SFTPServer):
            def __init__(self, chan):
                super().__init__(chan, chroot=str(outer.home))

        async def process(process):
            if process.command is None:
                process.stdout.write("shell\n")
                process.exit(0)
                return
            command = process.command.decode() if isinstance(process.command, bytes) else process.command
            done = await asyncio.to_thread(
                subprocess.run,
                ["sh", "-c", command],
                cwd=outer.home,
                env={**os.environ, "HOME": str(outer.home)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=120,
            )
            process.stdout.write(done.stdout)
            process.stderr.write(done.stderr)
            process.exit(done.returncode)

        self._server = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key],
            process_factory=process,
            sftp_factory=Sftp,
            encoding=None,
            agent_forwarding=False,
        )


class OpenSshServer:
    """OpenSSH's own sshd with a forced command that puts everything into `home`."""

    def __init__(self, home, authorized_key, folder):
        self.home, self.port = home, free_port()
        self.user = os.environ.get("USER") or "root"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        (folder / "authorized_keys").write_text(authorized_key + "\n")
        (folder / "authorized_keys").chmod(0o600)
        force = folder / "force.sh"
        force.write_text(
            f'#!/bin/sh\nexport HOME={home}\ncd {home}\ncase "$SSH_ORIGINAL_COMMAND" in\n'
            f'*sftp*) exec {SFTP_SERVER} -d {home} ;;\n"") exec sh ;;\n*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;\nesac\n'
        )
        force.chmod(0o700)
        self._make_key()
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"UsePAM no\nForceCommand {force}\nSubsystem sftp {SFTP_SERVER}\n"
        )
        self._process = None
        self.start()

    @property
    def key_line(self):
        return " ".join((self._folder / "host_key.pub").read_text().split()[:2])

    def _make_key(self):
        for name in ("host_key", "host_key.pub"):
            (self._folder / name).unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / "host_key"], check=True)

    def start(self):
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self._folder / "config"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self._folder / "log").read_text())

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        self.drop()

    def drop(self):
        """Break every connection: sessions are children in sessions of their own."""
        import psutil

        for process in psutil.process_iter(["name", "cmdline"]):
            if (process.info["name"] or "").startswith("sshd") and process.pid != (self._process.pid if self._process else -1):
                try:
                    if any(c.laddr.port == self.port for c in process.net_connections("tcp") if c.status == "ESTABLISHED"):
                        process.kill()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue

    def rotate(self):
        self.stop()
        self._make_key()
        self.start()

    def close(self):
        self.stop()
