"""Text from a model: one token after the other, the most likely or drawn at a temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trainer import tokenizer as tokenizers

if TYPE_CHECKING:
    from trainer.model import Model
    from trainer.tokenizer import Tokenizer


@torch.no_grad()
def sample(model: Model, tokenizer: Tokenizer, prompt: str, *, new_tokens: int, temperature: float, seed: int, context: int) -> str:
    """Return what the model writes after `prompt`; at most `context` tokens are looked back at."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    (ids,) = tokenizer.encode([prompt])
    ids = ids or [tokenizers.END]
    written: list[int] = []
    for _ in range(new_tokens):
        window = torch.tensor([(ids + written)[-context:]], device=device)
        logits = model.logits(window)[0].float().cpu()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        if token == tokenizers.END:
            break
        written.append(token)
    return tokenizer.decode(written)
