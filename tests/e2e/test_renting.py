"""From an offer to a trained model over real SSH in the sandbox, on each provider; and every fault of the sandbox."""

import json
import signal
import time
from decimal import Decimal
from pathlib import Path

import pytest

from lumina_cloud.core.errors import RefusedError
from tests.e2e.rented import REASONS, Sandbox

pytestmark = pytest.mark.trains
PROVIDERS = ("vastai", "runpod", "lambda")


@pytest.fixture
def sandbox(lumina):
    made = Sandbox(lumina)
    yield made
    made.down()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_rented_machine_trains_for_real_and_nothing_is_left(sandbox, provider):
    sandbox.up()
    done = sandbox.launch(provider, tokens="8192", trainer=None, timeout=580)
    assert done.returncode == 0, done.stderr
    outcome = sandbox.outcome(done)
    assert (outcome["state"], outcome["reason"]) == ("succeeded", "finished")
    results = json.loads(sandbox("results", "last", "--json").stdout)
    assert results["loss_last"] < results["loss_first"]
    assert (Path(results["folder"]) / "model.safetensors").stat().st_size > 1000
    sandbox.judge()
    assert Decimal(outcome["usd"]) == Decimal(sandbox.status()["invoice_usd"]) > 0
    check = sandbox("costs", "--check", "--json")
    assert check.returncode == 0, check.stdout
    assert {line["verdict"] for line in json.loads(check.stdout)["lines"]} <= {"equal", "explained"}
    assert "first contact was trusted" not in done.stderr


def test_lambda_is_refused_without_consent_and_the_worst_bill_a_day_is_shown(sandbox):
    sandbox.up()
    words = [w for w in sandbox.words("lambda") if w != "--accept-unguarded"]
    done = sandbox(*words)
    assert done.returncode == 4
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert "--accept-unguarded" in error["hint"]
    assert "a day" in error["message"]
    assert "$30.96" in error["message"]
    assert sandbox.status()["instances"] == []


ELSEWHERE = ("wrong_gpu", "never_boot", "ssh_refused", "host_key_changed", "disk_full", "preempted", "preempted_with_warning", "host_death")
PASSING = (
    "lost_create_before", "lost_create_after", "create_fails_leaves_stopped", "duplicated_create", "rate_limit_storm", "error_500",
    "error_500_after_effect", "malformed_body", "html_200", "empty_list", "terminate_ignored", "slow_loris", "timeout", "timeout_before",
    "slow_download", "box_clock_skew", "listing_lag", "clock_skew", "terminate_lies", "slow_boot", "network_partition",
)  # fmt: skip


@pytest.mark.parametrize("fault", [*PASSING, *ELSEWHERE])
def test_a_fault_costs_no_run_or_a_reason_is_given_and_resume_succeeds(sandbox, fault):
    provider = "lambda" if fault in ("never_boot",) else "vastai" if len(fault) % 2 else "runpod"
    # Long enough that what strikes a running machine strikes it.
    tokens = "153600" if fault in ELSEWHERE or fault in ("network_partition", "slow_download") else "20480"
    sandbox.up("--fault", fault)
    done = sandbox.launch(provider, tokens=tokens, timeout=580)
    if done.returncode == 7 and not done.stdout:
        # The market itself did not answer, in its own words: nothing was rented, and the next launch goes through.
        assert sandbox.status()["instances"] == []
        done = sandbox.launch(provider, tokens=tokens, timeout=580)
    outcome = sandbox.outcome(done)
    assert outcome["state"] in ("succeeded", "failed", "stopped"), done.stderr
    if outcome["state"] != "succeeded":
        assert outcome["reason"] in REASONS, done.stderr
        assert sandbox.live() == [], done.stderr
        again = sandbox("resume", "last", "--follow", "--yes", "--json", timeout=580)
        outcome = sandbox.outcome(again)
        assert outcome["state"] == "succeeded", done.stderr + again.stderr
    sandbox.judge()


