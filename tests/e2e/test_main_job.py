"""Plan, launch, train, results, costs: the real command, the real trainer, a real ledger; killed at every point on the way."""

import json
import os
import shutil
import signal
import sqlite3
import time
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import tiny_launch

pytestmark = pytest.mark.trains


def wait_for(condition, seconds=120):
    """Wait until `condition()` is truthy and return it."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def last_line(done):
    return json.loads(done.stdout.splitlines()[-1])


def trainer_of(lumina):
    """Return the process that trains in this home, if there is one."""
    return next((p for p in lumina.processes() if "trainer" in p.cmdline() and "train" in p.cmdline()), None)


def run_names(lumina):
    return [r["run"] for r in lumina.json("status")["runs"]]


def step_of(lumina):
    beats = list(Path(lumina.home).glob("local/*/**/out/heartbeat.json"))
    try:
        return json.loads(beats[0].read_text()).get("step", 0) if beats else 0
    except ValueError:
        return 0


@pytest.mark.parametrize("arch", ["dense", "moe", "mod", "hybrid"])
def test_a_launch_trains_and_leaves_nothing_behind(lumina, arch):
    done = lumina(*tiny_launch(arch), "--follow", "--json")
    assert done.returncode == 0, done.stderr
    outcome = last_line(done)
    assert outcome["state"] == "succeeded"
    assert outcome["reason"] == "finished"
    assert "step" in done.stderr
    assert "loss" in done.stderr

    results = lumina.json("results", outcome["run"])
    assert results["loss_last"] < results["loss_first"]
    assert results["tokens"] == 32 * 1024
    for side in ("planned", "actual"):
        assert all(results[side][k] is not None for k in ("seconds", "usd", "peak_memory_gib", "tokens_per_second", "loss"))
    folder = Path(results["folder"])
    for artifact in results["artifacts"]:
        assert (folder / artifact["path"]).stat().st_size == artifact["bytes"]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 33))

    assert lumina.json("status")["rentals"] == []
    assert lumina.processes() == []
    costs = lumina.json("costs", "--by", "arch")
    assert Decimal(costs["total_usd"]) == Decimal(outcome["usd"]) > 0
    assert [row["key"] for row in costs["rows"]] == [arch]
    # The charge is the machine's hours at the price of this machine, rounded up to a micro-dollar.
    exact = Decimal("0.05") * Decimal(results["actual"]["seconds"]) / 3600
    assert 0 <= Decimal(outcome["usd"]) - exact <= Decimal("0.000002")


def test_a_plan_is_launched_without_naming_the_model_again(lumina):
    planned = lumina.json("plan", "debug", "--arch", "mod")
    assert planned["recommendation"] is not None
    done = lumina(
        *("launch", "--provider", "local", "--tokens", "32k", "--global-batch", "1024", "--max-cost", "0.10", "--set", "seq_len=128"),
        *("--follow", "--yes", "--json"),
    )
    assert done.returncode == 0, done.stderr
    run = lumina.json("status")["runs"][0]
    assert (run["model"], run["arch"], run["state"], run["provider"]) == ("debug", "mod", "succeeded", "local")


def test_a_trainer_killed_half_way_is_resumed_to_the_same_loss(lumina):
    whole = last_line(lumina(*tiny_launch(), "--follow", "--json"))
    expected = lumina.json("results", whole["run"])["loss_last"]

    follower = lumina.start(*tiny_launch(), "--follow", "--json")
    wait_for(lambda: step_of(lumina) >= 12)
    os.kill(wait_for(lambda: trainer_of(lumina)).pid, signal.SIGKILL)
    out, err = follower.communicate(timeout=120)
    failed = json.loads(out.splitlines()[-1])
    assert (follower.returncode, failed["state"], failed["reason"]) == (5, "failed", "trainer_crashed"), err
    assert lumina.processes() == []

    done = lumina("resume", failed["run"], "--follow", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert last_line(done)["run"] == failed["run"]
    results = lumina.json("results", failed["run"])
    assert results["loss_last"] == pytest.approx(expected, abs=1e-3)
    steps = [json.loads(line)["step"] for line in (Path(results["folder"]) / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 33))
    with sqlite3.connect(lumina.home / "ledger.db") as ledger:
        kept = ledger.execute("select step from metrics where run_id = ? order by step", [failed["run"]]).fetchall()
        rentals = ledger.execute("select state from rentals where run_id = ?", [failed["run"]]).fetchall()
    assert [step for (step,) in kept] == steps
    assert rentals == [("ended",), ("ended",)]


def test_a_killed_follower_harms_nothing_and_the_next_command_settles(lumina):
    follower = lumina.start(*tiny_launch(), "--follow")
    wait_for(lambda: step_of(lumina) >= 1)
    follower.kill()
    follower.communicate()
    (name,) = run_names(lumina)
    state = wait_for(lambda: next((r for r in lumina.json("status")["runs"] if r["state"] in ("succeeded", "failed", "stopped")), None))
    assert (state["run"], state["state"]) == (name, "succeeded")
    assert lumina.processes() == []


def test_ctrl_c_lets_go_and_the_run_goes_on(lumina):
    follower = lumina.start(*tiny_launch(tokens="128k"), "--follow")
    wait_for(lambda: step_of(lumina) >= 1)
    follower.send_signal(signal.SIGINT)
    _out, err = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert "it goes on" in err
    assert "Traceback" not in err
    assert trainer_of(lumina) is not None
    done = lumina("logs", "-f", "last")
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
    assert "step" in done.stdout


def test_a_launch_without_follow_returns_while_the_run_goes_on_and_stop_ends_it(lumina):
    done = lumina(*tiny_launch(tokens="4M"), "--json")
    assert done.returncode == 0, done.stderr
    outcome = last_line(done)
    assert outcome["state"] in ("preparing", "training")
    wait_for(lambda: step_of(lumina) >= 3)
    stopped = lumina("stop", outcome["run"], "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert last_line(stopped)["state"] == "stopped"
    assert lumina.processes() == []
    results = lumina.json("results", outcome["run"])
    assert any(a["path"].startswith("checkpoints/") for a in results["artifacts"])


def test_a_machine_that_dies_ends_the_run_and_keeps_what_there_is(lumina):
    follower = lumina.start(*tiny_launch(tokens="4M"), "--follow", "--json")
    wait_for(lambda: step_of(lumina) >= 2)
    for process in lumina.processes():
        if process.pid != follower.pid and "lumina" not in Path(process.cmdline()[0]).name:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    out, err = follower.communicate(timeout=60)
    outcome = json.loads(out.splitlines()[-1])
    assert (outcome["state"], outcome["reason"]) == ("failed", "machine_lost"), err
    assert (Path(lumina.json("results", outcome["run"])["folder"]) / "log.txt").stat().st_size > 0
    assert lumina.json("status")["rentals"] == []


def test_a_cap_ends_a_run_in_good_order_and_is_never_exceeded(lumina):
    # An hour for $3.60, and nobody follows.
    lumina.home.mkdir()
    (lumina.home / "config.toml").write_text('[local]\nusd_per_hour = "3.6"\n')
    cap = Decimal("0.125")
    done = lumina(*tiny_launch(), "--max-cost", str(cap), "--json")
    assert done.returncode == 0, done.stderr
    # The trainer is made to take longer than the plan thought.
    os.kill(wait_for(lambda: trainer_of(lumina)).pid, signal.SIGSTOP)
    wait_for(lambda: not lumina.processes(), seconds=200)
    run = wait_for(lambda: next((r for r in lumina.json("status")["runs"] if r["state"] in ("stopped", "failed", "succeeded")), None))
    assert (run["state"], run["reason"]) == ("stopped", "cap_reached"), lumina("logs", run["run"]).stdout[-3000:]
    assert Decimal(lumina.json("costs")["total_usd"]) <= cap
    assert lumina.json("status")["rentals"] == []


def test_without_its_supervisor_a_machine_is_ended(lumina):
    done = lumina(*tiny_launch(tokens="4M"), "--json")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: step_of(lumina) >= 2)
    for process in lumina.processes():
        # The shell that started it would write down that it died.
        if any(word in " ".join(process.cmdline()) for word in ("bundle/supervisor.py", "bootstrap.sh")):
            process.kill()
    run = wait_for(lambda: next((r for r in lumina.json("status")["runs"] if r["state"] == "failed"), None), seconds=60)
    assert run["reason"] == "supervisor_lost"
    assert lumina.json("status")["rentals"] == []
    assert lumina.processes() == []
    assert (Path(lumina.json("results", run["run"])["folder"]) / "metrics.jsonl").stat().st_size > 0


def test_a_leader_that_dies_leaves_nobody_behind(lumina):
    done = lumina(*tiny_launch(tokens="4M"), "--json")
    assert done.returncode == 0, done.stderr
    next(p for p in lumina.processes() if "providers.local_machine" in p.cmdline()).kill()
    run = wait_for(lambda: next((r for r in lumina.json("status")["runs"] if r["state"] == "failed"), None), seconds=60)
    assert run["reason"] == "machine_lost"
    assert lumina.processes() == []


def test_results_that_cannot_be_written_are_not_thrown_away(lumina):
    done = lumina(*tiny_launch(tokens="4M"), "--json")
    assert done.returncode == 0, done.stderr
    name = last_line(done)["run"]
    wait_for(lambda: step_of(lumina) >= 3)
    blocked = lumina.home / "runs" / name / "metrics.jsonl" / "in-the-way"
    blocked.mkdir(parents=True)
    stopped = lumina("stop", name)
    assert stopped.returncode == 6, stopped.stderr
    assert "cannot write" in stopped.stderr
    shutil.rmtree(blocked.parent)
    run = lumina.json("status")["runs"][0]
    assert (run["state"], run["reason"]) == ("stopped", "stopped_by_user")
    assert any(a["path"].startswith("checkpoints/") for a in lumina.json("results", name)["artifacts"])
    assert lumina.processes() == []


def test_only_text_leaves_this_computer(lumina, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(1, 31):
        words = "".join(f"{i * number % 97} brown foxes jump over {i} dogs. " for i in range(300))
        (folder / f"chapter {number:02d}: the start.txt").write_text(words)
    (folder / "id_rsa").write_text("secret-canary")
    (folder / "model.bin").write_bytes(b"secret-canary")
    done = lumina(*tiny_launch(tokens="4M"), "--data", folder, "--json")
    assert done.returncode == 0, done.stderr
    sent = sorted(p.name for p in lumina.home.glob("local/*/work/data/*"))
    assert sent == [f"{number:06d}.txt" for number in range(1, 31)]
    assert lumina("stop", "last").returncode == 0


def test_a_trainer_that_refuses_its_data_says_why(lumina, tmp_path):
    text = tmp_path / "short.txt"
    # Enough bytes for a sequence or two, which a tokenizer makes a handful of tokens of.
    text.write_text("a" * 600)
    done = lumina(*tiny_launch(), "--data", text, "--follow", "--json")
    assert done.returncode == 5, done.stderr
    outcome = last_line(done)
    assert (outcome["state"], outcome["reason"]) == ("failed", "trainer_refused")
    assert "error" in done.stderr
    assert lumina.processes() == []


def test_own_text_is_trained_on(lumina, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 4000)
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": f"line {i} of a small corpus about numbers"}) for i in range(3000)))
    done = lumina(*tiny_launch(), "--data", folder, "--follow", "--json")
    assert done.returncode == 0, done.stderr
    results = lumina.json("results", last_line(done)["run"])
    assert results["loss_last"] < results["loss_first"] - 1.0
