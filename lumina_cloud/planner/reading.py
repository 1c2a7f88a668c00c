"""A described training run, turned into a `Shape` and a `Setting`; what had to be assumed is named.

The description is what published measurements give: dimensions, counts, and free texts. Anything may be missing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lumina_cloud.planner import free_text
from lumina_cloud.planner.setting import GPUS_PER_NODE, JAX, OURS, Setting
from lumina_cloud.planner.shape import Shape, dense_or_experts

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu

DEFAULT_SEQ_LEN = 2048
DEFAULT_VOCAB = 50_304
MOST = 10**9
"""No count of a request may be above that."""
TOKENS_PER_PASS = 8192
"""Assumed for a micro batch that is not said, if a sequence is shorter."""
MOST_SEQUENCES = 128


class Unreadable(ValueError):
    """A description that no estimate can be made of; the message says why."""


@dataclass(frozen=True)
class Description:
    """One training run in words and numbers; None is unknown."""

    gpu: Gpu
    n_gpus: int | None = None
    n_layers: int | None = None
    d_model: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    d_ff: int | None = None
    gated_mlp: bool | None = None
    vocab: int | None = None
    tie_embeddings: bool | None = None
    n_experts: int | None = None
    top_k: int | None = None
    params_total: int | None = None
    params_active: int | None = None
    name: str | None = None
    """Of the model: a size in it (`52B`) is taken where nothing else gives one."""
    micro_batch: int | None = None
    grad_accum: int | None = None
    global_batch_tokens: int | None = None
    seq_len: int | None = None
    interconnect: str | None = None
    precision: str | None = None
    optimizer: str | None = None
    parallelism: str | None = None
    sharding: str | None = None
    activation_checkpointing: str | None = None
    offload: str | None = None
    attention: str | None = None
    compile: object = None
    framework: str | None = None


@dataclass(frozen=True)
class Read:
    """What the description means."""

    shape: Shape
    setting: Setting
    assumed: tuple[str, ...]


@dataclass
class _Notes:
    """Assumptions as they are made."""

    said: list[str] = field(default_factory=list)

    def take(self, value: int | None, otherwise: int, name: str) -> int:
        """Return the value, or what is assumed instead, which is noted."""
        if value is not None:
            return value
        self.said.append(f"{name}={otherwise}")
        return otherwise


def read(given: Description) -> Read:
    """Return the meaning of a description. Raises Unreadable for one without a size, or that makes no sense."""
    _check(given)
    notes = _Notes()
    seq_len = notes.take(given.seq_len, DEFAULT_SEQ_LEN, "seq_len")
    shape = _shape(given, seq_len, notes)
    return Read(shape, _setting(given, shape, seq_len, notes), tuple(notes.said))


_COUNTS = (
    "n_gpus", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "vocab", "top_k", "micro_batch", "grad_accum", "seq_len",
)  # fmt: skip


def _check(given: Description) -> None:
    for name in (*_COUNTS, "params_total", "params_active", "global_batch_tokens"):
        value = getattr(given, name)
        if name == "top_k" and value == 0 and not given.n_experts:
            # Nothing is routed, said in another way.
            continue
        most = MOST if name in _COUNTS else 10**15
        if value is not None and not 1 <= value <= most:
            raise Unreadable(f"{name} is {value}, but must lie between 1 and {most:,}")
    if given.n_experts is not None and not 0 <= given.n_experts <= 100_000:
        raise Unreadable(f"n_experts is {given.n_experts}, but must lie between 0 and 100,000")
    if given.d_model and given.n_heads and given.n_heads > given.d_model:
        raise Unreadable(f"{given.n_heads} heads are more than a width of {given.d_model} has elements")
    if given.n_heads and given.n_kv_heads and given.n_kv_heads > given.n_heads:
        raise Unreadable(f"n_kv_heads={given.n_kv_heads} is more than n_heads={given.n_heads}")
    if given.n_experts and given.top_k and given.top_k > given.n_experts:
        raise Unreadable(f"top_k={given.top_k} is more than the {given.n_experts} experts there are")


# --- the model -----------------------------------------------------------------------------------------------------------

_USUAL_SHAPES: tuple[tuple[float, int, int], ...] = (
    (1e6, 4, 128), (1e7, 6, 320), (4e7, 8, 512), (1.25e8, 12, 768), (3.5e8, 24, 1024), (7.6e8, 24, 1536), (1.3e9, 24, 2048),
    (2.7e9, 32, 2560), (6.7e9, 32, 4096), (1.3e10, 40, 5120), (3e10, 48, 7168), (6.6e10, 64, 9216), (1.75e11, 96, 12_288),
    (4.05e11, 126, 16_384), (1e12, 128, 25_600),
)  # fmt: skip
"""Parameters, layers, width: the shapes of Brown et al. 2020 (arXiv 2005.14165, table 2.1), carried on at both ends."""


def _shape(given: Description, seq_len: int, notes: _Notes) -> Shape:
    size = given.params_active or given.params_total or _size_in(given.name, notes)
    if given.n_layers is None and given.d_model is None and size is None:
        raise Unreadable("the model has no size: give n_layers and d_model, or params_total")
    n_layers, d_model = _depth_and_width(given, size, notes)
    vocab = notes.take(given.vocab, DEFAULT_VOCAB, "vocab")
    n_heads = notes.take(given.n_heads, _heads(d_model), "n_heads")
    n_kv_heads = notes.take(given.n_kv_heads, n_heads, "n_kv_heads")
    gated = given.gated_mlp
    if gated is None:
        gated = bool(given.d_ff and given.d_ff < 3.6 * d_model and not given.n_experts)
        notes.said.append(f"gated_mlp={str(gated).lower()}")
    d_ff = notes.take(given.d_ff, 8 * d_model // 3 if gated else 4 * d_model, "d_ff")
    tied = given.tie_embeddings
    if tied is None:
        tied = False
        notes.said.append("tie_embeddings=false")
    n_experts, top_k = _experts(given, notes)
    return dense_or_experts(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ff=d_ff,
        gated=gated,
        vocab=vocab,
        tied=tied,
        seq_len=seq_len,
        n_experts=n_experts,
        top_k=top_k,
        parameters=given.params_total or (round(size) if size and given.n_layers is None else None),
        active_parameters=given.params_active,
    )


def _size_in(name: str | None, notes: _Notes) -> float | None:
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([mb])(?![a-z])", (name or "").lower())
    if not found:
        return None
    size = float(found.group(1)) * (1e6 if found.group(2) == "m" else 1e9)
    notes.said.append(f"params_total={size:.3g} (from the model's name)")
    return size


def _depth_and_width(given: Description, size: float | None, notes: _Notes) -> tuple[int, int]:
    if given.n_layers is not None and given.d_model is not None:
        return given.n_layers, given.d_model
    if size is None:
        known = given.n_layers or 0
        near = min(_USUAL_SHAPES, key=lambda s: abs(s[1] - known) if given.n_layers else abs(s[2] - (given.d_model or 0)))
        size = near[0]
    if given.d_model is not None:
        return notes.take(None, max(1, round(size / (12 * given.d_model**2))), "n_layers"), given.d_model
    if given.n_layers is not None:
        return given.n_layers, notes.take(None, max(64, 64 * round(math.sqrt(size / (12 * given.n_layers)) / 64)), "d_model")
    _, layers, _ = min(_USUAL_SHAPES, key=lambda s: abs(math.log(s[0] / size)))
    d_model = max(64, 64 * round(math.sqrt(size / (12 * layers)) / 64))
    return notes.take(None, layers, "n_layers"), notes.take(None, d_model, "d_model")


def _heads(d_model: int) -> int:
    d_head = 128 if d_model >= 2048 else 64
    return max(1, d_model // d_head)


def _experts(given: Description, notes: _Notes) -> tuple[int, int]:
    if given.n_experts and given.n_experts > 1:
        return given.n_experts, notes.take(given.top_k, min(2, given.n_experts), "top_k")
    if given.n_experts is None and given.params_total and given.params_active and given.params_active < 0.9 * given.params_total:
        ratio = given.params_total / given.params_active
        top_k = given.top_k or 2
        return notes.take(None, max(2, round(ratio * top_k)), "n_experts"), notes.take(given.top_k, top_k, "top_k")
    return 0, 1


# --- how it is trained ---------------------------------------------------------------------------------------------------


def _framework(given: Description, notes: _Notes) -> str:
    name, guessed = free_text.framework(given.framework, given.precision, given.optimizer, given.sharding, given.parallelism)
    if not guessed:
        return name
    if given.gpu.device == "cpu":
        # Nobody else's figures of processors are known.
        name = OURS
    notes.said.append(f"framework={name}")
    return name


def _setting(given: Description, shape: Shape, seq_len: int, notes: _Notes) -> Setting:
    name = _framework(given, notes)
    kind = free_text.arithmetic(given.precision)
    if kind is None:
        kind = "bf16" if given.gpu.bf16_tflops else "fp16" if given.gpu.fp16_tflops else "fp32"
        notes.said.append(f"precision={kind}")
    wires = free_text.links(given.interconnect)
    spread = free_text.spread(given.parallelism, given.sharding)
    model_parallel = spread.tensor * spread.pipeline * spread.context
    n_gpus = notes.take(
        given.n_gpus,
        min(MOST, model_parallel * (spread.data or (max(spread.fsdp, default=1) if spread.sharder == "fsdp" else 1))),
        "n_gpus",
    )
    if model_parallel > n_gpus and given.n_gpus is not None:
        raise Unreadable(f"tensor x pipeline x context parallel = {model_parallel} is more than {n_gpus} GPUs")
    replicas = max(1, n_gpus // model_parallel)
    sharder = spread.sharder
    stage = spread.stage
    if sharder is None or stage is None:
        sharder, stage = ("none", 0) if replicas == 1 else ("ddp", 0)
        if name == OURS:
            sharder, stage = "zero", 1
        if name in _DISTRIBUTED_OPTIMIZER and n_gpus > 1:
            sharder, stage = "ddp", 1
        notes.said.append(f"parallelism: {'data parallel' if n_gpus > 1 else 'one GPU'}, ZeRO stage {stage}")
    shards = _shards(spread, n_gpus, replicas, sharder)
    compiled = free_text.is_true(given.compile)
    if compiled is None:
        compiled = name in ("nanochat", "modded-nanogpt", "modded-flex", "nanogpt-speedrun", JAX)
        notes.said.append(f"compile={str(compiled).lower()}")
    # Kernels fused by hand spare the same traffic, and XLA compiles whatever is said of torch's compiler.
    compiled = compiled or name in FUSED_BY_HAND or name == JAX
    recompute = free_text.recompute(given.activation_checkpointing)
    if recompute is None:
        recompute = "none"
        notes.said.append("activation_checkpointing=none")
    attention = free_text.attention(given.attention)
    if attention is None:
        attention = "fused" if not given.gpu.compute_capability.startswith(("7.0", "7.5")) else "eager"
        notes.said.append(f"attention={attention}")
    micro_batch, grad_accum = _batch(given, notes, seq_len=seq_len, replicas=replicas, pipeline=spread.pipeline, name=name)
    return Setting(
        n_gpus=n_gpus,
        seq_len=seq_len,
        micro_batch=micro_batch,
        grad_accum=grad_accum,
        arithmetic=kind,
        states=free_text.states(given.precision, given.optimizer, sharder=sharder, name=name, kind=kind),
        sharder=sharder,
        stage=stage,
        shards=shards,
        replicas=replicas,
        tensor=spread.tensor,
        pipeline=min(spread.pipeline, shape.n_layers),
        context=spread.context,
        expert=min(spread.expert, max(1, shape.n_experts)),
        recompute=recompute,
        attention=attention,
        offload=free_text.offload(given.offload, *_said_beside(given)),
        activations_to_host=free_text.activations_to_host(given.offload, given.activation_checkpointing),
        compiled=compiled,
        framework=name,
        chunked_loss=name == OURS or free_text.loss_is_chunked(given.framework, given.precision, given.optimizer, given.attention),
        gradient_freed=free_text.gradient_is_freed(given.precision, given.optimizer),
        gpus_per_node=wires.gpus_per_node or GPUS_PER_NODE,
        network_gb_s=wires.network_gb_s,
        link_gb_s=wires.link_gb_s or (PCIE if wires.is_pcie else None),
        recompute_every=min(shape.n_layers, free_text.recompute_every(given.activation_checkpointing)) if recompute == "full" else 1,
        virtual_stages=max(1, spread.virtual),
        overlapped_tensor=spread.overlapped_tensor,
    )


def _said_beside(given: Description) -> list[str]:
    """Return texts about sharding that speak of offloading too."""
    texts = (str(given.parallelism or ""), str(given.sharding or ""))
    return [text for text in texts if "offload" in text.lower() or "infinity" in text.lower()]


FUSED_BY_HAND = frozenset({"llm.c", "flash-attention", "tinyllama"})
_DISTRIBUTED_OPTIMIZER = frozenset({"nemo", "megatron-bridge"})
"""Frameworks that shard the optimizer's states over data-parallel replicas by themselves."""

