"""Real machines: SSH, the environment, start-up programs, faults of the machine, and that nothing of them is left."""

import asyncio
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import asyncssh
import psutil
import pytest

from providers.emulator.boxes import Boxes
from providers.emulator.machines import BoxSpec

KEY = asyncssh.generate_private_key("ssh-ed25519")
PUBLIC = KEY.export_public_key().decode().strip()
SPEC = BoxSpec(
    name="vastai-1",
    provider="vastai",
    user="root",
    gpu_name="NVIDIA GeForce RTX 4090",
    gpu_memory_mib=24564,
    gpu_count=2,
    disk_gb=20,
    env={"CONTAINER_ID": "1", "CONTAINER_API_KEY": "canary-key"},
    authorized_keys=(PUBLIC,),
    port_variable="VAST_TCP_PORT_22",
)


@pytest.fixture
def boxes(tmp_path):
    made = Boxes(tmp_path / "boxes")
    made.connect({"vastai": "http://127.0.0.1:1", "runpod": "http://127.0.0.1:2", "lambda": "http://127.0.0.1:3"})
    yield made
    made.close()


def boot(boxes, **more):
    box = boxes(replace(SPEC, **more))
    box.boot()
    assert box.ready.wait(60), box.log()
    return box


def connect(box, *, port=None, user=None, key=KEY):
    return asyncssh.connect(
        box.host, port or box.port, username=user or box.spec.user, client_keys=[key], known_hosts=None, config=[], agent_path=None
    )


def ssh(box, command, *, stdin=None, **more):
    async def go():
        async with connect(box, **more) as connection:
            return await connection.run(command, input=stdin, check=False)

    return asyncio.run(asyncio.wait_for(go(), 60))


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_commands_run_with_their_exit_code_input_and_both_outputs(boxes):
    box = boot(boxes)
    done = ssh(box, "cat; echo err >&2; exit 7", stdin="hello")
    assert (done.stdout, done.stderr, done.exit_status) == ("hello", "err\n", 7)
    killed = ssh(box, "kill -9 $$")
    assert killed.exit_signal[0] == "KILL"
    assert ssh(box, "echo $HOME", port=box.proxy_port).stdout.strip() == str(box.folder / "home")


def test_only_the_right_user_with_the_right_key_comes_in(boxes):
    box = boot(boxes)
    for wrong in ({"user": "ubuntu"}, {"key": asyncssh.generate_private_key("ssh-ed25519")}):
        with pytest.raises(asyncssh.PermissionDenied):
            ssh(box, "true", **wrong)


def test_a_key_that_is_added_on_the_box_is_let_in(boxes):
    box = boot(boxes)
    other = asyncssh.generate_private_key("ssh-ed25519")
    ssh(box, f"echo '{other.export_public_key().decode().strip()}' >> ~/.ssh/authorized_keys")
    assert ssh(box, "echo in", key=other).stdout == "in\n"
    third = asyncssh.generate_private_key("ssh-ed25519")
    box.authorize((third.export_public_key().decode().strip(),))
    until(lambda: "3" in ssh(box, "grep -c ssh-ed25519 ~/.ssh/authorized_keys").stdout)
    assert ssh(box, "echo in", key=third).stdout == "in\n"


def test_a_login_does_not_see_the_instances_environment_unless_it_is_written_down(boxes):
    box = boot(boxes, start=("/bin/sh", "-c", "env >> /etc/environment; echo started"))
    until(lambda: "started" in box.log())
    assert ssh(box, "echo $CONTAINER_API_KEY-$VAST_TCP_PORT_22").stdout.strip() == f"canary-key-{box.port}"
    bare = boot(boxes, name="vastai-2")
    assert ssh(bare, "echo =$CONTAINER_API_KEY=").stdout.strip() == "=="
    assert "CONTAINER_API_KEY=canary-key" in ssh(bare, "tr '\\0' '\\n' < /proc/1/environ").stdout
    assert "CONTAINER_API_KEY" not in Path("/etc/environment").read_text(encoding="utf-8") if Path("/etc/environment").exists() else True
    official = boot(boxes, name="runpod-1", provider="runpod", login_sees_env=True)
    assert ssh(official, "echo $CONTAINER_ID").stdout.strip() == "1"


