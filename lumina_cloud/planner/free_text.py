"""What people write about a training run, read: parallelism, precision, optimizer, recomputation, attention, links, framework.

One function a subject. Each takes the text as it stands (`ZeRO-3, DP8`, `FSDP8 TP8 PP8 1F1B`, `bf16-true (pure bf16) + AdamW`) or
None, never raises on text that it does not know, and leaves None or a default where nothing is said; whoever calls names what was
assumed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina_cloud.planner.setting import (
    AUTOCAST,
    FULL_32,
    GPUS_PER_NODE,
    JAX,
    MEGATRON,
    MIXED_DEEPSPEED,
    MIXED_FSDP,
    OURS,
    PURE_16,
)

if TYPE_CHECKING:
    from lumina_cloud.planner.setting import Arithmetic, Attention, Offloaded, Recompute, Sharder, States


def _low(text: object) -> str:
    return "" if text is None else str(text).strip().lower()


def _has(text: str, *words: str) -> bool:
    return any(re.search(word, text) for word in words)


_UNSAID = r"^(|-+|\?|n/?a|nan|null|unknown|unspecified|not (stated|given|said|known|specified))$"
"""Texts that stand for an empty field."""


# --- framework -----------------------------------------------------------------------------------------------------------

OTHER = "other"

_FRAMEWORKS: tuple[tuple[str, str], ...] = (
    (r"lumina", OURS),
    (r"llm[-_ ]?foundry|composer|mosaic", "llm-foundry"),
    (r"torch[-_ ]?titan", "torchtitan"),
    (r"torch[-_ ]?tune", "torchtune"),
    (r"nanochat", "nanochat"),
    (r"modded nanogpt|speedrun", "nanogpt-speedrun"),
    (r"pytorch nightly|\bflex\b|flex[-_ ]?attention", "modded-flex"),
    (r"modded|2\.4\.1\+cu121", "modded-nanogpt"),
    (r"nano[-_ ]?gpt", "nanogpt"),
    (r"llm\.c\b|llmc|c/cuda", "llm.c"),
    (r"tinyllama", "tinyllama"),
    (r"lit[-_ ]?gpt|lit-llama", "litgpt"),
    (r"flash[-_ ]attention|dao-ailab", "flash-attention"),
    (r"megatron[-_ ]?bridge|nemo automodel", "megatron-bridge"),
    (r"megatron[-_ ]?deepspeed|deepspeed 3d|bloom", "megatron-deepspeed"),
    (r"nemo|megatron[-_ ]?core|mcore", "nemo"),
    (r"gpt[-_ ]?neox", "gpt-neox"),
    (r"megatron", "megatron-lm"),
    (r"deepspeed", "deepspeed"),
    (r"liger|unsloth", "liger"),
    (
        r"axolotl|llama[-_ ]?factory|ms-swift|xtuner|galore|open-instruct|\btrl\b|\bpeft\b|transformers|hugging ?face|\bhf\b|accelerate",
        "huggingface",
    ),
    (r"levanter|maxtext|easylm|\bjax\b|\bt5x\b|\bpax(ml)?\b", JAX),
    (r"pytorch|torch|fairseq|lightning", "pytorch"),
)

_TELLTALES: tuple[tuple[str, str], ...] = (
    (r"bf16-true|16-true|32-true|bf16-mixed", "litgpt"),
    (r"amp_bf16|amp_fp8|\(pure\)|\(default\)|decoupled", "llm-foundry"),
    (r"fsdp2 bf16 param|fsdp2", "torchtitan"),
    (r"bf16 activations, muon", "modded-flex"),
    (r"muon.*sharded|nanochat", "nanochat"),
    (r"bf16 pure|fused in backward", "torchtune"),
    (r"zero-?[123].*over dp|tp\d+ pp\d+ \+ zero", "megatron-deepspeed"),
    (r"deepspeed 3d", "megatron-deepspeed"),
    (r"zero-?(\+\+|[123])", "deepspeed"),
    (r"fp32 master/adam|dp\d+ tp\d+ pp\d+", "megatron-lm"),
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


_LONG_NAMES = (
    ("tensor", "tp"),
    ("pipeline", "pp"),
    ("context", "cp"),
    ("sequence", "sp"),
    ("expert", "ep"),
    ("data", "dp"),
    ("model", "mp"),
)


def _short(low: str) -> str:
    """Rewrite long names and other spellings of degrees: `8-way tensor parallel`, `tensor-model-parallel-size 8`, `tp2pp4`, `FSDP8xTP8`."""
    for long, short in _LONG_NAMES:
        kind = rf"{long}(?:[-_ ]model)?[-_ ]?parallel(?:ism)?(?:[-_ ]?(?:size|degree))?"
        low = re.sub(rf"(\d+)[-_ ]?way[-_ ]{kind}", rf"{short}\1", low)
        low = re.sub(kind, short, low)
        low = re.sub(rf"\b{long}\s*[=:]\s*(\d)", rf"{short}\1", low)
    low = re.sub(r"(\d+)[-_ ]?way[-_ ](tp|pp|cp|sp|ep|dp|mp)\b", r"\2\1", low)
    low = re.sub(r"\bt(\d+)[-_ ]?p(\d+)(?:[-_ ]?d(\d+))?\b", r"tp\1 pp\2", low)
    return re.sub(r"(?<=\d)\s*[x*]?\s*(?=(?:tp|pp|cp|sp|ep|dp|vp|fsdp)[-_ =:]*\d)", " ", low)


def _degree(low: str, name: str) -> int | None:
    found = re.findall(rf"(?<![a-z0-9]){name}(?:[-_ ]?(?:size|degree))?\s*[=:x-]?\s*(\d+)(?![\d.])", low)
    return int(found[-1]) if found else None


def spread(text: object, sharding: object = None) -> Spread:
    """Read degrees and sharding: `FSDP32 TP8 async`, `ZeRO-3, DP8`, `TP4+PP8+CP1+VP5`, `DDP`, `tensor parallel 4`."""
    low = _short(", ".join(part for part in (_low(sharding), _low(text)) if part))
    sharder, stage = _sharding(low)
    tensor = _degree(low, "tp") or _degree(low, "mp") or 1
    return Spread(
        sharder=sharder,
        stage=stage,
        tensor=tensor,
        pipeline=_degree(low, "pp") or 1,
        context=(_degree(low, "cp") or 1) * _sequence(low, tensor),
        expert=_degree(low, "ep") or 1,
        data=_degree(low, "dp"),
        fsdp=_fsdp(low),
        virtual=_degree(low, "vpp?") or _degree(low, "v") or (2 if "interleaved" in low else 1),
        overlapped_tensor="async" in low,
    )


def _sequence(low: str, tensor: int) -> int:
    """Return over how many GPUs sequences are cut: Ulysses' degree. Beside tensor parallelism `SP` is Megatron's, over the same GPUs."""
    ulysses = _degree(low, "ulysses")
    return ulysses or ((_degree(low, "sp") or 1) if tensor == 1 or "ulysses" in low else 1)


def _fsdp(low: str) -> tuple[int, ...]:
    """Return the numbers that may be FSDP's degree; where replicas of whole shards are made, over how many GPUs each is spread."""
    found = re.findall(r"dp[-_ ]shard\w*\s*[=:]?\s*(\d+)", low)
    if found or _has(low, r"hsdp|hybrid|\bmics\b"):
        found = found or re.findall(r"shard(?:s|ed|ing)?\s*[=:]?\s*(\d+)", low) or re.findall(r"(\d+)[- ]?(?:way )?shards?\b", low)
        found = found or re.findall(r"(?:hsdp|hybrid\w*)\s*\(?\s*\d+\s*x\s*(\d+)", low) or re.findall(r"mics\s*[=:]?\s*(\d+)", low)
        return (int(found[0]) if found else GPUS_PER_NODE,)
    return tuple(int(n) for n in re.findall(r"fsdp[-_ ]?(?:full|shard|grad_op)?\s*[=:]?\s*(\d+)", low))


