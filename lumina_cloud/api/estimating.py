"""`lumina estimate`: requests as JSON lines in, estimates as JSON lines out, one for one and in order.

A request that cannot be answered gets an error of its own, and the stream goes on. Nothing is fetched and nothing recorded.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lumina_cloud.catalog import gpus, near_names
from lumina_cloud.core import units
from lumina_cloud.core.errors import UsageError
from lumina_cloud.planner import explain, free_text, memory, reading, throughput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.estimate import Interval

from typing import Annotated

BASIS = "modelled"
SIGNIFICANT = 6


UNSAID = ("", "-", "?", "null", "none", "nan", "n/a", "na", "unknown", "not stated", "not said", "not given")
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def _count(value: object) -> object:
    """Accept whole numbers however they are written (`8`, `8.0`, `"8"`, `"50,304"`, `"6.7B"`); an empty text is unknown."""
    if value is None or (isinstance(value, str) and value.strip().lower() in UNSAID):
        return None
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    if isinstance(value, str):
        plain = value.strip().lower().replace(",", "").replace("_", "")
        scale = SUFFIXES.get(plain[-1:])
        value = round(float(plain[:-1]) * scale) if scale else plain
    number = float(value) if isinstance(value, str | int | float) else math.nan
    if not math.isfinite(number):
        raise ValueError("a finite number")
    if number != round(number):
        raise ValueError("a whole number")
    return round(number) if abs(number) < 2**53 or not isinstance(value, int) else value


def _text(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    text = str(value).strip()
    # "none" is something said: no offloading, no recomputation.
    return None if text.lower() in UNSAID and text.lower() != "none" else text


def _flag(value: object) -> object:
    if value is None or (isinstance(value, str) and value.strip().lower() in UNSAID):
        return None
    if isinstance(value, str):
        return value.strip().lower() in ("1", "1.0", "true", "yes", "y", "t", "gated", "tied", "swiglu", "geglu", "reglu")
    return bool(value)


def _model(value: object) -> object:
    """Accept a model's name alone: a size in it is taken."""
    return {"name": value} if isinstance(value, str) else value


Count = Annotated[int | None, BeforeValidator(_count)]
Text = Annotated[str | None, BeforeValidator(_text)]
Flag = Annotated[bool | None, BeforeValidator(_flag)]


class ModelRequest(BaseModel):
    """A model by its dimensions; any may be unknown."""

    model_config = ConfigDict(extra="ignore")

    name: Text = Field(default=None, validation_alias=AliasChoices("name", "model_name"))
    n_layers: Count = None
    d_model: Count = None
    n_heads: Count = None
    n_kv_heads: Count = None
    d_ff: Count = None
    gated_mlp: Flag = None
    vocab: Count = None
    tie_embeddings: Flag = None
    n_experts: Count = None
    top_k: Count = None
    params_total: Count = None
    params_active: Count = None


class GpuSpecs(BaseModel):
    """A GPU that the catalog does not know, by its figures."""

    model_config = ConfigDict(extra="ignore")

    name: str = "given"
    memory_gib: float
    bf16_tflops: float | None = None
    fp16_tflops: float | None = None
    fp32_tflops: float | None = None
    fp8_tflops: float | None = None
    bandwidth_gb_s: float | None = None
    nvlink_gb_s: float = 0.0
    pcie: str = "4.0 x16"
    tdp_w: float | None = None


class Request(BaseModel):
    """One line of input. Texts are free."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[ModelRequest, BeforeValidator(_model)]
    gpu: str | GpuSpecs
    gpu_specs: GpuSpecs | None = None
    model_name: Text = None
    """Where the model itself has no name."""
    n_gpus: Count = None
    interconnect: Text = None
    micro_batch: Count = None
    grad_accum: Count = None
    global_batch_tokens: Count = None
    seq_len: Count = None
    precision: Text = None
    optimizer: Text = None
    parallelism: Text = None
    sharding: Text = None
    activation_checkpointing: Text = None
    offload: Text = None
    attention: Text = None
    compile: Text = None
    framework: Text = None


def answers(lines: Iterable[str], *, explained: bool = False) -> Iterator[str]:
    """Yield one JSON line for each line that is not blank."""
    for line in lines:
        if line.strip():
            yield json.dumps(answer_line(line, explained=explained), ensure_ascii=False, allow_nan=False)


def answer_line(line: str, *, explained: bool = False) -> dict[str, Any]:
    """Return the answer to one line of input: an estimate, or what is wrong with it."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not a JSON document: {error}"}
    if not isinstance(raw, dict):
        return {"id": None, "error": 'not a JSON object: give {"id": ..., "model": {...}, "gpu": ...}'}
    name = raw.get("id")
    name = name if name is None or isinstance(name, str | int | bool) or (isinstance(name, float) and math.isfinite(name)) else str(name)
    try:
        return {"id": name, **answer(Request.model_validate(raw), explained=explained)}
    except ValidationError as error:
        return {"id": name, "error": _first_problem(error)}
    except UsageError as error:
        return {"id": name, "error": f"{error.message} ({error.hint})"}
    except (ValueError, ArithmeticError) as error:
        return {"id": name, "error": str(error)}


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    given = repr(first.get("input"))
    return f"{where}: {first['msg']} (given: {given if len(given) < 80 else given[:77] + '...'})"


