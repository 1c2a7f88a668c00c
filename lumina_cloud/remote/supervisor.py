"""Runs on the machine beside the trainer, standard library only; it is shipped as one file.

`python supervisor.py JOB.JSON` starts the trainer, stops it at its deadline or when a file `stop` appears, and writes down how it
ended in `exit.json`. On this computer it then waits for the results to be fetched (a file `fetched`) and switches the machine off;
on a rented one the guard does that, and the supervisor keeps the guard alive. It needs no connection.
A file `cap.json` with a higher `seq` moves the deadline, counted from when it is found.
`python supervisor.py --there` leaves with 0 while a supervisor lives here, else with 3.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.2
GUARD_SECONDS = 3.0
CAP_FILE = "cap.json"
NOBODY = 3
"""Exit code of `--there` when no supervisor lives."""


def main(job_path: Path) -> None:
    """Run one job from start to power-off. The working directory is the machine's work folder."""
    job = json.loads(job_path.read_text(encoding="utf-8"))
    lock = _only_one()
    if lock is None:
        return
    # The machine's own end reaches the trainer by itself: the whole process group is told. A handler, unlike an ignored signal,
    # is not inherited by the trainer.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    Path("started").touch()
    started = time.monotonic()
    started_at = datetime.now(UTC).isoformat()
    child = _start(job)
    cap = Cap(job, started)
    reason = _wait(child, cap, float(job["grace_seconds"]))
    code = child.returncode
    ended = {
        "returncode": code,
        "reason": "finished" if code == 0 else reason,
        "signal": -code if code < 0 else None,
        "started_at": started_at,
        "ended_at": datetime.now(UTC).isoformat(),
        "seconds": time.monotonic() - started,
    }
    _until_written(lambda: _write(Path("exit.json"), ended))
    if job.get("store") and code in (0, 75):
        # The trainer ends so only after it has saved there too.
        _until_written(Path("saved").touch)
    if job["power_off_file"]:
        # Waiting is paid for too: the machine is off by the end of its cap, whoever has fetched what.
        _linger(min(float(job["linger_seconds"]), cap.off_at - time.monotonic()))
        _until_written(Path(job["power_off_file"]).touch)
        return
    while True:
        _keep_guard()
        time.sleep(GUARD_SECONDS)


def _only_one() -> int | None:
    """Return a lock that lasts as long as this process, None when another supervisor holds it."""
    handle = os.open("supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    argv = [
        sys.executable,
        "-u",
        *_launcher(int(job["processes"])),
        "-m",
        "trainer",
        "train",
        "--config",
        "bundle/run.json",
        "--out",
        "out",
    ]
    if job["data"]:
        argv += ["--data", job["data"]]
    if job.get("init_from"):
        argv += ["--init-from", job["init_from"]]
    if job.get("store"):
        argv += ["--store", job["store"]]
    if job["resume"] or job.get("store"):
        # What an earlier machine saved into the store is found there.
        argv.append("--resume")
    path = os.pathsep.join(p for p in (str(Path("bundle").absolute()), os.environ.get("PYTHONPATH", "")) if p)
    Path("out").mkdir(exist_ok=True)
    with Path("log.txt").open("ab") as log:
        environment = {**os.environ, **_secrets(job.get("secrets_file")), "PYTHONPATH": path}
        return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _secrets(path: str | None) -> dict[str, str]:
    """Return the variables that are for the trainer alone. Their file is removed before the trainer starts."""
    if path is None or not Path(path).exists():
        return {}
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    Path(path).unlink()
    return {str(name): str(value) for name, value in found.items()}


def _launcher(processes: int) -> list[str]:
    """Return what starts one process a GPU; one needs no launcher."""
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


class Cap:
    """When the trainer has to stop and the machine to be off: by the job, or by the last that a controller said since."""

    def __init__(self, job: dict[str, Any], now: float) -> None:
        self.seq = 0
        self.stop_at = now + float(job["seconds_cap"])
        self.off_at = now + float(job["seconds_off"])

    def look(self, told: Any, now: float) -> None:
        """Take in what `cap.json` says, where that is new and makes sense."""
        if not isinstance(told, dict) or told.get("seq") == self.seq:
            return
        spans = [told.get(name) for name in ("seq", "seconds_cap", "seconds_off")]
        if all(isinstance(s, (int, float)) and not isinstance(s, bool) and 0 <= s < 1e9 for s in spans):
            self.seq, self.stop_at, self.off_at = int(told["seq"]), now + float(told["seconds_cap"]), now + float(told["seconds_off"])


def _wait(child: subprocess.Popen[bytes], cap: Cap, grace: float) -> str:
    """Wait for the trainer and return why it ended: `crashed` (by itself), `stopped` or `deadline`."""
    guard_at = time.monotonic()
    while child.poll() is None:
        if time.monotonic() - guard_at > GUARD_SECONDS:
            guard_at = time.monotonic()
            _keep_guard()
        if Path("stop").exists():
            return _stop(child, _asked(), grace)
        cap.look(_told(), time.monotonic())
        if time.monotonic() > cap.stop_at:
            return _stop(child, "deadline", grace)
        time.sleep(POLL_SECONDS)
    return "crashed"


def _told() -> Any:
    """Return what `cap.json` holds, None when there is none."""
    try:
        return json.loads(Path(CAP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _asked() -> str:
    """Return who wants the trainer to stop: the guard writes its reason, a controller nothing."""
    reason = Path("stop").read_text(encoding="utf-8", errors="replace")
    return {"lease": "lease", "deadline": "deadline", "budget": "deadline"}.get(reason, "stopped")


def _stop(child: subprocess.Popen[bytes], reason: str, grace: float) -> str:
    """Let the trainer write a last checkpoint; end it when it takes too long."""
    child.terminate()
    try:
        child.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return reason


def _linger(seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and not Path("fetched").exists():
        time.sleep(POLL_SECONDS)


def _keep_guard() -> None:
    """Start the guard's loop again where somebody killed it."""
    if not Path("guard.sh").exists():
        return
    try:
        os.kill(int(Path("guard.pid").read_text(encoding="ascii")), 0)
    except (OSError, ValueError):
        null = subprocess.DEVNULL
        # Where not even a process can be started, the trainer is watched on, and the guard is tried again.
        with suppress(OSError):
            subprocess.Popen(["sh", "guard.sh"], stdin=null, stdout=null, stderr=null, start_new_session=True)


def _until_written(write: Callable[[], None]) -> None:
    """Write down what must not be lost: a full disk may find room again, and the guard is kept alive meanwhile."""
    while True:
        try:
            write()
        except OSError:
            _keep_guard()
            time.sleep(GUARD_SECONDS)
        else:
            return


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    if sys.argv[1] == "--there":
        sys.exit(0 if _only_one() is None else NOBODY)
    main(Path(sys.argv[1]))
