"""What a run learned, used here: text from it, and its weights for other programs.

The trainer does both, in a process of its own: this side needs no torch. Of what came home from the rented machine only tensors and
JSON are read; nothing is unpickled or executed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud.core import untrusted
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import DiskError, LuminaError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.ledger import Ledger, RunRecord


def sample(folder: Path, prompt: str, *, max_new_tokens: int, temperature: float, seed: int) -> str:
    """Return what the model in `folder` writes after `prompt`. Raises UsageError or RefusedError."""
    options = [f"--max-new-tokens={max_new_tokens}", f"--temperature={temperature}", f"--seed={seed}"]
    return untrusted.block(_trainer(["sample", str(folder), f"--prompt={prompt}", *options]).removesuffix("\n"), max_lines=10_000)


def export(folder: Path, target: Path, *, dtype: str) -> str:
    """Write the model in `folder` for `transformers` into `target`, and return how to load it. Raises UsageError or RefusedError."""
    return _trainer(["export", str(folder), f"--to={target}", f"--dtype={dtype}"]).strip()


def describe(ledger: Ledger, folder: Path, target: Path, load: str) -> None:
    """Write the card of a model that was exported from `folder` into `target`. Raises DiskError."""
    from lumina_cloud.api import model_cards

    try:
        (target / model_cards.NAME).write_text(model_cards.card(ledger, folder, load), encoding="utf-8")
    except OSError as error:
        raise DiskError(
            f"the model's card cannot be written into {target}: {error.strerror}", "free some disk, then export again"
        ) from error


def folder_of(run: RunRecord) -> Path:
    """Return a run's results folder. Raises UsageError while it holds no weights."""
    folder = Path(run.folder)
    if (folder / "model.safetensors").is_file() or any((folder / "checkpoints").glob("step-*/model.safetensors")):
        return folder
    hint = f"lumina status shows how far it is; lumina logs {run.run_id}" if run.ended_at is None else f"lumina resume {run.run_id}"
    raise UsageError(f"run {run.run_id} is {run.state} and has left no weights yet", hint)


def _trainer(arguments: Sequence[str]) -> str:
    missing = [name for name in ("torch", "safetensors", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(f"this needs {' and '.join(missing)}, not installed for {sys.executable}", "pip install 'lumina-cloud[trainer]'")
    with edge("trainer.run"):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return done.stdout
    said = untrusted.block(done.stderr.strip().removeprefix("error: "), max_lines=20)
    if done.returncode == 2:
        raise UsageError(said, "")
    raise LuminaError(f"the trainer failed: {said[-2000:]}")
