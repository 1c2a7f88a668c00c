"""The clouds that can be planned for, and have no client yet: what key they need, and that renting there is to come."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lumina_cloud.core.errors import CredentialsError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from providers.contract import Instance, Offer, OfferQuery


@dataclass(frozen=True)
class Cloud:
    """Where a cloud's users keep their key, and where they get one."""

    name: str
    title: str
    variable: str
    files: tuple[str, ...]
    """Below the home folder, as the cloud's own tools write them."""
    key_of: Callable[[str], str]
    """Returns the key in such a file's text, empty when it holds none."""
    console: str


def _toml_key(*path: str) -> Callable[[str], str]:
    def key(text: str) -> str:
        try:
            value: object = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return ""
        for part in path:
            value = value.get(part, "") if isinstance(value, dict) else ""
        return value if isinstance(value, str) else ""

    return key


def _runpod_key(text: str) -> str:
    # Two official tools write the same file in two shapes.
    return _toml_key("apiKey")(text) or _toml_key("default", "api_key")(text)


def _lambda_key(text: str) -> str:
    return next((line.partition("=")[2].strip() for line in text.splitlines() if line.strip().startswith("api_key")), "")


CLOUDS: dict[str, Cloud] = {
    "runpod": Cloud("runpod", "RunPod", "RUNPOD_API_KEY", (".runpod/config.toml",), _runpod_key, "console.runpod.io, Settings, API Keys"),
    "vastai": Cloud(
        "vastai", "Vast.ai", "VAST_API_KEY", (".config/vastai/vast_api_key", ".vast_api_key"), str.strip, "cloud.vast.ai, Account, API Keys"
    ),
    "lambda": Cloud("lambda", "Lambda", "LAMBDA_API_KEY", (".lambda_cloud/lambda_keys",), _lambda_key, "cloud.lambda.ai, API keys"),
}


class PlannedOnly:
    """A cloud without a client: it can be planned for, and says what is missing to rent there."""

    def __init__(self, cloud: Cloud, env: Mapping[str, str]) -> None:
        self.name = cloud.name
        self._cloud = cloud
        self._env = env

    def check(self) -> NoReturn:
        """Raise CredentialsError without a key, else RefusedError: this release cannot rent here."""
        cloud = self._cloud
        if not self._has_key():
            raise CredentialsError(
                f"{cloud.title} needs a key: {cloud.variable} is not set, and there is none in ~/{' or ~/'.join(cloud.files)}",
                f"get one at {cloud.console}, then: export {cloud.variable}=...\n"
                "this release plans for that cloud, but cannot rent there yet: --provider local trains on this computer",
            )
        raise RefusedError(
            f"this release plans for {cloud.title}, but has no client to rent there yet; your key was found and not used",
            "--provider local trains on this computer",
        )

    def _has_key(self) -> bool:
        if self._env.get(self._cloud.variable, "").strip():
            return True
        home = Path(self._env.get("HOME", "~")).expanduser()
        for name in self._cloud.files:
            try:
                if self._cloud.key_of((home / name).read_text(encoding="utf-8")):
                    return True
            except (OSError, UnicodeDecodeError):
                continue
        return False

    def offers(self, query: OfferQuery) -> Sequence[Offer]:
        """Refuse, as `check` does."""
        self.check()

    def create(self, offer: Offer, tag: str) -> Instance:
        """Refuse, as `check` does."""
        self.check()

    def find(self, tag: str) -> Sequence[Instance]:
        """Refuse, as `check` does."""
        self.check()

    def get(self, instance_id: str) -> Instance:
        """Refuse, as `check` does."""
        self.check()

    def list_owned(self) -> Sequence[Instance]:
        """Refuse, as `check` does."""
        self.check()

    def terminate(self, instance_id: str) -> None:
        """Refuse, as `check` does."""
        self.check()
