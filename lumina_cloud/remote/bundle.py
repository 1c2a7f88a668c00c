"""What is shipped to a machine: the trainer, its configuration, the supervisor, the data, and what an earlier rental left.

A bundle is a list of files with their sizes and SHA-256; only what the machine lacks is sent, and what arrived is verified there.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import DataError, ProviderError
from lumina_cloud.remote import checkpoints, supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.remote.box import Box

_VERIFY_SECONDS = 600.0
_UNPACK_SECONDS = 120.0
_SMALL = 4 << 20
"""Files up to this size travel together."""

Progress = Callable[[int, int], None]
"""Hears how many bytes of how many have been sent."""
_KEPT_STATE = ("metrics.jsonl", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@dataclass(frozen=True)
class Job:
    """How the supervisor is to run the trainer. Times are in seconds."""

    seconds_cap: float
    grace_seconds: float
    linger_seconds: float
    seconds_off: float
    """From the supervisor's start; by then this computer switches its machine off. A rented one is ended by its guard."""
    power_off_file: str | None = None
    """What switches the machine off when it appears; None on a rented one, where the guard ends the rental."""
    processes: int = 1
    """Of the trainer: one a GPU."""
    store: str | None = None
    """Object storage that the trainer keeps checkpoints and results in too."""
    secrets_file: str | None = None
    """Variables for the trainer alone; read once, and removed."""
    data: str | None = None
    init_from: str | None = None
    resume: bool = False

    def to_json(self) -> str:
        """Return what the supervisor reads, `bundle/job.json` on the machine."""
        return json.dumps(asdict(self), indent=2)


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
    job: Job
    """As it is among the files: with what was found to send."""

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
    made = {"run.json": config_json, "job.json": job.to_json()}
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
    return Bundle(tuple(_described(source, target) for source, target in pairs), job)


def ship(box: Box, bundle: Bundle, *, python: Sequence[str], progress: Progress = lambda _done, _total: None) -> None:
    """Send what the machine lacks, then have it hash everything. Raises ProviderError when a file did not arrive whole.

    Small files travel as one archive that is named by its content, so that a second attempt finds it there.
    """
    there = {entry.path: entry.n_bytes for folder in ("bundle", "data", "init", "out") for entry in box.listing(folder)}
    lacking = [f for f in bundle.files if there.get(f.target) != f.n_bytes]
    small = [f for f in lacking if f.n_bytes <= _SMALL]
    if small:
        _send_packed(box, small)
    done = sum(f.n_bytes for f in bundle.files) - sum(f.n_bytes for f in lacking if f.n_bytes > _SMALL)
    for file in lacking:
        if file.n_bytes > _SMALL:
            progress(done, bundle.n_bytes)
            box.put(file.source, file.target)
            done += file.n_bytes
    progress(bundle.n_bytes, bundle.n_bytes)
    wrong = _differing(box, bundle.files, python)
    for file in wrong:
        box.put(file.source, file.target)
    if wrong and (still := _differing(box, tuple(wrong), python)):
        raise ProviderError(f"{still[0].target} did not arrive whole on the machine", "lumina resume rents another one")


def _send_packed(box: Box, files: Sequence[File]) -> None:
    """Send files as one archive and unpack it there."""
    with tempfile.TemporaryDirectory(prefix="lumina-pack-") as folder:
        packed = pack(files, Path(folder))
        name = f"bundle/{packed.name}"
        box.put(packed, name)
    done = box.run(["tar", "-xf", name], timeout=_UNPACK_SECONDS)
    if done.returncode != 0:
        raise ProviderError(
            f"the machine could not unpack what was sent: {untrusted.line(done.stderr.strip(), 300)}", "its disk may be full"
        )


def pack(files: Sequence[File], folder: Path) -> Path:
    """Write files into an archive in `folder` that is named after the SHA-256 of its content. The same files give the same bytes."""
    staged = folder / "pack.tar"
    with tarfile.open(staged, "w", format=tarfile.GNU_FORMAT) as archive:
        for file in sorted(files, key=lambda f: f.target):
            entry = tarfile.TarInfo(file.target)
            entry.size, entry.mode = file.n_bytes, 0o600
            with file.source.open("rb") as handle:
                archive.addfile(entry, handle)
    with staged.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    target = folder / f"{digest[:32]}.tar"
    staged.rename(target)
    return target


def _differing(box: Box, files: tuple[File, ...], python: Sequence[str]) -> list[File]:
    """Return the files whose hash on the machine is not ours."""
    box.write("bundle/manifest.json", json.dumps([[f.target, f.sha256] for f in files]).encode())
    box.write("bundle/verify.py", _VERIFY.encode())
    done = box.run([*python, "bundle/verify.py", "bundle/manifest.json"], timeout=_VERIFY_SECONDS)
    if done.returncode != 0:
        raise ProviderError(f"the machine could not verify what was sent: {untrusted.line(done.stderr.strip(), 300)}")
    wrong = set(done.stdout.splitlines())
    return [f for f in files if f.target in wrong]


_VERIFY = """\
import hashlib, json, sys
for path, expected in json.load(open(sys.argv[1])):
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            for chunk in iter(lambda: handle.read(1 << 20), b""):
                digest.update(chunk)
    except OSError:
        pass
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
