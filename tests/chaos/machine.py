"""A simulated machine: what stands behind an instance of the emulator. It boots by its start-up script, guards itself and trains.

Guard and supervisor are the shipped ones (`programs`); the trainer is a stub that writes the same files as ours.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
import urllib.error
import urllib.parse
from collections.abc import Callable
from functools import cache
from typing import Any

from lumina_cloud.remote import checkpoints
from lumina_cloud.remote.box import Completed
from providers.emulator.machines import BoxSpec
from providers.emulator.wire import Reply, Request
from tests.chaos import programs
from tests.chaos.judge import Start
from tests.chaos.virtual import Hub, Party

STEPS_BETWEEN_CHECKPOINTS = 4


class Net:
    """All machines by their address, and what they ask of a provider."""

    def __init__(self, hub: Hub, seed: str, handle: Callable[[str, Request], Reply], *, guarded: bool = True) -> None:
        self.hub = hub
        self.seed = seed
        self.handle = handle
        self.guarded = guarded
        """Whether machines start the guard that they were given; a sabotage is that they do not."""
        self.by_host: dict[str, SimMachine] = {}
        self.starts: list[Start] = []
        self.run_of: Callable[[SimMachine], str] = lambda _machine: ""
        self.powered_off: Callable[[SimMachine], None] = lambda _machine: None

    def __call__(self, spec: BoxSpec) -> SimMachine:
        """Make a machine: the emulator's maker."""
        number = len(self.by_host)
        machine = SimMachine(self, spec, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self.by_host[machine.host] = machine
        return machine


class SimMachine:
    """One machine. Its calls never wait: what takes time on it is done by tasks of its own."""

    def __init__(self, net: Net, spec: BoxSpec, host: str) -> None:
        self.net, self.spec, self.host = net, spec, host
        self.hub = net.hub
        self.port, self.proxy_port = 22, 23
        self.rng = random.Random(f"{net.seed} {spec.name}")
        self.files = programs.Files()
        self.locks: dict[str, Any] = {}
        self.party = Party(spec.name)
        self.party.dead = True
        self.on = self.destroyed = False
        self.mode = "open"
        self.booted = net.hub.now
        self._key = 0
        self._announced = ""
        self._log: list[str] = []
        self._processes: dict[int, _Process | None] = {}
        self._sent = self._received = 0

    # --- what the emulator asks of it -------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """Return the host key that it shows."""
        if self._announced and not self._key:
            return self._announced
        return f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{hashlib.sha256(f'{self.spec.name} {self._key}'.encode()).hexdigest()[:48]}"

    def boot(self) -> None:
        """Start its processes."""
        if self.on or self.destroyed:
            return
        self.on = True
        self.booted = self.hub.now
        self.party = Party(self.spec.name)
        self.locks, self._processes = {}, {}
        # The memory of a boot is its processes' environment, which later logins read.
        self.files.content["/proc/1/environ"] = b"\0".join(f"{k}={v}".encode() for k, v in self.spec.env.items())
        self.files.content["/proc/sys/kernel/random/boot_id"] = f"{self.spec.name} {self.booted}".encode()
        self.hub.spawn(self.party, self._start_up, after=self.rng.uniform(0.2, 3.0))

    def warn(self) -> None:
        """Ask all its processes to end."""
        for process in self._processes.values():
            if process is not None:
                process.terminate()

    def halt(self) -> None:
        """Kill all its processes; the disk stays."""
        self.on = False
        self.hub.kill(self.party)

    def destroy(self) -> None:
        """Kill all its processes and wipe the disk."""
        self.halt()
        self.destroyed = True
        self.files.content.clear()

    def network(self, mode: str) -> None:
        """Cut it off, or connect it again."""
        self.mode = mode

    def rotate_host_key(self) -> None:
        """Show another host key from now on."""
        self._key += 1

    def fill_disk(self) -> None:
        """Let every further write fail."""
        self.files.full = True

    def traffic(self) -> tuple[int, int]:
        """Return bytes received and sent so far."""
        return self._received, self._sent

    def log(self) -> str:
        """Return what it printed at its boot."""
        return "\n".join(self._log)

    # --- its boot ---------------------------------------------------------------------------------------------------------

    def _start_up(self) -> None:
        """Do what the start-up script says, as far as it matters here."""
        script = _script(self.spec)
        if script is None:
            return
        parts = _parts(script)
        for name in ("guard.py", "guard.sh", "limits.json"):
            if name in parts and name not in self.files.content:
                self.files.write(name, parts[name])
        if "host_key" in parts:
            self._announced = _public(parts["host_key"])
        else:
            self._log.append(f"lumina-host-key {self.key}")
        self.start_guard(dict(self.spec.env))

    def start_guard(self, env: dict[str, str]) -> None:
        """Keep the guard alive from now on, as `guard.sh` does."""
        if self.net.guarded and "guard.py" in self.files.content:
            self._background(lambda number: self._guard_loop(number, env))

    def _guard_loop(self, number: int, env: dict[str, str]) -> None:
        known = self.files.content.get("guard.pid", b"").decode()
        if known.isdecimal() and int(known) != number and self.is_process(int(known)):
            return
        try:
            self.files.write("guard.pid", str(number).encode())
        except OSError:
            self.files.content["guard.pid"] = b""
        while True:
            programs.run(self, self.files.content["guard.py"].decode(), "guard.py", ["guard.py"], env)
            self.hub.sleep(2.0)

    # --- its processes ----------------------------------------------------------------------------------------------------

    def _background(self, run: Callable[[int], None]) -> int:
        number = 100 + len(self._processes)
        self._processes[number] = None

        def go() -> None:
            try:
                run(number)
            finally:
                self._processes.pop(number, None)

        self.hub.spawn(self.party, go)
        return number

    def is_process(self, number: int) -> bool:
        """Whether a process of that number lives."""
        return number in self._processes

    def start_process(self, argv: list[str], **_more: Any) -> _Process:
        """Start a program, as `subprocess.Popen` does: the supervisor starts trainers and guards."""
        if argv[:2] == ["sh", "guard.sh"]:
            self.start_guard({})
            return _Process(self, -1)
        number = 1000 + len(self._processes)
        process = _Process(self, number)
        self._processes[number] = process
        self.hub.spawn(self.party, lambda: Trainer(self, process, argv).work())
        return process

    def command(self, argv: list[str]) -> Completed:
        """Run a short command to its end."""
        if argv == ["kill", "1"]:
            self.net.powered_off(self)
            return Completed(0, "", "")
        if argv == ["true"]:
            return Completed(0, "", "")
        if argv[:2] == ["sh", "bundle/bootstrap.sh"]:
            return self._bootstrap(argv[2])
        if argv[:2] == ["sh", "bundle/python.sh"]:
            return self._python(argv[2:])
        if argv[:2] == ["tar", "-xf"]:
            with tarfile.open(fileobj=io.BytesIO(self.files.read(argv[2]))) as archive:
                for entry in archive:
                    data = archive.extractfile(entry)
                    self.files.write(entry.name, b"" if data is None else data.read())
            return Completed(0, "", "")
        raise AssertionError(f"nobody taught a machine to {argv}")

    def _python(self, argv: list[str]) -> Completed:
        match argv:
            case ["bundle/supervisor.py", "--there"]:
                source = self.files.read("bundle/supervisor.py").decode()
                return Completed(programs.run(self, source, "supervisor.py", argv, {}), "", "")
            case ["bundle/verify.py", manifest]:
                listed = json.loads(self.files.read(manifest))
                wrong = [p for p, expected in listed if hashlib.sha256(self.files.content.get(p, b"")).hexdigest() != expected]
                return Completed(0, "\n".join(wrong), "")
            case ["bundle/hashes.py", folder]:
                rows = [{"path": p, "sha256": hashlib.sha256(self.files.content[p]).hexdigest()} for p in self.files.below(folder)]
                return Completed(0, "\n".join(json.dumps(row) for row in rows), "")
        raise AssertionError(f"nobody taught a machine to python {argv}")

    def _bootstrap(self, verb: str) -> Completed:
        if verb == "check":
            self.hub.sleep(self.rng.uniform(1, 6))
            return Completed(0, self._facts(), "")
        if verb == "install":
            self.hub.sleep(self.rng.uniform(20, 90))
            return Completed(0, "", "")
        if "started" not in self.files.content:
            self.start_guard({})
            self._background(lambda _number: self._supervise())
            give_up = self.hub.now + 15
            while "started" not in self.files.content and self.hub.now < give_up:
                self.hub.sleep(0.3)
        there = "started" in self.files.content
        return Completed(0 if there else 3, "", "" if there else "the supervisor did not start")

    def _supervise(self) -> None:
        """Run the supervisor; where it leaves without having said how the trainer ended, say so, as the bootstrap's shell does."""
        source = self.files.read("bundle/supervisor.py").decode()
        try:
            programs.run(self, source, "supervisor.py", ["supervisor.py", "bundle/job.json"], {})
        except OSError:
            self.files.content.setdefault("exit.json", b"") if not self.files.full else None
        if "exit.json" not in self.files.content and not self.files.full:
            self.files.write("exit.json", b'{"returncode": 1, "reason": "crashed"}')

    def _facts(self) -> str:
        spec = self.spec
        gpu = f"gpu {spec.gpu_name}, {spec.gpu_memory_mib}, {spec.driver}\n" * spec.gpu_count
        free = 0 if self.files.full else spec.disk_gb * 900
        inner = {"python": "3.12.3", "torch": "2.8.0", "torch_cuda": "12.8", "cuda_devices": spec.gpu_count, "missing": ["tokenizers"]}
        guard = "guard yes\n" if "guard-state.json" in self.files.content else ""
        return f"disk_mib {free}\n{gpu}cuda {spec.cuda}\n{guard}facts {json.dumps(inner)}\n"

    # --- its way out ------------------------------------------------------------------------------------------------------

    def ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None, timeout: float) -> Any:
        """Ask a provider's API, as `urllib.request.urlopen` does. Raises OSError."""
        if self.mode == "partitioned":
            self.hub.sleep(timeout)
            raise urllib.error.URLError("unreachable")
        parts = urllib.parse.urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        reply = self.net.handle(self.spec.provider, Request.of(method, target, headers, body or b"", self.host))
        if reply.delivery in ("hung", "dribbled"):
            self.hub.sleep(min(timeout, reply.seconds))
            raise TimeoutError
        if reply.delivery != "whole":
            raise urllib.error.URLError("broken")
        if reply.status >= 400:
            raise urllib.error.HTTPError(url, reply.status, "", None, None)  # type: ignore[arg-type]
        return _Answer(reply)

    def moved(self, received: int, sent: int) -> None:
        """Count what went over its public address."""
        self._received += received
        self._sent += sent


