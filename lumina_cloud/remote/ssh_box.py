"""A machine behind SSH: `Box` over SFTP and commands. What breaks on the way is made again; what arrived is counted, never believed."""

from __future__ import annotations

import hashlib
import shlex
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge, sent
from lumina_cloud.core.errors import BadReply, ProviderError, Unreachable
from lumina_cloud.remote.box import CHUNK, Completed, Entry
from lumina_cloud.remote.ssh_connection import WAIT_SECONDS, is_of_the_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import paramiko

    from lumina_cloud.remote.ssh_connection import Connection

WORK = "lumina"
"""The work folder, below the home of the user whom the machine lets in."""
MAX_OUTPUT = 256 << 10
MAX_ENTRIES = 100_000
MAX_DEPTH = 12
_REQUEST = 32 << 10
"""What every SFTP server takes at once."""
_SMALL = 64 << 10
"""Up to this much is read by SFTP."""
_ATTEMPTS = 3

Answer = TypeVar("Answer")


class SshBox:
    """The machine at the other end of a connection."""

    def __init__(self, connection: Connection, work: str = WORK) -> None:
        self._connection = connection
        self._work = work
        self._made: set[str] = set()

    def close(self) -> None:
        """Let go of the machine."""
        self._connection.close()

    @property
    def trusted_at_first_contact(self) -> bool:
        """Whether nobody had told its host key before the first contact."""
        return self._connection.trusted_at_first_contact

    # --- Box ------------------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run a command. Raises Unreachable when the connection breaks: what became of the command is then unknown."""
        with edge("box.run"):
            channel = self._connection.session()
            with self._connection.errors():
                try:
                    channel.exec_command(f"mkdir -p {self._work} && cd {self._work} && exec {shlex.join(argv)}")
                    channel.shutdown_write()
                    sent()
                    return _collect(channel, time.monotonic() + timeout)
                finally:
                    channel.close()

    def put(self, source: Path, target: str) -> None:
        """Send a file. One that broke off goes on where it broke off, and is then hashed on the machine."""
        path = self._path(target)
        digest = _sha256(source)
        partial = f"{path}.{digest[:12]}.part"
        with edge("box.put"):
            resumed = self._again(lambda: self._send(source, partial))
            if resumed and self._hash_there(partial) != digest:
                self._again(lambda: self._sftp().truncate(partial, 0))
                self._again(lambda: self._send(source, partial))
            sent()
            self._again(lambda: self._rename(partial, path))

    def write(self, target: str, data: bytes) -> None:
        """Write a small file."""
        path = self._path(target)

        def send() -> None:
            self._make_folder(path.rpartition("/")[0])
            with self._sftp().open(f"{path}.part", "wb") as out:
                # Not pipelined: paramiko drops the refusal of a write that it does not wait for, and a full disk leaves an empty file.
                out.write(data)
            sent()
            self._rename(f"{path}.part", path)

        with edge("box.write"):
            self._again(send)

    def read(self, path: str, offset: int = 0, limit: int = CHUNK) -> bytes | None:
        """Return part of a file, None when it is not there."""
        target = self._path(path)
        with edge("box.read"):
            return self._again(lambda: self._read(target, offset, limit))

    def listing(self, folder: str) -> list[Entry]:
        """Return the plain files below a folder. Raises BadReply for more entries than any run makes."""
        root = self._path(folder)
        with edge("box.listing"):
            return self._again(lambda: sorted(self._walk(root, 0, [0]), key=lambda entry: entry.path))

    # --- files ----------------------------------------------------------------------------------------------------------

    def _sftp(self) -> paramiko.SFTPClient:
        return self._connection.sftp()

    def _read(self, target: str, offset: int, limit: int) -> bytes | None:
        try:
            with self._sftp().open(target, "rb") as handle:
                sent()
                wanted = max(0, min(limit, (handle.stat().st_size or 0) - offset))
                if wanted <= _SMALL:
                    handle.seek(offset)
                    return bytes(handle.read(wanted)[:wanted]) if wanted else b""
        except (FileNotFoundError, PermissionError):
            return None
        return self._stream(target, offset, wanted)

    def _stream(self, target: str, offset: int, wanted: int) -> bytes:
        """Return a large part of a file. A channel's window is filled at once, where SFTP would ask for it piece by piece."""
        channel = self._connection.session()
        try:
            channel.settimeout(WAIT_SECONDS)
            channel.exec_command(f"tail -c +{offset + 1} {shlex.quote(target)} | head -c {wanted}")
            got = bytearray()
            while len(got) < wanted and (part := channel.recv(wanted - len(got))):
                got += part
            return bytes(got)
        finally:
            channel.close()

    def _send(self, source: Path, partial: str) -> bool:
        """Send what the partial file still lacks; return whether something had been there."""
        self._make_folder(partial.rpartition("/")[0])
        sftp, there = self._sftp(), 0
        total = source.stat().st_size
        with suppress(FileNotFoundError):
            there = sftp.stat(partial).st_size or 0
        if there > total:
            there = 0
        with source.open("rb") as data, sftp.open(partial, "r+b" if there else "wb") as out:
            data.seek(there)
            out.seek(there)
            out.set_pipelined(True)
            while chunk := data.read(_REQUEST):
                out.write(chunk)
        arrived = sftp.stat(partial).st_size
        if arrived != total:
            raise ProviderError(f"{arrived or 0:,} of {total:,} bytes of {source.name} arrived on the machine", "its disk may be full")
        return there > 0

    def _rename(self, partial: str, path: str) -> None:
        self._sftp().posix_rename(partial, path)

    def _make_folder(self, folder: str) -> None:
        if not folder or folder in self._made:
            return
        sftp = self._sftp()
        parts = folder.split("/")
        for n in range(1, len(parts) + 1):
            where = "/".join(parts[:n])
            if where not in self._made:
                with suppress(OSError):
                    sftp.mkdir(where, 0o700)
                self._made.add(where)

    def _hash_there(self, path: str) -> str:
        done = self.run(["sha256sum", path.removeprefix(f"{self._work}/")], timeout=600.0)
        return done.stdout[:64] if done.returncode == 0 else ""

    def _walk(self, folder: str, depth: int, seen: list[int]) -> Iterator[Entry]:
        """Yield plain files. `seen` counts entries of every kind: a machine could list without end."""
        for item in self._entries(folder, seen):
            name, mode, where = untrusted.file_name(item.filename), item.st_mode or 0, f"{folder}/{item.filename}"
            if name is None or "/" in name:
                continue
            if stat.S_ISDIR(mode) and depth < MAX_DEPTH:
                yield from self._walk(where, depth + 1, seen)
            elif stat.S_ISREG(mode):
                yield Entry(where.removeprefix(f"{self._work}/"), int(item.st_size or 0))

    def _entries(self, folder: str, seen: list[int]) -> list[paramiko.SFTPAttributes]:
        """Return one folder's entries. It is read to its end before anything else is asked: paramiko reads ahead."""
        found: list[paramiko.SFTPAttributes] = []
        try:
            for item in self._sftp().listdir_iter(folder):
                seen[0] += 1
                if seen[0] > MAX_ENTRIES:
                    self._connection.close()
                    raise BadReply(f"the machine lists more than {MAX_ENTRIES:,} files: that is not a training run's output")
                found.append(item)
        except FileNotFoundError:
            return []
        sent()
        return found

    def _path(self, path: str) -> str:
        if untrusted.file_name(path) is None:
            raise BadReply(f"not a path on a machine: {untrusted.line(path, 200)!r}")
        return f"{self._work}/{path}"

    def _again(self, action: Callable[[], Answer]) -> Answer:
        """Do something that may be repeated; a broken connection is made again. Raises ProviderError."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._connection.errors(), _refusals():
                    return action()
            except Unreachable:
                self._made.clear()
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")


class _refusals:  # reads as a statement
    """Turns what a machine's file system refuses, and nonsense in its replies, into our errors."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise BadReply("the machine names a file in bytes that are no text") from error
        if isinstance(error, OSError) and not is_of_the_way(error):
            raise ProviderError(f"the machine refused a file operation: {untrusted.line(error, 200)}", "its disk may be full") from error


def _collect(channel: paramiko.Channel, give_up: float) -> Completed:
    """Read both streams to their end, keeping no more than `MAX_OUTPUT` of each. Raises TimeoutError."""
    kept = {"out": bytearray(), "err": bytearray()}
    pause = 0.005
    while True:
        busy = False
        for name, ready, receive in (("out", channel.recv_ready, channel.recv), ("err", channel.recv_stderr_ready, channel.recv_stderr)):
            if ready():
                part = receive(_REQUEST)
                kept[name] += part[: MAX_OUTPUT - len(kept[name])]
                busy = busy or bool(part)
        if not busy:
            if channel.exit_status_ready() and (channel.eof_received or channel.closed):
                break
            if channel.closed:
                break
            if time.monotonic() > give_up:
                raise TimeoutError
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)
        elif time.monotonic() > give_up:
            raise TimeoutError
        else:
            pause = 0.005
    code = channel.recv_exit_status() if channel.exit_status_ready() else -1
    return Completed(code, bytes(kept["out"]).decode("utf-8", "replace"), bytes(kept["err"]).decode("utf-8", "replace"))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
