"""The SSH box against real servers: what is sent arrives whole, what breaks goes on, a changed key stops everything."""

import errno
import hashlib
import os
import socket
import threading
import time

import paramiko
import pytest

from lumina_cloud.core.errors import BadReply, HostKeyChanged, ProviderError, Unreachable
from lumina_cloud.remote.ssh_box import MAX_OUTPUT, SshBox

# Of the test's own server: what it was awaiting when its connections were broken.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_command_runs_in_the_work_folder_and_its_arguments_arrive_as_they_are(box, server):
    odd = "a 'b' \"c\" $HOME `id` ; \\ *"
    done = box.run(["sh", "-c", 'pwd; printf "%s" "$1"; echo oops >&2; exit 7', "sh", odd], timeout=10)
    assert done.returncode == 7
    assert done.stdout == f"{server.home.resolve()}/lumina\n{odd}"
    assert done.stderr == "oops\n"


def test_output_beyond_the_limit_is_dropped_and_not_kept_in_memory(box):
    done = box.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero >&2"], timeout=30)
    assert len(done.stdout) == MAX_OUTPUT
    assert len(done.stderr) == MAX_OUTPUT
    assert done.returncode == 0


def test_a_command_that_does_not_end_ends_at_its_deadline(box):
    started = time.monotonic()
    with pytest.raises(Unreachable, match="time is over"):
        box.run(["sleep", "60"], timeout=0.5)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN])
def test_a_computer_whose_network_is_gone_is_no_machine_that_refuses(box, monkeypatch, number):
    """Its own system says so with a plain OSError: the launch died of it, and three lease renewals were taken for a full disk."""
    actual = socket.create_connection

    def unreachable(*_asked, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_connection", unreachable)
    for use in (lambda: box.run(["true"], timeout=5), lambda: box.write("lease", b"x"), lambda: box.read("lease")):
        with pytest.raises(Unreachable):
            use()
    monkeypatch.setattr(socket, "create_connection", actual)
    box.write("lease", b"x")


def test_a_channel_that_closes_under_a_write_is_made_again_and_no_refusal(box, monkeypatch):
    box.write("lease", b"x")
    closed, actual = [], paramiko.Channel.send

    def send(channel, data):
        if not closed:
            closed.append(channel)
            raise OSError("Socket is closed")
        return actual(channel, data)

    monkeypatch.setattr(paramiko.Channel, "send", send)
    box.write("lease", b"y")
    assert box.read("lease") == b"y"


def test_a_connection_that_breaks_between_its_handshake_and_its_key_is_made_again(box, monkeypatch):
    asked = []
    actual = paramiko.Transport.get_remote_server_key

    def gone_once(transport):
        asked.append(transport)
        if len(asked) == 1:
            raise paramiko.SSHException("No existing session")
        return actual(transport)

    monkeypatch.setattr(paramiko.Transport, "get_remote_server_key", gone_once)
    with pytest.raises(Unreachable):
        box.run(["true"], timeout=5)
    assert box.run(["true"], timeout=5).returncode == 0


def test_files_come_and_go(box, server, tmp_path):
    box.write("bundle/run.json", b"{}")
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(3_000_000))
    box.put(source, "data/deep/er/big.bin")
    assert (server.home / "lumina/data/deep/er/big.bin").read_bytes() == source.read_bytes()
    assert box.read("bundle/run.json") == b"{}"
    assert box.read("data/deep/er/big.bin", 1_000_000, 1_500_000) == source.read_bytes()[1_000_000:2_500_000]
    assert box.read("data/deep/er/big.bin", 2_999_990, 1 << 20) == source.read_bytes()[-10:]
    assert box.read("data/deep/er/big.bin", 5_000_000) == b""
    assert box.read("absent") is None
    listed = {e.path: e.n_bytes for folder in ("bundle", "data", "nowhere") for e in box.listing(folder)}
    assert listed == {"bundle/run.json": 2, "data/deep/er/big.bin": 3_000_000}
    assert not list(server.home.rglob("*.part"))


def test_links_and_devices_are_not_listed(box, server):
    box.write("out/metrics.jsonl", b"x")
    out = server.home / "lumina/out"
    (out / "link").symlink_to("/etc/passwd")
    (out / "folder").symlink_to("/etc")
    os.mkfifo(out / "fifo")
    assert [e.path for e in box.listing("out")] == ["out/metrics.jsonl"]


