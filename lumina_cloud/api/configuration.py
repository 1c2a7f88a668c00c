"""What can be set, how it is set now, and where each value comes from: a flag, the environment, `config.toml`, or the default.

`settings.load` is what the product goes by; this is what `lumina config` and docs/reference/configuration.md say about it. It reads
the same places, so a setting that is missing here is missing in `settings`, too (tests/api/test_configuration.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lumina_cloud.api import settings
from lumina_cloud.api.documents import of_keeping
from lumina_cloud.core import money
from providers import credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lumina_cloud.api.settings import Settings


@dataclass(frozen=True)
class Setting:
    """One thing that can be set. The first place that holds it wins: flag, variables in their order, file, default."""

    name: str
    what: str
    default: str
    variables: tuple[str, ...] = ()
    flag: str = ""
    section: str = ""
    """Its table in `config.toml`; the key is the last word of `name`."""
    secret: bool = False

    @property
    def key(self) -> str:
        """Return its key in its table of `config.toml`."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def in_file(self) -> str:
        """Return how it is written in `config.toml`, empty where it cannot stand there."""
        return f"[{self.section}] {self.key}" if self.section else ""


KNOWN: tuple[Setting, ...] = (
    Setting(
        "home", "Everything of Lumina's: ledger, runs, keys for machines, config.toml.", "the platform's data folder", ("LUMINA_HOME",)
    ),
    Setting("ledger", "The ledger: a file, or a database that a team shares.", "ledger.db in home", ("LUMINA_LEDGER_URL",)),
    Setting("sandbox", "Work in the sandbox: nothing is paid.", "no", ("LUMINA_SANDBOX",), flag="--sandbox"),
    Setting("local.usd_per_hour", "What an hour on this computer is worth, dollars.", "0.05", section="local"),
    Setting("renting.boot_minutes", "How long a machine may take to come up.", "as its provider usually does", section="renting"),
    Setting("ssh.key", "A private key of your own for rented machines.", "one that Lumina makes", section="ssh"),
    Setting("notify.webhook", "Where ends, failures and budgets are told.", "nowhere", ("LUMINA_WEBHOOK",), section="notify", secret=True),
    Setting("trainer", "Another trainer that keeps the same files.", "the bundled one", ("LUMINA_TRAINER",)),
    *(
        one
        for cloud in credentials.CLOUDS.values()
        for one in (
            Setting(f"{cloud.name}.key", f"The key of {cloud.title}.", "none", cloud.variables, secret=True),
            Setting(f"{cloud.name}.url", f"Where the API of {cloud.title} is.", cloud.url, cloud.url_variables, section=cloud.name),
        )
    ),
    Setting("prices", "Your own prices: they replace those of the price book, or add to them.", "none", section="[prices]"),
    Setting("color", "Colours on a terminal; none with NO_COLOR.", "where it is a terminal", ("NO_COLOR",)),
)


def explain(flags: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> of_keeping.ConfigDocument:
    """Return each setting with its value and where that comes from. Raises UsageError for a malformed `config.toml`."""
    env = os.environ if environ is None else environ
    chosen = settings.load(env)
    table = settings.read_file(chosen.config_file)
    return of_keeping.ConfigDocument(file=str(chosen.config_file), settings=[_row(one, flags, env, table, chosen) for one in KNOWN])


def _row(one: Setting, flags: tuple[str, ...], env: Mapping[str, str], table: Mapping[str, Any], chosen: Settings) -> of_keeping.ConfigRow:
    source, where, value = _found(one, flags, env, table, chosen)
    shown = ("set" if source != "default" else one.default) if one.secret else _shown(one, value, chosen)
    return of_keeping.ConfigRow(name=one.name, value=shown, source=source, where=where, what=one.what)


def _found(
    one: Setting, flags: tuple[str, ...], env: Mapping[str, str], table: Mapping[str, Any], chosen: Settings
) -> tuple[str, str, str]:
    """Return what kind of place holds a setting, that place by name, and its text there."""
    if one.flag and one.flag in flags:
        return "flag", one.flag, "yes"
    for name in one.variables:
        if env.get(name, "").strip() and not (one.name == "sandbox" and not chosen.sandbox):
            return "environment", name, env[name]
    if one.name.endswith(".key") and one.secret:
        key = credentials.find_key(credentials.CLOUDS[one.name.removesuffix(".key")], env)
        return ("default", "", "") if key is None else ("file", key.where, "")
    if one.name == "prices" and table.get("prices"):
        return "file", "[[prices]]", f"{len(table['prices'])} of your own"
    section = table.get(one.section)
    if isinstance(section, dict) and one.key in section:
        return "file", one.in_file, str(section[one.key])
    return "default", "", ""


def _shown(one: Setting, value: str, chosen: Settings) -> str:
    if one.name == "home":
        return str(chosen.home)
    if one.name == "ledger":
        return _without_password(value) if value else str(chosen.home / "ledger.db")
    if one.name == "sandbox":
        return "yes" if chosen.sandbox else "no"
    if one.name == "local.usd_per_hour":
        return money.text(chosen.local_usd_per_hour)
    if one.name == "color" and value:
        return "no"
    return value or one.default


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "set, but no address of a database"
    if parts.scheme == "sqlite":
        return url
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
