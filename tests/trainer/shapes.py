"""Small models for tests, one for each architecture and recipe, and with each option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trainer.config import ModelConfig, preset
from trainer.model import Model, initialise

VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dense": ("dense", "paper", {}),
    "moe": ("moe", "paper", {}),
    "mod-paper": ("mod", "paper", {}),
    "mod-published": ("mod", "published", {}),
    "hybrid-paper": ("hybrid", "paper", {}),
    "hybrid-published": ("hybrid", "published", {}),
    "dense-qk-norm": ("dense", "paper", {"qk_norm": True}),
    "moe-qk-norm": ("moe", "paper", {"qk_norm": True}),
    "moe-extras": ("moe", "paper", {"d_shared": 48, "balance_bias_rate": 0.01}),
    "hybrid-extras": ("hybrid", "paper", {"qk_norm": True, "d_shared": 48, "balance_bias_rate": 0.01}),
    "dense-untied": ("dense", "paper", {"tie_embeddings": False}),
}
PLAIN = ("dense", "moe", "mod-paper", "mod-published", "hybrid-paper", "hybrid-published")
ROUTED = ("mod-paper", "mod-published", "hybrid-paper", "hybrid-published")


def small(variant: str, **changed: Any) -> ModelConfig:
    """Return the `debug` shape with half its width and four layers."""
    arch, recipe, options = VARIANTS[variant]
    base = preset("debug", arch, recipe).model  # type: ignore[arg-type]
    shape = {"d_model": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "d_expert": 48, **options, **changed}
    return replace(base, **shape)


def built(config: ModelConfig, seed: int = 0) -> Model:
    """Return a model whose weights are large enough for its routing and attention to have a say, norms and biases included."""
    model = Model(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for buffer in model.buffers():
            buffer.copy_(torch.randint(-3, 4, buffer.shape, generator=generator))
    return model


def tokens(config: ModelConfig, batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids [batch, length]."""
    return torch.randint(3, config.vocab, (batch, length), generator=torch.Generator().manual_seed(seed))
