"""What the replies of clouds are made of: strict pydantic pieces, through which every text and number from outside passes.

Fields that a cloud adds are ignored; a field of ours that is missing, of another type or out of range is an error. JSON numbers
become `Decimal` by their digits, so no price passes through a float.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import BadReply

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_TEXT = 400
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class Reply(BaseModel):
    """Root of what a cloud answers."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _float(value: object) -> object:
    """Return a number as a float; what is none is left to be refused. A giant one is infinite, and refused for that."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _moment(value: object) -> object:
    """Return seconds since 1970, or RFC 3339 text, as an aware time."""
    try:
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value), UTC)
        if isinstance(value, str):
            found = datetime.fromisoformat(value[:40])
            # Without a zone it is the cloud's own, not this computer's: bills would be looked for hours beside where they are.
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return value


def _sane(value: datetime) -> datetime:
    if value.tzinfo is None or not _EARLIEST <= value <= _LATEST:
        raise ValueError("no moment of this age")
    return value


def _line(value: str) -> str:
    return untrusted.line(value, _MAX_TEXT).strip()


Text = Annotated[str, AfterValidator(_line)]
"""One printable line of at most 400 characters."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
"""A cloud's name of something: it stands in paths and tables."""

Usd = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=100_000, allow_inf_nan=False)]
"""Dollars, or dollars per hour."""

SignedUsd = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=-10_000_000, le=10_000_000, allow_inf_nan=False)]
"""Dollars of an account."""

Number = Annotated[float, BeforeValidator(_float), Field(ge=0, le=1e12, allow_inf_nan=False)]

Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_sane)]

ReplyT = TypeVar("ReplyT", bound=BaseModel)


def loads(body: bytes, title: str, what: str) -> Any:
    """Return the JSON in a reply, numbers as `int` and `Decimal`, NaN as None. Raises BadReply."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=lambda _name: None)
    except (ValueError, RecursionError, ArithmeticError):
        raise BadReply(
            f"{title} answered {what} with {_kind(body)}", "ask again; if it stays, look at the provider's status page"
        ) from None


def read(raw: Any, model: type[ReplyT], title: str, what: str) -> ReplyT:
    """Return parsed JSON as `model`. Raises BadReply that names the first field that is not as it should be, not its value."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = untrusted.line(".".join(str(part) for part in first["loc"]), 120) or "the whole of it"
        raise BadReply(
            f"{title} answered {what} with something that is not understood: {where} ({first['type']})",
            "nothing was concluded from it; a newer lumina may know this reply: pip install --upgrade lumina-cloud",
        ) from None


def read_rows(rows: Iterable[Any], model: type[ReplyT], title: str, what: str) -> list[ReplyT]:
    """Return the rows of a market that can be understood. Raises BadReply when there are rows and none can be.

    For offers only: one host's nonsense is not to hide all others, while a list of instances is understood whole or not at all.
    """
    read_ok, last = [], None
    for row in rows:
        try:
            read_ok.append(read(row, model, title, what))
        except BadReply as error:
            last = error
    if last is not None and not read_ok:
        raise last
    return read_ok


def _kind(body: bytes) -> str:
    if not body.strip():
        return "an empty body"
    start = body[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page"
    return "something that is not JSON"
