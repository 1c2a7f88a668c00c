"""A real PostgreSQL server for tests, from the machine's own package: a cluster in a temporary folder, reached by its socket only.

On Debian: `apt-get install postgresql`. The server refuses to run as root, so root starts it as the package's own user.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

MISSING = "no PostgreSQL server on this machine: apt-get install postgresql"
_FOLDERS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)]


def program(name):
    """Return where a program of the server is, None when it is not installed."""
    beside = next((folder / name for folder in _FOLDERS if (folder / name).exists()), None)
    return str(beside) if beside else shutil.which(name)


def available():
    """Return why no server can be started, or an empty string."""
    if program("initdb") is None or program("postgres") is None:
        return MISSING
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no other user to run it as"
    return ""


def _user():
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@contextmanager
def server():
    """Start a server and give the folder of its socket."""
    as_user = {}
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            user = _user()
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, **as_user}
        data = folder / "data"
        initdb = [program("initdb"), "-D", str(data), "-U", "lumina", "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C"]
        subprocess.run(initdb, check=True, **quiet)
        settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=200", "-c", "fsync=off"]
        process = subprocess.Popen([program("postgres"), "-D", str(data), *settings], **quiet)
        try:
            _wait(folder, process)
            yield folder
        finally:
            # SIGTERM would wait until every client has gone.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder, process):
    import psycopg

    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            psycopg.connect(f"host={folder} user=lumina dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "the server ended at once"
            time.sleep(0.05)
    raise AssertionError("the server did not come up")


class Databases:
    """Makes databases on one server."""

    def __init__(self, folder):
        self.folder = folder
        self._made = 0

    def new(self, template=None):
        """Make a database, empty or a copy of another, and return its address."""
        import psycopg

        self._made += 1
        name = f"t{self._made}"
        with psycopg.connect(f"host={self.folder} user=lumina dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return f"postgresql://lumina@/{name}?host={self.folder}"
