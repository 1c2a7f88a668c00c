"""Where real processes are killed: the sandbox, homes, and `lumina` as forked processes.

Each `lumina` here is a process of its own with an environment, streams and signals of its own, and really gets SIGKILL. It is forked
from one that has imported the program already, which spares a second of its start. The machines of the sandbox have an interpreter
without torch: a start-up that imports it takes seconds, and a stand-in trains there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from tests.chaos.judge import Abandoned, Evidence, Start, judge, of_ledger
from tests.e2e.rented import GPUS, STAND_IN

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--set", "seq_len=128", "--set", "d_model=64", "--set", "n_heads=1", "--set", "d_ff=64", "--set", "d_expert=32")
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
CONFIG = "[renting]\nboot_minutes = 1.5\n"
TORCH = '__version__ = "2.13.0+cpu"\n\n\nclass version:\n    cuda = None\n\n\nclass cuda:\n    device_count = staticmethod(int)\n'


def preload():
    """Import what `lumina` needs, once, for all that are forked from here."""
    import paramiko
    import sqlalchemy

    import lumina_cloud.api.launching
    import lumina_cloud.api.lumina
    import lumina_cloud.api.market
    import lumina_cloud.api.reconciling
    import lumina_cloud.cli.app
    import lumina_cloud.cli.tables
    import lumina_cloud.ledger.engines
    import lumina_cloud.remote.ssh_box
    import lumina_cloud.runs.controller
    import providers.lambda_cloud
    import providers.runpod
    import providers.vastai
    import trainer.config

    return (paramiko, sqlalchemy, trainer, lumina_cloud, providers)


def light_python(folder):
    """Make an interpreter that knows all that ours does, and a torch in name only; return its path."""
    python = folder / "light" / "bin" / "python3"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "light"], check=True)
        packages = folder / "light" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (packages / "torch.py").write_text(TORCH)
        (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    return python


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, None where it was not waited for any longer."""

    code: int | None
    out: str
    err: str


