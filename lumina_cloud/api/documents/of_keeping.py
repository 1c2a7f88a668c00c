"""Documents of keeping: `lumina ledger …`, `doctor --rebuild`, `rm`, `prune`, `data …`."""

from __future__ import annotations

from lumina_cloud.api.documents.root import Answer, Document


class BackupDocument(Answer):
    """`lumina ledger backup --json`."""

    path: str
    bytes: int


class RestoreDocument(Answer):
    """`lumina ledger restore --json`. `kept` is where the ledger is that was there before."""

    path: str
    backup: str
    kept: str | None
    next: str


class VerifyDocument(Answer):
    """`lumina ledger verify --json`."""

    ledger: str
    ok: bool
    rows: dict[str, int]
    problems: list[str]
    way_back: str


class ImportDocument(Answer):
    """`lumina ledger import --json`. Rows that were there already are not added again."""

    rows: int
    added: dict[str, int]


class RebuildDocument(Answer):
    """`lumina doctor --rebuild --json`."""

    path: str
    sources: list[str]
    kept: str | None
    rows: dict[str, int]
    adopted: list[str]
    """Tags of instances that no rental was known of."""
    notes: list[str]


class Reconciled(Document):
    """One machine, or one rental without its machine."""

    provider: str
    instance: str | None
    tag: str
    verdict: str
    why: str
    state: str | None
    usd_per_hour: str | None
    run: str | None
    done: str
    """What was done about it; empty for nothing."""


class ReconcileDocument(Answer):
    """`lumina reconcile --json`. `notes` are of providers that could not be asked."""

    dry_run: bool
    findings: list[Reconciled]
    notes: list[str]


class RemovedDocument(Answer):
    """`lumina rm --json` and `lumina prune --json`."""

    runs: list[str]
    bytes: int


class PreparedDataDocument(Answer):
    """`lumina data prepare --json`."""

    path: str
    documents: int
    tokens: int
    """To train on."""
    validation_tokens: int
    shards: int
    upload_bytes: int
    tokenizer: str
    vocab: int
    seconds: float


class CheckedDataDocument(Answer):
    """`lumina data check --json`. `exact` is false where the tokens were reckoned from a sample or from the size."""

    path: str
    kind: str
    documents: int | None
    tokens: int
    exact: bool
    upload_bytes: int
    wanted_tokens: int | None = None
    epochs: float | None = None


class UiDocument(Answer):
    """Where the pages of `lumina ui` are. The token in the address is the key to them."""

    url: str
    port: int


class ConfigRow(Document):
    """One setting as it holds now. A secret's value is never shown."""

    name: str
    value: str
    source: str
    """flag, environment, file or default."""
    where: str
    """The flag, the variable, or the place in a file; empty for a default."""
    what: str


class ConfigDocument(Answer):
    """`lumina config --json`."""

    file: str
    """The `config.toml` that is read, whether or not it is there."""
    settings: list[ConfigRow]
