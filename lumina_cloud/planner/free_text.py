"""What people write about a training run, read: parallelism, precision, optimizer, recomputation, attention, links, framework.

One function a subject. Each takes the text as it stands (`ZeRO-3, DP8`, `FSDP8 TP8 PP8 1F1B`, `bf16-true (pure bf16) + AdamW`) or
None, never raises on text that it does not know, and leaves None or a default where nothing is said; whoever calls names what was
assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina_cloud.planner.setting import AUTOCAST, FULL_32, MEGATRON, MIXED_DEEPSPEED, MIXED_FSDP, OURS, PURE_16

if TYPE_CHECKING:
    from lumina_cloud.planner.setting import Arithmetic, Attention, Offloaded, Recompute, Sharder, States


def _low(text: object) -> str:
    return "" if text is None else str(text).strip().lower()


def _has(text: str, *words: str) -> bool:
    return any(re.search(word, text) for word in words)


# --- framework -----------------------------------------------------------------------------------------------------------

OTHER = "other"

_FRAMEWORKS: tuple[tuple[str, str], ...] = (
    (r"lumina", OURS),
    (r"llm[-_ ]?foundry|composer|mosaic", "llm-foundry"),
    (r"torch[-_ ]?titan", "torchtitan"),
    (r"torch[-_ ]?tune", "torchtune"),
    (r"nanochat", "nanochat"),
    (r"modded nanogpt|speedrun", "nanogpt-speedrun"),
    (r"pytorch nightly|flex", "modded-flex"),
    (r"modded|2\.4\.1\+cu121", "modded-nanogpt"),
    (r"nano[-_ ]?gpt", "nanogpt"),
    (r"llm\.c\b|llmc|c/cuda", "llm.c"),
    (r"tinyllama", "tinyllama"),
    (r"lit[-_ ]?gpt|lightning|lit-llama", "litgpt"),
    (r"flash[-_ ]attention|dao-ailab", "flash-attention"),
    (r"megatron[-_ ]?bridge|nemo automodel", "megatron-bridge"),
    (r"megatron[-_ ]?deepspeed|deepspeed 3d|bloom", "megatron-deepspeed"),
    (r"nemo|megatron[-_ ]?core|mcore", "nemo"),
    (r"gpt[-_ ]?neox", "gpt-neox"),
    (r"megatron", "megatron-lm"),
    (r"deepspeed", "deepspeed"),
    (r"axolotl|unsloth|llama[-_ ]?factory|\btrl\b|\bpeft\b|transformers|hugging ?face|\bhf\b|accelerate", "huggingface"),
    (r"pytorch|torch|fairseq|lightning", "pytorch"),
)

_TELLTALES: tuple[tuple[str, str], ...] = (
    (r"bf16-true|16-true|32-true|bf16-mixed", "litgpt"),
    (r"amp_bf16|amp_fp8|\(pure\)|\(default\)|decoupled", "llm-foundry"),
    (r"fsdp2 bf16 param|fsdp2", "torchtitan"),
    (r"bf16 activations, muon", "modded-flex"),
    (r"muon.*sharded|nanochat", "nanochat"),
    (r"bf16 pure \+|fused in backward", "torchtune"),
    (r"zero-?[123].*over dp|tp\d+ pp\d+ \+ zero", "megatron-deepspeed"),
    (r"zero-?(\+\+|[123])", "deepspeed"),
)


def framework(text: object, *others: object) -> tuple[str, bool]:
    """Return a known framework's name, and whether it had to be guessed from words in `others` that it alone uses."""
    low = _low(text)
    for pattern, name in _FRAMEWORKS:
        if low and _has(low, pattern):
            return name, False
    if low:
        return OTHER, False
    rest = " ; ".join(_low(o) for o in others)
    for pattern, name in (*_TELLTALES, *_FRAMEWORKS):
        if _has(rest, pattern):
            return name, True
    return OTHER, True


