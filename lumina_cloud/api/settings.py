"""Where things are kept, and what the user set.

`LUMINA_HOME` holds everything; without it the platform's own data folder does. `config.toml` in it may hold

    [local]
    usd_per_hour = "0.05"      # what an hour on this machine is worth

    [vastai]                   # or [runpod], [lambda]
    url = "https://..."        # where its API is; VAST_URL, RUNPOD_API_BASE_URL or LAMBDA_BASE_URL go before it

    [notify]
    webhook = "https://..."    # told of ends, failures, interruptions, drift and budgets; LUMINA_WEBHOOK goes before it

    [ssh]
    key = "~/.ssh/id_ed25519"  # a key of your own for rented machines, an agent's too; without it Lumina makes one

    [renting]
    boot_minutes = 15          # how long a machine may take to come up before it is given back; without it, as its provider usually does

    [[prices]]                 # see docs: replaces or adds to the price book
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.core import money
from lumina_cloud.core.errors import LedgerError, UsageError
from providers import credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOUDS = tuple(credentials.CLOUDS)
DEFAULT_LOCAL_USD_PER_HOUR = Decimal("0.05")


@dataclass(frozen=True)
class Settings:
    """Folders, and the user's own prices."""

    home: Path
    config_file: Path
    local_usd_per_hour: Decimal
    urls: Mapping[str, str] = field(default_factory=dict)
    """Where a provider's API is, for those that the user set."""
    sandbox: bool = False
    """Everything is a rehearsal: machines have their GPUs in name only."""
    ssh_key: Path | None = None
    """The user's own private key; None for one of this installation's."""
    boot_seconds: float | None = None
    """How long a machine may take to come up, where the user says."""
    webhook: str = ""
    """Where notices are sent; empty for nowhere. It may hold a secret, so it is never shown or kept."""

    @property
    def runs_folder(self) -> Path:
        """Results, one folder a run."""
        return self.home / "runs"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises UsageError for a malformed `config.toml`, LedgerError for a home that cannot be one."""
    env = os.environ if environ is None else environ
    home = base = _home(env)
    sandbox = env.get("LUMINA_SANDBOX", "") not in ("", "0")
    if sandbox:
        # Rehearsed money never mixes with real money: a ledger and runs of their own, with the user's own prices.
        home = base / "sandbox"
    if home.exists() and not home.is_dir():
        raise LedgerError(f"{home} is a file, but the folder of Lumina's data is to be there", "set LUMINA_HOME to a folder")
    config_file = base / "config.toml"
    table = read_file(config_file)
    unknown = set(table) - {"local", "prices", "notify", "ssh", "renting", *CLOUDS}
    if unknown:
        known = ", ".join(f"[{name}]" for name in ("local", "notify", "ssh", "renting", *CLOUDS))
        raise UsageError(f"{config_file}: unknown section {sorted(unknown)[0]!r}", f"known: {known}, [[prices]]")
    return Settings(
        home=home,
        config_file=config_file,
        local_usd_per_hour=_local_price(table.get("local", {}), config_file),
        urls={name: _url(name, table[name], config_file) for name in CLOUDS if name in table},
        sandbox=sandbox,
        ssh_key=_ssh_key(table.get("ssh", {}), config_file),
        boot_seconds=_boot_seconds(table.get("renting", {}), config_file),
        webhook=_webhook(env, table.get("notify", {}), config_file),
    )


def _webhook(env: Mapping[str, str], section: object, path: Path) -> str:
    given = env.get("LUMINA_WEBHOOK")
    if not given and (not isinstance(section, dict) or set(section) - {"webhook"}):
        raise UsageError(f"{path}: [notify] knows only webhook", '[notify]\nwebhook = "https://..."')
    url = given or (section.get("webhook", "") if isinstance(section, dict) else "")
    if url and not str(url).startswith(("https://", "http://")):
        raise UsageError("the webhook of notices does not begin with https:// or http://", "set [notify] webhook, or LUMINA_WEBHOOK")
    return str(url)


def _home(env: Mapping[str, str]) -> Path:
    given = env.get("LUMINA_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("lumina"))


def read_file(path: Path) -> dict[str, Any]:
    """Return the table of a `config.toml`, an empty one where there is no file. Raises UsageError for one that is malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "make it readable, or remove it") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "mend that line, or remove the file") from error


def _url(name: str, section: object, path: Path) -> str:
    value = section.get("url") if isinstance(section, dict) and set(section) == {"url"} else None
    if not isinstance(value, str):
        raise UsageError(f"{path}: [{name}] knows only url, an address as text", f'[{name}]\nurl = "https://..."')
    return value


def _ssh_key(section: object, path: Path) -> Path | None:
    key = section.get("key") if isinstance(section, dict) and not set(section) - {"key"} else 0
    if key is not None and (not isinstance(key, str) or not key.strip()):
        raise UsageError(f"{path}: [ssh] knows only key, a path as text", '[ssh]\nkey = "~/.ssh/id_ed25519"')
    return None if key is None else Path(key).expanduser()


def _boot_seconds(section: object, path: Path) -> float | None:
    minutes = section.get("boot_minutes") if isinstance(section, dict) and not set(section) - {"boot_minutes"} else 0
    if minutes is None:
        return None
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes <= 240:
        raise UsageError(f"{path}: [renting] knows only boot_minutes, a number above 0", "[renting]\nboot_minutes = 15")
    return float(minutes) * 60


def _local_price(section: object, path: Path) -> Decimal:
    if not isinstance(section, dict) or set(section) - {"usd_per_hour"}:
        raise UsageError(f"{path}: [local] knows only usd_per_hour", '[local]\nusd_per_hour = "0.05"')
    raw = section.get("usd_per_hour", str(DEFAULT_LOCAL_USD_PER_HOUR))
    try:
        price = money.usd(str(raw))
    except ValueError:
        price = Decimal(0)
    if not Decimal("0.000001") <= price <= Decimal(1_000_000):
        raise UsageError(f"{path}: local.usd_per_hour is {raw!r}, no price from a micro-dollar to a million", 'e.g. usd_per_hour = "0.05"')
    return price
