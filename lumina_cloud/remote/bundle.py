"""What is shipped to a machine: the trainer, its configuration, the supervisor, the data, and what an earlier rental left.

A bundle is a list of files with their sizes and SHA-256; only what the machine lacks is sent, and what arrived is verified there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core.errors import DataError, ProviderError
from lumina_cloud.remote import checkpoints, supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.remote.box import Box

_VERIFY_SECONDS = 600.0
_KEPT_STATE = ("metrics.jsonl", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True)
class Job:
    """How the supervisor is to run the trainer. Times are in seconds."""

    python: str
    seconds_cap: float
    grace_seconds: float
    linger_seconds: float
    seconds_off: float
    """From the supervisor's start; by then the machine switches itself off."""
    data: str | None = None
    init_from: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class File:
    """One file: where it is here, where it goes on the machine, and what it must be there."""

    source: Path
    target: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """Everything that goes onto the machine."""

    files: tuple[File, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes in all."""
        return sum(f.n_bytes for f in self.files)


def build(
    staging: Path,
    *,
    config_json: str,
    trainer: Path,
    data: Sequence[tuple[Path, str]],
    weights: Sequence[Path] = (),
    previous: Path | None,
    job: Job,
) -> Bundle:
    """Collect a bundle; `staging` is an empty folder for the small files that are made here.

    `data` are files with their names on the machine, below `data/`. `weights` are the files of a model that is trained further.
    `previous` is the folder of an earlier rental's results: its newest whole checkpoint goes along. Raises DataError when the
    data cannot be read.
    """
    checkpoint = checkpoints.newest(previous / "checkpoints") if previous is not None else None
    found = {"data": "data" if data else None, "init_from": "init" if weights else None, "resume": checkpoint is not None}
    job = Job(**{**asdict(job), **found})
    made = {"run.json": config_json, "job.json": json.dumps(asdict(job), indent=2)}
    for name, text in made.items():
        (staging / name).write_text(text, encoding="utf-8")
    pairs = [(staging / name, f"bundle/{name}") for name in made]
    pairs.append((Path(supervisor.__file__), "bundle/supervisor.py"))
    pairs += [
        (p, f"bundle/trainer/{p.relative_to(trainer).as_posix()}") for p in sorted(trainer.rglob("*")) if p.suffix in (".py", ".toml")
    ]
    pairs += data
    pairs += [(path, f"init/{path.name}") for path in weights]
    if checkpoint is not None and previous is not None:
        pairs += [(p, f"out/checkpoints/{checkpoint.name}/{p.relative_to(checkpoint).as_posix()}") for p in _plain_files(checkpoint)]
        pairs += [(previous / name, f"out/{name}") for name in _KEPT_STATE if (previous / name).is_file()]
    return Bundle(tuple(_described(source, target) for source, target in pairs))


def ship(box: Box, bundle: Bundle, *, python: str) -> None:
    """Send what the machine lacks, then have it hash everything. Raises ProviderError when a file did not arrive whole."""
    there = {entry.path: entry.n_bytes for folder in ("bundle", "data", "init", "out") for entry in box.listing(folder)}
    for file in bundle.files:
        if there.get(file.target) != file.n_bytes:
            box.put(file.source, file.target)
    wrong = _differing(box, bundle.files, python)
    for file in wrong:
        box.put(file.source, file.target)
    if wrong and (still := _differing(box, tuple(wrong), python)):
        raise ProviderError(f"{still[0].target} did not arrive whole on the machine", "lumina resume rents another one")


def _differing(box: Box, files: tuple[File, ...], python: str) -> list[File]:
    """Return the files whose hash on the machine is not ours."""
    box.write("bundle/manifest.json", json.dumps([[f.target, f.sha256] for f in files]).encode())
    box.write("bundle/verify.py", _VERIFY.encode())
    done = box.run([python, "bundle/verify.py", "bundle/manifest.json"], timeout=_VERIFY_SECONDS)
    if done.returncode != 0:
        raise ProviderError(f"the machine could not verify what was sent: {done.stderr.strip()[-300:]}")
    wrong = set(done.stdout.splitlines())
    return [f for f in files if f.target in wrong]


_VERIFY = """\
import hashlib, json, sys
for path, expected in json.load(open(sys.argv[1])):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        print(path)
"""


def _plain_files(folder: Path) -> list[Path]:
    """Return the files below a folder; links and hidden ones are left out."""
    hidden = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return sorted(p for p in hidden if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _described(source: Path, target: str) -> File:
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}", "make it readable, or leave it out of --data") from error
    return File(source, target, size, digest.hexdigest())