# --- parallelism ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Degrees of each kind of parallelism; None where nothing was said."""

    sharder: Sharder | None
    stage: int | None
    tensor: int
    pipeline: int
    context: int
    expert: int
    data: int | None
    fsdp: tuple[int, ...]
    """Numbers beside FSDP: a degree, or the 2 of FSDP2."""
    virtual: int
    overlapped_tensor: bool


def _degree(low: str, name: str) -> int | None:
    found = re.findall(rf"(?<![a-z0-9]){name}\s*[=:x-]?\s*(\d+)(?![\d.])", low)
    return int(found[-1]) if found else None


def spread(text: object, sharding: object = None) -> Spread:
    """Read degrees and sharding: `FSDP32 TP8 async`, `ZeRO-3, DP8`, `TP4+PP8+CP1+VP5`, `DDP`, `tensor parallel 4`."""
    low = ", ".join(part for part in (_low(sharding), _low(text)) if part)
    for long, short in (("tensor", "tp"), ("pipeline", "pp"), ("context", "cp"), ("expert", "ep"), ("data", "dp")):
        low = re.sub(rf"{long}[-_ ]?parallel(ism|_size)?( size| degree)?", short, low)
    fsdp = tuple(int(n) for n in re.findall(r"fsdp[-_ ]?(?:full|shard|grad_op)?\s*[=:]?\s*(\d+)", low))
    sharder, stage = _sharding(low)
    return Spread(
        sharder=sharder,
        stage=stage,
        tensor=_degree(low, "tp") or 1,
        pipeline=_degree(low, "pp") or 1,
        context=_degree(low, "cp") or 1,
        expert=_degree(low, "ep") or 1,
        data=_degree(low, "dp"),
        fsdp=fsdp,
        virtual=_degree(low, "vp") or (2 if "interleaved" in low else 1),
        overlapped_tensor="async" in low,
    )


def _sharding(low: str) -> tuple[Sharder | None, int | None]:
    stages = [int(n) for n in re.findall(r"(?:zero|stage)[-_ ]?(?:stage)?[-_ ]?([0-3])(?!\d)", low)]
    if "not stated" in low:
        stages = []
    if "fsdp" in low or "fully sharded" in low:
        if _has(low, r"grad_op|shard_grad|zero-?2"):
            return "fsdp", 2
        return "fsdp", 0 if "no_shard" in low else 3
    if stages:
        return "zero", stages[-1]
    if _has(low, r"optimizer states? sharded|distributed optimizer|sharded (muon|adam|optim)|muon state work distributed"):
        return "ddp", 1
    if "ddp" in low or _has(low, r"\bdp\b|\bdp\d"):
        return "ddp", 0
    if _has(low, r"\bsingle\b|\bnone\b|1 gpu|one gpu"):
        return "none", 0
    return None, None


# --- precision and optimizer ---------------------------------------------------------------------------------------------


def arithmetic(text: object) -> Arithmetic | None:
    """Return the precision of the matrix products: `fp8: FSDP2 bf16 param` is fp8, `fp16 + fp32 master/Adam` fp16."""
    low = _low(text)
    if not low:
        return None
    eight = re.search(r"fp8|float8|e4m3|mxfp8|nvfp", low)
    sixteen = re.search(r"bf16|bfloat|fp16|float16|\bhalf\b|16-(true|mixed)|bf-?16", low)
    if eight and not (sixteen and sixteen.start() < eight.start()):
        return "fp8"
    if sixteen:
        return "bf16" if "b" in sixteen.group() else "fp16"
    if "tf32" in low:
        return "tf32"
    if _has(low, r"fp32|float32|32-true|\b32\b|single|full precision"):
        return "fp32"
    if _has(low, r"nf4|int4|int8|4-?bit|8-?bit|mixed|amp"):
        return "bf16"
    return None


