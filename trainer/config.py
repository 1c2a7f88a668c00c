"""Model, training and layout configuration, and the sixteen presets.

The one source of truth for shapes, parameter counts and FLOPs: the planner counts from it, the trainer builds from it, and
a test holds the two equal. Standard library only, so that the orchestrator can import it without torch.

Choices: a configuration is a tree of frozen dataclasses; `RunConfig` is what `run.json` holds. Presets are data
(`presets.toml`). A flat name (`d_model`, `seq_len`, `micro_batch`) is unique in the whole tree, so `--set NAME=VALUE` needs no
path. Every refusal is a `ConfigError` that names the field, its value and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

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
    """Above 0, a run that only measures: it ends after so long of steps, if its tokens last, and leaves no checkpoint and no weights."""
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


# --- presets -------------------------------------------------------------------------------------------------------------


@cache
def _preset_table() -> dict[str, Any]:
    text = resources.files("trainer").joinpath("presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def preset(model: str, arch: str, recipe: Recipe = "paper") -> RunConfig:
    """Return a preset's full configuration on one GPU, one sequence at a time.

    `recipe` chooses depth routing: `paper` (every second block, capacity 0.125) or `published` (every block, capacity 0.5,
    b1 0.6). Raises ConfigError for a name that is not a preset.
    """
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    if arch not in ARCHS:
        raise unknown("arch", arch, ARCHS)
    table = _preset_table()[model]
    shape = ModelConfig(arch=arch, **table["model"])
    training = TrainingConfig(**table["training"])
    config = RunConfig(preset=model, model=shape, training=training, data=DataConfig(**table["data"]))
    return with_layout(with_recipe(config, recipe), LayoutConfig())


def with_recipe(config: RunConfig, recipe: Recipe) -> RunConfig:
    """Return `config` with depth routing by a named recipe; nothing changes where none is routed.

    `paper`: every second block, capacity 0.125 (Raposo et al. 2024, section 4.2). `published`: every block, capacity 0.5, for b1 0.6, as
    the published benchmark says.
    """
    every, capacity = (2, 0.125) if recipe == "paper" else (1, 0.6 if config.preset == "b1" else 0.5)
    return replace(config, model=replace(config.model, mod_every=every, mod_capacity=capacity))


FINE_TUNED = "fine-tune"
"""What stands for a preset's name where the model is an imported one."""


def fine_tuning(folder: Path) -> RunConfig:
    """Return the configuration that trains the model in `folder` further: its shape, and settings that suit a finished model.

    Learning rate, batch and weight decay are those of Llama 2's fine-tuning (Touvron et al. 2023, arXiv 2307.09288, section 3.1):
    2e-5, 64 sequences, 0.1; a checkpoint of ours keeps its sequence length. Raises ConfigError for a folder that holds no model.
    """
    if (folder / "config.json").is_file():
        # The import runs the other way round at the top of that module.
        from trainer import hf_config

        raw = hf_config.read_config(folder)
        model, seq_len = hf_config.from_config(raw), min(2048, hf_config.context_of(raw))
        data = DataConfig(source="stdlib")
    else:
        kept = load(folder / "run.json")
        model, seq_len = kept.model, kept.training.seq_len
        data = DataConfig(source="stdlib", tokenizer=kept.data.tokenizer)
    training = TrainingConfig(tokens=30_000_000, unique_tokens=10_000_000, global_batch_tokens=64 * seq_len, lr=2e-5, seq_len=seq_len)
    config = RunConfig(preset=FINE_TUNED, model=model, training=training, data=data, init_from=str(folder))
    return with_layout(config, LayoutConfig())


def nominal_active_parameters(model: str) -> float:
    """Active parameters that a preset's name promises."""
    return float(_preset_table()[model]["active_parameters"])


def with_layout(config: RunConfig, layout: LayoutConfig) -> RunConfig:
    """Return `config` in `layout`, gradient accumulation filled in so that the global batch comes out.

    Raises ConfigError when micro batch x GPUs x sequence length does not divide the global batch.
    """
    _check_numbers(replace(config, layout=layout))
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


def unknown(kind: str, value: str, known: tuple[str, ...]) -> ConfigError:
    """Return the error for a name that is not known, with the nearest known one as its hint."""
    near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(kind, value, f"unknown {kind} {value!r}", f"{hint}known: {', '.join(known)}")


# --- overrides and files -------------------------------------------------------------------------------------------------

_SECTIONS: dict[str, type] = {"model": ModelConfig, "training": TrainingConfig, "data": DataConfig, "layout": LayoutConfig}


