"""Documents of `lumina sandbox …`. They have no `schema_version`: the emulator is another program, and their keys stay as they are."""

from __future__ import annotations

from lumina_cloud.api.documents.root import Document


class UpDocument(Document):
    """`lumina sandbox up --json`."""

    vastai_url: str
    runpod_url: str
    lambda_url: str
    api_key: str
    pid: int


class DownDocument(Document):
    """`lumina sandbox down --json`."""

    stopped: bool


class Instance(Document):
    """An instance that is or was there."""

    provider: str
    id: str
    state: str
    tag: str | None
    usd_billed: str


class SandboxStatusDocument(Document):
    """`lumina sandbox status --json`."""

    instances: list[Instance]
    invoice_usd: str


class KnownFault(Document):
    """Something that can go wrong there. `armed` is how many wait for their occasion."""

    name: str
    kind: str
    what: str
    armed: int


class ArmedFault(Document):
    """A fault that waits for its occasion; see `lumina sandbox faults --help`."""

    name: str
    provider: str | None
    call: str | None
    times: int | None
    after: int
    chance: float
    seconds: float | None
    at_seconds: float | None
    factor: float | None


class FaultsDocument(Document):
    """`lumina sandbox faults --json`."""

    faults: list[KnownFault]
    armed: list[ArmedFault]
