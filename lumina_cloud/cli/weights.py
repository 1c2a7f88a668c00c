"""`lumina weights`: a run's model for other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def weights(
    run: options.Run = "last",
    to: Annotated[str, typer.Option(help="A new folder.")] = ...,  # type: ignore[assignment]  # typer's sign for required
    dtype: Annotated[str, typer.Option(help="float32 (exact), bfloat16 or float16.")] = "float32",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's weights, config.json and tokenizer for transformers."""
    with output.errors_shown(as_json=json):
        from pathlib import Path

        from lumina_cloud.api.lumina import Lumina
        from lumina_cloud.core.errors import UsageError

        if dtype not in ("float32", "bfloat16", "float16"):
            raise UsageError(f"--dtype is float32, bfloat16 or float16, not {dtype!r}", "leave it out for the exact weights")
        with Lumina() as lumina:
            document = lumina.weights(run, Path(to).expanduser().absolute(), dtype=dtype)
        if json:
            output.emit(document)
        else:
            output.console().print(document.load, markup=False, highlight=False, soft_wrap=True)
            output.tell(f"next: read {document.path}/README.md, the model's card")
