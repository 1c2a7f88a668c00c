"""Every provider by its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import UsageError
from providers import credentials

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from pathlib import Path

    import httpx

    from lumina_cloud.core.clock import Clock
    from providers.contract import Provider
    from providers.http import Http

CLOUDS = tuple(credentials.CLOUDS)
NAMES = ("local", *CLOUDS)

WITHOUT_KEY = ("vastai",)
"""Clouds whose offers anybody may look at."""


LAMBDA_SSH_PORT = "LUMINA_LAMBDA_SSH_PORT"
"""Where the sandbox's Lambda machines answer SSH; the real ones do at 22."""


def check_name(name: str) -> None:
    """Raise UsageError for a name that is no provider's, with the nearest one."""
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
        raise UsageError(f"unknown provider {name!r}", f"{f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(NAMES)}")


def connect(
    name: str,
    *,
    home: Path,
    local_usd_per_hour: Decimal,
    clock: Clock,
    env: Mapping[str, str],
    urls: Mapping[str, str] | None = None,
    need_key: bool = True,
    transport: httpx.BaseTransport | None = None,
) -> Provider:
    """Return a provider's client. `urls` are the user's settings of where an API is, by provider.

    With `need_key=False` a cloud that shows its offers to anybody is connected without one. Raises UsageError for an unknown
    name or a malformed address, CredentialsError where a key is missing.
    """
    check_name(name)
    if name == "local":
        from providers.local import LocalProvider

        return LocalProvider(home / "local", local_usd_per_hour, clock)
    # httpx and pydantic are not loaded before a cloud is asked.
    from providers.http import Http
    from providers.rate import Bucket

    cloud = credentials.CLOUDS[name]
    url = credentials.base_url(cloud, env, (urls or {}).get(name))
    key = credentials.find_key(cloud, env)
    if key is None and (need_key or name not in WITHOUT_KEY):
        raise credentials.missing(cloud, env)
    text = None if key is None else key.text
    bucket = Bucket(home / "rates", name, f"{url} {text or ''}", clock)
    http = Http(provider=name, title=cloud.title, base_url=url, key=text, bucket=bucket, clock=clock, transport=transport)
    return _client(name, http, env)


def _client(name: str, http: Http, env: Mapping[str, str]) -> Provider:
    match name:
        case "vastai":
            from providers.vastai import VastAi

            return VastAi(http)
        case "runpod":
            from providers.runpod import RunPod

            return RunPod(http)
        case _:
            from providers.lambda_cloud import LambdaCloud

            port = env.get(LAMBDA_SSH_PORT, "")
            return LambdaCloud(http, int(port)) if port.isdecimal() and 0 < int(port) < 65536 else LambdaCloud(http)