class Stage:
    """One emulator, and any number of homes that rent there."""

    def __init__(self, folder, python=None):
        self.folder = folder
        self.home = folder / "emulator-home"
        self.home.mkdir(parents=True)
        self._python = python or sys.executable

    def up(self, *options):
        """Start the emulator."""
        code = "from lumina_cloud.cli.app import main; main()"
        words = [self._python, "-c", code, "sandbox", "up", "--json", *options]
        subprocess.run(words, env=environment(self.home), cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        self._server = json.loads((self.home / "sandbox" / "emulator" / "server.json").read_text())

    def down(self):
        """Stop it with all that runs in it. What a busy computer takes too long for is not waited for: the judge has had its say."""
        from providers.emulator import sandbox

        with suppress(sandbox.SandboxError):
            sandbox.down(self.home)

    def ask(self, path, body=None):
        """Return what the emulator answers at its control port."""
        request = urllib.request.Request(
            f"{self._server['control_url']}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._server['api_key']}", "Content-Type": "application/json"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
            return json.load(reply)

    def fault(self, name, *, now=False, **more):
        """Arm a fault; with `now` it strikes what runs already."""
        self.ask("/faults", {"faults": [{"name": name, **more}], "now": now})

    def live(self, of=None):
        """Return the instances that still cost money, of all or of some tags."""
        return [i for i in self.ask("/status")["instances"] if i["state"] != "ended" and (of is None or i["id"] in of)]

    def home_of(self, name, like=None):
        """Make a home that rents from this emulator: an empty one, or a copy of a used one."""
        home = self.folder / name
        if like is not None:
            shutil.copytree(like, home, symlinks=True, ignore=shutil.ignore_patterns("emulator"))
        (home / "sandbox").mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(CONFIG)
        (home / "sandbox" / "emulator").symlink_to(self.home / "sandbox" / "emulator")
        return Home(self, home)


class Home:
    """One user's home: its ledger, and what `lumina` does there."""

    def __init__(self, stage, folder):
        self.stage = stage
        self.folder = folder
        self._n = 0
        self.settled_late = False
        """Whether a bill was not whole at first."""
        self.before = {i["id"] for i in stage.ask("/status")["instances"]}
        self.known = set(self._run_ids())

    def start(self, *args, **extra):
        """Start a `lumina`; return its process id and where its streams go."""
        return self._forked(lambda: _lumina(args), **extra)

    def _forked(self, be, **extra):
        self._n += 1
        streams = [self.folder / f"{name}-{self._n:02d}" for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            _become(be, {**environment(self.folder), "LUMINA_SANDBOX": "1", "LUMINA_TRAINER": str(STAND_IN), **extra}, streams)
        return pid, streams

    def wait(self, started, timeout=300):
        """Wait for a process; one that takes longer is killed, and counts as one that hung."""
        pid, streams = started
        give_up, code = time.monotonic() + timeout, None
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > give_up:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.02)
        return Ended(code, *(s.read_text(errors="replace") if s.exists() else "" for s in streams))

    def __call__(self, *args, timeout=300, **extra):
        return self.wait(self.start(*args, **extra), timeout)

    def words(self, provider, *more, tokens=61440, follow=("--follow",)):
        """Return what launches a small run."""
        unguarded = ("--accept-unguarded",) if provider == "lambda" else ()
        work = ("launch", "debug", "--arch", "dense", "--tokens", str(tokens), "--global-batch", "1024", *TINY)
        return (*work, "--provider", provider, "--gpu", GPUS[provider], *unguarded, *follow, "--yes", "--json", *more)

    # --- what became of it ----------------------------------------------------------------------------------------------

    def mine(self):
        """Return the instances that were made since this home was."""
        return [i for i in self.stage.ask("/status")["instances"] if i["id"] not in self.before]

    def active(self):
        """Return the runs that go on, by the ledger alone."""
        from lumina_cloud.runs.states import ACTIVE

        with self.ledger() as ledger:
            return [] if ledger is None else [r.run_id for r in ledger.runs(ACTIVE)]

    def wait_none_lives(self, seconds):
        """Wait until the emulator has none of our machines running; return whether that came."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if all(i["state"] == "ended" for i in self.mine()):
                return True
            time.sleep(0.3)
        return False

    def verdict(self, caps=None, abandoned=None):
        """Ask the judge. `abandoned` is (since, until, lease) where every run of this home was left alone.

        A bill that was not whole when its machine ended is asked for again by whoever comes two hours later: so it is here.
        """
        verdict = self._verdict(caps, abandoned)
        if verdict.ledger_minus_invoice_usd:
            self.settled_late = True
            self.wait(self._forked(_tidy_late))
            verdict = self._verdict(caps, abandoned)
        return verdict

    def _verdict(self, caps, abandoned):
        mine = self.mine()
        ids = {i["id"] for i in mine}
        history = [line for line in self.stage.ask("/history")["history"] if line["id"] in ids]
        with self.ledger() as ledger:
            kept = {name: [] for name in ("runs", "rentals", "charges", "events", "artifacts")} if ledger is None else of_ledger(ledger)
        kept = {name: [one for one in rows if one.run_id not in self.known] for name, rows in kept.items()}
        left = () if abandoned is None else tuple(Abandoned(r.run_id, *abandoned) for r in kept["runs"])
        invoice = sum((Decimal(i["usd_billed"]) for i in mine), Decimal(0))
        return judge(
            Evidence(
                instances=mine,
                history=history,
                invoice_usd=invoice,
                caps={r.run_id: caps for r in kept["runs"]} if caps else {},
                abandoned=left,
                starts=[s for r in kept["runs"] for s in _starts(r)],
                **kept,
            )
        )

    def _run_ids(self):
        with self.ledger() as ledger:
            return [] if ledger is None else ledger.run_names()

    def ledger(self):
        """Open the ledger, to read; nothing where there is none yet."""
        from contextlib import closing, nullcontext

        from lumina_cloud.core.clock import SystemClock
        from lumina_cloud.ledger import Ledger

        file = self.folder / "sandbox" / "ledger.db"
        return closing(Ledger.open(file.parent, SystemClock())) if file.exists() else nullcontext(None)


def environment(home):
    """Return the environment of a user who has nothing but a home."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "LUMINA_HOME": str(home), "HOME": str(home), "NO_COLOR": "1"}


def _lumina(args):
    from lumina_cloud.cli.app import main

    sys.argv = ["lumina", *map(str, args)]
    main()


def _tidy_late():
    """Do what the first command of two hours later does."""
    from lumina_cloud.api.lumina import Lumina
    from lumina_cloud.core.clock import SystemClock

    class Later(SystemClock):
        def now(self):
            return super().now() + timedelta(hours=2)

    with Lumina(clock=Later()) as lumina:
        lumina.reconcile()


def _become(be, env, streams):
    """Be another process from here on, with an environment and streams of its own. Never returns."""
    code = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        for target, path in ((0, os.devnull), (1, streams[0]), (2, streams[1])):
            handle = os.open(path, os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(handle, target)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.clear()
        os.environ.update(env)
        os.chdir(env["LUMINA_HOME"])
        be()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001  # a forked process never goes on in the code of its parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _starts(run):
    """Return when trainers of a run began on its machines, and from which step, by the log that came home."""
    log = Path(run.folder) / "log.txt"
    lines = [line.split() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
    return [Start(run.run_id, float(w[1]), int(w[2])) for w in lines if len(w) == 3 and w[0] == "began"]
