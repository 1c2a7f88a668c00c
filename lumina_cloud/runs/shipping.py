"""What goes onto a machine, and how the trainer is started there: the bundle, the data, what an earlier rental left behind.

A rented machine is examined first: one that is not what its offer said is given back before anything is sent to it.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trainer.config
from lumina_cloud.catalog import gpus
from lumina_cloud.core import units
from lumina_cloud.core.errors import DataError, ProviderError, RefusedError
from lumina_cloud.remote import bootstrap, bundle, guard, startup, supervisor
from lumina_cloud.runs import caps, extending, fitness, machines, weights_to_start_from, workloads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import RentalRecord, RunRecord
    from lumina_cloud.remote.bootstrap import MachineFacts
    from lumina_cloud.remote.box import Box
    from lumina_cloud.runs.context import Context
    from lumina_cloud.runs.terms import Terms

LINGER_SECONDS = 60.0
"""How long this computer waits for its results to be fetched before it switches its machine off; less where its cap comes first."""
_ASK_SECONDS = 30.0
LEAST_DISK_MIB = 512
_SECRETS = "bundle/secrets.json"
_LOCAL_POWER_OFF = ": > ../poweroff"


class MachineUnfit(ProviderError):
    """The machine is not what its offer said."""

    kind = "machine_unfit"


def python_of(context: Context, provider: str) -> Sequence[str]:
    """Return how the interpreter of a machine is called."""
    return (context.python,) if provider == "local" else bootstrap.FIND_PYTHON


def was_started(box: Box) -> bool:
    """Whether the supervisor was started on this machine."""
    return box.read(bootstrap.STARTED_MARKER) is not None or box.read("exit.json") is not None


def is_supervised(box: Box, python: Sequence[str]) -> bool:
    """Whether the supervisor that was started on this machine is still there. Raises ProviderError when it cannot be asked."""
    return box.run([*python, "bundle/supervisor.py", "--there"], timeout=_ASK_SECONDS).returncode == 0


def ship(context: Context, run: RunRecord, rental: RentalRecord, terms: Terms, box: Box) -> None:
    """Examine the machine, send the bundle and start the trainer.

    Raises MachineUnfit, another ProviderError or RefusedError with what the machine said.
    """
    local = rental.provider == "local"
    python = python_of(context, rental.provider)
    bootstrap.send(box, python, power_off=_LOCAL_POWER_OFF if local else ":")
    facts = bootstrap.check(box)
    config = trainer.config.from_json(run.config_json)
    if local:
        _check_local(facts)
    else:
        config = _examined(context, run, config, facts, box)
    n = extending.seq(context.ledger.events(run.run_id))
    # Read after the number: what the machine is told is never older than it.
    run = context.ledger.run(run.run_id) or run
    limits = _limits(context, run, rental)
    context.reporter.said(run.run_id, "sending trainer, configuration and data")
    folder = Path(run.folder)
    with tempfile.TemporaryDirectory(prefix="lumina-bundle-") as staging:
        built = bundle.build(
            Path(staging),
            config_json=config.to_json(),
            trainer=context.trainer,
            data=_data_files(Path(run.data_path)) if run.data_path else (),
            weights=weights_to_start_from.files(Path(config.init_from)) if config.init_from else (),
            previous=folder if (folder / "checkpoints").is_dir() else None,
            job=bundle.Job(
                seconds_cap=limits.seconds_cap,
                grace_seconds=caps.GRACE_SECONDS if local else caps.SAVE_SECONDS,
                linger_seconds=LINGER_SECONDS,
                seconds_off=limits.seconds_off,
                power_off_file="../poweroff" if local else None,
                processes=config.layout.n_gpus,
                store=None if terms.store is None else f"{terms.store.rstrip('/')}/{run.run_id}",
                secrets_file=_SECRETS if terms.secrets else None,
            ),
        )
        bundle.ship(box, built, python=python, progress=_told(context, run))
    # Sending took its time too: what is left is counted from here.
    limits = _limits(context, run, rental)
    job = replace(built.job, seconds_cap=limits.seconds_cap, seconds_off=limits.seconds_off)
    box.write("bundle/job.json", job.to_json().encode())
    _hand_secrets(context, rental, terms, box)
    if not local:
        _tell_guard(context, rental, terms, box, _seconds_left(context, run, rental), seq=1 + n)
    bootstrap.start(box)
    with context.ledger.transaction() as tx:
        tx.add_event(extending.STARTED, run_id=run.run_id, rental_id=rental.rental_id, device=config.device, limits=n)
    context.reporter.said(run.run_id, "trainer started")


def _check_local(facts: MachineFacts) -> None:
    missing = [*([] if facts.torch else ["torch"]), *facts.missing]
    if missing:
        raise ProviderError(f"{' and '.join(missing)} is not installed for {sys.executable}", "pip install 'lumina-cloud[trainer]'")
    if facts.disk_mib < LEAST_DISK_MIB:
        raise ProviderError(f"only {facts.disk_mib} MiB of disk are free, {LEAST_DISK_MIB} are needed", "free some")


def _examined(
    context: Context, run: RunRecord, config: trainer.config.RunConfig, facts: MachineFacts, box: Box
) -> trainer.config.RunConfig:
    """Judge the machine and make it ready; return the configuration for the device that it really has. Raises MachineUnfit."""
    rehearsal = context.machines.rehearsal
    wanted = fitness.Wanted(run.gpu, run.count, gpus.resolve(run.gpu).memory_gib, LEAST_DISK_MIB, rehearsal)
    why = fitness.unfit(facts, wanted)
    if why is not None:
        raise MachineUnfit(f"the machine is not what its offer said: {why}", "lumina resume rents another one")
    shown = ", ".join(f"{g.name}, {g.memory_mib:,} MiB, driver {g.driver}" for g in facts.gpus[:1])
    context.reporter.said(run.run_id, f"the machine has {len(facts.gpus)} x {shown}; torch {facts.torch}, Python {facts.python}")
    todo = fitness.preparation(facts, rehearsal=rehearsal)
    if todo.install:
        context.reporter.said(run.run_id, f"installing {'torch, ' if todo.torch_too else ''}{', '.join(facts.missing)}")
        bootstrap.install(box, torch_too=todo.torch_too)
    return _for_device(config, todo.device)


def _for_device(config: trainer.config.RunConfig, device: str) -> trainer.config.RunConfig:
    """Return the configuration for a device; a CPU computes in fp32, since most have no fast bf16."""
    if device == config.device:
        return config
    training = config.training if device == "cuda" else replace(config.training, precision="fp32")
    made = replace(config, device="cuda" if device == "cuda" else "cpu", training=training)
    trainer.config.check(made)
    return made


@dataclass(frozen=True)
class _Limits:
    """How long the supervisor may train, and when its machine is off, in seconds from its start."""

    seconds_cap: float
    seconds_off: float


def _limits(context: Context, run: RunRecord, rental: RentalRecord) -> _Limits:
    """Return what the cap leaves at this moment. Raises RefusedError when that pays for nothing."""
    left = max(1.0, math.floor(_seconds_left(context, run, rental)))
    return _Limits(left, left + caps.home_seconds(rental.provider))


def _seconds_left(context: Context, run: RunRecord, rental: RentalRecord) -> float:
    """Return how long the trainer may run. Raises RefusedError when what is left pays for nothing."""
    already = (context.clock.now() - rental.intended_at).total_seconds()
    earlier = sum((c.usd for c in context.ledger.charges(run.run_id) if c.rental_id != rental.rental_id), caps.ZERO)
    grace = caps.grace_seconds(rental.provider)
    # The cap on time is the machine's whole life, as the one on money is: what has passed and what its end takes are of it.
    seconds = min(caps.seconds_left_on_box(run.usd_cap, earlier, rental.usd_per_hour, grace), run.seconds_cap - grace) - already
    if seconds < 1:
        raise RefusedError("getting here took as long as the cap pays for", "resume with a higher cap: --max-cost")
    return seconds


def tell_limits(context: Context, run: RunRecord, rental: RentalRecord, terms: Terms, box: Box, *, seq: int) -> float:
    """Tell a machine at work how long it may go on under limits that have changed; return the seconds that are left to train.

    Raises ProviderError.
    """
    try:
        limits = _limits(context, run, rental)
    except RefusedError:
        # They passed while they were on their way: the trainer saves and ends.
        limits = _Limits(1.0, 1.0 + caps.home_seconds(rental.provider))
    cap = {"seq": seq, "seconds_cap": limits.seconds_cap, "seconds_off": limits.seconds_off}
    box.write(supervisor.CAP_FILE, json.dumps(cap).encode())
    if rental.provider != "local":
        _tell_guard(context, rental, terms, box, limits.seconds_cap, seq=1 + seq)
    return limits.seconds_cap


def _tell_guard(context: Context, rental: RentalRecord, terms: Terms, box: Box, seconds: float, *, seq: int) -> None:
    """Tell the guard its limits anew, from now on: until here it counted from the boot. A machine without a guard gets one."""
    provider = context.connect(rental.provider)
    left = seconds + caps.grace_seconds(rental.provider)
    told = machines.limits(provider, terms, seconds=left, seq=seq, rehearsal=context.machines.rehearsal)
    box.write(startup.LIMITS_FILE, told.as_json().encode())
    if box.read("guard.sh") is None:
        box.write("guard.py", Path(guard.__file__).read_bytes())
        box.write("guard.sh", startup.loop().encode())


def _hand_secrets(context: Context, rental: RentalRecord, terms: Terms, box: Box) -> None:
    """Give the machine the variables that the user named, and nobody else's machine: only where its host key was known beforehand.

    The supervisor reads the file once and removes it. Raises RefusedError.
    """
    if not terms.secrets:
        return
    if not context.machines.known_before_contact(rental):
        raise RefusedError(
            f"{rental.provider} did not tell the machine's host key beforehand: it gets no secret ({', '.join(terms.secrets)})",
            "leave out --secret, or take another provider",
        )
    absent = [name for name in terms.secrets if not context.secrets.get(name)]
    if absent:
        raise RefusedError(f"{', '.join(absent)} is not set here any more", "export it, then lumina resume")
    box.write(_SECRETS, json.dumps({name: context.secrets[name] for name in terms.secrets}).encode())


def _told(context: Context, run: RunRecord) -> bundle.Progress:
    def tell(done: int, total: int) -> None:
        if total > 64 << 20:
            context.reporter.said(run.run_id, f"sent {units.n_bytes(done)} of {units.n_bytes(total)}")

    return tell


def _data_files(data: Path) -> tuple[tuple[Path, str], ...]:
    """Return the text files of a path and their names on the machine: numbered, so that no name from here can be trouble there.

    Raises DataError when they are gone.
    """
    files = tuple(workloads.text_files(data))
    if not files:
        raise DataError(f"{data} holds no text any more", "give the file or folder of the text with --data")
    return tuple((file, f"data/{number:06d}{file.suffix.lower()}") for number, file in enumerate(files, 1))
