"""Ends a rental from the inside. Runs on the rented machine, standard library only, from the moment of its creation.

`python3 guard.py` works in the folder that it lies in. `limits.json` says when to end: at a deadline, when the money is used up, or
when nobody renewed the lease (`lease`, any content that changes). Then the trainer is asked to stop and gets a grace to save, where
time or money is over its results get time to come home, and the instance is deleted through the provider's API with the key of this
instance alone, again and again until the machine is gone.

No wall clock is asked: all spans are of the monotonic clock, carried over restarts and reboots in `guard-state.json`. A second
guard finds the first one's lock and ends; whoever finds none starts one.
"""

import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

Object = dict[str, Any]

TICK_SECONDS = 1.0
CALL_SECONDS = 20.0
FETCHED_SECONDS = 60.0
"""How long after its results were fetched a machine is left to whoever fetched them."""
POWER_OFF_AFTER = 300.0
"""How long the provider's API is tried before the machine is switched off as well, where that helps."""
LAST_SECONDS = 45.0
"""The same where time or money is over: what is kept back pays for no longer."""


def main() -> None:
    """Watch until there is a reason to end, then end."""
    lock = os.open("guard.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    # Ends with the machine, not with a shell or a session that came and went.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_credentials()
    watch = Watch(load("guard-state.json") or {}, time.monotonic(), boot_id())
    while not (reason := watch.reason(load("limits.json") or {}, facts(), time.monotonic())):
        save("guard-state.json", watch.state())
        time.sleep(TICK_SECONDS)
    save("guard-state.json", watch.state())
    end(reason, load("limits.json") or {})


class Watch:
    """The clocks: how long the machine has lived, and how long ago it heard of anybody."""

    def __init__(self, kept: Object, now: float, boot: str) -> None:
        same = kept.get("boot") == boot and is_span(kept.get("at")) and kept["at"] <= now
        # After a reboot the monotonic clock began anew: what had passed by then is kept, the reboot itself is not counted.
        self.boot = boot
        self.lived = span(kept.get("lived"))
        self.unheard = span(kept.get("unheard"))
        self.fetched = span(kept.get("fetched"))
        self.lease = kept["lease"] if isinstance(kept.get("lease"), str) else ""
        self.seq = kept.get("seq", -1)
        self.seq_at = span(kept.get("seq_at"))
        self.at = now
        self.limits: Object = {}
        if same:
            self.advance(now, since=kept["at"])

    def advance(self, now: float, since: float) -> None:
        """Let time pass."""
        passed = max(0.0, now - since)
        self.lived += passed
        self.unheard += passed
        self.at = now

    def reason(self, limits: Object, seen: Object, now: float) -> str:
        """Return why the rental has to end now, empty while it need not."""
        self.advance(now, self.at)
        if seen["lease"] != self.lease:
            self.lease, self.unheard = seen["lease"], 0.0
        # A file that cannot be read for a moment lifts no limit, and begins no span anew when it is there again.
        limits = self.limits = limits or self.limits
        if limits.get("seq", 0) != self.seq:
            # The first limits count from the boot, later ones from when they came.
            self.seq = limits.get("seq", 0)
            self.seq_at = self.lived if self.seq else 0.0
            if self.seq:
                self.unheard = 0.0
        self.fetched = self.fetched + TICK_SECONDS if seen["done"] and seen["home"] else 0.0
        if self.fetched > FETCHED_SECONDS:
            return "done"
        lived = self.lived - self.seq_at
        if lived > span(limits.get("deadline_seconds"), 86400.0):
            return "deadline"
        if lived > span(limits.get("budget_seconds"), 86400.0):
            return "budget"
        if self.unheard > span(limits.get("lease_seconds"), 900.0):
            return "lease"
        return ""

    def state(self) -> Object:
        """Return what has to survive a restart."""
        return {name: value for name, value in vars(self).items() if name != "limits"}


def facts() -> Object:
    """Return what the folder says."""
    return {"lease": read("lease"), "done": exists("exit.json"), "home": exists("fetched") or exists("saved")}


def end(reason: str, limits: Object) -> None:
    """Let the trainer save, then delete this instance until it is gone. Returns only where a machine cannot end itself."""
    save("guard-ended.json", {"reason": reason})
    say(f"ending this rental: {reason}")
    began = time.monotonic()
    if not exists("exit.json") and exists("started"):
        ask_to_stop(reason)
        give_up = began + span(limits.get("grace_seconds"), 60.0)
        while time.monotonic() < give_up and not (exists("exit.json") and (exists("saved") or not limits.get("store"))):
            time.sleep(0.2)
    if reason in ("deadline", "budget") and exists("started"):
        # What is kept back of the cap pays for that.
        while time.monotonic() < began + span(limits.get("home_seconds")) and not facts()["home"]:
            time.sleep(0.2)
    api = limits.get("api")
    if not api:
        say("this provider gives a machine no way to end itself: it stays, and is billed, until somebody ends it")
        return
    began, pause, off = time.monotonic(), 1.0, False
    patience = LAST_SECONDS if reason in ("deadline", "budget") else POWER_OFF_AFTER
    while True:
        say(f"deleting this instance: {delete(api)}")
        if not off and limits.get("power_off") and time.monotonic() - began > patience:
            off = True
            say("the provider cannot be reached: switching off")
            subprocess.run(limits["power_off"], check=False)  # ours: it came with the limits
        time.sleep(pause)
        pause = min(20.0, pause * 1.5)


def ask_to_stop(reason: str) -> None:
    """Tell the supervisor to stop the trainer; where nothing can be written any more, the end comes without a last checkpoint."""
    try:
        pathlib.Path("stop").write_text(reason)
    except OSError as error:
        say(f"the trainer cannot be asked to stop: {type(error).__name__}")


def delete(api: Object) -> str:
    """Ask the provider to end this instance, and return its answer in a word."""
    instance, key = variable(api["id_variable"]), variable(api["key_variable"])
    if not instance or not key:
        return "no credentials of this instance are here"
    # Vast.ai's label is C.<id>, its id variable the bare number; anything else than an id is not put into a URL.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", instance):
        return "its id is no id"
    headers = {"Authorization": f"Bearer {key}", "User-Agent": "lumina-guard/1", "Content-Type": "application/json"}
    body = b"{}" if api["method"] == "DELETE" else None
    request = urllib.request.Request(api["url"].replace("{id}", instance), method=api["method"], headers=headers, data=body)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as reply:  # noqa: S310
            return str(reply.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, ValueError) as error:
        return type(error).__name__


# --- this instance's own credentials ---------------------------------------------------------------------------------------


def keep_credentials() -> None:
    """Write this instance's own id and key down for a guard that is started later, by a login that does not see them."""
    api = (load("limits.json") or {}).get("api")
    if api and not exists("guard-key.json"):
        found = {name: variable(name) for name in (api["id_variable"], api["key_variable"])}
        if all(found.values()):
            save("guard-key.json", found)


def variable(name: str) -> str:
    """Return a variable of this instance: of this process, of its first process, or as it was written down."""
    if os.environ.get(name):
        return os.environ[name]
    try:
        for pair in pathlib.Path("/proc/1/environ").read_bytes().split(b"\0"):
            key, _, value = pair.partition(b"=")
            if key == name.encode() and value:
                return value.decode()
    except (OSError, UnicodeDecodeError):
        pass
    return str((load("guard-key.json") or {}).get(name, ""))


# --- files and numbers -----------------------------------------------------------------------------------------------------


def boot_id() -> str:
    """Return something that changes when the machine is started anew."""
    return read("/proc/sys/kernel/random/boot_id")


def is_span(value: object) -> bool:
    """Whether a value is a number of seconds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12


def span(value: object, default: float = 0.0) -> float:
    """Return a number of seconds, or the default for anything else."""
    return float(value) if is_span(value) else default  # type: ignore[arg-type]


def exists(name: str) -> bool:
    """Whether a file is there."""
    return pathlib.Path(name).exists()


def read(name: str) -> str:
    """Return a small file's text, empty when there is none."""
    try:
        with pathlib.Path(name).open("rb") as handle:
            return handle.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""


def load(name: str) -> Object:
    """Return a JSON object, empty when there is none."""
    try:
        parsed = json.loads(read(name))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def save(name: str, content: Object) -> None:
    """Write a JSON file for us alone, complete or as it was. A full disk is no reason to stop guarding."""
    partial = f".{name}.part"
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(json.dumps(content))
        pathlib.Path(partial).replace(name)
    except OSError:
        pass


def say(text: str) -> None:
    """Write a line to the guard's log."""
    try:
        with pathlib.Path("guard.log").open("a") as out:
            out.write(text + "\n")
    except OSError:
        pass


if __name__ == "__main__":
    os.chdir(pathlib.Path(__file__).resolve().parent)
    main()
