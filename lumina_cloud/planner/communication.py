"""What GPUs tell each other: seconds of collectives that do not hide behind computation.

A ring moves (p-1)/p of a message through each GPU (Patarasuk and Yuan 2009), an all-reduce twice that. Inside a node it goes over
NVLink or PCIe, between nodes over each GPU's share of the network; the slowest hop counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina_cloud.planner.memory import layers_here, local_parameters

if TYPE_CHECKING:
    from lumina_cloud.catalog.gpus import Gpu
    from lumina_cloud.planner.constants import SpeedConstants
    from lumina_cloud.planner.setting import Setting
    from lumina_cloud.planner.shape import Shape

PCIE_GB_S = {"3.0 x16": 10.0, "4.0 x16": 20.0, "5.0 x16": 40.0}
"""What a ring over PCIe reaches in one direction: about two thirds of the wire."""
C2C_GB_S = 200.0
NVLINK_SHARE = 0.7
NETWORK_SHARE = 0.75
NETWORK_GB_S = {"sxm": 25.0, "recent": 50.0, "other": 1.25}
"""Per GPU between nodes where it is not said: 200 and 400 Gb/s fabrics of A100 and H100 boxes, 10 Gb/s of others."""
HOP_SECONDS = 8e-6
TENSOR_OVERLAP = 0.5
"""Of its exchange, with asynchronous tensor parallelism."""
EXPERTS_EXPOSED = 0.5
"""Of the exchange between experts: the rest overlaps with the shared part of the block."""
IMBALANCE = 1.15
"""The busiest expert's share of tokens over the even one."""


@dataclass(frozen=True)
class Exposed:
    """Seconds that are waited for."""

    per_micro_step: float
    per_step: float


def pcie_gb_s(gpu: Gpu) -> float:
    """Return what one direction of the GPU's host link reaches, 10^9 bytes/s."""
    return PCIE_GB_S.get(gpu.pcie, C2C_GB_S if "C2C" in gpu.pcie else 10.0)


def link_gb_s(gpu: Gpu) -> float:
    """Return what a ring between GPUs of one box reaches in one direction, in 10^9 bytes/s.

    Cards whose NVLink needs a bridge are taken to have none.
    """
    pcie = pcie_gb_s(gpu)
    return pcie if gpu.nvlink_needs_bridge or gpu.nvlink_gb_s <= pcie else NVLINK_SHARE * gpu.nvlink_gb_s


def network_gb_s(gpu: Gpu, setting: Setting) -> float:
    """Return what a GPU reaches between nodes."""
    if setting.network_gb_s is not None:
        return NETWORK_SHARE * setting.network_gb_s
    if gpu.nvlink_gb_s < 100 or gpu.nvlink_needs_bridge:
        return NETWORK_SHARE * NETWORK_GB_S["other"]
    major = gpu.compute_capability.partition(".")[0]
    return NETWORK_SHARE * NETWORK_GB_S["recent" if major.isdigit() and int(major) >= 9 else "sxm"]


def _inside(gpu: Gpu, setting: Setting) -> float:
    if setting.link_gb_s is None:
        return link_gb_s(gpu)
    return pcie_gb_s(gpu) if setting.link_gb_s == 0 else min(link_gb_s(gpu), NVLINK_SHARE * setting.link_gb_s)


def _ring(gpu: Gpu, setting: Setting, group: int, stride: int) -> float:
    """10^9 bytes/s of a ring over `group` GPUs that lie `stride` apart."""
    inside = _inside(gpu, setting)
    if group * stride <= setting.gpus_per_node:
        return inside
    # As many rings as members in a node, each through another network card.
    members = max(1, min(group, setting.gpus_per_node // stride))
    return min(inside, members * network_gb_s(gpu, setting))


def communication(shape: Shape, setting: Setting, gpu: Gpu, c: SpeedConstants, *, compute: float) -> Exposed:
    """Return the seconds of collectives that are waited for, beside micro steps of `compute` seconds."""
    if setting.n_gpus <= 1 or gpu.device == "cpu":
        return Exposed(0.0, 0.0)
    micro, step = _sharding(shape, setting, gpu)
    hidden = c.overlap * compute
    exposed_micro = max(c.never_hidden * micro, micro - hidden)
    # What hides a micro step's collectives cannot hide the optimizer step's too.
    exposed_step = max(c.never_hidden * step, step - (hidden - (micro - exposed_micro)))
    return Exposed(exposed_micro + _tensor(shape, setting, gpu) + _experts(shape, setting, gpu), exposed_step)


def _sharding(shape: Shape, setting: Setting, gpu: Gpu) -> tuple[float, float]:
    """Seconds per micro step and per optimizer step of gradients and gathered weights, nothing hidden."""
    size, n = setting.bytes_per_element, local_parameters(shape, setting)
    group = max(setting.shards, setting.replicas)
    if group <= 1:
        return 0.0, 0.0
    wire = _ring(gpu, setting, group, setting.tensor) * 1e9
    message = n * size * (group - 1) / group / wire
    latency = layers_here(shape, setting) * HOP_SECONDS * (1 + min(group, 64) ** 0.5)
    grads = n * max(2.0, setting.states.gradients if setting.sharder == "ddp" else 2.0) * (group - 1) / group / wire
    grads *= setting.states.trained
    if setting.stage == 3:
        # Gathered forward and backward, gradients scattered in every micro step.
        return 2 * message + grads + 3 * latency, 0.0
    if setting.stage == 2 and setting.sharder == "fsdp":
        return message + grads + 2 * latency, 0.0
    if setting.stage == 2:
        return grads + latency, message + latency
    return 0.0, 2 * grads + latency


def _tensor(shape: Shape, setting: Setting, gpu: Gpu) -> float:
    """Four all-reduces a layer of the residual stream (Shoeybi et al. 2019, arXiv 1909.08053), and once more where recomputed."""
    if setting.tensor <= 1:
        return 0.0
    p = setting.tensor
    n_bytes = setting.tokens * shape.d_model * setting.bytes_per_element
    passes = 4 + (2 if setting.recompute == "full" else 0)
    seconds = passes * layers_here(shape, setting) * 2 * (p - 1) / p * n_bytes / (_ring(gpu, setting, p, 1) * 1e9)
    return seconds * (1 - TENSOR_OVERLAP if setting.overlapped_tensor else 1.0)


def _experts(shape: Shape, setting: Setting, gpu: Gpu) -> float:
    """Two all-to-alls forward and two backward of each token's copies."""
    p = setting.expert
    if p <= 1:
        return 0.0
    n_bytes = setting.tokens / setting.tensor * shape.top_k * shape.d_model * setting.bytes_per_element * (p - 1) / p * IMBALANCE
    inside = _inside(gpu, setting)
    # No ring: each GPU sends through its own card.
    wire = inside if p * setting.tensor <= setting.gpus_per_node else min(inside, network_gb_s(gpu, setting))
    return 4 * layers_here(shape, setting) * n_bytes / (wire * 1e9) * EXPERTS_EXPOSED