def test_nothing_of_the_callers_environment_gets_in(boxes, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    box = boot(boxes, start=("/bin/sh", "-c", "env"))
    assert "canary\n" not in ssh(box, "env").stdout + box.log()


def test_files_by_sftp_and_scp(boxes, tmp_path):
    box = boot(boxes)
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)

    async def go():
        async with connect(box) as connection:
            async with connection.start_sftp_client() as sftp:
                await sftp.put(str(tmp_path / "up"), "there")
                await sftp.mkdir("/workspace/run")
                await sftp.get("there", str(tmp_path / "down"))
            await asyncssh.scp(str(tmp_path / "up"), (connection, "copied"))

    asyncio.run(go())
    assert (tmp_path / "down").read_bytes() == data == (box.folder / "home" / "copied").read_bytes()
    assert (box.folder / "workspace" / "run").is_dir() and not Path("/workspace/run").exists()
    until(lambda: box.traffic()[0] > 6_000_000)
    assert box.traffic()[1] > 3_000_000


def test_a_terminal(boxes):
    box = boot(boxes)

    async def read():
        async with connect(box) as connection:
            process = await connection.create_process(term_type="xterm", term_size=(100, 40))
            process.stdin.write("stty size; tty && exit 5\n")
            text = await process.stdout.read()
            await process.wait()
            return text, process.exit_status

    text, code = asyncio.run(asyncio.wait_for(read(), 60))
    assert "40 100" in text and "/dev/pts/" in text and code == 5


def test_what_was_started_outlives_the_login_and_dies_with_the_box(boxes):
    box = boot(boxes)
    ssh(box, "nohup setsid sleep 1000 > /dev/null 2>&1 & echo $! > pid")
    until((box.folder / "home" / "pid").exists)

    def asleep():
        return [one for one in psutil.Process(box._process.pid).children(recursive=True) if one.name() == "sleep"]

    # The process has a number before it has become `sleep`.
    until(lambda: len(asleep()) == 1)
    sleepers = asleep()
    box.halt()
    until(lambda: not sleepers[0].is_running() or sleepers[0].status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(OSError):
        ssh(box, "true")


def test_a_stopped_machine_keeps_its_disk_and_comes_back(boxes):
    box = boot(boxes, start=("/bin/sh", "-c", "echo boot >> ~/boots"))
    until((box.folder / "home" / "boots").exists)
    key, port = box.key, box.port
    box.halt()
    box.boot()
    assert box.ready.wait(60)
    until(lambda: (box.folder / "home" / "boots").read_text() == "boot\nboot\n")
    assert (box.key, box.port) == (key, port)
    box.destroy()
    box.wait_removed()
    assert not box.folder.exists()
    box.boot()  # a destroyed machine does not come back
    assert not box.ready.is_set()


def test_a_pods_port_changes_when_it_is_started_again(boxes):
    box = boot(boxes, provider="runpod", name="runpod-2")
    port = box.port
    box.halt()
    box.boot()
    assert box.ready.wait(60) and box.port != port


def test_a_container_that_exits_is_started_again(boxes):
    box = boot(boxes, start=("/bin/sh", "-c", "echo once more"), start_is_entrypoint=True)
    until(lambda: box.log().count("once more") >= 2)


def test_user_data_scripts_run_once_and_cloud_config_brings_a_host_key(boxes):
    key = asyncssh.generate_private_key("ssh-ed25519")
    private = "".join(f"    {line}\n" for line in key.export_private_key().decode().splitlines())
    config = f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{private}runcmd:\n  - echo ran >> $HOME/ran\n  - [sh, -c, 'echo list']\n"
    box = boot(boxes, name="lambda-1", provider="lambda", user="ubuntu", user_data=config, authorized_keys=(PUBLIC,))
    until(lambda: (box.folder / "home" / "ran").exists() and "list" in box.log())
    until(lambda: box.key == key.export_public_key().decode().strip())
    box.halt()
    box.boot()
    assert box.ready.wait(60)
    assert box.key == key.export_public_key().decode().strip() and (box.folder / "home" / "ran").read_text() == "ran\n"
    script = boot(boxes, name="lambda-2", provider="lambda", user="ubuntu", user_data="#!/bin/sh\necho from script $(whoami) > $HOME/out\n")
    until((script.folder / "home" / "out").exists)


@pytest.mark.allow_hosts(["127.0.0.1", *(f"127.77.0.{n}" for n in range(2, 20))])
def test_a_machine_with_its_own_address_answers_at_the_usual_port(boxes):
    one = boot(boxes, name="lambda-3", provider="lambda", user="ubuntu", own_address=True)
    other = boot(boxes, name="lambda-4", provider="lambda", user="ubuntu", own_address=True)
    assert one.port == other.port == boxes.own_port and one.host != other.host
    assert ssh(other, "sudo -n echo root").stdout == "root\n"
    off = []
    boxes.powered_off = off.append
    ssh(one, "sudo shutdown -h now")
    until(lambda: off == ["lambda-3"])


def test_nvidia_smi_shows_what_was_rented(boxes):
    box = boot(boxes)
    rows = ssh(box, "nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader,nounits").stdout
    assert rows == "0, NVIDIA GeForce RTX 4090, 24564, 570.86.10\n1, NVIDIA GeForce RTX 4090, 24564, 570.86.10\n"
    assert ssh(box, "nvidia-smi -L").stdout.count("RTX 4090") == 2 and "CUDA Version: 12.8" in ssh(box, "nvidia-smi").stdout


def test_python_of_this_environment_is_on_the_path(boxes):
    import sys

    assert ssh(boot(boxes), "python -c 'import sys; print(sys.prefix)'").stdout.strip() == sys.prefix


def test_refused_partitioned_and_open_again(boxes):
    box = boot(boxes)
    box.network("refused")
    until(lambda: _refused(box))
    box.network("open")
    until(lambda: not _refused(box))
    until(lambda: _answers(box))
    box.network("partitioned")

    async def hangs():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect(box), 3)

    time.sleep(0.3)
    asyncio.run(hangs())
    box.network("open")
    until(lambda: _answers(box))