def answer(request: Request, *, explained: bool = False) -> dict[str, Any]:
    """Return the estimate for one request. Raises UsageError for an unknown GPU, ValueError for what makes no sense."""
    gpu, assumed = _gpu(request)
    given, changed = _with_arithmetic(_description(request, gpu))
    read = reading.read(given)
    speed = throughput.of_setting(read.shape, read.setting, gpu)
    needs = memory.of_setting(read.shape, read.setting, gpu)
    usable, guess = _usable(gpu)
    n = read.setting.n_gpus
    out: dict[str, Any] = {
        "tokens_per_second_per_gpu": _rounded(speed.tokens_per_second, n),
        "peak_memory_gib": _rounded(needs.reported, 1),
        "mfu": _significant(throughput.mfu(speed, read.setting, gpu)),
        "fits": bool(needs.upper_gib <= usable),
        "basis": BASIS,
        "assumed": [*assumed, *guess, *changed, *read.assumed],
        "upper_memory_gib": _significant(needs.upper_gib),
        "usable_memory_gib": _significant(usable),
    }
    if needs.host_gib:
        out["host_memory_gib"] = _significant(needs.host_gib)
    if explained:
        out["derivation"] = explain.lines(read.shape, read.setting, gpu)
    return out


def _significant(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


def _rounded(value: Interval, divisor: int) -> dict[str, float]:
    return {name: _significant(getattr(value, name) / divisor) for name in ("low", "mid", "high")}


def _gpu(request: Request) -> tuple[Gpu, list[str]]:
    specs = request.gpu if isinstance(request.gpu, GpuSpecs) else request.gpu_specs
    if specs is not None:
        return _given_gpu(specs), []
    if not isinstance(request.gpu, str) or not request.gpu.strip():
        raise UsageError("gpu is empty", "give a name, e.g. A100-80GB-SXM")
    if request.gpu.strip().lower() == gpus.CPU:
        return _this_cpu(free_text.arithmetic(request.precision) or "bf16"), []
    gpu, note = near_names.nearest(request.gpu)
    return gpu, [note] if note else []


@cache
def _this_cpu(precision: str) -> Gpu:
    """Return this computer's processor, measured at its first use."""
    from lumina_cloud.api import cpu_benchmark, settings

    return cpu_benchmark.local_cpu(settings.load().home, measure=precision)


def _given_gpu(specs: GpuSpecs) -> Gpu:
    figures = {"memory_gib": specs.memory_gib, "bandwidth_gb_s": specs.bandwidth_gb_s, "bf16_tflops": specs.bf16_tflops}
    figures |= {"fp16_tflops": specs.fp16_tflops, "fp32_tflops": specs.fp32_tflops, "fp8_tflops": specs.fp8_tflops}
    for name, value in figures.items():
        if value is not None and not (math.isfinite(value) and 0 < value < 1e9):
            raise UsageError(f"gpu.{name} is {value}", "give a positive figure")
    peak = specs.bf16_tflops or specs.fp16_tflops or specs.fp32_tflops
    if peak is None:
        raise UsageError("a GPU that is given by its figures needs bf16_tflops, fp16_tflops or fp32_tflops", "add one of them")
    like = gpus.resolve("RTX4090")
    return replace(
        like,
        name=specs.name,
        full_name=specs.name,
        memory_gib=specs.memory_gib,
        memory_bytes_usable=int(0.985 * specs.memory_gib * units.GIB),
        bandwidth_gb_s=specs.bandwidth_gb_s or 6.0 * peak,
        bf16_tflops=specs.bf16_tflops,
        fp16_tflops=specs.fp16_tflops or specs.bf16_tflops,
        tf32_tflops=None,
        fp32_tflops=specs.fp32_tflops or peak / 4,
        fp8_tflops=specs.fp8_tflops,
        matmul_best_tflops=None,
        nvlink_gb_s=specs.nvlink_gb_s,
        nvlink_needs_bridge=False,
        pcie=specs.pcie,
        tdp_w=specs.tdp_w,
        aliases=(),
        checked=(),
        note="figures as given",
    )


def _usable(gpu: Gpu) -> tuple[float, list[str]]:
    if gpu.usable_memory_gib is not None:
        return gpu.usable_memory_gib, []
    share = 0.98 * gpu.memory_gib / (2 if "two devices" in gpu.note else 1)
    return share, [f"usable memory={share:.4g} GiB"]


def _description(request: Request, gpu: Gpu) -> reading.Description:
    parts = request.model.model_dump()
    parts["name"] = parts["name"] or request.model_name
    rest = {name: getattr(request, name) for name in Request.model_fields if name not in ("model", "model_name", "gpu", "gpu_specs")}
    return reading.Description(gpu=gpu, **parts, **rest)


def _with_arithmetic(given: reading.Description) -> tuple[reading.Description, list[str]]:
    """Return the description with a precision that the GPU has: bf16 on a V100 becomes fp16, fp8 on an A100 bf16."""
    kind, gpu = free_text.arithmetic(given.precision), given.gpu
    has = {"fp8": gpu.fp8_tflops, "bf16": gpu.bf16_tflops, "fp16": gpu.fp16_tflops, "tf32": gpu.tf32_tflops, "fp32": gpu.fp32_tflops}
    if kind is None or has[kind]:
        return given, []
    instead = next(name for name in ("bf16", "fp16", "fp32") if has[name])
    return replace(given, precision=f"{instead} {given.precision}"), [f"arithmetic={instead}: a {gpu.name} has no {kind}"]