_FULLY_SHARDED = r"fsdp|fully[-_ ]shard|full_shard|hsdp|hybrid[-_ ]shard|dp[-_ ]shard|shard_grad_op|no_shard"


_SHARDING_WORDS: tuple[tuple[str, Sharder, int], ...] = (
    (r"zero[-_ ]?(infinity|\+\+)|gemini|\bmics\b", "zero", 3),
    (r"optimizer states? shard|distributed optimizer|sharded (muon|adam|optim)|muon state work distributed", "ddp", 1),
    (r"zero ?redundancy ?optimizer|\boss\b", "ddp", 1),
    (r"sharded[- ]?(ddp|dp)|\bsdp\b", "zero", 2),
    (r"ddp|\bdp\b|\bdp\d", "ddp", 0),
    (r"\bsingle\b|\bnone\b|1 gpu|one gpu", "none", 0),
)
"""Where no stage is named: the first that is found."""


def _sharding(low: str) -> tuple[Sharder | None, int | None]:
    stages = [int(n) for n in re.findall(r"(?:zero|stage|(?<![a-z])z)[-_ ]?(?:stage)?\s*[-_=: ]?\s*([0-3])(?!\d)", low)]
    if "not stated" in low:
        stages = []
    if _has(low, _FULLY_SHARDED):
        if _has(low, r"grad_op|shard_grad|zero-?2|reshard\w*\s*[=:]?\s*(false|no|off|0)\b|(without|no) reshard"):
            return "fsdp", 2
        return "fsdp", 0 if "no_shard" in low else 3
    if stages:
        return "zero", stages[-1]
    return next(((sharder, stage) for pattern, sharder, stage in _SHARDING_WORDS if _has(low, pattern)), (None, None))