_MOMENTS: tuple[tuple[str, float], ...] = (
    (r"galore|apollo|fira", 2.0),
    (r"8-?bit|int8|paged.*8|bnb|bitsandbytes|adamw8", 2.0),
    (r"4-?bit adam|adamw4", 1.0),
    (r"adafactor|sm3|came", 0.05),
    (r"lion|sgd.*momentum|momentum|nag", 4.0),
    (r"\bsgd\b", 0.0),
    (r"muon", 4.5),
)
"""Bytes of optimizer state per parameter. Adafactor keeps a row and a column for each matrix (Shazeer and Stern 2018), Lion and
momentum one fp32 value, 8-bit Adam two bytes (Dettmers et al. 2022), GaLore a quarter of the moments at its usual rank (Zhao et
al. 2024), Muon one momentum for matrices beside Adam for embeddings."""

ADAPTER_SHARE = 0.01
"""Of the parameters, for low-rank adapters where their number is not said."""


def states(precision: object, optimizer: object, *, sharder: Sharder, name: str, kind: Arithmetic) -> States:
    """Return bytes per parameter of weights, gradients, master copies and moments."""
    low = f"{_low(precision)} ; {_low(optimizer)}"
    pure = _is_pure(low, name, kind)
    base = _base(sharder, name, kind, pure=pure)
    moments = base.moments
    for pattern, size in _MOMENTS:
        if _has(low, pattern):
            moments = size / 2 if pure and size >= 4 else size
            break
    if moments == 8 and _has(low, r"bf16 (optimizer )?(states|moments)|opt_states_bf16"):
        moments = 4.0
    base = replace(base, moments=moments)
    if _has(low, r"q-?lora|nf4|4-?bit(?! adam)"):
        return replace(base, weights=0.55, cast=0, trained=ADAPTER_SHARE)
    if _has(low, r"\blora\b|adapter|dora\b"):
        return replace(base, weights=2 if kind in ("bf16", "fp16", "fp8") else 4, cast=0, trained=ADAPTER_SHARE)
    if _has(low, r"fp32 param|fp32 weights|fp32 master weights") and sharder in ("ddp", "none"):
        return replace(base, weights=4, gradients=4, master=0, cast=2 if kind in ("bf16", "fp16") else 0)
    return base


def _is_pure(low: str, name: str, kind: Arithmetic) -> bool:
    if kind not in ("bf16", "fp16"):
        return False
    if _has(low, r"16-true|16 pure|pure (bf|fp)16|16_true|pure.?16"):
        return True
    return name in ("torchtune", "litgpt") and not _has(low, r"mixed|amp|fp32")


def _base(sharder: Sharder, name: str, kind: Arithmetic, *, pure: bool) -> States:
    if kind in ("fp32", "tf32"):
        return FULL_32
    if pure:
        return PURE_16
    if name in ("megatron-lm", "nemo", "megatron-bridge") and sharder != "fsdp":
        return MEGATRON
    if sharder == "fsdp":
        return MIXED_FSDP
    if name == "megatron-deepspeed" and kind == "bf16":
        # Its bf16 optimizer adds each gradient to an fp32 sum and drops it: the sums alone stay.
        return replace(MIXED_DEEPSPEED, gradients=4)
    if sharder == "zero" or name in ("llm.c", "deepspeed", "megatron-deepspeed", "gpt-neox"):
        return MIXED_DEEPSPEED
    if name in ("nanochat", "modded-nanogpt", "modded-flex"):
        # Embeddings in bf16, matrices in fp32 and cast where they are used.
        return replace(AUTOCAST, cast=1)
    return AUTOCAST


def gradient_is_freed(*texts: object) -> bool:
    """Whether the optimizer steps inside the backward pass."""
    return _has(" ; ".join(_low(t) for t in texts), r"in backward|optimizer[-_ ]in[-_ ]bwd|fused? .*backward|no grad buffer|lomo")


# --- the rest ------------------------------------------------------------------------------------------------------------


def recompute(text: object) -> Recompute | None:
    """Read what is computed again: `full`, `selective`, `none`, `every layer`, `0`."""
    low = _low(text)
    if not low:
        return None
    if _has(low, r"^(none|no|off|false|0|disabled?|without.*)$"):
        return "none"
    if _has(low, r"select|partial|attention|core|op\b|every (2|second|other)|some|half"):
        return "selective"
    if _has(low, r"none|\bno\b|off\b|disabled"):
        return "none"
    return "full"


