"""Markdown of texts that come from outside: they stay text, whatever they hold."""

from __future__ import annotations

import json
import re

from lumina_cloud.core import untrusted

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")


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


FILTERS = {"plain": plain, "fenced": fenced, "quoted": quoted}
"""For templates of Markdown files, which escape nothing by themselves: each text from outside passes one of these."""
