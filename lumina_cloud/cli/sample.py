"""`lumina sample`: text from what a run learned."""

from __future__ import annotations

from typing import Annotated

import typer

from lumina_cloud.cli import options, output


def sample(
    run: options.Run = "last",
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = ...,  # type: ignore[assignment]  # typer's sign for required
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after so many tokens.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draws, above temperature 0.")] = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print what a run's model writes after a prompt."""
    with output.errors_shown(as_json=json):
        from lumina_cloud.api.lumina import Lumina

        with Lumina() as lumina:
            document = lumina.sample(run, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        if json:
            output.emit(document)
        else:
            output.console().print(document.text, markup=False, highlight=False, soft_wrap=True)
            output.tell(f"next: lumina weights {run} --to FOLDER")
