"""What can be trained: planner and trainer both ask `check`, so nothing impossible is rented."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from trainer.config.refusals import refusals
from trainer.config.shapes import BYTE_VOCAB, SECTIONS, ConfigError, LayoutConfig, ModelConfig, RunConfig


def check(config: RunConfig) -> None:
    """Refuse what cannot be trained: planner and trainer both ask here, so nothing impossible is rented.

    Raises ConfigError for the first problem found.
    """
    check_numbers(config)
    _check_shape(config.model)
    _check_routing(config.model)
    _check_training(config)
    for error in refusals(config):
        raise error


_MOST = {"n_layers": 10_000, "d_model": 1 << 20, "d_ff": 1 << 22, "d_expert": 1 << 22, "vocab": 1 << 24, "n_experts": 1 << 14}
_MOST |= {"n_heads": 1 << 14, "n_kv_heads": 1 << 14, "seq_len": 1 << 26, "n_gpus": 1 << 20, "d_predictor": 1 << 20}
"""Beyond these a typing error is certain."""


_OPTIONS = {"tokens": "--tokens, or --tokens 20B", "global_batch_tokens": "--global-batch, or --global-batch 524288", "seed": "--seed"}
"""What sets a field where there is an option for it."""


def check_numbers(config: RunConfig) -> None:
    """Refuse numbers that cannot be meant. Raises ConfigError for the first one."""
    may_be_zero = {"d_expert", "d_predictor", "seed", "zero_stage", "weight_decay", "balance_weight", "router_z_weight", "predictor_weight"}
    may_be_zero |= {"warmup_fraction", "min_lr_ratio", "beta1", "beta2", "grad_clip", "balance_bias_rate", "d_shared", "measure_seconds"}
    for section in SECTIONS:
        part = getattr(config, section)
        for f in dataclasses.fields(part):
            value = getattr(part, f.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            most = _MOST.get(f.name, 10**18)
            if value > most:
                raise ConfigError(f.name, value, f"{f.name} is {value:,}, beyond anything that can be trained", f"take at most {most:,}")
            if value < 0 or (value == 0 and f.name not in may_be_zero):
                least = "at least 0" if f.name in may_be_zero else "above 0"
                hint = f"e.g. the preset's own: leave out {_OPTIONS.get(f.name, f'--set {f.name}')}"
                raise ConfigError(f.name, value, f"{f.name} is {value}, but must be {least}", hint)


def _check_shape(model: ModelConfig) -> None:
    if model.d_model % model.n_heads or model.d_head % 2:
        fitting = [h for h in range(1, model.d_model + 1) if model.d_model % h == 0 and model.d_model // h in (32, 64, 128)]
        raise ConfigError(
            "n_heads",
            model.n_heads,
            f"{model.n_heads} heads do not divide a width of {model.d_model} into even parts",
            f"for d_model={model.d_model} take n_heads={' or '.join(map(str, fitting)) or model.d_model // 2}",
        )
    if model.n_heads % model.n_kv_heads:
        fitting = [h for h in range(1, model.n_heads + 1) if model.n_heads % h == 0]
        raise ConfigError(
            "n_kv_heads",
            model.n_kv_heads,
            f"{model.n_heads} query heads do not divide into groups over {model.n_kv_heads} key-value heads",
            f"take n_kv_heads={' or '.join(map(str, fitting))}",
        )
    if model.vocab < BYTE_VOCAB:
        raise ConfigError(
            "vocab",
            model.vocab,
            f"a vocabulary of {model.vocab} cannot hold all bytes",
            f"take at least {BYTE_VOCAB}",
        )


def _check_routing(model: ModelConfig) -> None:
    if model.has_experts:
        if model.top_k > model.n_experts:
            raise ConfigError(
                "top_k",
                model.top_k,
                f"top_k={model.top_k} is more than the {model.n_experts} experts there are",
                f"take top_k between 1 and {model.n_experts}",
            )
        if model.d_expert < 8 or model.d_expert % 8:
            nearest = max(8, round(model.d_expert / 8) * 8)
            raise ConfigError(
                "d_expert",
                model.d_expert,
                f"an expert width of {model.d_expert} is no multiple of 8 (16-byte rows in bf16)",
                f"take {nearest}",
            )
    if model.has_depth_routing:
        if not 0 < model.mod_capacity <= 1:
            raise ConfigError(
                "mod_capacity", model.mod_capacity, f"mod_capacity is {model.mod_capacity}, outside (0, 1]", "e.g. 0.125 or 0.5"
            )
        if model.mod_every > model.n_layers:
            raise ConfigError(
                "mod_every",
                model.mod_every,
                f"mod_every={model.mod_every} routes none of {model.n_layers} blocks",
                f"take mod_every between 1 and {model.n_layers}",
            )
        if model.d_predictor < 1:
            raise ConfigError(
                "d_predictor", model.d_predictor, "depth routing needs a predictor of at least one unit", "e.g. --set d_predictor=16"
            )


def _check_training(config: RunConfig) -> None:
    training = config.training
    for name in ("beta1", "beta2", "warmup_fraction", "min_lr_ratio"):
        value = getattr(training, name)
        if value >= 1 and not (name == "min_lr_ratio" and value == 1):
            raise ConfigError(name, value, f"{name} is {value}, outside [0, 1)", f"e.g. --set {name}=0.1")
    if training.seq_len < 2:
        raise ConfigError(
            "seq_len",
            training.seq_len,
            "a sequence of one token has nothing to predict",
            "take seq_len=2 or more",
        )
    expected = with_layout(config, config.layout).layout
    if expected.grad_accum != config.layout.grad_accum:
        raise ConfigError(
            "grad_accum",
            config.layout.grad_accum,
            f"micro batch {config.layout.micro_batch} x accumulation {config.layout.grad_accum} x {config.layout.n_gpus} GPU(s) x "
            f"sequence {training.seq_len} is not the global batch of {training.global_batch_tokens:,} tokens",
            f"take grad_accum={expected.grad_accum}, or leave it out: it follows from the others",
        )


def with_layout(config: RunConfig, layout: LayoutConfig) -> RunConfig:
    """Return `config` in `layout`, gradient accumulation filled in so that the global batch comes out.

    Raises ConfigError when micro batch x GPUs x sequence length does not divide the global batch.
    """
    check_numbers(replace(config, layout=layout))
    training = config.training
    per_pass = layout.micro_batch * layout.n_gpus * training.seq_len
    if training.global_batch_tokens % training.seq_len:
        lower = training.global_batch_tokens // training.seq_len * training.seq_len
        raise ConfigError(
            "global_batch_tokens",
            training.global_batch_tokens,
            f"a global batch of {training.global_batch_tokens:,} tokens is no multiple of the sequence length {training.seq_len:,}",
            f"take {f'{lower:,} or ' if lower else ''}{lower + training.seq_len:,}",
        )
    if training.global_batch_tokens % per_pass:
        sequences = training.global_batch_tokens // training.seq_len
        fitting = [m for m in range(1, sequences + 1) if sequences % (m * layout.n_gpus) == 0]
        raise ConfigError(
            "micro_batch",
            layout.micro_batch,
            f"a global batch of {sequences} sequences does not divide into micro batches of {layout.micro_batch} on {layout.n_gpus} GPU(s)",
            f"micro batches that divide it: {', '.join(map(str, fitting[:12]))}"
            if fitting
            else f"use a number of GPUs that divides {sequences}",
        )
    return replace(config, layout=replace(layout, grad_accum=training.global_batch_tokens // per_pass))
