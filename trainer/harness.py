"""Tasks of lm-eval (EleutherAI's harness, an extra) on a model of ours, by way of its export for `transformers`."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from trainer.config import ConfigError
from trainer.export import export

if TYPE_CHECKING:
    from pathlib import Path


def evaluate(checkpoint: Path, tasks: list[str], limit: int | None) -> dict[str, Any]:
    """Return lm-eval's results by task. Raises ConfigError when it is not installed, DataError for a folder without a model."""
    try:
        import lm_eval
    except ImportError:
        raise ConfigError("tasks", ",".join(tasks), "lm-eval is not installed", "pip install 'lumina-cloud[eval]'") from None
    with tempfile.TemporaryDirectory() as folder:
        from pathlib import Path

        exported = Path(folder, "model")
        export(checkpoint, exported, dtype="float32")
        arguments = {"pretrained": str(exported), "trust_remote_code": True, "dtype": "float32"}
        found = lm_eval.simple_evaluate(model="hf", model_args=arguments, tasks=tasks, limit=limit)
    results: dict[str, Any] = found["results"]
    return results
