"""What validation loss to expect: the law of Muennighoff et al. 2023 for repeated data, with its honest width.

`L = E + A / N'^alpha + B / D'^beta`, nats per token, with D' unique tokens U and their repetitions R = epochs - 1 worth less and
less: `D' = U + U R* (1 - exp(-R / R*))`, and N' likewise. Constants from the authors' code (huggingface/datablations); fitted on
C4 with GPT-2's tokenizer, so per token of about four bytes. The authors warn that absolute values are of little use.

What it cannot know: the user's own text, the tokenizer trained on it, the learning rate. So the interval is wide; and below the
size or the vocabulary of the fit there is no law to lean on, only the two ends that are certain.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lumina_cloud.planner.estimate import Interval
from trainer.config import count_flops, count_parameters

if TYPE_CHECKING:
    from trainer.config import RunConfig

E, A, B, ALPHA = math.exp(0.6254804), math.exp(6.255414), math.exp(7.3049974), 0.3526596
"""alpha = beta in the authors' fit."""
R_DATA, R_PARAMETERS = 15.387756, 5.309743

OFFSET_LOW, OFFSET, OFFSET_HIGH = -0.10, 0.12, 0.40
"""Added to the law. Real runs lie above it: 124M parameters on 10^10 tokens of FineWeb end at 3.27 to 3.29, the law says 3.04."""

FITTED_PARAMETERS = 5e6
FITTED_VOCAB = 8_000
"""Smaller models and vocabularies are outside of the fit."""

EXPERT_GAIN = 8**-0.074
"""Factor on what is reducible, 8 experts against one, at best: a refit of public MoE runs as P^-0.199 E^-0.074
(Scaling Law Discovery; R^2 0.83). At worst experts gain nothing."""

CREDIT_BETWEEN, CREDIT_EVERYWHERE = 0.75, 0.0
"""Where a depth-routed model is expected between those two ends, 1 being as good as dense token by token. Our own study (docs/study.md, 1 M
parameters, 3 seeds): routed in every second block its loss was not told apart from dense at equal tokens; in every block it took twice
the tokens for dense's loss, which is all that its FLOPs had saved. One size and one text: the first is not taken in full."""

UNFITTED_SHARE = (0.25, 0.50, 1.0)
"""Outside of the fit: low, mid and high as shares of ln(vocabulary), which is what knowing nothing costs."""


def is_fitted(config: RunConfig) -> bool:
    """Whether the law was fitted on models of that size with a vocabulary of that kind."""
    return config.model.vocab >= FITTED_VOCAB and count_parameters(config.model).active >= FITTED_PARAMETERS


def loss(config: RunConfig) -> Interval:
    """Estimate the final validation loss in nats per token, never above ln(vocabulary)."""
    ceiling = math.log(config.model.vocab)
    if not is_fitted(config):
        return Interval(*(share * ceiling for share in UNFITTED_SHARE))
    tokens = float(config.training.tokens)
    # Raposo et al. 2024: depth routing reaches the loss of a dense model of equal training FLOPs. So per token it is as good as
    # dense at best, and at worst as dense after as many tokens as its FLOPs would have bought.
    worth = _depth_share(config)
    best, worst = _law(config, tokens), _law(config, tokens * worth)
    gain = EXPERT_GAIN if config.model.has_experts else 1.0
    low = E + gain * (best - E) + OFFSET_LOW
    credit = _depth_credit(config)
    mid = E + (1 + gain) / 2 * (credit * best + (1 - credit) * worst - E) + OFFSET
    high = worst + OFFSET_HIGH
    # Few tokens teach little: the law explodes there, but no model is worse than one that guesses evenly.
    return Interval(min(low, 0.9 * ceiling), min(mid, 0.95 * ceiling), min(high, ceiling))