class _Answer:
    def __init__(self, reply: Reply) -> None:
        self.status = reply.status

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_what: object) -> None:
        """Nothing is left open."""


class _Process:
    """A child of the supervisor's, as `subprocess.Popen` shows it."""

    def __init__(self, machine: SimMachine, pid: int) -> None:
        self.machine, self.pid = machine, pid
        self.returncode: int | None = None
        self.asked = False

    def poll(self) -> int | None:
        """Return how it ended, None while it has not."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises TimeoutExpired."""
        give_up = self.machine.hub.now + (timeout or 1e9)
        while self.returncode is None:
            if self.machine.hub.now > give_up:
                raise subprocess.TimeoutExpired("trainer", timeout or 0.0)
            self.machine.hub.sleep(0.5)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to save and end."""
        self.asked = True

    def kill(self) -> None:
        """End it."""
        self.end(-9)

    def end(self, code: int) -> None:
        """It is over."""
        if self.returncode is None:
            self.returncode = code
            self.machine._processes.pop(self.pid, None)


class Trainer:
    """A trainer's stub: the same files as ours, and now and then the ends that trainers come to."""

    def __init__(self, machine: SimMachine, process: _Process, argv: list[str]) -> None:
        self.machine, self.process = machine, process
        self.files, self.rng, self.hub = machine.files, machine.rng, machine.hub
        self.resume = "--resume" in argv
        config = json.loads(self.files.read("bundle/run.json"))
        self.steps = max(1, round(config["training"]["tokens"] / config["training"]["global_batch_tokens"]))
        self.per_step = self.rng.uniform(4, 12)
        self.fate = self.rng.choices(("", "crash", "nan", "hang", "silent death"), (90, 3, 2, 2, 3))[0]
        self.fate_at = self.rng.randrange(1, self.steps + 1)

    def work(self) -> None:
        """Train."""
        try:
            self.process.end(self._train())
        except OSError:
            self.process.end(1)

    def _train(self) -> int:
        step = self._newest() if self.resume else 0
        self.machine.net.starts.append(Start(self.machine.net.run_of(self.machine), self.hub.now, step))
        self._say("going on" if step else "starting")
        self._pause(self.rng.uniform(5, 30))
        while step < self.steps:
            if self.process.asked:
                self._save(step)
                return 75
            self._pause(self.per_step)
            step += 1
            if self.fate and step == self.fate_at:
                return self._fated()
            self._report(step)
            if step % STEPS_BETWEEN_CHECKPOINTS == 0:
                self._save(step)
        self._save(step)
        self.files.write("out/model.safetensors", b"weights" * 100)
        figures = {"loss_first": 6.0, "loss_last": 3.0, "perplexity": 20.0, "seconds": step * self.per_step}
        self.files.write("out/result.json", json.dumps({**figures, "tokens": step * 1024, "device": "stub"}).encode())
        self._beat("done", step)
        return 0

    def _fated(self) -> int:
        match self.fate:
            case "nan":
                return 3
            case "hang":
                self.hub.sleep(1e9)
        return 1 if self.fate == "crash" else -9

    def _pause(self, seconds: float) -> None:
        """Wait, unless it is asked to end meanwhile."""
        until = self.hub.now + seconds
        while self.hub.now < until and not self.process.asked and self.process.returncode is None:
            self.hub.sleep(min(2.0, until - self.hub.now))

    def _report(self, step: int) -> None:
        line = {"step": step, "tokens": step * 1024, "loss": 6.0 - 3.0 * step / self.steps, "tokens_per_second": 1024 / self.per_step}
        self.files.write("out/metrics.jsonl", self.files.content.get("out/metrics.jsonl", b"") + json.dumps(line).encode() + b"\n")
        self._beat("training", step)

    def _beat(self, phase: str, step: int) -> None:
        beat = {"phase": phase, "step": step, "steps": self.steps, "tokens": step * 1024, "tokens_per_second": 1024 / self.per_step}
        self.files.write("out/heartbeat.json", json.dumps(beat).encode())

    def _save(self, step: int) -> None:
        """Write a checkpoint, whole or not at all; the last two are kept."""
        if not step:
            return
        data = f"{self.machine.spec.name} {step} ".encode() * 50
        part, whole = "out/checkpoints/.part", f"out/checkpoints/step-{step:06d}"
        self.files.write(f"{part}/state.bin", data)
        self.hub.sleep(self.rng.uniform(0.5, 4))
        listed = [{"path": "state.bin", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
        self.files.write(f"{part}/manifest.json", json.dumps(listed).encode())
        self.files.remove(whole)
        self.files.move(part, whole)
        for old in self._steps()[:-2]:
            self.files.remove(f"out/checkpoints/step-{old:06d}")

    def _steps(self) -> list[int]:
        names = {path.split("/")[2] for path in self.files.below("out/checkpoints")}
        return sorted(int(name.removeprefix("step-")) for name in names if checkpoints.NAME.fullmatch(name))

    def _newest(self) -> int:
        for step in reversed(self._steps()):
            folder = f"out/checkpoints/step-{step:06d}"
            listed = checkpoints.manifest(self.files.content.get(f"{folder}/manifest.json", b"")) or [("", 0, "")]
            if all(hashlib.sha256(self.files.content.get(f"{folder}/{p}", b"")).hexdigest() == sha for p, _n, sha in listed):
                return step
        return 0

    def _say(self, text: str) -> None:
        self.files.write("log.txt", self.files.content.get("log.txt", b"") + f"{text} {self.hub.now:.3f}\n".encode())


# --- the start-up script, as three providers carry it -------------------------------------------------------------------------

_INNER = re.compile(r"echo ([A-Za-z0-9+/=]+) \| base64 -d \|?( gzip -dc)? ?> \"\$HOME/lumina-start.sh\"")
_PART = re.compile(r"echo ([A-Za-z0-9+/=]+) \| base64 -d (\| gzip -dc )?> (guard\.py|guard\.sh|limits\.json|\"\$keys/\.lumina\")")


def _script(spec: BoxSpec) -> str | None:
    text = spec.user_data or " ".join(spec.start or ())
    found = _INNER.search(text)
    if found is None:
        return text if "guard.py" in text else None
    return _unpacked(found[1], packed=bool(found[2])).decode()


def _parts(script: str) -> dict[str, bytes]:
    named = {name.strip('"'): _unpacked(text, packed=bool(packed)) for text, packed, name in _PART.findall(script)}
    return {"host_key" if name.startswith("$keys") else name: data for name, data in named.items()}


@cache
def _unpacked(text: str, *, packed: bool) -> bytes:
    raw = base64.b64decode(text)
    return gzip.decompress(raw) if packed else raw


def _public(private: bytes) -> str:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_private_key(private, None)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return " ".join(line.decode().split()[:2])