def test_a_name_that_is_no_text_or_holds_an_escape_is_passed_over_or_refused(box, server):
    box.write("out/ok", b"x")
    (server.home / "lumina/out/a\x1b[2Jb").write_bytes(b"")
    assert [e.path for e in box.listing("out")] == ["out/ok"]
    (server.home / "lumina/out").joinpath(os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    try:
        assert [e.path for e in box.listing("out")] == ["out/ok"]
    except BadReply as error:
        assert "no text" in error.message


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "", "a//b", "a\x00b", "c:\\x"])
def test_a_path_out_of_the_work_folder_is_never_used(box, path):
    with pytest.raises(BadReply):
        box.write(path, b"")
    with pytest.raises(BadReply):
        box.read(path)


def test_an_upload_that_broke_off_goes_on_where_it_did(box, server, tmp_path):
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(2_000_000))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    partial = server.home / "lumina" / f"big.bin.{digest[:12]}.part"
    partial.parent.mkdir()
    partial.write_bytes(source.read_bytes()[:1_500_000])
    before = partial.stat().st_ino
    box.put(source, "big.bin")
    assert (server.home / "lumina/big.bin").read_bytes() == source.read_bytes()
    assert (server.home / "lumina/big.bin").stat().st_ino == before


def test_a_broken_off_upload_whose_beginning_is_wrong_is_sent_anew(box, server, tmp_path):
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(500_000))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (server.home / "lumina").mkdir()
    (server.home / "lumina" / f"big.bin.{digest[:12]}.part").write_bytes(os.urandom(300_000))
    box.put(source, "big.bin")
    assert (server.home / "lumina/big.bin").read_bytes() == source.read_bytes()


def test_a_connection_that_breaks_is_made_again(box, server, tmp_path):
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(24_000_000))
    stop = threading.Event()

    def breaker():
        for _ in range(2):
            if stop.wait(0.15):
                return
            server.drop()

    thread = threading.Thread(target=breaker)
    thread.start()
    box.put(source, "big.bin")
    stop.set()
    thread.join()
    assert (server.home / "lumina/big.bin").read_bytes() == source.read_bytes()
    server.drop()
    assert box.read("big.bin", 0, 10) == source.read_bytes()[:10]


def test_a_machine_that_is_gone_is_unreachable_and_not_waited_for_without_end(box, server):
    box.write("x", b"1")
    server.stop()
    started = time.monotonic()
    with pytest.raises(Unreachable):
        box.read("x")
    assert time.monotonic() - started < 20


def test_what_the_machine_refuses_is_a_providers_error(box, server, tmp_path):
    box.write("file", b"")
    with pytest.raises(ProviderError):
        box.write("file/below", b"x")


# --- host keys -------------------------------------------------------------------------------------------------------------


def test_the_key_is_pinned_at_first_contact_by_the_machines_name(connect, server, pins):
    connection = connect("lumina-a-1")
    connection.transport()
    assert connection.trusted_at_first_contact
    assert pins.of("lumina-a-1") == (server.key_line,)
    assert pins.of("lumina-b-1") == ()


def test_a_key_that_is_known_before_first_contact_is_not_trusted_at_first_contact(connect, server):
    connection = connect("lumina-a-1", host_keys=(server.key_line,))
    connection.transport()
    assert not connection.trusted_at_first_contact


@pytest.mark.pain(15)
def test_a_changed_key_stops_everything_before_authentication(connect, server, pins, identity):
    first = connect("lumina-a-1")
    SshBox(first).write("x", b"1")
    server.rotate()
    before = getattr(server, "auth_attempts", None)
    with pytest.raises(HostKeyChanged, match="another SSH host key"):
        SshBox(first).write("x", b"2")
    with pytest.raises(HostKeyChanged):
        SshBox(connect("lumina-a-1")).write("x", b"2")
    if before is not None:
        assert server.auth_attempts == before
    assert (server.home / "lumina/x").read_bytes() == b"1"


def test_a_key_other_than_the_announced_one_is_refused_at_first_contact(connect, server):
    before = getattr(server, "auth_attempts", None)
    announced = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL1gpJVBdI7Wve/g3Szrlk39REN0tpGolMZizEPfOK+H"
    with pytest.raises(HostKeyChanged):
        connect("lumina-a-1", host_keys=(announced,)).transport()
    if before is not None:
        assert server.auth_attempts == before


def test_another_machine_at_the_same_address_is_no_changed_key(connect, server):
    connect("lumina-a-1").transport()
    server.rotate()
    connect("lumina-b-1").transport()


def test_a_machine_that_does_not_know_our_key_is_unreachable(server, pins, tmp_path):
    from lumina_cloud.remote import ssh_key
    from lumina_cloud.remote.ssh_connection import Connection, Target

    stranger = ssh_key.installation(tmp_path / "stranger")
    connection = Connection(Target("127.0.0.1", server.port, server.user, "lumina-a-1"), stranger, pins)
    with pytest.raises(Unreachable, match="does not let our key in"):
        connection.transport()
    connection.close()
