"""`python -m trainer.architectures` prints docs/architectures.md: each architecture, with figures counted from the code.

Parameters and FLOPs come from `trainer.config`; what is kept for the backward pass is counted on a model without storage.
"""

from __future__ import annotations

import math

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.config import ARCHS, MODELS, Arch, ModelConfig, Recipe, count_flops, count_parameters, preset
from trainer.model import Model

SEQ_LEN = 2048
STATE_BYTES = 16
"""A parameter in bf16 training with AdamW: weight 2, gradient 2, fp32 copy 4, two moments 8 (Rajbhandari et al. 2020)."""


def kept_bytes(config: ModelConfig, seq_len: int = SEQ_LEN) -> float:
    """Return the bytes per token that a bf16 forward pass keeps for the backward pass, weights left out."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        # Fake tensors of a CPU rather than of no device: attention is then the kind that never writes its scores.
        with FakeTensorMode():
            return _kept(Model(config), torch.zeros(1, seq_len, dtype=torch.int64)) / seq_len
    finally:
        torch.set_default_dtype(previous)


def _kept(model: Model, tokens: torch.Tensor) -> float:
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _, _ = model(tokens, tokens)
    # The head's gradient of the weight is no activation: it exists once whatever the batch.
    head = model.vocabulary.embedding.numel() * torch.bfloat16.itemsize
    total = sum(size for _, size in kept.values()) - head
    del loss
    return total


def _figures(variants: list[tuple[str, Arch, Recipe]]) -> list[str]:
    lines = [
        "| model | parameters | active | GFLOPs a token, training | of dense | states, GiB | kept a token, KiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in MODELS:
        dense = count_flops(preset(model, "dense").model, SEQ_LEN).train
        for label, arch, recipe in variants:
            config = preset(model, arch, recipe).model
            counted, flops = count_parameters(config), count_flops(config, SEQ_LEN).train
            lines.append(
                f"| {model}{label} | {_short(counted.total)} | {_short(counted.active)} | {flops / 1e9:.3g} | {flops / dense:.0%} | "
                f"{STATE_BYTES * counted.total / 2**30:.3g} | {kept_bytes(config) / 1024:,.0f} |"
            )
    return lines


def _short(count: float) -> str:
    unit = min(3, int(math.log10(count)) // 3)
    return f"{count / 1000**unit:.3g}{['', 'k', 'M', 'B'][unit]}"


INTRODUCTION = f"""\
# The four architectures

<!-- Made by `python -m trainer.architectures > docs/architectures.md`: change the program, not this page. -->

All four are one decoder: a token's vector passes through blocks of attention and feed-forward, each behind a norm and added to the
residual stream. They differ in what a block's feed-forward part is, and in whether every token goes through every block.

Figures below are counted from the code, at sequences of {SEQ_LEN:,} tokens. *Active* are the parameters that one token meets. *States* are
weights, gradients and AdamW's moments in bf16 training ({STATE_BYTES} bytes a parameter). *Kept* is what one token leaves in memory between
forward and backward pass when nothing is recomputed. FLOPs are forward and backward; attention is counted without its causal half
taken off, as torch's counter does.
"""

PAGES: dict[Arch, str] = {
    "dense": """\
## Dense

```
x ──┬─ RMSNorm ─ attention ─(+)──┬─ RMSNorm ─ SwiGLU ─(+)── x'
    └───────────────────────┘    └─────────────────────┘
```

    q, k, v = rotate(Wq x), rotate(Wk x), Wv x           RoPE on queries and keys; several query heads share a key-value head
    attention = Wo softmax(q kᵀ / √d, causal) v
    SwiGLU(x) = Wdown (silu(Wgate x) ⊙ Wup x)
    loss = mean of -log softmax(Whead norm(x))[next token]

This is Llama, weight for weight: it is exported as `LlamaForCausalLM` (with QK-norm as `Qwen3ForCausalLM`). Queries, keys and values are
one matrix here, gate and up another; the head's gradient is taken chunk by chunk while the logits are there, so they never exist whole.

**Choose it** when in doubt. It is the best understood, every tool runs it, and nothing about it has to be tuned.

Sources: Touvron et al. 2023 (arXiv 2302.13971); RoPE, Su et al. 2021 (2104.09864); grouped queries, Ainslie et al. 2023 (2305.13245);
SwiGLU, Shazeer 2020 (2002.05202); RMSNorm, Zhang and Sennrich 2019 (1910.07467).
""",
    "moe": """\
## Mixture of experts (moe)