@pytest.mark.parametrize(
    ("fault", "reasons"), [("balance_gone", {"no_balance", "interrupted", "machine_lost"}), ("price_rise", {"no_capacity", "price_rose"})]
)
def test_a_fault_of_the_account_ends_with_its_reason(sandbox, fault, reasons):
    sandbox.up()
    follower = sandbox.start(*sandbox.words("vastai", tokens="409600"))
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and not any(i["state"] == "running" for i in sandbox.status()["instances"]):
        time.sleep(0.5)
    sandbox.fault(fault)
    out, err = follower.communicate(timeout=300)
    outcome = json.loads(out.splitlines()[-1])
    assert outcome["state"] == "succeeded" or outcome["reason"] in reasons, err
    sandbox.judge()


@pytest.mark.pain(1)
def test_a_retired_endpoint_ends_in_an_error_and_nothing_is_rented(sandbox):
    sandbox.up("--fault", "retired_endpoint")
    done = sandbox.launch("vastai", timeout=580)
    assert done.returncode == 7, done.stderr
    assert sandbox.live() == []


def test_ctrl_c_leaves_a_process_that_finishes_the_run(sandbox):
    sandbox.up()
    follower = sandbox.start(*sandbox.words("vastai", tokens="204800"))
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and not sandbox.training():
        time.sleep(0.5)
    follower.send_signal(signal.SIGINT)
    _out, err = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "a process in the background" in err
    assert sandbox.wait_all_ended(200)
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and sandbox.runs()[0]["state"] != "succeeded":
        time.sleep(1)
    assert sandbox.runs()[0]["state"] == "succeeded"
    sandbox.judge()


@pytest.mark.pain(13)
def test_stop_brings_the_last_checkpoint_home_and_resume_goes_on_from_it(sandbox):
    sandbox.up()
    done = sandbox(*sandbox.words("runpod", tokens="307200", follow=()))
    assert done.returncode == 0, done.stderr
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and not sandbox.training():
        time.sleep(0.5)
    stopped = sandbox("stop", "last", "--json")
    assert sandbox.outcome(stopped)["reason"] == "stopped_by_user", stopped.stderr
    sandbox.judge()
    folder = Path(json.loads(sandbox("results", "last", "--json").stdout)["folder"])
    assert list(folder.glob("checkpoints/step-*"))
    again = sandbox("resume", "last", "--follow", "--yes", "--json")
    assert sandbox.outcome(again)["state"] == "succeeded", again.stderr
    assert "going on after step" in (folder / "log.txt").read_text()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 300
    sandbox.judge()


def test_a_machine_is_told_its_new_limits_and_ssh_runs_a_command_there(sandbox):
    sandbox.up()
    done = sandbox(*sandbox.words("vastai", tokens="409600", follow=()))
    assert done.returncode == 0, done.stderr
    shown = sandbox("ssh", "last", "--", "nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    assert (shown.returncode, shown.stdout.strip()) == (0, "NVIDIA GeForce RTX 4090"), shown.stderr
    assert sandbox("ssh", "last", "--", "sh", "-c", "exit 7").returncode == 7
    extended = sandbox("extend", "last", "--max-cost", "3", "--yes", "--json")
    assert extended.returncode == 0, extended.stderr
    told = json.loads(extended.stdout)
    assert (Decimal(told["usd_cap_was"]), Decimal(told["usd_cap"]), told["told"]) == (2, 3, True)
    at_work = sandbox("ssh", "last", "--", "sh", "-c", "cat lumina/cap.json; cat lumina/limits.json")
    assert '"seq": 1' in at_work.stdout, at_work
    assert '"seq": 2' in at_work.stdout, at_work
    refused = sandbox("extend", "last", "--max-cost", "0.001", "--json")
    assert refused.returncode == RefusedError.exit_code, refused
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["kind"] == "refused"
    sandbox("stop", "last")
    sandbox.judge()
    assert sandbox("ssh", "last", "--", "true").returncode == 2