def _answers(box):
    """A connection that was made while the network changed is reset: a person would try again."""
    try:
        return ssh(box, "echo back").stdout == "back\n"
    except (OSError, asyncssh.Error):
        return False


def _refused(box):
    import socket

    try:
        socket.create_connection((box.host, box.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_host_key_that_changes_is_seen_by_a_client_that_pinned_it(boxes):
    box = boot(boxes)
    pinned = asyncssh.import_known_hosts(f"[{box.host}]:{box.port} {box.key}\n")
    first = box.key
    box.rotate_host_key()
    until(lambda: box.key != first)

    async def go():
        async with asyncssh.connect(box.host, box.port, username="root", client_keys=[KEY], known_hosts=pinned, config=[], agent_path=None):
            pass

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(go())


def test_a_full_disk_fails_every_write(boxes):
    box = boot(boxes)
    box.fill_disk()
    until(lambda: ssh(box, "echo x > file").exit_status != 0)
    done = ssh(box, "python -c \"file = open('f', 'wb', 0); file.write(b'x')\"")
    assert done.exit_status == 1 and "OSError" in done.stderr and not (box.folder / "home" / "f").read_bytes()
    assert ssh(box, "echo still here").stdout == "still here\n"


def test_a_warning_is_sigterm_to_everything(boxes):
    box = boot(boxes, start=("/bin/sh", "-c", "trap 'echo got it; exit' TERM; echo waiting; while :; do sleep 0.1; done"))
    until(lambda: "waiting" in box.log())
    box.warn()
    until(lambda: "got it" in box.log())
    assert ssh(box, "echo alive").stdout == "alive\n"


def test_a_slow_network_is_slow(boxes):
    """64 KiB a second: what takes no time elsewhere takes seconds; counted by the bytes that arrived after two of them."""
    box = boot(boxes, download_kib_per_second=64)

    async def go():
        async with connect(box) as connection:
            process = await connection.create_process("cat > file", encoding=None)
            process.stdin.write(bytes(4_000_000))
            await asyncio.sleep(2)
            return box.traffic()[0]

    assert asyncio.run(go()) < 1_000_000


@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler: the wrong clock needs a library")
def test_a_wrong_clock_is_wrong_for_every_program_and_monotonic_time_is_not(boxes):
    box = boot(boxes, clock_skew_seconds=86_400)
    shown = float(ssh(box, "python -c 'import time; print(time.time())'").stdout)
    assert 86_000 < shown - time.time() < 87_000
    assert 86_000 < int(ssh(box, "date +%s").stdout) - time.time() < 87_000
    monotonic = float(ssh(box, "python -c 'import time; print(time.monotonic())'").stdout)
    assert abs(monotonic - time.monotonic()) < 600


def test_when_the_maker_dies_everything_on_the_box_dies(boxes):
    box = boot(boxes)
    ssh(box, "nohup setsid sleep 1001 > /dev/null 2>&1 &")
    root = psutil.Process(box._process.pid)
    family = [root, *root.children(recursive=True)]
    assert len(family) >= 2
    box._process.stdin.close()  # what the death of the server does to the pipe
    psutil.wait_procs(family, timeout=20)
    assert all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in family)


def test_runpodctl_is_there_on_pods(boxes):
    box = boot(boxes, name="runpod-3", provider="runpod")
    assert "usage: runpodctl" in ssh(box, "runpodctl").stderr


def test_orphans_are_buried(boxes):
    """A process that lost its parent and ended is not there any more, as a supervisor that looks for its number must see."""
    box = boot(boxes)
    ssh(box, "sh -c 'sleep 0.3 & echo $! > pid; exit'")
    number = int((box.folder / "home" / "pid").read_text())
    until(lambda: not psutil.pid_exists(number))
