"""Where text comes from: an iterator of documents, one string each, in an order that does not change.

`stdlib` is the Python standard library's own source, which is on every machine; a path is a file or folder of text, JSON lines
(field `text`), Parquet (column `text`) or source files; `hf:NAME:SUBSET` streams a Hugging Face dataset.
"""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".tex", ".jsonl", ".parquet", ".html", ".css", ".xml", ".json", ".yaml", ".yml", ".toml", ".csv", ".tsv"}
    | {".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".jsx", ".ts", ".tsx", ".rb"}
    | {".php", ".pl", ".sh", ".sql", ".lua", ".swift", ".scala", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj"}
)
STDLIB_BYTES = 40 << 20
"""More of the standard library than this is not read."""
PIECE = 1 << 20
"""A longer text is handed on in pieces of this many characters, so that no file has to fit into memory as tokens."""

_NOT_LIBRARY = ("site-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip", "__pycache__", "turtledemo")


def documents(source: str) -> Iterator[str]:
    """Yield the documents of a source. Raises DataError when there is none."""
    if source == "stdlib":
        return _stdlib()
    if source.startswith("hf:"):
        return _hugging_face(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"no data at {source!r}")
    return _files(path)


def _stdlib() -> Iterator[str]:
    root, read = Path(sysconfig.get_path("stdlib")), 0
    for path in sorted(root.rglob("*.py")):
        if any(part in _NOT_LIBRARY for part in path.relative_to(root).parts[:-1]):
            continue
        text = _text(path)
        read += len(text)
        if read > STDLIB_BYTES:
            return
        if text.strip():
            yield text


def _files(root: Path) -> Iterator[str]:
    paths = [root] if root.is_file() else _below(root)
    for path in paths:
        match path.suffix.lower():
            case ".jsonl":
                yield from _json_lines(path)
            case ".parquet":
                yield from _parquet(path)
            case _:
                yield from _pieces(path)


def _below(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in TEXT_SUFFIXES and path.is_file() and not path.is_symlink():
                yield path


def _pieces(path: Path) -> Iterator[str]:
    with path.open("rb") as probe:
        if b"\0" in probe.read(4096):
            return
    with path.open(encoding="utf-8", errors="replace") as handle:
        while text := handle.read(PIECE):
            if text.strip():
                yield text


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DataError(f"{path} line {number} is no JSON object with a field 'text'") from None
            if isinstance(text, str) and text.strip():
                yield text


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise DataError(f"{path} has no column 'text', but {', '.join(file.schema_arrow.names[:8])}")
        for batch in file.iter_batches(columns=["text"], batch_size=1024):
            yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str) and text.strip())
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable Parquet file: {error}") from error


def _hugging_face(source: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise DataError(f"streaming {source} needs the package datasets: pip install 'lumina-cloud[hf]'") from None
    _, _, rest = source.partition(":")
    name, _, subset = rest.partition(":")
    stream = datasets.load_dataset(name, subset or None, split="train", streaming=True)
    for row in stream:
        text = row.get("text")
        if isinstance(text, str) and text.strip():
            yield text


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
