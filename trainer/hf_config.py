"""Our model configuration as the `config.json` of the `transformers` library, and back. Standard library only.

A dense model is a Llama, a mixture of experts a Mixtral; with QK-norm they are Qwen3 and Qwen3Moe. What none of these can say (depth
routing, a shared expert, a routing bias) is a model of our own, whose code is exported beside its weights.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trainer.config import ConfigError, ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

LLAMA, MIXTRAL, QWEN3, QWEN3_MOE, LUMINA = (
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "LuminaForCausalLM",
)
MISTRAL = "MistralForCausalLM"
"""A Llama by another name, as far as its attention looks at everything."""
READABLE = (LLAMA, MISTRAL, MIXTRAL, QWEN3, QWEN3_MOE, LUMINA)

_MODEL_TYPES = {LLAMA: "llama", MIXTRAL: "mixtral", QWEN3: "qwen3", QWEN3_MOE: "qwen3_moe", LUMINA: "lumina"}
_MODULE = "modeling_lumina"


def architecture(model: ModelConfig) -> str:
    """Return the class of `transformers` that says what `model` is."""
    if model.has_depth_routing or (model.has_experts and (model.d_shared or model.balance_bias_rate)):
        return LUMINA
    if model.has_experts:
        return QWEN3_MOE if model.qk_norm else MIXTRAL
    return QWEN3 if model.qk_norm else LLAMA


def to_config(model: ModelConfig, *, context: int, dtype: str, special: dict[str, int | None]) -> dict[str, Any]:
    """Return the `config.json` of a model trained on sequences of `context`; `special` maps `eos_token_id` and so on to ids."""
    name = architecture(model)
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": _MODEL_TYPES[name],
        "vocab_size": model.vocab,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "max_position_embeddings": context,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_bias": False,
        "dtype": dtype,
        "torch_dtype": dtype,
        **special,
    }
    if model.has_experts:
        config |= _experts(model, name)
    if name == LUMINA:
        config |= {
            "auto_map": {"AutoConfig": f"{_MODULE}.LuminaConfig", "AutoModelForCausalLM": f"{_MODULE}.LuminaForCausalLM"},
            "qk_norm": model.qk_norm,
            "routed_layers": [layer for layer in range(model.n_layers) if model.is_routed(layer)],
            "router_capacity": model.mod_capacity,
            "use_cache": True,
            "predictor_size": model.d_predictor,
        }
    return config


def _experts(model: ModelConfig, name: str) -> dict[str, Any]:
    said: dict[str, Any] = {"num_experts_per_tok": model.top_k, "router_aux_loss_coef": model.balance_weight}
    if name == MIXTRAL:
        return {**said, "num_local_experts": model.n_experts, "intermediate_size": model.d_expert, "sliding_window": None}
    said |= {"num_experts": model.n_experts, "moe_intermediate_size": model.d_expert}
    if name == QWEN3_MOE:
        return {**said, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False}
    return {**said, "shared_expert_size": model.d_shared, "balance_bias_rate": model.balance_bias_rate}


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's `config.json`. Raises ConfigError when there is none."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("init_from", str(folder), f"{folder} has no readable config.json: {error}", "give a model's folder") from error
    if not isinstance(raw, dict):
        raise ConfigError("init_from", str(folder), f"{folder}/config.json is no object", "give a model's folder")
    return raw


def from_config(raw: dict[str, Any]) -> ModelConfig:
    """Return the model that a `config.json` describes. Raises ConfigError for one that we can't compute exactly."""
    name = (raw.get("architectures") or ["nothing"])[0]
    if name not in READABLE:
        raise _unreadable("architectures", name, f"take one of {', '.join(READABLE)}")
    d_model, n_heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
    _refuse_what_we_lack(raw, d_model // n_heads)
    experts = raw.get("num_local_experts") or raw.get("num_experts") if name in (MIXTRAL, QWEN3_MOE, LUMINA) else None
    routed = raw.get("routed_layers") or []
    d_expert = int(raw["intermediate_size"] if name == MIXTRAL else raw.get("moe_intermediate_size", 0)) if experts else 0
    top_k = int(raw.get("num_experts_per_tok", 2)) if experts else 2
    every = routed[0] + 1 if routed else 2
    return ModelConfig(
        arch=("hybrid" if experts else "mod") if routed else ("moe" if experts else "dense"),
        vocab=int(raw["vocab_size"]),
        d_model=d_model,
        n_layers=int(raw["num_hidden_layers"]),
        n_heads=n_heads,
        n_kv_heads=int(raw.get("num_key_value_heads") or n_heads),
        d_ff=top_k * d_expert if name == MIXTRAL else int(raw["intermediate_size"]),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        d_expert=d_expert,
        n_experts=int(experts or 8),
        top_k=top_k,
        mod_every=every,
        mod_capacity=float(raw.get("router_capacity", 0.125)),
        d_predictor=int(raw.get("predictor_size", 0)),
        qk_norm=name in (QWEN3, QWEN3_MOE) or bool(raw.get("qk_norm")),
        balance_bias_rate=float(raw.get("balance_bias_rate") or 0.0),
        d_shared=int(raw.get("shared_expert_size") or 0),
        rope_theta=_rope_theta(raw),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
    )


def context_of(raw: dict[str, Any]) -> int:
    """Return the longest sequence that a `config.json` allows with attention to everything."""
    longest = int(raw.get("max_position_embeddings") or 2048)
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    return min(longest, int(window)) if window else longest


def _refuse_what_we_lack(raw: dict[str, Any], d_head: int) -> None:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise _unreadable("rope_scaling", kind, "our rotary positions are the plain ones")
    if int(raw.get("head_dim") or d_head) != d_head:
        raise _unreadable("head_dim", raw["head_dim"], f"heads here are hidden_size / num_attention_heads = {d_head} wide")
    for flag in ("attention_bias", "mlp_bias"):
        if raw.get(flag):
            raise _unreadable(flag, raw[flag], "projections here have no bias")
    if raw.get("hidden_act", "silu") != "silu":
        raise _unreadable("hidden_act", raw["hidden_act"], "feed-forward blocks here are SwiGLU")
    if raw.get("norm_topk_prob") is False:
        raise _unreadable("norm_topk_prob", False, "the weights of a token's experts add up to 1 here")
    if raw.get("mlp_only_layers") or raw.get("decoder_sparse_step", 1) != 1:
        raise _unreadable("mlp_only_layers", raw.get("mlp_only_layers"), "either all blocks have experts here or none")


def _rope_theta(raw: dict[str, Any]) -> float:
    return float((raw.get("rope_parameters") or {}).get("rope_theta") or raw.get("rope_theta") or 10_000.0)


def _unreadable(name: str, value: object, hint: str) -> ConfigError:
    return ConfigError(name, value, f"config.json says {name}={value!r}, which this trainer has not", hint)
