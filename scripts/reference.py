"""Writes the pages of docs/reference from the code: `make docs`. With `--check` it writes nothing and tells which would change.

The command line comes from typer's own writer, JSON from the documents' schemas, exit codes and configuration from their tables.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina_cloud.api import configuration
from lumina_cloud.api.documents import SCHEMA_VERSION, printed
from lumina_cloud.core import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.api.documents.root import Document

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
WRITTEN = "<!-- Written by `make docs` (scripts/reference.py). -->\n"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each file of the reference that is written, with what should be in it."""
    yield FOLDER / "commands.md", commands()
    yield FOLDER / "exit-codes.md", exit_codes()
    yield FOLDER / "configuration.md", configuration_page()
    yield FOLDER / "json.md", json_page()
    for document in printed.all_documents():
        yield FOLDER / "json" / f"{document.__name__}.json", json.dumps(schema(document), indent=1) + "\n"


# --- the command line ---------------------------------------------------------------------------------------------------


def commands() -> str:
    """Return every verb with its arguments and options."""
    writer = [Path(sys.executable).with_name("typer"), "lumina_cloud.cli.app", "utils", "docs", "--name", "lumina", "--title", "Commands"]
    done = subprocess.run(writer, capture_output=True, text=True, check=True, cwd=ROOT)
    text = html.unescape(done.stdout.replace("&lt;", "\\<"))
    return text.replace("\n", f"\n\n{WRITTEN}", 1).rstrip() + "\n"


# --- exit codes ---------------------------------------------------------------------------------------------------------


def exit_codes() -> str:
    """Return what each exit code says, with the kinds of error that end with it."""
    rows = []
    for code, text in errors.EXIT_CODES.items():
        kinds = sorted({kind.kind for kind in _kinds(errors.LuminaError) if kind.exit_code == code})
        rows.append(f"| {code} | {text} | {', '.join(f'`{kind}`' for kind in kinds)} |")
    return "\n".join([
        "# Exit codes\n",
        WRITTEN,
        "What `lumina` ends with. With `--json` an error is one line on standard error, and `error.kind` in it is one of these kinds.\n",
        "| code | means | kinds of error |",
        "| --- | --- | --- |",
        *rows,
        "",
        "`lumina audit` ends with 1 when it has findings. `lumina ssh RUN -- COMMAND` ends with the command's own code.",
        "",
    ])  # fmt: skip


def _kinds(root: type[errors.LuminaError]) -> Iterator[type[errors.LuminaError]]:
    yield root
    for one in root.__subclasses__():
        yield from _kinds(one)


# --- configuration ------------------------------------------------------------------------------------------------------