# --- precision and optimizer ---------------------------------------------------------------------------------------------


def arithmetic(text: object) -> Arithmetic | None:
    """Return the precision of the matrix products: `fp8: FSDP2 bf16 param` is fp8, `fp16 + fp32 master/Adam` fp16."""
    low = _low(text)
    if _has(low, _UNSAID):
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
    (r"4-?bit adam|adamw?4|adam\w*[ (]+4-?bit", 1.0),
    (r"adafactor|\bsm3\b|\bcame\b|adalomo", 0.05),
    (r"\blomo\b", 0.0),
    (r"soap|shampoo", 24.0),
    (r"adam[-_ ]?mini", 4.0),
    (r"\blion|sgd.*(momentum|nesterov)|nesterov|^momentum|\bnag\b", 4.0),
    (r"\bsgd\b", 0.0),
    (r"muon", 4.5),
)
"""Bytes of optimizer state per parameter. Adafactor keeps a row and a column for each matrix (Shazeer and Stern 2018), Lion and
momentum one fp32 value, 8-bit Adam two bytes (Dettmers et al. 2022), GaLore a quarter of the moments at its usual rank (Zhao et
al. 2024), Muon one momentum for matrices beside Adam for embeddings, Adam-mini one moment (Zhang et al. 2024, arXiv 2406.16793), LOMO
none (Lv et al. 2023, arXiv 2306.09782), SOAP two moments, two square statistics and their eigenvectors (Vyas et al. 2024, arXiv
2409.11321)."""

ADAPTER_SHARE = 0.01
"""Of the parameters, for low-rank adapters where their number is not said."""


def states(precision: object, optimizer: object, *, sharder: Sharder, name: str, kind: Arithmetic) -> States:
    """Return bytes per parameter of weights, gradients, master copies and moments."""
    low = f"{_low(precision)} ; {_low(optimizer)}"
    pure = _is_pure(low, name, kind)
    base = _base(low, sharder, name, kind, pure=pure)
    moments = base.moments
    for pattern, size in _MOMENTS:
        if _has(low, pattern):
            moments = size / 2 if pure and size >= 4 else size
            break
    if moments == 8 and _has(low, r"bf16 (adamw? |optimizer )?(states|moments)|opt_states_bf16"):
        moments = 4.0
    if moments == 4 and pure and _has(low, r"fp32 (adamw? |optimizer )?(states|moments)"):
        moments = 8.0
    base = replace(base, moments=moments)
    if _has(low, r"q-?lora|nf4") or _has(_low(precision), r"4-?bit(?! adam)|int4|fp4"):
        return replace(base, weights=0.55, cast=0, trained=ADAPTER_SHARE)
    if _has(low, r"\blora\b|adapter|dora\b"):
        whole = 1.05 if _has(_low(precision), r"8-?bit|int8") else 2
        return replace(base, weights=whole if kind in ("bf16", "fp16", "fp8") else 4, cast=0, trained=ADAPTER_SHARE)
    if _has(low, r"fp32 param|fp32 weights|fp32 master weights") and sharder in ("ddp", "none"):
        return replace(base, weights=4, gradients=4, master=0, cast=2 if kind in ("bf16", "fp16") else 0)
    return base


def _is_pure(low: str, name: str, kind: Arithmetic) -> bool:
    if kind not in ("bf16", "fp16"):
        return False
    if _has(
        low, r"16-true|16 pure|pure[-_ ](bf|fp)16|16_true|pure.?16|full (bf|fp)16|(all|everything)[- ](in )?(bf|fp)16|(bf|fp)16 everything"
    ):
        return True
    if _has(
        low, r"(no|without) (fp32 )?master|stochastic rounding|\bp(arams?)?=(bf|fp)16", r"(bf|fp)16 (param\w*|weights)\b.*(bf|fp)16.*states"
    ):
        return True
    return name in ("torchtune", "litgpt") and not _has(low, r"mixed|amp|fp32")