def field_names() -> tuple[str, ...]:
    """Every name that `--set` takes."""
    return tuple(f.name for section in _SECTIONS.values() for f in dataclasses.fields(section) if f.name != "arch")


def override(config: RunConfig, values: Mapping[str, str]) -> RunConfig:
    """Return `config` with fields replaced by parsed text, e.g. `{"seq_len": "512", "tokens": "1.5M"}`.

    The result is checked by `check`. Raises ConfigError for an unknown name or a value that is not of the field's type.
    """
    for name, text in values.items():
        section = next((s for s, cls in _SECTIONS.items() if name in {f.name for f in dataclasses.fields(cls)}), None)
        if section is None or name == "arch":
            raise unknown("setting", name, field_names())
        value = _parse(name, text, get_type_hints(_SECTIONS[section])[name])
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


def _parse(name: str, text: str, kind: Any) -> object:
    choices = get_args(kind)
    if choices:
        if text not in choices:
            raise unknown(name, text, choices)
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(name, text, f"{name} is true or false, not {text!r}", f"--set {name}=true")
        return text.lower() == "true"
    if kind is str:
        return text
    return parse_count(name, text) if kind is int else _parse_float(name, text)


def _parse_float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(name, text, f"{name} is a number, not {text!r}", f"e.g. --set {name}=0.1") from None
    if not math.isfinite(value):
        raise ConfigError(name, text, f"{name} is a finite number, not {text!r}", f"e.g. --set {name}=0.1")
    return value


def parse_count(name: str, text: str) -> int:
    """Parse a whole number that may carry a suffix: `512`, `1.5M`, `20B`, `8_192`, `1e9`. Raises ConfigError."""
    factors = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
    cleaned = text.strip().replace("_", "").replace(",", "")
    factor = factors.get(cleaned[-1:].lower(), 1.0)
    try:
        value = float(cleaned[:-1] if factor > 1 else cleaned) * factor
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value - round(value)) > 1e-6 * max(1.0, abs(value)) or abs(value) > 1e18:
        raise ConfigError(name, text, f"{name} is a whole number up to 10^18, not {text!r}", "e.g. 8192, 1.5M, 20B")
    return round(value)


def from_json(text: str) -> RunConfig:
    """Read what `RunConfig.to_json` wrote. Raises ConfigError for text that is no such document."""
    try:
        raw = json.loads(text)
        sections = {name: cls(**raw[name]) for name, cls in _SECTIONS.items()}
        plan, init_from = PlanConfig(**raw.get("plan", {})), raw.get("init_from")
        return RunConfig(preset=str(raw["preset"]), device=raw["device"], init_from=init_from, plan=plan, **sections)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "config", "run.json", f"not a run configuration: {error}", "write it with `lumina launch --dry-run --json`"
        ) from error