def derivation(config: RunConfig) -> list[str]:
    """Return how the loss came about, and what it cannot know, line by line."""
    training, ceiling = config.training, math.log(config.model.vocab)
    n, tokens = float(count_parameters(config.model).active), float(training.tokens)
    unknown = "it cannot know: how clean the text is, the tokenizer trained on it, the learning rate, luck of the seed"
    if not is_fitted(config):
        return [
            f"loss: no law was fitted to {n:,.0f} parameters with a vocabulary of {config.model.vocab:,}; all that is certain is that it "
            f"starts at ln(vocabulary) = {ceiling:.3f} and ends above 0",
            unknown,
        ]
    unique = min(float(training.unique_tokens), tokens)
    worth = _worth(unique, tokens / unique - 1, R_DATA)
    out = [
        f"loss law: {E:.4f} + {A:.1f} / N^{ALPHA:.4f} + {B:.1f} / D^{ALPHA:.4f} = {_law(config, tokens):.3f} nats a token for "
        f"N = {n:,.0f} active parameters, D = {tokens:,.0f} tokens  [Muennighoff et al. 2023; fitted on C4, GPT-2's tokenizer]",
        f"{tokens / unique:.3g} epochs: {tokens:,.0f} tokens, {unique:,.0f} of them different, are worth {worth:,.0f} new ones  "
        f"[R* = {R_DATA:g}, the same]",
        f"real runs lie {OFFSET_LOW:+.2f} to {OFFSET_HIGH:+.2f} from the law, {OFFSET:+.2f} is taken  "
        "[124M parameters: 3.28 after 10^10 tokens of FineWeb (llm.c, modded-nanogpt); the law says 3.04]",
    ]
    if config.model.has_experts:
        out.append(
            f"experts: between nothing and a factor {EXPERT_GAIN:.3f} on what is above {E:.3f}  [refit of public runs, P^-0.199 E^-0.074]"
        )
    if config.model.has_depth_routing:
        share = _depth_share(config)
        out.append(
            f"depth routing: a token is worth between {share:.2f} (its share of the dense twin's FLOPs) and 1 of a dense model's  "
            "[Raposo et al. 2024, arXiv 2404.02258: equal loss at equal training FLOPs]; "
            f"{_depth_credit(config):.0%} of the way to 1 is taken  [docs/study.md: {_STUDIED[config.model.mod_every > 1]}]"
        )
    return [*out, unknown]


def _depth_share(config: RunConfig) -> float:
    """FLOPs of the model over those of its twin without depth routing."""
    if not config.model.has_depth_routing:
        return 1.0
    model, seq_len = config.model, config.training.seq_len
    twin = replace(model, arch="moe" if model.has_experts else "dense")
    return min(1.0, count_flops(model, seq_len).forward / count_flops(twin, seq_len).forward)


_STUDIED = {
    True: "not told apart from dense at equal tokens, routed in every second block",
    False: "routed in every block, the tokens that it skips were missing in full",
}


def _depth_credit(config: RunConfig) -> float:
    """Return how near to a dense model, token by token, a depth-routed one is expected; without depth routing both ends are one."""
    return CREDIT_BETWEEN if config.model.mod_every > 1 else CREDIT_EVERYWHERE


def _law(config: RunConfig, tokens: float) -> float:
    """Return the law's value for `tokens` tokens, of which at most the configuration's unique ones are different."""
    unique = min(float(config.training.unique_tokens), tokens)
    n = float(count_parameters(config.model).active)
    optimal = min(n, _optimal_parameters(unique))
    d_effective = _worth(unique, tokens / unique - 1, R_DATA)
    n_effective = _worth(optimal, n / optimal - 1, R_PARAMETERS)
    return E + A / math.pow(n_effective, ALPHA) + B / math.pow(d_effective, ALPHA)


def _worth(base: float, repetitions: float, half_life: float) -> float:
    return base + base * half_life * (1 - math.exp(-repetitions / half_life))


def _optimal_parameters(tokens: float) -> float:
    """Parameters for which `tokens` unique tokens are compute-optimal under the law (alpha = beta): N = D (A/B)^(1/alpha)."""
    return tokens * math.pow(A / B, 1 / ALPHA)
