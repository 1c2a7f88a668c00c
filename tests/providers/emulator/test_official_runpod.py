"""RunPod's own Python package and command line are the referee: they search, create, show, stop, resume and terminate here."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import PUBLIC_KEY

RTX_4090 = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def runpod(real, tmp_path, monkeypatch):
    """The package, pointed at the sandbox by its own variable."""
    for name, value in real.env(tmp_path).items():
        monkeypatch.setenv(name, value)
    import runpod

    monkeypatch.setattr(runpod, "api_key", real.connection.api_key)
    return runpod


def wait_for(real, pod, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        (row,) = [one for one in real.instances() if one["id"] == pod]
        if row["state"] == wanted:
            return row
        assert time.monotonic() < deadline, row
        time.sleep(0.1)


def test_from_search_to_terminate(real, runpod):
    assert RTX_4090 in {one["id"] for one in runpod.get_gpus()}
    gpu = runpod.get_gpu(RTX_4090)
    assert gpu["securePrice"] == 0.69 and gpu["lowestPrice"]["uninterruptablePrice"] > 0
    pod = runpod.create_pod(
        "lumina-rp",
        "runpod/pytorch:x",
        RTX_4090,
        cloud_type="SECURE",
        ports="22/tcp",
        env={"PUBLIC_KEY": PUBLIC_KEY},
        container_disk_in_gb=20,
    )
    assert pod["env"] == [f"PUBLIC_KEY={PUBLIC_KEY}"] and pod["machine"]["podHostId"].startswith(pod["id"])
    assert wait_for(real, pod["id"], "running")["tag"] == "lumina-rp"
    (row,) = runpod.get_pods()
    assert (row["id"], row["name"], row["desiredStatus"]) == (pod["id"], "lumina-rp", "RUNNING")
    (port,) = runpod.get_pod(pod["id"])["runtime"]["ports"]
    assert port["privatePort"] == 22 and port["isIpPublic"] is True
    assert runpod.stop_pod(pod["id"])["desiredStatus"] == "EXITED"
    wait_for(real, pod["id"], "stopped")
    runpod.resume_pod(pod["id"], gpu_count=1)
    wait_for(real, pod["id"], "running")
    assert runpod.terminate_pod(pod["id"]) is None
    assert runpod.get_pods() == [] and runpod.get_pod(pod["id"]) is None
    wait_for(real, pod["id"], "ended")


def test_community_cloud_and_the_cheapest_of_all(real, runpod):
    pod = runpod.create_pod("lumina-c", "x", RTX_4090, cloud_type="COMMUNITY", env={})
    assert runpod.get_pod(pod["id"])["costPerHr"] == 0.34
    runpod.terminate_pod(pod["id"])


def test_a_wrong_key(runpod, monkeypatch):
    from runpod.error import AuthenticationError

    monkeypatch.setattr(runpod, "api_key", "nonsense")
    with pytest.raises(AuthenticationError):
        runpod.get_pods()


def test_no_capacity_and_an_unknown_gpu(runpod):
    from runpod.error import QueryError

    with pytest.raises(QueryError, match="no longer any instances available"):
        runpod.create_pod("x", "x", RTX_4090, gpu_count=9)
    with pytest.raises(ValueError, match="No GPU found"):
        runpod.create_pod("x", "x", "NVIDIA GeForce RTX 9090")


def test_terminating_what_is_gone(runpod):
    from runpod.error import QueryError

    with pytest.raises(QueryError, match="not found"):
        runpod.terminate_pod("nothing")


def test_the_accounts_public_keys(runpod):
    runpod.update_user_settings(PUBLIC_KEY)
    assert PUBLIC_KEY in runpod.get_user()["pubKey"]
    runpod.update_user_settings("")


def test_the_command_line_lists_pods(real, runpod, tmp_path):
    """It reads its key from a file of its own."""
    (tmp_path / ".runpod").mkdir(exist_ok=True)
    (tmp_path / ".runpod" / "config.toml").write_text(f'[default]\napi_key = "{real.connection.api_key}"\n')
    pod = runpod.create_pod("lumina-l", "x", RTX_4090, cloud_type="SECURE", env={})
    command = [Path(sys.executable).parent / "runpod", "pod", "list"]
    done = subprocess.run(command, check=False, env=real.env(tmp_path), capture_output=True, text=True, timeout=120)
    runpod.terminate_pod(pod["id"])
    assert done.returncode == 0 and "lumina-l" in done.stdout, done.stderr
