"""`lumina doctor`: what is there, what is missing, and how to get it. Nothing is rented and nothing is changed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.api.documents import of_markets
from lumina_cloud.core import money, units
from lumina_cloud.core.errors import CredentialsError, LuminaError, SandboxDown
from providers import credentials, registry
from providers.contract import HasBalance, HasClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from lumina_cloud.api.settings import Settings
    from providers.contract import Provider

ENOUGH_DISK = 5 * units.GIB
LEAST_DISK = 64 << 20
LOW_BALANCE_USD = 5
WRONG_CLOCK_SECONDS = 30.0
"""A clock that is off by more spoils deadlines; certificates fail at more still."""

_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def examine(
    settings: Settings, connect: Callable[[str], Provider], env: Mapping[str, str], *, sandbox_is_up: bool = True
) -> of_markets.DoctorDocument:
    """Look at everything, every cloud at once. In a rehearsal without a sandbox there are none."""
    names = registry.CLOUDS if sandbox_is_up else ()
    clouds: dict[str, list[of_markets.Check]] = {}
    skews: dict[str, float] = {}

    def one(name: str) -> None:
        clouds[name] = list(_cloud(name, connect, env, skews))

    threads = [threading.Thread(target=one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90.0)
    late = [
        of_markets.Check(name=n, state="failed", message="no answer within 90 s", hint="ask again later") for n in names if n not in clouds
    ]
    checks = [
        *trainer(),
        *([] if sandbox_is_up else [_no_sandbox(SandboxDown())]),
        *(check for name in names for check in clouds.get(name, [])),
        *late,
        _ssh(settings, env),
        _disk(settings),
        _clock(skews, rehearsed=env.get("LUMINA_SANDBOX", "") not in ("", "0")),
    ]
    return of_markets.DoctorDocument(ok=all(check.state != "failed" for check in checks), checks=checks)


def _cloud(name: str, connect: Callable[[str], Provider], env: Mapping[str, str], skews: dict[str, float]) -> Iterator[of_markets.Check]:
    cloud = credentials.CLOUDS[name]
    try:
        key = credentials.find_key(cloud, env)
        if key is None:
            missing = credentials.missing(cloud, env)
            yield of_markets.Check(name=name, provider=name, state="missing", message=missing.message, hint=missing.hint)
            return
        provider = connect(name)
        provider.check()
        if isinstance(provider, HasClock) and (skew := provider.clock_skew()) is not None:
            skews[name] = skew
        yield of_markets.Check(name=name, provider=name, state="ok", message=f"{cloud.title} takes the key from {key.where}", hint="")
        if isinstance(provider, HasBalance):
            yield _balance(name, provider.balance())
    except SandboxDown as error:
        yield _no_sandbox(error)
    except CredentialsError as error:
        yield of_markets.Check(name=name, provider=name, state="failed", message=error.message, hint=error.hint)
    except LuminaError as error:
        # A cloud that is down is no fault of this computer.
        yield of_markets.Check(name=name, provider=name, state="warning", message=error.message, hint=error.hint)


def _no_sandbox(error: SandboxDown) -> of_markets.Check:
    return of_markets.Check(name="sandbox", state="missing", message=error.message, hint=error.hint)


def _balance(name: str, usd: Decimal) -> of_markets.Check:
    if usd > LOW_BALANCE_USD:
        return of_markets.Check(name=f"{name} balance", provider=name, state="ok", message=f"{money.show(usd)} left to spend", hint="")
    hint = "top it up before renting: at zero a provider stops machines, and may delete them"
    return of_markets.Check(name=f"{name} balance", provider=name, state="warning", message=f"{money.show(usd)} left to spend", hint=hint)


def of_cloud(name: str, connect: Callable[[str], Provider], env: Mapping[str, str]) -> list[of_markets.Check]:
    """Look at one cloud alone: its key, whether it is taken, and what is left to spend."""
    return list(_cloud(name, connect, env, {}))


def trainer() -> Sequence[of_markets.Check]:
    """Say whether this computer can train."""
    missing = [name for name in ("torch", "deepspeed") if importlib.util.find_spec(name) is None]
    if not missing:
        return [of_markets.Check(name="local", state="ok", message="torch and deepspeed are here: this computer can train", hint="")]
    message = f"{' and '.join(missing)} missing: this computer can plan and rent, but not train"
    return [of_markets.Check(name="local", state="missing", message=message, hint="pip install 'lumina-cloud[trainer]'")]


def _ssh(settings: Settings, env: Mapping[str, str]) -> of_markets.Check:
    home = Path(env.get("HOME") or "~").expanduser()
    own = next((path for path in (settings.home / "ssh" / "id_ed25519", *(home / ".ssh" / n for n in _KEYS)) if path.is_file()), None)
    if own is not None and own.stat().st_mode & 0o077:
        return of_markets.Check(name="ssh", state="warning", message=f"others can read the key {own}", hint=f"chmod 600 {own}")
    agent = _agent(env.get("SSH_AUTH_SOCK", ""))
    if own is not None:
        return of_markets.Check(name="ssh", state="ok", message=f"key {own}" + (", and an agent" if agent else ""), hint="")
    if agent:
        return of_markets.Check(name="ssh", state="ok", message="an agent answers", hint="")
    return of_markets.Check(
        name="ssh", state="missing", message="no key yet: one is made for Lumina when it first rents", hint="or: ssh-keygen -t ed25519"
    )


def _agent(path: str) -> bool:
    if not path:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(1.0)
            agent.connect(path)
    except OSError:
        return False
    return True


def _disk(settings: Settings) -> of_markets.Check:
    where = next((p for p in (settings.home, *settings.home.parents) if p.exists()), Path(os.sep))
    free = shutil.disk_usage(where).free
    message = f"{units.n_bytes(free)} free at {settings.home}"
    if free < LEAST_DISK:
        return of_markets.Check(name="disk", state="failed", message=message, hint="free some, or set LUMINA_HOME to another disk")
    state = "ok" if free >= ENOUGH_DISK else "warning"
    return of_markets.Check(name="disk", state=state, message=message, hint="" if state == "ok" else "weights of a large model need more")


def _clock(skews: Mapping[str, float], *, rehearsed: bool) -> of_markets.Check:
    if not skews:
        return of_markets.Check(
            name="clock", state="missing", message="no provider has told the time", hint="it is compared once a key is there"
        )
    # Each answer's date is a whole second and was on its way: the nearest one says most.
    name, skew = min(skews.items(), key=lambda item: abs(item[1]))
    side = "ahead of" if skew > 0 else "behind"
    if abs(skew) <= WRONG_CLOCK_SECONDS:
        return of_markets.Check(name="clock", state="ok", message=f"within {max(1.0, abs(skew)):.0f} s of {name}'s", hint="")
    if rehearsed:
        return of_markets.Check(
            name="clock", state="warning", message=f"{abs(skew):.0f} s {side} {name}'s", hint="the sandbox's time is its own (--time-scale)"
        )
    hint = "set it (timedatectl set-ntp true): deadlines and charges are reckoned by it"
    return of_markets.Check(name="clock", state="failed", message=f"{abs(skew):.0f} s {side} {name}'s", hint=hint)
