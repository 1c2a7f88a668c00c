"""Text from a model: one token after the other, the most likely or drawn at a temperature.

Each block keeps the keys and values of what it has seen, a depth-routed one only of the tokens that entered it; so a new token costs one
token's pass, and a block that it skips costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trainer.attention import KeyValues

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.model import Model
    from trainer.tokenizer import Tokenizer


def sample(model: Model, tokenizer: Tokenizer, prompt: str, *, new_tokens: int, temperature: float, seed: int) -> str:
    """Return what the model writes after `prompt`, up to `new_tokens` tokens or the end token."""
    (ids,) = tokenizer.encode([prompt])
    end = tokenizer.special.end
    return tokenizer.decode(list(generate(model, ids or [end], end=end, new_tokens=new_tokens, temperature=temperature, seed=seed)))


def generate(model: Model, ids: list[int], *, end: int, new_tokens: int, temperature: float, seed: int) -> Iterator[int]:
    """Yield the ids of new tokens after `ids`; at temperature 0 the most likely ones. Stops before the end token."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    past = [KeyValues() for _ in range(model.config.n_layers)]
    new, start = ids, 0
    for _ in range(new_tokens):
        with torch.no_grad():
            logits = model.following(torch.tensor(new, device=device), start, past).float().cpu()
        start += len(new)
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        if token == end:
            return
        yield token
        new = [token]