def load(path: Path) -> RunConfig:
    """Read a `run.json`. Raises ConfigError for one that is missing or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("config", str(path), f"cannot read {path}: {error.strerror}", "give the path of a run.json") from error
    return from_json(text)


# --- what can be trained -------------------------------------------------------------------------------------------------


def check(config: RunConfig) -> None:
    """Refuse what cannot be trained: planner and trainer both ask here, so nothing impossible is rented.

    Raises ConfigError for the first problem found.
    """
    _check_numbers(config)
    _check_shape(config.model)
    _check_routing(config.model)
    _check_training(config)
    _check_engine(config)


_MOST = {"n_layers": 10_000, "d_model": 1 << 20, "d_ff": 1 << 22, "d_expert": 1 << 22, "vocab": 1 << 24, "n_experts": 1 << 14}
_MOST |= {"n_heads": 1 << 14, "n_kv_heads": 1 << 14, "seq_len": 1 << 26, "n_gpus": 1 << 20, "d_predictor": 1 << 20}
"""Beyond these a typing error is certain."""


_OPTIONS = {"tokens": "--tokens, or --tokens 20B", "global_batch_tokens": "--global-batch, or --global-batch 524288", "seed": "--seed"}
"""What sets a field where there is an option for it."""


def _check_numbers(config: RunConfig) -> None:
    may_be_zero = {"d_expert", "d_predictor", "seed", "zero_stage", "weight_decay", "balance_weight", "router_z_weight", "predictor_weight"}
    may_be_zero |= {"warmup_fraction", "min_lr_ratio", "beta1", "beta2", "grad_clip", "balance_bias_rate", "d_shared", "measure_seconds"}
    for section in _SECTIONS:
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


@dataclass(frozen=True)
class Refusal:
    """A combination of settings that the engine cannot train. `why` and `hint` are filled in from the configuration `c`."""

    key: str
    name: str
    """The field that the error names."""
    why: str
    hint: str
    applies: Callable[[RunConfig], bool] = field(repr=False, compare=False)

    def error(self, config: RunConfig) -> ConfigError:
        """Return the refusal of `config` in words."""
        section = next(s for s, cls in _SECTIONS.items() if self.name in {f.name for f in dataclasses.fields(cls)})
        value = getattr(getattr(config, section), self.name)
        return ConfigError(self.name, value, self.why.format(c=config), self.hint.format(c=config))


TRACKERS: tuple[str, ...] = ("tensorboard", "wandb")

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "unknown stage",
        "zero_stage",
        "there is no ZeRO stage {c.layout.zero_stage}",
        "take 0, 1, 2 or 3",
        lambda c: c.layout.zero_stage > 3,
    ),
    Refusal(
        "fp16 on a CPU",
        "precision",
        "fp16 has no arithmetic on a CPU in DeepSpeed",
        "take --set precision=bf16 or fp32",
        lambda c: c.training.precision == "fp16" and c.device == "cpu",
    ),
    Refusal(
        "bf16 at stage 0",
        "zero_stage",
        "bf16 at ZeRO stage 0 trains measurably differently in DeepSpeed",
        "take zero_stage=1, or precision=fp32",
        lambda c: c.training.precision == "bf16" and c.layout.zero_stage == 0,
    ),
    Refusal(
        "fp16 at stage 0",
        "zero_stage",
        "fp16 at ZeRO stage 0 goes through the same optimizer in DeepSpeed that trains differently in bf16",
        "take zero_stage=1, or precision=fp32",
        lambda c: c.training.precision == "fp16" and c.device != "cpu" and c.layout.zero_stage == 0,
    ),
    Refusal(
        "expert parallelism without experts",
        "expert_parallel",
        "arch {c.model.arch} has no experts that could be spread over {c.layout.expert_parallel} GPUs",
        "take expert_parallel=1",
        lambda c: c.layout.expert_parallel != 1 and not c.model.has_experts,
    ),
    Refusal(
        "expert parallelism",
        "expert_parallel",
        "experts are not spread over GPUs: each GPU multiplies its own tokens by all of them, sorted, and drops none",
        "take expert_parallel=1; ZeRO stage 3 shards the experts' weights",
        lambda c: c.layout.expert_parallel != 1 and c.model.has_experts,
    ),
    Refusal(
        "optimizer offload below stage 2",
        "offload",
        "offload=optimizer needs gradients that are sharded, and ZeRO stage {c.layout.zero_stage} does not shard them",
        "take zero_stage=2 or 3",
        lambda c: c.layout.offload == "optimizer" and c.layout.zero_stage < 2,
    ),
    Refusal(
        "parameter offload below stage 3",
        "offload",
        "offload=optimizer+parameters needs parameters that are sharded, and ZeRO stage {c.layout.zero_stage} does not shard them",
        "take zero_stage=3",
        lambda c: c.layout.offload == "optimizer+parameters" and c.layout.zero_stage < 3,
    ),
    Refusal(
        "8-bit AdamW on a CPU",
        "optimizer",
        "8-bit AdamW has GPU kernels only",
        "take optimizer=adamw",
        lambda c: c.training.optimizer == "adamw8bit" and c.device == "cpu",
    ),
    Refusal(
        "8-bit AdamW with offload",
        "optimizer",
        "8-bit AdamW works on the GPU, and offload={c.layout.offload} moves the optimizer to the CPU",
        "take offload=none, or optimizer=adamw",
        lambda c: c.training.optimizer == "adamw8bit" and c.device != "cpu" and c.layout.offload != "none",
    ),
    Refusal(
        "every n-th block without checkpointing",
        "checkpoint_every",
        "checkpoint_every={c.layout.checkpoint_every} has no effect with checkpointing=none",
        "take checkpointing=block as well",
        lambda c: c.layout.checkpoint_every != 1 and c.layout.checkpointing == "none",
    ),
    Refusal(
        "every n-th of fewer blocks",
        "checkpoint_every",
        "checkpoint_every={c.layout.checkpoint_every} is more than the {c.model.n_layers} blocks there are",
        "take checkpoint_every between 1 and {c.model.n_layers}",
        lambda c: c.layout.checkpointing == "block" and c.layout.checkpoint_every > c.model.n_layers,
    ),
    Refusal(
        "compiling sharded parameters",
        "compile",
        "torch.compile cannot trace through ZeRO stage 3, which gathers parameters while the model runs",
        "take compile=auto or off, or zero_stage=2",
        lambda c: c.layout.compile == "on" and c.layout.zero_stage == 3,
    ),
    Refusal(
        "unknown tracker",
        "trackers",
        "trackers is {c.training.trackers!r}, and there are tensorboard and wandb",
        "take trackers=tensorboard, trackers=wandb, or trackers=tensorboard,wandb",
        lambda c: not set(filter(None, c.training.trackers.split(","))) <= set(TRACKERS),
    ),
)
"""What cannot be trained, and why, beyond shapes and numbers. Planner and trainer both ask `check`, which asks this table."""


def refusals(config: RunConfig) -> list[ConfigError]:
    """Return every entry of the table that refuses `config`; empty when the engine can train it."""
    return [refusal.error(config) for refusal in REFUSALS if refusal.applies(config)]


def _check_engine(config: RunConfig) -> None:
    for error in refusals(config):
        raise error


# --- counting ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part. A SwiGLU block has three matrices, attention four, each block two norms."""

    embedding: int
    head: int
    """Zero when tied: the embedding serves."""
    attention: int
    feed_forward: int
    """Dense blocks, or all experts together."""
    feed_forward_active: int
    """The part of it that one token passes through."""
    routers: int
    """Expert routers and depth routers."""
    predictors: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters: what memory holds."""
        return self.embedding + self.head + self.attention + self.feed_forward + self.routers + self.predictors + self.norms

    @property
    def active(self) -> int:
        """Parameters that one token passes through; depth routing skips tokens, not parameters."""
        return self.total - self.feed_forward + self.feed_forward_active


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of the module that the trainer builds, exactly."""
    d, layers, routed = model.d_model, model.n_layers, model.n_routed
    attention = layers * (2 * d * d + 2 * d * model.d_kv)
    if model.has_experts:
        expert = 3 * d * model.d_expert
        shared = 3 * d * model.d_shared
        feed_forward, active = layers * (model.n_experts * expert + shared), layers * (model.top_k * expert + shared)
    else:
        feed_forward = active = layers * 3 * d * model.d_ff
    return ParameterCount(
        embedding=model.vocab * d,
        head=0 if model.tie_embeddings else model.vocab * d,
        attention=attention,
        feed_forward=feed_forward,
        feed_forward_active=active,
        routers=(layers * d * model.n_experts if model.has_experts else 0) + routed * d,
        # Two linear layers with biases: d -> d_predictor -> 1.
        predictors=routed * (d * model.d_predictor + 2 * model.d_predictor + 1),
        norms=(2 * layers + 1) * d + (2 * layers * model.d_head if model.qk_norm else 0),
    )


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one forward pass per token of the sequence, a multiply-add being two."""

    attention_matmul: float
    """Query, key, value and output projections."""
    attention_scores: float
    """QK^T and its product with the values, over the whole sequence: the causal half is not taken off, as in torch's counter."""
    feed_forward: float
    routing: float
    """Expert routers, depth routers, predictors."""
    head: float

    @property
    def forward(self) -> float:
        """FLOPs of one token's forward pass."""
        return self.attention_matmul + self.attention_scores + self.feed_forward + self.routing + self.head

    @property
    def train(self) -> float:
        """FLOPs of one token's training step: the backward pass costs two forward passes (Kaplan et al. 2020, section 2.1)."""
        return 3 * self.forward


def count_flops(model: ModelConfig, seq_len: int) -> FlopCount:
    """Count FLOPs per token from the shape; a depth-routed block is paid only by the tokens that enter it."""
    d, parameters = model.d_model, count_parameters(model)
    entering = model.capacity_tokens(seq_len)
    share = entering / seq_len
    plain = model.n_layers - model.n_routed
    blocks = plain + model.n_routed * share
    scores_per_block = 4 * seq_len * d
    routed_scores = share * 4 * entering * d
    expert_routing = 2 * d * model.n_experts * blocks if model.has_experts else 0.0
    depth_routing = model.n_routed * 2 * (d + d * model.d_predictor + model.d_predictor)
    return FlopCount(
        attention_matmul=2 * parameters.attention / model.n_layers * blocks,
        attention_scores=plain * scores_per_block + model.n_routed * routed_scores,
        feed_forward=2 * parameters.feed_forward_active / model.n_layers * blocks,
        routing=expert_routing + depth_routing,
        head=2 * model.vocab * d,
    )
