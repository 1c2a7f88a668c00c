"""What a run is: model, training, layout, data; frozen dataclasses with the units of their fields."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Literal, get_args

Arch = Literal["dense", "moe", "mod", "hybrid"]
Precision = Literal["fp32", "bf16", "fp16"]
Checkpointing = Literal["none", "block"]
Offload = Literal["none", "optimizer", "optimizer+parameters"]
Recipe = Literal["paper", "published"]
Optimizer = Literal["adamw", "adamw8bit"]
BadLoss = Literal["stop", "skip"]
Compile = Literal["auto", "on", "off"]
Device = Literal["cpu", "cuda"]

ARCHS: tuple[Arch, ...] = get_args(Arch)
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
MODELS: tuple[str, ...] = ("debug", "debug200m", "b1", "b7")

CHINCHILLA_TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter: Hoffmann et al. 2022 (arXiv 2203.15556), table 3, rounded as is usual."""

CHECKPOINTS_IN_TURN = 10
"""A run is kept at each such part of it, but not before `WRITING_APART` times what writing the last one took has passed."""
WRITING_APART = 10.0

BYTE_VOCAB = 259
"""256 bytes, and the begin, end and padding tokens."""


class ConfigError(ValueError):
    """A configuration that cannot be trained. `name` and `value` are the field's, `hint` says what would be right."""

    def __init__(self, name: str, value: object, message: str, hint: str) -> None:
        super().__init__(message)
        self.name = name
        self.value = value
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only transformer. Widths are in elements, `vocab` in tokens."""

    arch: Arch
    vocab: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    """Width of the dense SwiGLU block (gate and up projections have this width)."""
    tie_embeddings: bool
    d_expert: int = 0
    """Width of one expert's SwiGLU block (moe, hybrid)."""
    n_experts: int = 8
    top_k: int = 2
    """Experts that each token passes through."""
    balance_weight: float = 0.01
    """Weight of the load-balancing loss: Switch Transformer (arXiv 2101.03961) eq. 4."""
    router_z_weight: float = 0.001
    """Weight of the router z-loss: ST-MoE (arXiv 2202.08906) eq. 5."""
    mod_every: int = 2
    """Every n-th block is routed over depth, the last of each n (mod, hybrid)."""
    mod_capacity: float = 0.125
    """Share of a sequence's tokens that enters a depth-routed block: Raposo et al. 2024 (arXiv 2404.02258)."""
    d_predictor: int = 0
    """Hidden width of the predictor that decides causally whether a token enters a depth-routed block."""
    predictor_weight: float = 0.1
    qk_norm: bool = False
    """RMSNorm of each head's queries and keys (Dehghani et al. 2023, arXiv 2302.05442; as in Qwen3)."""
    balance_bias_rate: float = 0.0
    """Step of the routing bias that balances experts without a loss; 0 is off (Wang et al. 2024, arXiv 2408.15664: 0.001)."""
    d_shared: int = 0
    """Width of an expert that every token passes through; 0 is none (DeepSeekMoE, arXiv 2401.06066)."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def d_kv(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.d_head

    @property
    def has_experts(self) -> bool:
        """Whether the feed-forward blocks are mixtures of experts."""
        return self.arch in ("moe", "hybrid")

    @property
    def has_depth_routing(self) -> bool:
        """Whether some blocks are skipped by some tokens."""
        return self.arch in ("mod", "hybrid")

    def is_routed(self, layer: int) -> bool:
        """Whether block `layer` (from 0) is depth-routed."""
        return self.has_depth_routing and layer % self.mod_every == self.mod_every - 1

    @property
    def n_routed(self) -> int:
        """How many blocks are depth-routed."""
        return self.n_layers // self.mod_every if self.has_depth_routing else 0

    def capacity_tokens(self, seq_len: int) -> int:
        """Tokens of a sequence of `seq_len` that enter a depth-routed block: at least one, never more than all."""
        return min(seq_len, max(1, math.floor(self.mod_capacity * seq_len + 1e-9)))


@dataclass(frozen=True)
class TrainingConfig:
    """What is trained: tokens, batch, optimizer. AdamW and its constants are the published benchmark's."""

    tokens: int
    """Tokens to train on in all, repetitions counted."""
    unique_tokens: int
    """Tokens of different text; `tokens / unique_tokens` is the number of epochs."""
    global_batch_tokens: int
    """Tokens per optimizer step."""
    lr: float
    """Peak learning rate."""
    seq_len: int = 2048
    warmup_fraction: float = 0.03
    """Share of the steps over which the learning rate rises linearly; it then falls by a cosine."""
    min_lr_ratio: float = 0.1
    """Learning rate at the end over the peak."""
    beta1: float = 0.9
    beta2: float = 0.95
    adam_eps: float = 1e-8
    weight_decay: float = 0.1
    """Applied to matrices only."""
    grad_clip: float = 1.0
    precision: Precision = "bf16"
    seed: int = 0
    validation_tokens: int = 262_144
    """Size of the held-out split that is evaluated; never more than a twentieth of the data."""
    checkpoint_minutes: float = 15.0
    """A crash loses at most this much: a checkpoint is complete at least this often, where writing is quick at each tenth of the run."""
    measure_seconds: float = 0.0
    """Above 0, a run that only measures: it ends when so long has passed since its first step, after four steps at least, if its tokens
    last, and leaves no checkpoint and no weights."""
    keep_last: int = 2
    """How many checkpoints are kept; older ones are removed when a newer one is complete."""
    optimizer: Optimizer = "adamw"
    """`adamw8bit` keeps the moments in 8 bits (Dettmers et al. 2021, arXiv 2110.02861); needs a GPU and `bitsandbytes`."""
    on_bad_loss: BadLoss = "stop"
    """What happens when a loss is not finite or a spike: `stop` with the reason, or `skip` that micro batch and count it."""
    spike_nats: float = 2.0
    """A loss this far above the median of the last 64 steps is a spike, once there are 16."""
    stop_seconds: float = 300.0
    """After SIGTERM the trainer has left by then, with a checkpoint of the last whole step, or else with the one before it."""
    stuck_seconds: float = 900.0
    """A rank without a sign of life for this long is named, and the run ends."""
    trackers: str = ""
    """Where metrics go beside `metrics.jsonl`: `tensorboard`, `wandb`, or both with a comma between."""

    @property
    def epochs(self) -> float:
        """How often each unique token is seen."""
        return self.tokens / self.unique_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps: tokens over the global batch, rounded to the nearest, at least one."""
        return max(1, round(self.tokens / self.global_batch_tokens))


@dataclass(frozen=True)
class LayoutConfig:
    """How the work is spread over GPUs."""

    n_gpus: int = 1
    micro_batch: int = 1
    """Sequences per GPU and forward pass."""
    grad_accum: int = 1
    zero_stage: int = 1
    checkpointing: Checkpointing = "none"
    """`block`: only each block's input is kept, the rest is computed again in the backward pass."""
    offload: Offload = "none"
    expert_parallel: int = 1
    checkpoint_every: int = 1
    """With `checkpointing=block`: of every n-th block only the input is kept, the others keep all."""
    compile: Compile = "auto"
    """`torch.compile` of the model: `auto` compiles on a GPU below ZeRO stage 3, and goes on uncompiled where compiling fails."""


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from."""

    source: str
    """`stdlib` (the Python standard library's own files), a path of text or of prepared shards, or `hf:NAME:SUBSET`."""
    tokenizer: str = "bpe"
    """`bpe` (byte-level, trained on the data), `bytes`, or a folder with a Hugging Face tokenizer."""


@dataclass(frozen=True)
class PlanConfig:
    """What was planned, for the progress line and so that a run which drifts is noticed. Zero and empty mean unknown."""

    usd_per_hour: str = ""
    """A decimal number."""
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    """Time in steps, from the first to the last."""
    peak_tflops: float = 0.0
    """Peak of all GPUs together in the precision of the run: what utilisation is a share of."""


@dataclass(frozen=True)
class RunConfig:
    """All that one training job needs: the contents of `run.json`."""

    preset: str
    model: ModelConfig
    training: TrainingConfig
    data: DataConfig
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    device: Device = "cpu"
    init_from: str | None = None
    """A folder whose weights are trained further: a checkpoint, a results folder, or a model of `transformers`."""
    plan: PlanConfig = field(default_factory=PlanConfig)

    def to_json(self) -> str:
        """Return the configuration as indented JSON, the format of `run.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2)


SECTIONS: dict[str, type] = {"model": ModelConfig, "training": TrainingConfig, "data": DataConfig, "layout": LayoutConfig}
"""The parts of a configuration by name. A field's name is unique in all of them."""


def unknown(kind: str, value: str, known: tuple[str, ...]) -> ConfigError:
    """Return the error for a name that is not known, with the nearest known one as its hint."""
    near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(kind, value, f"unknown {kind} {value!r}", f"{hint}known: {', '.join(known)}")
