"""Where each cloud's users keep their key, and where its API is.

Keys are read from the variables and files that the clouds' own tools use, and go nowhere but into an `Authorization` header.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lumina_cloud.core.errors import CredentialsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Cloud:
    """Where a cloud's users keep their key, where they get one, and where its API is."""

    name: str
    title: str
    variables: tuple[str, ...]
    """The first is the one that is named to the user."""
    files: Callable[[Mapping[str, str]], tuple[Path, ...]]
    key_of: Callable[[str], str]
    """Returns the key in such a file's text, empty when it holds none."""
    console: str
    """Where a key is made."""
    url_variables: tuple[str, ...]
    """The first that is set holds."""
    url: str


@dataclass(frozen=True, repr=False)
class Key:
    """A key, and where it was found. Its repr hides it."""

    text: str
    where: str

    def __repr__(self) -> str:
        return f"Key(where={self.where!r})"


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or "~").expanduser()


def _runpod_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    return (_home(env) / ".runpod" / "config.toml",)


def _vastai_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    config = Path(env["XDG_CONFIG_HOME"]) if env.get("XDG_CONFIG_HOME") else _home(env) / ".config"
    return (config / "vastai" / "vast_api_key", _home(env) / ".vast_api_key")


def _lambda_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    return (_home(env) / ".lambda_cloud" / "lambda_keys",)


def _toml_value(table: object, *path: str) -> str:
    for part in path:
        table = table.get(part, "") if isinstance(table, dict) else ""
    return table.strip() if isinstance(table, str) else ""


def _runpod_key(text: str) -> str:
    """Read the key from the file that two official tools write in two shapes."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ""
    return _toml_value(table, "apiKey") or _toml_value(table, "default", "api_key")


def _lambda_key(text: str) -> str:
    return next((line.partition("=")[2].strip() for line in text.splitlines() if line.strip().startswith("api_key")), "")


CLOUDS: dict[str, Cloud] = {
    "runpod": Cloud(
        name="runpod",
        title="RunPod",
        variables=("RUNPOD_API_KEY",),
        files=_runpod_files,
        key_of=_runpod_key,
        console="console.runpod.io, Settings, API Keys",
        url_variables=("RUNPOD_API_BASE_URL",),
        url="https://api.runpod.io",
    ),
    "vastai": Cloud(
        name="vastai",
        title="Vast.ai",
        variables=("VAST_API_KEY",),
        files=_vastai_files,
        key_of=str.strip,
        console="cloud.vast.ai, Account, API Keys",
        url_variables=("VAST_URL",),
        url="https://console.vast.ai",
    ),
    "lambda": Cloud(
        name="lambda",
        title="Lambda",
        variables=("LAMBDA_API_KEY", "LAMBDA_CLOUD_API_TOKEN"),
        files=_lambda_files,
        key_of=_lambda_key,
        console="cloud.lambda.ai, API keys",
        url_variables=("LAMBDA_BASE_URL", "LAMBDA_CLOUD_BASE_URL"),
        url="https://cloud.lambda.ai",
    ),
}


def find_key(cloud: Cloud, env: Mapping[str, str]) -> Key | None:
    """Return the user's key, None when there is none. A variable goes before a file, as in the clouds' own tools."""
    for variable in cloud.variables:
        if text := env.get(variable, "").strip():
            return _checked(Key(text, variable))
    for path in cloud.files(env):
        try:
            text = cloud.key_of(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return _checked(Key(text, str(path)))
    return None


def _checked(key: Key) -> Key:
    """Return a key that can stand in a header. Raises CredentialsError, which does not show it, for one that cannot."""
    if not key.text.isascii() or not key.text.isprintable() or " " in key.text or len(key.text) > 1000:
        raise CredentialsError(
            f"what {key.where} holds is no API key: it has {len(key.text)} characters, some of which no key has",
            "copy the key again, without quotes, spaces or line breaks",
        )
    return key


def need_key(cloud: Cloud, env: Mapping[str, str]) -> Key:
    """Return the user's key. Raises CredentialsError that says where it was looked for and where to get one."""
    key = find_key(cloud, env)
    if key is None:
        raise missing(cloud, env)
    return key


def missing(cloud: Cloud, env: Mapping[str, str]) -> CredentialsError:
    """Return the error for a key that is nowhere."""
    home, files = str(_home(env)), [str(path) for path in cloud.files(env)]
    shown = [f"~{f[len(home) :]}" if home != os.sep and f.startswith(home + os.sep) else f for f in files]
    return CredentialsError(
        f"{cloud.title} needs a key: {cloud.variables[0]} is not set, and there is none in {' or '.join(shown)}",
        f"get one at {cloud.console}, then: export {cloud.variables[0]}=...",
    )


def base_url(cloud: Cloud, env: Mapping[str, str], setting: str | None = None) -> str:
    """Return where the cloud's API is: the environment's, else the user's setting, else its own address. No slash at the end.

    Raises UsageError for what is no address, and for one that would send the key unencrypted over a network.
    """
    said = next((name for name in cloud.url_variables if env.get(name, "").strip()), None)
    where = said or f"[{cloud.name}] url in config.toml"
    given = (env[said].strip() if said else setting or cloud.url).rstrip("/").removesuffix("/api/v1")
    try:
        parts = urlsplit(given)
        host, _port = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f"{where} is {given!r}, which is no address of an API", f"e.g. {cloud.url}")
    if parts.scheme == "http" and not _loopback(host):
        raise UsageError(f"{where} is {given!r}: a key is not sent unencrypted over a network", f"https://{host}, or leave it out")
    return given


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
