"""What is said of a line that no verb can be meant by: what is wrong, with which value, and what to type instead."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import Any

from lumina_cloud.core.errors import UsageError

MEANT: dict[str, tuple[str, ...]] = {
    "--max-cost": ("--budget USD",),
    "--max-hours": ("--deadline 24h",),
    "--budget": ("--max-cost USD",),
    "--deadline": ("--max-hours HOURS",),
    "--max-price": ("--max-usd USD", "--max-cost USD", "--budget USD"),
    "--price": ("--max-usd USD", "--max-cost USD", "--budget USD"),
    "--cost": ("--max-cost USD", "--budget USD"),
    "--spot": ("--interruptible",),
    "--gpus": ("--count N",),
    "--num-gpus": ("--count N",),
    "--gpu-count": ("--count N",),
    "--cloud": ("--provider NAME",),
    "--batch-size": ("--global-batch TOKENS",),
    "--batch": ("--global-batch TOKENS",),
    "--dataset": ("--data PATH",),
    "--output": ("--out PATH", "--to FOLDER"),
    "--dir": ("--out PATH", "--to FOLDER"),
    "--out": ("--to FOLDER",),
    "--to": ("--out PATH",),
    "--background": ("--detach",),
    "--tail": ("--follow",),
    "--force": ("--yes",),
    "--verbose": ("--debug",),
    "--lr": ("--set lr=VALUE",),
    "--learning-rate": ("--set lr=VALUE",),
    "--seq-len": ("--set seq_len=N",),
    "--micro-batch": ("--set micro_batch=N",),
    "--precision": ("--set precision=bf16",),
}
"""What another option, or another tool's word, is called here; the first that the verb has is named."""

VERBS = {
    **dict.fromkeys(("run", "train", "rent", "start", "create", "submit", "fit"), "launch"),
    **dict.fromkeys(("ls", "list", "ps", "runs", "jobs", "show", "queue"), "status"),
    **dict.fromkeys(("top", "watch"), "status --watch"),
    **dict.fromkeys(("kill", "cancel", "terminate", "destroy", "end"), "stop"),
    **dict.fromkeys(("bill", "spend", "money", "billing"), "costs"),
    **dict.fromkeys(("cap", "limit"), "budget"),
    **dict.fromkeys(("login", "setup", "configure", "auth"), "init"),
    **dict.fromkeys(("gpus", "market", "search", "instances"), "offers"),
    **dict.fromkeys(("download", "pull", "fetch", "export", "save"), "weights last --to FOLDER"),
    **dict.fromkeys(("generate", "chat", "infer"), "sample last --prompt TEXT"),
    **dict.fromkeys(("delete", "remove", "clean"), "rm RUN"),
    **dict.fromkeys(("tail", "follow", "attach"), "logs -f last"),
    **dict.fromkeys(("shell", "exec", "connect"), "ssh last"),
    **dict.fromkeys(("dashboard", "web", "serve"), "ui"),
    "version": "--version",
}
"""Other tools' verbs, as they are called here."""

EXAMPLES = {
    "lumina weights": "lumina weights last --to build/my-model",
    "lumina sample": 'lumina sample last --prompt "def "',
    "lumina data prepare": "lumina data prepare notes.txt --to shards",
    "lumina data check": "lumina data check notes.txt",
    "lumina sweep": "lumina sweep grid.toml --dry-run",
    "lumina ledger import": "lumina ledger import FILE, which lumina ledger export wrote",
    "lumina rm": "lumina rm RUN, or lumina prune for all that ended long ago",
}
"""A line to go by, where something that is needed is missing."""

ABOUT = {
    "lumina config": "it shows, and changes nothing: the file that it names is for writing in",
    "lumina status": "about one run: lumina results RUN, or lumina logs RUN",
    "lumina costs": "by run: lumina status --all; by a key: lumina costs --by project",
    "lumina offers": "of one GPU: lumina offers --gpu 4090",
}
"""Where a verb is told more than it takes."""

NUMBERS = {"valid integer": "is not a whole number", "valid number": "is not a number"}


def error(found: Any) -> UsageError:
    """Return what typer found wrong with a line as an error of ours. `found` is a TyperException: it carries its own click."""
    return UsageError(_what(found), _instead(found))


def _what(found: Any) -> str:
    """Return what is wrong, with the option's name and the value that was typed."""
    message = str(found.format_message())
    options = [name for name in getattr(getattr(found, "param", None), "opts", ()) if name.startswith("-")]
    typed = next(((name, value) for name, value in pairwise(sys.argv) if name in options), None)
    if typed is None:
        return message
    plain = next((words for word, words in NUMBERS.items() if word in message), None)
    return f"{typed[0]} {typed[1]}: {message}" if plain is None else f"{typed[0]} is {typed[1]!r}, which {plain}"


def _instead(found: Any) -> str:
    """Return what to type: what was probably meant, and where everything of the verb is said."""
    ctx = getattr(found, "ctx", None)
    # Called as a module, or by a path, it is still typed as `lumina`.
    words = [] if ctx is None else str(ctx.command_path).split()[1:]
    verb = " ".join(["lumina", *words])
    lines = [f"{verb} --help"]
    missing = type(found).__name__ == "MissingParameter"
    if missing and verb in EXAMPLES:
        lines.insert(0, f"e.g. {EXAMPLES[verb]}")
    if verb in ABOUT and "extra argument" in str(found.format_message()):
        lines.insert(0, ABOUT[verb])
    unknown = str(getattr(found, "option_name", ""))
    if re.fullmatch(r"-[\d.]+", unknown):
        lines.insert(0, "an amount below 0 cannot be meant")
    has = set() if ctx is None else {name for param in ctx.command.params for name in param.opts}
    meant = next((option for option in MEANT.get(unknown, ()) if option.split()[0] in has), None)
    other = re.search(r"No such command '([^']*)'", str(found.format_message()))
    if meant is None and other is not None and not words and other[1] in VERBS:
        meant = f"lumina {VERBS[other[1]]}"
    if meant is not None:
        lines.insert(0, f"here that is {meant}")
    return "\n".join(lines)