def _base(low: str, sharder: Sharder, name: str, kind: Arithmetic, *, pure: bool) -> States:
    if kind in ("fp32", "tf32"):
        return FULL_32
    if pure:
        return PURE_16
    if name in ("megatron-lm", "nemo", "megatron-bridge") and sharder != "fsdp":
        return MEGATRON
    if sharder == "fsdp":
        return MIXED_FSDP
    if _has(low, r"\bo2\b"):
        # Apex's level O2 holds 16-bit weights and gradients beside an fp32 master.
        return MIXED_DEEPSPEED
    if name == "megatron-deepspeed" and kind == "bf16":
        # Its bf16 optimizer adds each gradient to an fp32 sum and drops it: the sums alone stay.
        return replace(MIXED_DEEPSPEED, gradients=4)
    if sharder == "zero" or name in ("llm.c", "deepspeed", "megatron-deepspeed", "gpt-neox"):
        return MIXED_DEEPSPEED
    if name in ("nanochat", "modded-nanogpt", "modded-flex"):
        # Embeddings in bf16, matrices in fp32 and cast where they are used.
        return replace(AUTOCAST, cast=1)
    return AUTOCAST


_FREED = (
    r"in backward|optimizer[-_ ]in[-_ ]bwd|fused? .*backward|no grad buffer|lomo",
    r"(per|each)[- ]layer (weight )?updates?|layer-?wise updates?",
)


def gradient_is_freed(*texts: object) -> bool:
    """Whether the optimizer steps inside the backward pass."""
    return _has(" ; ".join(_low(t) for t in texts), *_FREED)


# --- the rest ------------------------------------------------------------------------------------------------------------


_OFF = r"^(none|no|off|false|0|0\.0|disabled?|not (used|enabled)|no .*|none\W.*|without.*|w/o.*)$|=\s*(false|none|off|0)$"


def recompute(text: object) -> Recompute | None:
    """Read what is computed again: `full`, `selective`, `none`, `every layer`, `0`; of every n-th block all is (`recompute_every`)."""
    low = _low(text)
    if _has(low, _UNSAID):
        return None
    if _has(low, _OFF):
        return "none"
    if recompute_every(low) > 1 or _has(low, r"nothing[-_ ]saveable"):
        return "full"
    if _has(low, r"select|partial|some|attention|core|op\b|\bmlp\b|\bffn\b|\bmoe\b|half|save_|saveable|minimal"):
        return "selective"
    if _has(low, r"none|\bno\b|off\b|disabled"):
        return "none"
    return "full"


def recompute_every(text: object) -> int:
    """Return of which every n-th block is computed again: `every 2 layers`, `every other block`, `8 of 32 layers`, `50%`."""
    low = _low(text)
    if _has(low, r"every[- ]?(other|second|2nd)|half (of )?(the )?(layers|blocks)"):
        return 2
    every = re.search(r"(?:every[- ]|selective[ =:(]+)(\d+)", low)
    if every:
        return max(1, int(every.group(1)))
    part = re.search(r"(\d+)\s*(?:of|/|out of)\s*(\d+)", low)
    if part and 0 < int(part.group(1)) < int(part.group(2)):
        return math.ceil(int(part.group(2)) / int(part.group(1)))
    share = re.search(r"(\d+)\s*%", low)
    return math.ceil(100 / int(share.group(1))) if share and 0 < int(share.group(1)) < 100 else 1


_KEPT_HERE = (
    r"offload\w*\s*[=:]\s*(none|false|no|off|0)\b|\b(no|without|w/o)\b[^,;+]*|none\b[^,;+]*"
    r"|([\w-]+ )?(is |are )?\bnot\b[^,;+]*|[\w-]+ (stays?|kept|remains?|on (the )?gpu)\b[^,;+]*"
)
"""What says that nothing is offloaded, or that one thing is not."""
_ACTIVATIONS = r"(activations?|checkpoints?|block inputs)\b[^,;+&]*"


def offload(*texts: object) -> Offloaded:
    """Read what lives in the host's memory (or on its disks): `optimizer to CPU; params to CPU`, `ZeRO-Offload`, `true`."""
    low = re.sub(
        _ACTIVATIONS, "", re.sub(r"activation[-_ ](cpu[-_ ])?offload\w*", "", re.sub(_KEPT_HERE, "", " ; ".join(map(_low, texts))))
    )
    if _has(low, r"^[ ;,]*(false|0|off|unknown|n/?a|-)?[ ;,]*$"):
        return "none"
    if _has(low, r"param|weights?\b|\ball\b|everything|cpu_offload|fsdp.*offload|infinity"):
        return "optimizer+parameters"
    if _has(low, r"optim|adam|moments|states|offload|\bcpu\b|\bhost\b|nvme|paged|^[ ;]*(true|yes|on|1)\b"):
        return "optimizer"
    return "none"