def configuration_page() -> str:
    """Return each setting, and where it can be set."""
    rows = [
        f"| `{one.name}` | {one.what} | {' or '.join(f'`{v}`' for v in (one.flag, *one.variables) if v)} | "
        f"{f'`{one.in_file}`' if one.section and one.section != '[prices]' else '`[[prices]]`' if one.section else ''} | {one.default} |"
        for one in configuration.KNOWN
    ]
    return "\n".join([
        "# Configuration\n",
        WRITTEN,
        "`lumina config` shows each setting with its value and where that comes from. The first of these that holds one wins: a flag,",
        "the environment, `config.toml` in `LUMINA_HOME`, the default. Keys of clouds are read from where the clouds' own tools keep",
        "them ([the clouds](../clouds.md)), and are never shown, kept or sent anywhere else.\n",
        "| setting | what it is | flag, environment | `config.toml` | default |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ])  # fmt: skip


# --- JSON ---------------------------------------------------------------------------------------------------------------


def json_page() -> str:
    """Return which document each verb prints, and the keys of all of them."""
    verbs = [f"| `lumina {verb}` | {', '.join(map(_link, documents))} |" for verb, documents in printed.PRINTED.items()]
    parts = [
        "# JSON\n",
        WRITTEN,
        "With `--json` a verb prints one document on one line of standard output (`logs` one a line of the log). Progress and questions",
        "go to standard error, and so does an error, as an [ErrorDocument](#errordocument).\n",
        "Money is a decimal string of dollars, a time is ISO 8601 in UTC, memory is GiB (2^30 bytes). What is not known is `null`.\n",
        f"Every document begins with `schema_version`, now {SCHEMA_VERSION}, which rises when a key goes or changes its meaning.",
        "New keys come without that: pass over those that you do not know. The documents of `lumina sandbox` have none: their keys",
        "stay as they are. `lumina estimate` and `lumina ledger export` print JSON lines of their own, which their `--help` describes.\n",
        "| verb | documents |",
        "| --- | --- |",
        *verbs,
    ]
    for document in printed.all_documents():
        parts += ["", *_described(document)]
    return "\n".join(parts) + "\n"


def _link(document: type[Document]) -> str:
    return f"[{document.__name__}](#{document.__name__.lower()})"


def _described(document: type[Document]) -> list[str]:
    """Return a document's section: its keys, and those of its parts."""
    made = schema(document)
    lines = [
        f"## {document.__name__}\n",
        f"{made.get('description', '')} Schema: [{document.__name__}.json](json/{document.__name__}.json).\n",
    ]
    lines += _keys(made)
    for name, part in made.get("$defs", {}).items():
        lines += ["", f"**{name}**: {_one_line(part.get('description', ''))}\n", *_keys(part)]
    return lines


def _keys(part: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{name}` | {_type(of)} | {_one_line(of.get('description', ''))} |" for name, of in part.get("properties", {}).items()
    ]  # fmt: skip
    return ["| key | type | |", "| --- | --- | --- |", *rows]


def _type(of: dict[str, Any]) -> str:
    """Return a schema's type in a word or two."""
    if "$ref" in of:
        return str(of["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(_type(one) for one in of["anyOf"]))
    if "enum" in of:
        return " or ".join(f"`{one}`" for one in of["enum"])
    if of.get("type") == "array":
        inner = of.get("items") or {}
        return f"list of {_type(inner)}" if inner else "list"
    if of.get("type") == "object" and isinstance(of.get("additionalProperties"), dict):
        return f"object of {_type(of['additionalProperties'])}"
    return str(of.get("type", "any"))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def schema(document: type[Document]) -> dict[str, Any]:
    """Return a document's JSON schema with what the code says below each field as its description."""
    made = printed.json_schema(document)
    for name, of in {document.__name__: made, **made.get("$defs", {})}.items():
        for key, text in _said_below(_class_named(document, name)).items():
            of["properties"][key]["description"] = text
    return made


def _class_named(document: type[Document], name: str) -> type[Document]:
    return document if name == document.__name__ else _parts(document)[name]


def _parts(document: type[Document]) -> dict[str, Any]:
    spaces = [vars(sys.modules[base.__module__]) for base in document.__mro__ if base.__module__.startswith("lumina_cloud")]
    return {name: value for space in reversed(spaces) for name, value in space.items()}


def _said_below(of: type[Document]) -> dict[str, str]:
    """Return the texts below the fields of a class and of what it is made from."""
    found: dict[str, str] = {}
    for base in reversed([one for one in of.__mro__ if one.__module__.startswith("lumina_cloud")]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
                found[field.target.id] = " ".join(text.split())
    return found


def main() -> None:
    """Write all pages, or with `--check` name those that are not what they should be."""
    wanted = dict(pages())
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    extra = [path for path in (FOLDER / "json").glob("*.json") if path not in wanted]
    if "--check" in sys.argv:
        for path in (*stale, *extra):
            sys.stderr.write(f"{path.relative_to(ROOT)} is not what the code says: make docs\n")
        sys.exit(1 if stale or extra else 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    for path in extra:
        path.unlink()


if __name__ == "__main__":
    main()
