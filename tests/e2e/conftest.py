"""Real processes of the real command, each test with a home of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests import documents, measured

LUMINA = Path(sys.executable).with_name("lumina")


@dataclass
class Cli:
    """Runs `lumina` with its own LUMINA_HOME and none of the caller's credentials."""

    home: Path

    def environment(self, **extra):
        if not self.home.is_file():
            measured.shared_by(self.home)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
        return {**kept, "LUMINA_HOME": str(self.home), "HOME": str(self.home.parent), "NO_COLOR": "1", **extra}

    def __call__(self, *args, timeout=300, **extra):
        done = subprocess.run(
            [LUMINA, *map(str, args)],
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if "--json" in args:
            documents.check(list(map(str, args)), done.stdout)
        return done

    def json(self, *args, **extra):
        done = self(*args, "--json", **extra)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def start(self, *args, **extra):
        return subprocess.Popen(
            [LUMINA, *map(str, args)],
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self):
        """Return every process that works in this home: machines, supervisors, trainers."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                where = process.cwd()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if str(self.home) in words or where.startswith(str(self.home)):
                found.append(process)
        return found


@pytest.fixture
def lumina(tmp_path):
    """The command line in an empty home; what it left running is ended."""
    cli = Cli(tmp_path / "home")
    yield cli
    for process in cli.processes():
        process.kill()


TINY = ("--set", "seq_len=128", "--set", "d_model=64", "--set", "n_heads=1", "--set", "d_ff=64", "--set", "d_expert=32")
"""Overrides that make a debug model train in seconds."""


def tiny_launch(arch="dense", tokens="32768", more=()):
    """Return the arguments of a launch that trains for seconds."""
    batch = ("--tokens", tokens, "--global-batch", "1024", "--max-cost", "0.10")
    return ("launch", "debug", "--arch", arch, "--provider", "local", *batch, *TINY, "--yes", *more)
