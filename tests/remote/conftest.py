"""Machines behind real SSH servers."""

import shutil
import tempfile
from pathlib import Path

import pytest

from lumina_cloud.remote import ssh_key
from lumina_cloud.remote.host_keys import Pins
from lumina_cloud.remote.ssh_box import SshBox
from lumina_cloud.remote.ssh_connection import Connection, Target
from tests.remote.ssh_servers import SFTP_SERVER, SSHD, AsyncSshServer, OpenSshServer


@pytest.fixture
def identity(tmp_path):
    return ssh_key.installation(tmp_path / "lumina-home")


@pytest.fixture(params=["asyncssh", "openssh"])
def server(request, tmp_path, identity):
    """A machine's SSH server; `server.home` is what it serves."""
    home = tmp_path / "machine"
    home.mkdir()
    if request.param == "asyncssh":
        made = AsyncSshServer(home, identity.public_line)
        yield made
        made.close()
        return
    if SSHD is None or SFTP_SERVER is None or shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH's sshd, sftp-server and ssh-keygen are not installed here")
    folder = Path(tempfile.mkdtemp(prefix="lumina-sshd-"))
    made = OpenSshServer(home, identity.public_line, folder)
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def pins(tmp_path):
    return Pins(tmp_path / "lumina-home" / "ssh" / "known_hosts")


@pytest.fixture
def connect(server, identity, pins):
    """Return a function that connects to the server as `name`."""
    opened = []

    def make(name="lumina-run-1", host_keys=()):
        connection = Connection(Target("127.0.0.1", server.port, server.user, name, host_keys), identity, pins)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def box(connect):
    return SshBox(connect())
