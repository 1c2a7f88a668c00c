"""A machine that is a folder: the process that leads it.

`python -m providers.local_machine FOLDER` watches `FOLDER/spool` for commands, runs each as a child in its own process group,
and ends, with everything in that group, when `FOLDER/poweroff` appears. It stands for a rented machine's init and its SSH
server: a controller reaches it through files, so nothing needs to be connected when either side dies.

A request is `NAME.request` holding {"argv", "timeout"}; the reply is `NAME.reply` holding {"returncode", "stdout", "stderr"}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

POLL_SECONDS = 0.05
ALIVE_EVERY_SECONDS = 1.0
LEADER = "leader.json"
"""Who leads: written by the leader itself, so that a creator who died in between is not missed."""
MAX_OUTPUT = 256 * 1024
STOP_SECONDS = 5.0


@dataclass
class _Job:
    """One command that runs."""

    reply: Path
    child: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]
    give_up: float


def main(folder: Path) -> None:
    """Serve until told to power off."""
    spool, work = folder / "spool", folder / "work"
    spool.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    write_atomically(folder / LEADER, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    jobs: list[_Job] = []
    alive_at = 0.0
    while not asked and not (folder / "poweroff").exists():
        if time.monotonic() - alive_at >= ALIVE_EVERY_SECONDS:
            alive_at = time.monotonic()
            (folder / "alive").touch()
        jobs += [job for request in sorted(spool.glob("*.request")) if (job := _start(request, work)) is not None]
        jobs = [job for job in jobs if not _finish(job)]
        time.sleep(POLL_SECONDS)
    _end_group()
    write_atomically(folder / "stopped.json", {"stopped_at": time.time()})


def _start(request: Path, work: Path) -> _Job | None:
    """Start the command of a request file; a malformed one is answered with an error."""
    reply = request.with_suffix(".reply")
    try:
        asked = json.loads(request.read_text(encoding="utf-8"))
        argv, timeout = [str(part) for part in asked["argv"]], float(asked["timeout"])
        request.unlink()
        out, err = (work.parent / f"{request.stem}.out").open("w+b"), (work.parent / f"{request.stem}.err").open("w+b")
        child = subprocess.Popen(argv, cwd=work, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    except (OSError, ValueError, KeyError, TypeError) as error:
        request.unlink(missing_ok=True)
        write_atomically(reply, {"returncode": 127, "stdout": "", "stderr": str(error)})
        return None
    return _Job(reply, child, out, err, time.monotonic() + timeout)


def _finish(job: _Job) -> bool:
    """Write the reply of a command that has ended, or whose time is up; return whether it is done."""
    if job.child.poll() is None:
        if time.monotonic() < job.give_up:
            return False
        job.child.kill()
        job.child.wait()
    texts = {}
    for name, stream in (("stdout", job.out), ("stderr", job.err)):
        stream.seek(0)
        texts[name] = stream.read(MAX_OUTPUT).decode("utf-8", "replace")
        stream.close()
        Path(str(stream.name)).unlink(missing_ok=True)
    write_atomically(job.reply, {"returncode": job.child.returncode, **texts})
    return True


def _end_group() -> None:
    """End everything else in this machine's process group: politely, then not."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    give_up = time.monotonic() + STOP_SECONDS
    while time.monotonic() < give_up and others_in_group():
        time.sleep(POLL_SECONDS)
    for pid in others_in_group():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def others_in_group() -> list[int]:
    """Return the ids of living processes in this group, this one left out."""
    return [pid for pid in living(os.getpgrp()) if pid != os.getpid()]


def living(group: int) -> list[int]:
    """Return the ids of the processes of a group that are no zombies."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def write_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is complete or absent."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
