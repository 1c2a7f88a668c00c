"""Where text comes from: an iterator of documents, one string each, in an order that does not change.

`stdlib` is the Python standard library's own source, which is on every machine; a path is a file or folder of text, JSON lines
(field `text`), Parquet (column `text`) or source files; `hf:NAME:SUBSET` streams a Hugging Face dataset; a URL (`s3://...`) is
fetched by `fsspec` first. The files of a folder come in a mixed order, the same each time: the first tokens of it are a sample of all.
"""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TEXT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".tex", ".jsonl", ".parquet", ".html", ".css", ".xml", ".json", ".yaml", ".yml", ".toml", ".csv", ".tsv"}
    | {".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".jsx", ".ts", ".tsx", ".rb"}
    | {".php", ".pl", ".sh", ".sql", ".lua", ".swift", ".scala", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj"}
)
STDLIB_BYTES = 40 << 20
"""More of the standard library than this is not read."""
PIECE = 1 << 16
"""A longer text is handed on in pieces of about this many characters, cut at a line's end: no file has to fit into memory, and a
single long text can be shuffled and held out in part."""

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
    read = 0
    for path in _mixed(_stdlib_files()):
        for text in _pieces(path):
            read += len(text)
            if read > STDLIB_BYTES:
                return
            yield text


def _stdlib_files() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        if not any(part in _NOT_LIBRARY for part in path.relative_to(root).parts[:-1]):
            yield path


def _files(root: Path) -> Iterator[str]:
    paths = [root] if root.is_file() else _mixed(_below(root))
    for path in paths:
        match path.suffix.lower():
            case ".jsonl":
                yield from _json_lines(path)
            case ".parquet":
                yield from _parquet(path)
            case _:
                yield from _pieces(path)


def _mixed(paths: Iterable[Path]) -> list[Path]:
    """Return paths in an order that has nothing to do with their names, and is always the same."""
    listed = sorted(paths)
    Random(len(listed)).shuffle(listed)
    return listed


def n_bytes(source: str) -> int | None:
    """Return how many bytes of text a source holds, roughly; None where only reading it tells."""
    if source == "stdlib":
        return sum(path.stat().st_size for path in _stdlib_files())
    if source.startswith("hf:"):
        return None
    root = Path(source).expanduser()
    paths = [root] if root.is_file() else list(_below(root))
    # Parquet is compressed to about a third.
    return sum(path.stat().st_size * (3 if path.suffix.lower() == ".parquet" else 1) for path in paths)


def stored_bytes(source: str) -> int:
    """Return the size of a local source's files as they lie on disk: what an upload takes."""
    root = Path(source).expanduser()
    return sum(path.stat().st_size for path in ([root] if root.is_file() else _below(root)))


def fetched(source: str, folder: Path) -> str:
    """Return a source as a local one: what a URL names is copied below `folder` first. Raises DataError."""
    if "://" not in source:
        return source
    import fsspec

    target = folder / "data"
    try:
        if not target.exists():
            partial = folder / ".data.part"
            fs, path = fsspec.core.url_to_fs(source)
            if fs.isdir(path):
                fs.get(path.rstrip("/") + "/", str(partial) + "/", recursive=True)
            else:
                partial.mkdir(parents=True, exist_ok=True)
                fs.get_file(path, str(partial / Path(path).name))
            partial.rename(target)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"cannot fetch {source}: {error}") from error
    inside = list(target.iterdir())
    return str(inside[0] if len(inside) == 1 else target)


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
            text += handle.readline(PIECE)
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
    try:
        stream = datasets.load_dataset(name, subset or None, split="train", streaming=True)
    except Exception as error:
        raise DataError(f"{source} cannot be opened: {error}") from error
    for row in stream:
        text = row.get("text")
        if isinstance(text, str) and text.strip():
            yield text
