"""Markdown of texts that come from outside: they stay text, whatever they hold."""

from __future__ import annotations

import json
import re

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lumina_cloud.core import templates, untrusted
from lumina_cloud.web.pages import FILTERS

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")


def environment() -> Environment:
    """Return the templates of Markdown files. What is shown in one passes `plain`, `fenced` or `quoted`."""
    # Nothing here is HTML: escaping for HTML would show as such.
    made = Environment(loader=FileSystemLoader(templates.folder()), autoescape=False, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701
    made.filters |= {**FILTERS, "plain": plain, "fenced": fenced, "quoted": quoted}
    return made


def plain(text: object) -> str:
    """Return one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", untrusted.line(text))


def fenced(text: str) -> str:
    """Return a block of text, in a fence longer than any within it."""
    runs = re.findall(r"`+", text)
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return f"{fence}text\n{text}\n{fence}"


def quoted(text: object) -> str:
    """Return a text as a string of YAML, of which JSON's are a part."""
    return json.dumps(untrusted.line(text))
