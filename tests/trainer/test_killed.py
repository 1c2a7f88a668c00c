"""One run, killed thirty times and stopped ten times at random moments, has the losses of the run that nobody touched."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.trainer.conftest import ROOT, environment, metrics, tiny, trainer
from trainer import checkpoint

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1800)]
KILLS, STOPS, STEPS, SEED = 30, 10, 420, 11


class Trainers:
    """Processes from the fork server, one at a time."""

    def __init__(self, log) -> None:
        argv = [sys.executable, ROOT / "tests" / "trainer" / "fork_server.py"]
        self._server = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(PYTHONWARNINGS="ignore")
        )

    def start(self, *arguments) -> int:
        self._server.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        self.code = None
        self._waiter = threading.Thread(target=self._wait)
        self._waiter.start()
        return pid

    def _wait(self) -> None:
        self.code = int(self._server.stdout.readline())

    def ended(self) -> int:
        self._waiter.join(120)
        assert self.code is not None, "the trainer did not end"
        return self.code

    def close(self) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(30)


def last_step(out) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        return json.loads((out / "metrics.jsonl").read_bytes().splitlines()[-1])["step"]
    return 0


def test_the_losses_are_those_of_the_unbroken_run(tmp_path, corpus, record_property):
    config = tmp_path / "run.json"
    # A checkpoint as often as the writing allows.
    config.write_text(tiny("hybrid", steps=STEPS, checkpoint_minutes=0.0005).to_json())
    trainer("train", "--config", config, "--out", tmp_path / "whole", "--data", corpus)
    draw, out = random.Random(SEED), tmp_path / "broken"
    signals = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * STOPS
    draw.shuffle(signals)
    with (tmp_path / "log").open("w") as log:
        trainers = Trainers(log)
        for number, sent in enumerate(signals):
            pid = trainers.start("train", "--config", config, "--out", out, "--data", corpus, "--resume")
            begun, before = time.monotonic(), last_step(out)
            if draw.random() < 0.8:
                # Amid the steps, where most of a run's time is; a life must not use up the run.
                target = before + draw.randint(1, 8)
                while trainers.code is None and last_step(out) < target and time.monotonic() - begun < 120:
                    time.sleep(0.002)
                time.sleep(draw.random() * 0.05)
            else:
                time.sleep(draw.random() * 1.5)
            os.kill(pid, sent)
            code = trainers.ended()
            assert code == (-9 if sent == signal.SIGKILL else 75), f"life {number}: exit {code}"
        trainers.close()
    assert (tmp_path / "log").read_text().count("is not used") == 0, "a half checkpoint stood under its name"
    trainer("train", "--config", config, "--out", out, "--data", corpus, "--resume")
    whole, broken = metrics(tmp_path / "whole"), metrics(out)
    assert list(whole) == list(range(1, STEPS + 1)) == list(broken)
    worst = max(abs(whole[step]["loss"] - broken[step]["loss"]) for step in whole)
    assert worst <= 1e-4
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "broken")]
    assert results[0]["loss_last"] == pytest.approx(results[1]["loss_last"], abs=1e-4)
    assert len(checkpoint.named(out / "checkpoints")) == 2
    record_property("largest_difference", worst)