PCIE = 0.0
"""As `link_gb_s`: whatever PCIe gives."""


def _shards(spread: free_text.Spread, n_gpus: int, replicas: int, sharder: str) -> int:
    if sharder == "fsdp":
        # FSDP2 is a version, FSDP8 a degree: the one that makes up the number of GPUs is a degree.
        group = spread.tensor * spread.pipeline
        for degree in spread.fsdp:
            if degree * group * spread.context == n_gpus or (degree * group <= n_gpus and degree > 2 and n_gpus % (degree * group) == 0):
                return max(1, min(n_gpus // group, degree * spread.context))
        return max(1, n_gpus // group)
    return replicas * spread.context


def _batch(given: Description, notes: _Notes, *, seq_len: int, replicas: int, pipeline: int, name: str) -> tuple[int, int]:
    micro, accum, batch = given.micro_batch, given.grad_accum, given.global_batch_tokens
    if micro is None:
        if batch and accum:
            micro = max(1, round(batch / (seq_len * replicas * accum)))
        else:
            micro = max(1, min(MOST_SEQUENCES, TOKENS_PER_PASS // seq_len))
            if batch:
                micro = min(micro, max(1, batch // (seq_len * replicas)))
        notes.said.append(f"micro_batch={micro}")
    if pipeline > 1 and name == "torchtitan":
        # Its local batch is cut into one micro batch per stage.
        pieces = min(micro, pipeline)
        return max(1, micro // pieces), pieces * (accum or 1)
    if accum is None:
        accum = max(1, round(batch / (seq_len * replicas * micro))) if batch else _accumulation(pipeline)
        if not batch:
            notes.said.append(f"grad_accum={accum}")
    return micro, accum


def _accumulation(pipeline: int) -> int:
    return 8 * pipeline if pipeline > 1 else 1