def activations_to_host(offloaded: object, checkpointing: object = None) -> bool:
    """Whether kept activations move to the host's memory: `activation offload`, or recomputation whose inputs do."""
    there = re.sub(_KEPT_HERE, "", _low(offloaded))
    policy = re.sub(_KEPT_HERE, "", _low(checkpointing))
    return _has(there, r"activation|checkpoint") or _has(policy, r"offload|cpu_checkpoint|(to|on|in) (the )?(cpu|host)|unsloth")


def attention(text: object) -> Attention | None:
    """Read the kernel: fused ones (flash, sdpa, xformers, cuDNN, Triton) never write the scores to memory."""
    low = _low(text)
    if _has(low, _UNSAID):
        return None
    if _has(low, r"unfused|\bmath\b|(no|without|w/o|not) (flash|fused|sdpa)|fused softmax|masked_softmax"):
        return "eager"
    if _has(low, r"flash|sdpa|fused|xformers|mem|triton|cudnn|flex|splash|pallas|\bfa-?[234]\b"):
        return "fused"
    if _has(low, r"eager|naive|manual|slow|vanilla|standard|plain|\bnone\b|baddbmm|core attention|materiali"):
        return "eager"
    return "fused"


def loss_is_chunked(*texts: object) -> bool:
    """Whether the loss is said never to have all logits at once."""
    return _has(
        " ; ".join(_low(t) for t in texts),
        r"chunked[-_ ](cross[-_ ]?entropy|ce\b|loss)|linear[-_ ]cross[-_ ]?entropy|cut[-_ ]cross|liger|unsloth|flce",
    )


def is_true(value: object) -> bool | None:
    """Read a yes or no in any of its spellings; None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return bool(value)
    low = _low(value)
    if _has(low, _UNSAID):
        return None
    return not _has(low, _OFF, r"^eager$|^not ")


@dataclass(frozen=True)
class Links:
    """What was said about wires: GPUs in a node, 10^9 bytes/s per GPU and direction."""

    gpus_per_node: int | None
    network_gb_s: float | None
    link_gb_s: float | None
    is_pcie: bool


_RATE = r"([\d.]+)\s*(tbps|tb/s|tbit/s|gbyte/s|gbps|gb/s|gbit/s|gbe|g)\b"
_CARDS = r"omni-?path|ib|infiniband|edr|hdr|ndr|efa|cx-?\d"


def links(text: object) -> Links:
    """Read `1600 Gbps node-node RoCE`, `400 Gb/s per GPU RDMA`, `PCIe, no NVLink`, `NVLink limited to 400 GB/s`, `8x400G InfiniBand`."""
    # A capital B is a byte.
    low = _low(re.sub(r"GB(ps|/s)", "gbyte/s", "" if text is None else str(text)))
    per_node = re.search(r"\b(\d+)\s*x\s*[a-z]?\w*\s*(?:per node|nvlink hosts?|hosts?)", low) or re.search(r"(\d+)[- ]gpu nodes?", low)
    nodes = int(per_node.group(1)) if per_node else None
    cut = re.search(r"nvlink[^,;]*?(?:limited|cut)[^,;]*?([\d.]+)\s*gb", low)
    pcie = "pcie" in low and not _has(low, r"nvlink(?<!no nvlink)")
    network = _network(re.sub(r"nv(link|switch)[^,;+:]*", "", low), nodes or GPUS_PER_NODE)
    return Links(nodes, network, float(cut.group(1)) / 2 if cut else None, pcie)


def _network(low: str, nodes: int) -> float | None:
    """Return 10^9 bytes/s per GPU between nodes, None where nothing is said."""
    per_gpu = re.search(_RATE + r"\s*(?:per gpu|/gpu|each gpu)", low)
    if per_gpu:
        return _bytes_per_second(per_gpu)
    several = re.search(rf"(\d+)\s*x\s*(?:{_CARDS})\s*(\d{{2,3}})", low)
    if several:
        return int(several.group(1)) * float(several.group(2)) / 8 / nodes
    rate = re.search(r"(?:\b(\d+)\s*x\s*)?" + _RATE, low)
    if rate:
        return int(rate.group(1) or 1) * _bytes_per_second(rate, 2) / nodes
    if "omni-path" in low or "omnipath" in low:
        return 100 / 8
    return 1.0 if "ethernet" in low else None


def _bytes_per_second(found: re.Match[str], group: int = 1) -> float:
    unit = found.group(group + 1)
    return float(found.group(group)) * (1000 if unit.startswith("t") else 1) / (1 if unit == "gbyte/s" else 8)
