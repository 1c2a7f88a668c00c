"""What all documents of `--json` share: kept keys, money as decimal strings of dollars, times as ISO 8601 in UTC."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lumina_cloud.api.documents import SCHEMA_VERSION


class Document(BaseModel):
    """Root of all documents: fixed once built."""

    # Built when first used: a command that prints one document does not wait for the others.
    model_config = ConfigDict(frozen=True, defer_build=True)


class Answer(Document):
    """A whole document, as one verb prints it."""

    schema_version: int = SCHEMA_VERSION
    """Rises when a key goes or changes its meaning."""


class Range(Document):
    """An estimate with its 80 % interval."""

    low: float
    mid: float
    high: float


class MoneyRange(Document):
    """An estimate of money, decimal strings in dollars."""

    low: str
    mid: str
    high: str


class ErrorBody(Document):
    """What was wrong, and what to type next."""

    kind: str
    message: str
    hint: str


class ErrorDocument(Answer):
    """An error on standard error."""

    error: ErrorBody
