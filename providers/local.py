"""This computer as a provider.

An instance is a process group in a folder of its own, led by `providers.local_machine`, and is billed by the hour like a rented
one: from its creation until it powered off, died or was terminated. What is left of an ended instance is `instance.json`.

An instance's folder is named after its tag, so two creates of one tag cannot both succeed: making the folder is the lock.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from lumina_cloud.core import money
from lumina_cloud.core.clock import iso, parse_iso
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import BadReply, InvalidRequest, NotFound, OutcomeUnknown, ProviderError, StillTerminating
from providers.contract import TAG_PREFIX, Charge, Instance, LaunchSpec, LocalAddress, Offer, OfferQuery
from providers.local_machine import LEADER, living, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from lumina_cloud.core.clock import Clock

NAME = "local"
GPU = "cpu"
START_SECONDS = 20.0
"""A machine whose leader has given no sign of life by then did not come up."""
POLITE_SECONDS = 3.0
_RECORD = "instance.json"
_POWEROFF = "poweroff"


@dataclass(frozen=True)
class _Record:
    """What `instance.json` holds."""

    instance_id: str
    tag: str
    usd_per_hour: str
    created_at: str
    ended_at: str | None = None
    """Set once the instance was terminated."""


class LocalProvider:
    """Rents this computer to itself. `root` holds the instances, one folder each."""

    name = NAME

    def __init__(self, root: Path, usd_per_hour: Decimal, clock: Clock) -> None:
        self._root = root
        self._usd_per_hour = usd_per_hour
        self._clock = clock

    def check(self) -> None:
        """Find nothing missing: this computer needs no key."""

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Return the one offer there is."""
        too_dear = query.max_usd_per_hour is not None and self._usd_per_hour > query.max_usd_per_hour
        elsewhere = query.region is not None or query.secure or query.min_reliability is not None or query.interruptible is True
        if query.gpu not in (None, GPU) or query.count not in (None, 1) or too_dear or elsewhere:
            return []
        return [
            Offer(
                provider=NAME,
                offer_id=NAME,
                gpu=GPU,
                count=1,
                usd_per_hour=self._usd_per_hour,
                interruptible=False,
                region="this computer",
                seen_at=self._clock.now(),
            )
        ]

    def create(self, offer: Offer, spec: LaunchSpec, tag: str) -> Instance:
        """Start a machine for `tag`. Raises OutcomeUnknown when one of that tag exists already, ProviderError when it cannot.

        It is this computer: its disk, image and variables are what they are, and a start-up script is an InvalidRequest.
        """
        if spec.startup_script:
            raise InvalidRequest("a local machine runs no start-up script", "leave LaunchSpec.startup_script empty")
        record = _Record(tag, tag, money.text(offer.usd_per_hour), iso(self._clock.now()))
        with edge("local.create"):
            try:
                _make_folder(self._root, record)
            except FileExistsError:
                raise OutcomeUnknown(f"a local machine of tag {tag} exists already", created_id=tag) from None
            except OSError as error:
                raise ProviderError(f"no machine can be made in {self._root}: {error.strerror}", "make the folder writable") from error
            _start(self._root / tag)
        return self.get(tag)

    def find(self, tag: str) -> Sequence[Instance]:
        """Return the instance of that tag, if there ever was one."""
        with edge("local.find"):
            try:
                return [self._instance(self._load(tag))]
            except NotFound:
                return []

    def get(self, instance_id: str) -> Instance:
        """Return one instance. Raises NotFound for an unknown id, BadReply for a damaged record."""
        with edge("local.get"):
            return self._instance(self._load(instance_id))

    def list_owned(self) -> Sequence[Instance]:
        """Return every instance that has not ended. Raises BadReply when one record is damaged."""
        with edge("local.list"):
            return [i for i in self._all() if i.state != "ended" and i.tag.startswith(TAG_PREFIX)]

    def charges(self, since: datetime) -> Sequence[Charge]:
        """Return what each machine has cost, from its creation to its end or to now."""
        with edge("local.charges"):
            return [charge for instance in self._all() if (charge := self._charge(instance)).until > since]

    def terminate(self, instance_id: str) -> None:
        """End the machine and everything on it. Raises StillTerminating when something survives."""
        with edge("local.terminate"):
            try:
                record = self._load(instance_id)
            except NotFound:
                return
            if record.ended_at is not None:
                return
            folder = self._root / instance_id
            before = self._instance(record)
            # Kept for good: a leader that starts only now sees it and ends at once.
            (folder / _POWEROFF).touch()
            leader = _leader(folder)
            if leader is not None:
                _end_group(leader)
            else:
                _end_orphans(folder)
            write_atomically(folder / _RECORD, asdict(replace(record, ended_at=iso(before.ended_at or self._clock.now()))))
            for entry in folder.iterdir():
                if entry.name not in (_RECORD, _POWEROFF):
                    _remove(entry)

    # --- facts ----------------------------------------------------------------------------------------------------------

    def _all(self) -> list[Instance]:
        return [self._instance(self._load(path.parent.name)) for path in sorted(self._root.glob(f"[!.]*/{_RECORD}"))]

    def _charge(self, instance: Instance) -> Charge:
        until = instance.ended_at or self._clock.now()
        usd = money.for_time(instance.usd_per_hour, until - instance.created_at)
        return Charge(f"local-{instance.instance_id}", instance.instance_id, "gpu", usd, instance.created_at, until)

    def _instance(self, record: _Record) -> Instance:
        folder, created = self._root / record.instance_id, parse_iso(record.created_at)
        known = Instance(
            instance_id=record.instance_id,
            tag=record.tag,
            state="creating",
            usd_per_hour=money.usd(record.usd_per_hour),
            created_at=created,
            ended_at=None,
            address=None,
        )
        if record.ended_at is not None:
            return replace(known, state="ended", ended_at=parse_iso(record.ended_at))
        address = LocalAddress(folder / "work")
        if _leader(folder) is not None:
            return replace(known, state="running", address=address) if (folder / "alive").exists() else known
        if not (folder / LEADER).exists() and (self._clock.now() - created).total_seconds() < START_SECONDS:
            return known
        return replace(known, state="stopped", ended_at=max(created, _stopped_at(folder, created)), address=address)

    def _load(self, instance_id: str) -> _Record:
        if Path(instance_id).name != instance_id:
            raise NotFound(f"no local machine {instance_id!r}")
        path = self._root / instance_id / _RECORD
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            record = _Record(**raw)
            money.usd(record.usd_per_hour)
            parse_iso(record.created_at)
        except FileNotFoundError:
            raise NotFound(f"no local machine {instance_id!r}") from None
        except (OSError, ValueError, TypeError) as error:
            raise BadReply(f"{path} is damaged: {error}", "remove its folder once nothing runs in it") from error
        return record


