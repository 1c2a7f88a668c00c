"""`torch.compile` of the model, and the proof that it computes what the model says.

A compiler's mistake is silent: torch 2.11 lost the gradient of every autograd function whose forward pass ended in place, and trained
on without a word. So before a run trusts its compiler, a small model of the same architecture goes through it beside itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from trainer.model import Model, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.config import ModelConfig, RunConfig

TOLERANCE = 1e-2
"""Relative difference of gradients in fp32 that is still taken for rounding; it is some 1e-6 where the compiler is right."""
_LENGTH, _ROWS = 64, 2


def compiles(config: RunConfig) -> bool:
    """Whether the model is to be compiled."""
    layout = config.layout
    return layout.compile == "on" or (layout.compile == "auto" and config.device == "cuda" and layout.zero_stage < 3)


def checked(config: RunConfig, say: Callable[[str], None], backend: Any = "inductor") -> RunConfig:
    """Return a configuration that compiles only where the compiler is right about a small model of the architecture; say so if not."""
    if not compiles(config):
        return config
    difference = gradient_difference(config.model, config.device, backend)
    torch._dynamo.reset()
    if difference <= TOLERANCE:
        return config
    say(f"torch {torch.__version__} compiles this model wrongly (gradients off by {difference:.0%}): training goes on uncompiled")
    return replace(config, layout=replace(config.layout, compile="off"))


def compile_model(model: Model, backend: Any = "inductor") -> None:
    """Compile a model in place. A part that cannot be compiled, for want of a C++ compiler or of support, runs as it is."""
    torch._dynamo.config.suppress_errors = True
    model.compile(dynamic=False, backend=backend)


def gradient_difference(config: ModelConfig, device: str, backend: Any = "inductor") -> float:
    """Return by how much the gradient of a small fp32 model of an architecture differs when it is compiled, relative to its length.

    The largest of its parameters' differences; not a number when one of the gradients is not.
    """
    model = Model(_small(config))
    initialise(model, 0)
    model.to(device)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, model.config.vocab, (_ROWS, _LENGTH), generator=generator).to(device)
    plain = _gradients(model, tokens)
    compile_model(model, backend)
    compiled = _gradients(model, tokens)
    found = [((b - a).norm() / a.norm().clamp(min=1e-12)) for a, b in zip(plain, compiled, strict=True)]
    return float(torch.stack(found).max())


def _small(config: ModelConfig) -> ModelConfig:
    """Return two narrow blocks of the same parts, one of them depth-routed where the architecture has such."""
    grouped = config.n_kv_heads < config.n_heads
    narrow = {"vocab": 256, "d_model": 128, "n_layers": 2, "mod_every": 2, "n_heads": 4, "n_kv_heads": 2 if grouped else 4}
    experts = {"n_experts": min(config.n_experts, 4), "top_k": min(config.top_k, 2), "d_shared": min(config.d_shared, 64)}
    return replace(config, **narrow, **experts, d_ff=128, d_expert=64, d_predictor=16)


def _gradients(model: Model, tokens: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss, auxiliary, _ = model(tokens, tokens.roll(-1, 1))
    (loss + auxiliary).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]
