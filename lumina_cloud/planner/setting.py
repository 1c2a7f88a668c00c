"""How a model is trained: precision, optimizer, how it is spread, what is recomputed, which kernels, by which framework.

A `Setting` says the same things for any framework; `of_layout` states what this project's own trainer does under DeepSpeed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trainer.config import LayoutConfig, Precision

Arithmetic = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]
Recompute = Literal["none", "selective", "full"]
Attention = Literal["fused", "eager"]
Sharder = Literal["none", "ddp", "zero", "fsdp"]
Offloaded = Literal["none", "optimizer", "optimizer+parameters"]

OURS = "lumina"
"""This project's own trainer, as a framework."""
JAX = "jax"
"""All that is compiled by XLA, whoever wrote it."""
GPUS_PER_NODE = 8
"""Where nothing is said."""


@dataclass(frozen=True)
class States:
    """Bytes per parameter that stay for the whole training, and what is made of them for arithmetic."""

    weights: float
    gradients: float
    master: float
    moments: float
    cast: float
    """A copy in the precision of the arithmetic that lives through forward and backward (autocast's cache)."""
    trained: float = 1.0
    """The share of parameters that have gradients and states (low-rank adapters train few)."""


@dataclass(frozen=True)
class Setting:
    """All that matters to memory and speed beside the model and the GPU."""

    n_gpus: int
    seq_len: int
    micro_batch: int
    """Sequences per forward pass of one replica."""
    grad_accum: int
    arithmetic: Arithmetic
    states: States
    sharder: Sharder
    stage: int
    """0 nothing is sharded, 1 optimizer states, 2 gradients too, 3 weights too."""
    shards: int
    """GPUs over which those are sharded."""
    replicas: int
    """Data-parallel replicas, those that shard included."""
    tensor: int
    pipeline: int
    context: int
    expert: int
    recompute: Recompute
    attention: Attention
    offload: Offloaded
    activations_to_host: bool
    compiled: bool
    framework: str
    """A known name, or `other`."""
    chunked_loss: bool
    gradient_freed: bool
    """The optimizer steps in the backward pass: gradients never exist all at once."""
    gpus_per_node: int
    network_gb_s: float | None
    """Per GPU between nodes, one direction, 10^9 bytes/s; None where it is not said."""
    link_gb_s: float | None
    """Per GPU inside a node, one direction; None: what the GPU has."""
    recompute_every: int = 1
    """Of which every n-th block is recomputed, where blocks are."""
    virtual_stages: int = 1
    """Chunks per pipeline stage (interleaving)."""
    overlapped_tensor: bool = False
    careful: bool = False
    """Whether what is not known is taken as it costs most memory: what a bound is counted by."""

    @property
    def tokens(self) -> float:
        """Tokens of one forward pass on one GPU."""
        return self.micro_batch * self.seq_len / self.context

    @property
    def is_split(self) -> bool:
        """Whether a model is cut into parts beyond data parallelism."""
        return self.tensor * self.pipeline > 1

    @property
    def bytes_per_element(self) -> int:
        """Of an activation."""
        return 4 if self.arithmetic in ("fp32", "tf32") else 2


MIXED_DEEPSPEED = States(weights=2, gradients=2, master=4, moments=8, cast=0)
"""16-bit weights and gradients beside a sharded fp32 master: Rajbhandari et al. 2020 (arXiv 1910.02054), section 3.1."""
MIXED_FSDP = States(weights=4, gradients=4, master=0, moments=8, cast=0)
"""FSDP shards fp32 weights and gathers them in 16 bits, layer by layer (PyTorch, `MixedPrecision` and `MixedPrecisionPolicy`)."""
AUTOCAST = States(weights=4, gradients=4, master=0, moments=8, cast=2)
MEGATRON = States(weights=2, gradients=4, master=4, moments=8, cast=0)
"""Megatron-LM adds gradients up in fp32: 18 bytes a parameter without its distributed optimizer (its README)."""
PURE_16 = States(weights=2, gradients=2, master=0, moments=4, cast=0)
"""Weights, gradients and both moments in 16 bits."""
FULL_32 = States(weights=4, gradients=4, master=0, moments=8, cast=0)


@lru_cache(maxsize=4096)
def of_layout(layout: LayoutConfig, seq_len: int, precision: Precision, device: str = "cuda", optimizer: str = "adamw") -> Setting:
    """Return what this project's trainer does: DeepSpeed's ZeRO, fused attention, a loss in chunks, compiled on a GPU below stage 3."""
    # DeepSpeed keeps a master copy of its shard even of fp32 weights.
    states = MIXED_DEEPSPEED if precision != "fp32" else States(weights=4, gradients=4, master=4, moments=8, cast=0)
    if optimizer == "adamw8bit":
        states = replace(states, moments=2)
    return Setting(
        n_gpus=layout.n_gpus,
        seq_len=seq_len,
        micro_batch=layout.micro_batch,
        grad_accum=layout.grad_accum,
        arithmetic=precision,
        states=states,
        sharder="zero",
        stage=layout.zero_stage,
        shards=layout.n_gpus,
        replicas=layout.n_gpus,
        tensor=1,
        pipeline=1,
        context=1,
        expert=layout.expert_parallel,
        recompute="full" if layout.checkpointing == "block" else "none",
        attention="fused",
        offload=layout.offload,
        activations_to_host=False,
        compiled=layout.compile == "on" or (layout.compile == "auto" and device == "cuda" and layout.zero_stage < 3),
        framework=OURS,
        chunked_loss=True,
        gradient_freed=False,
        gpus_per_node=max(8, layout.n_gpus),
        network_gb_s=None,
        link_gb_s=None,
        recompute_every=layout.checkpoint_every if layout.checkpointing == "block" else 1,
    )