def _make_folder(root: Path, record: _Record) -> None:
    """Make an instance's folder with its record in it, at once or not at all. Raises FileExistsError when the tag is taken."""
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        write_atomically(staging / _RECORD, asdict(record))
        staging.rename(root / record.instance_id)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(record.instance_id) from error
        raise


def _start(folder: Path) -> None:
    """Start a machine's leader with none of our streams, in a session of its own."""
    with (folder / "machine.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "providers.local_machine", str(folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
        )
    # The machine outlives us on purpose: Popen is not to wait for it, nor to warn that we did not.
    child.returncode = 0


def _leader(folder: Path) -> int | None:
    """Return the leader's process id while it lives. A later process of the same id has another start time."""
    try:
        written = json.loads((folder / LEADER).read_text(encoding="utf-8"))
        process = psutil.Process(int(written["pid"]))
        same = abs(process.create_time() - float(written["started"])) < 1.0
        return process.pid if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return None


def _end_orphans(folder: Path) -> None:
    """End what a leader that died left in its process group. Raises StillTerminating when something survives."""
    try:
        group = int(json.loads((folder / LEADER).read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    # The leader's id may have become another session's: only a group that works in this folder is this machine's.
    if any(_works_in(pid, folder) for pid in living(group)):
        _end_group(group)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(psutil.Process(pid).cwd()).is_relative_to(folder.resolve())
    except (OSError, psutil.Error):
        return False


def _stopped_at(folder: Path, created: datetime) -> datetime:
    """Return when a dead machine stopped: by its own word, else at its last sign of life."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return datetime.fromtimestamp(float(json.loads((folder / "stopped.json").read_text(encoding="utf-8"))["stopped_at"]), UTC)
    with suppress(OSError):
        return datetime.fromtimestamp((folder / "alive").stat().st_mtime, UTC)
    return created


def _end_group(group: int) -> None:
    """End a process group: politely, then not. Raises StillTerminating when something survives."""
    for number, seconds in ((signal.SIGTERM, POLITE_SECONDS), (signal.SIGKILL, POLITE_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            with suppress(ChildProcessError):
                os.waitpid(group, os.WNOHANG)
            if not living(group):
                return
            time.sleep(0.05)
    raise StillTerminating(f"processes of group {group} do not end", f"look at them: ps -o pid,args -g {group}")


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