def offload(*texts: object) -> Offloaded:
    """Read what lives in the host's memory."""
    low = " ; ".join(_low(t) for t in texts)
    if _has(low, r"^[ ;]*(none|no|false|0)?[ ;]*$"):
        return "none"
    if _has(low, r"params?(eters)? (to|in|on) (cpu|host|nvme)|offload_param|cpu_offload|param.*offload|offload.*param|fsdp.*cpu offload"):
        return "optimizer+parameters"
    if _has(low, r"optim\w* (states? )?(to|in|on) (cpu|host|nvme)|offload_optim|optim.*offload|zero-?offload|offload.*optim|paged"):
        return "optimizer"
    if _has(low, r"^(?!.*activation).*(offload|\bcpu\b)"):
        return "optimizer"
    return "none"


def activations_to_host(*texts: object) -> bool:
    """Whether kept activations move to the host's memory."""
    return _has(" ; ".join(_low(t) for t in texts), r"activations?[-_ ](cpu[-_ ])?offload(?!.*false)|activations? (to|in|on) (cpu|host)")


def attention(text: object) -> Attention | None:
    """Read the kernel: fused ones (flash, sdpa, xformers, cuDNN, Triton) never write the scores to memory."""
    low = _low(text)
    if not low:
        return None
    if _has(low, r"eager|math|naive|manual|slow|vanilla|unfused|no flash|without flash|\bnone\b|fused softmax"):
        return "eager"
    return "fused"


def is_true(value: object) -> bool | None:
    """Read a yes or no in any of its spellings; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool | int | float):
        return bool(value)
    return not _has(_low(value), r"^(0|0\.0|no|none|false|off|eager|not .*|without.*)$")


@dataclass(frozen=True)
class Links:
    """What was said about wires: GPUs in a node, 10^9 bytes/s per GPU and direction."""

    gpus_per_node: int | None
    network_gb_s: float | None
    link_gb_s: float | None
    is_pcie: bool


def links(text: object) -> Links:
    """Read `1600 Gbps node-node RoCE`, `400 Gb/s per GPU RDMA`, `PCIe, no NVLink`, `NVLink limited to 400 GB/s`."""
    low = _low(text)
    per_node = re.search(r"\b(\d+)\s*x\s*[a-z]?\w*\s*(?:per node|nvlink hosts?|hosts?)", low) or re.search(r"(\d+)[- ]gpu nodes?", low)
    nodes = int(per_node.group(1)) if per_node else None
    network = None
    per_gpu = re.search(r"([\d.]+)\s*(?:gb/s|gbps|gbit/s|g)\s*per gpu", low)
    per_box = re.search(r"([\d.]+)\s*(tbps|tb/s|gbps|gbit/s)(?!\s*per gpu)", low)
    several = re.search(r"(\d+)\s*x\s*(?:omni-?path|ib|infiniband|edr|hdr|ndr|efa|cx-?\d)\s*(\d{2,3})", low)
    if per_gpu:
        network = float(per_gpu.group(1)) / 8
    elif several:
        network = int(several.group(1)) * float(several.group(2)) / 8 / (nodes or 8)
    elif per_box and "nvlink limited" not in low:
        network = float(per_box.group(1)) * (1000 if per_box.group(2).startswith("t") else 1) / 8 / (nodes or 8)
    elif "omni-path" in low or "omnipath" in low:
        network = 100 / 8
    elif "ethernet" in low:
        network = 1.0
    cut = re.search(r"nvlink[^,;]*?(?:limited|cut)[^,;]*?([\d.]+)\s*gb", low)
    pcie = "pcie" in low and not _has(low, r"nvlink(?<!no nvlink)")
    return Links(nodes, network, float(cut.group(1)) / 2 if cut else None, pcie)