```
            ┌─ expert 1 ─┐
x ─ router ─┼─ expert 4 ─┼─ weighted sum        2 of 8, chosen for each token
            └─ (others)  ┘
```

    p = softmax(Wr x);  top = the k largest of p;  w = p[top] / Σ p[top]
    y = Σ over top of w_e · SwiGLU_e(x)
    balance = E · Σ_e f_e P_e        f_e: share of assignments, P_e: mean of p_e; 1 when even
    z = mean of logsumexp(Wr x)²
    loss = language model + 0.01 · balance + 0.001 · z

Tokens are sorted by expert and multiplied group by group (`grouped_mm`), so none is dropped and nothing is padded; how many tokens an
expert gets is never read back to the host. Two experts of half the width cost what the dense twin's block costs. Exported as
`MixtralForCausalLM` (with QK-norm as `Qwen3MoeForCausalLM`).

**Choose it** when memory is there and compute is what you pay for: more parameters at the same FLOPs a token. It needs the memory of all
experts, in training and after it.

Options: `balance_bias_rate` balances by a bias that votes move, without a loss (Wang et al. 2024, 2408.15664); `d_shared` adds an expert
that every token meets (DeepSeekMoE, 2401.06066). Either makes the export a model of our own code.

Sources: Switch Transformer, Fedus et al. 2021 (2101.03961), equations 4 to 6; ST-MoE, Zoph et al. 2022 (2202.08906), equation 5;
Mixtral, Jiang et al. 2024 (2401.04088).
""",
    "mod": """\
## Mixture of depths (mod)

```
          ┌─ chosen tokens ─ block ─ · gate ─┐
x ─ router┤                                  (+)─ x'
          └─ all others, untouched ──────────┘
```

    s = wr·x for each token;  chosen = the C largest s of the sequence, C = capacity · T
    x'_t = x_t + sigmoid(s_t) · (block(x)_t - x_t)     for chosen t, at their own positions;   x'_t = x_t otherwise
    predictor: chosen_t from x_t alone, trained on a detached input (cross entropy, weight 0.1)

The choice of the best looks at later tokens, which a model that writes doesn't have. So the predictor decides in evaluation and sampling:
**the loss that is reported is the causal one.** Tokens that are not chosen are not computed.

Two recipes. `paper`, the default: every second block is routed, 12.5 % of the tokens enter. `published`: every block, 50 % (b1 60 %), as
the benchmark that this project starts from says. `lumina plan --arch mod` shows both, `--recipe published` takes the second.

**Choose it** when a given loss should cost less compute, and an export with its own code (`trust_remote_code`) is no obstacle. Prefer
`paper`: routing every block trained clearly worse where it was tried.

Source: Raposo et al. 2024 (arXiv 2404.02258).
""",
    "hybrid": """\
## Hybrid

Depth-routed blocks as in *mod*, feed-forward parts that are mixtures of experts as in *moe*: an expert of a routed block sees only the
tokens that entered it. Both losses and both recipes apply.

**Choose it** for the most parameters at the least compute, when you have the memory of all experts and can watch two kinds of routing:
look at `skip_rate`, `expert_utilisation` and `load_balance` in the metrics.

Sources: as for *moe* and *mod* (there, section 4.3).
""",
}

VARIANTS: dict[Arch, list[tuple[str, Arch, Recipe]]] = {
    "dense": [("", "dense", "paper")],
    "moe": [("", "moe", "paper")],
    "mod": [(", paper", "mod", "paper"), (", published", "mod", "published")],
    "hybrid": [(", paper", "hybrid", "paper"), (", published", "hybrid", "published")],
}

LEARNING_RATES = """\
## Learning rates

Peak of a linear warm-up and cosine decay; AdamW, weight decay on matrices only. Weights start normal with deviation 0.02, projections into
the residual stream by 1/√(2 · layers) smaller (GPT-2).

| model | peak | source |
| --- | ---: | --- |"""

SOURCES = {
    "debug": "a grid on our own text",
    "debug200m": "GPT-3's table for its neighbour of 125M (Brown et al. 2020, 2005.14165, table 2.1)",
    "b1": "TinyLlama 1.1B (Zhang et al. 2024, 2401.02385)",
    "b7": "Llama 2 7B (Touvron et al. 2023, 2307.09288)",
    "fine-tuning (`--init-from`)": "Llama 2's supervised fine-tuning (the same, section 3.1)",
}


def page() -> str:
    """Return docs/architectures.md."""
    parts = [INTRODUCTION]
    for arch in ARCHS:
        parts += [PAGES[arch], *_figures(VARIANTS[arch]), ""]
    parts.append(LEARNING_RATES)
    for model, source in SOURCES.items():
        rate = preset(model, "dense").training.lr if model in MODELS else 2e-5
        parts.append(f"| {model} | {rate:.0e} | {source} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
