"""The GPUs that the three clouds rent out, by each one's own names, and the prices at which the emulated market starts.

Names are those of the providers' catalogues. Prices are seed data, in the range seen in 2026; no test of a client may lean on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU; an empty name says that a cloud does not have it."""

    name: str
    """As `nvidia-smi` shows it, which is also RunPod's id."""
    memory_mib: int
    vastai_name: str = ""
    vastai_usd: Decimal = Decimal(0)
    """Dollars per hour and GPU around which Vast.ai's hosts ask."""
    runpod_display: str = ""
    runpod_secure_usd: Decimal = Decimal(0)
    runpod_community_usd: Decimal = Decimal(0)
    compute_cap: int = 890
    tflops: float = 82.6
    dlperf: float = 98.0
    bandwidth: float = 900.0
    """GB/s of its memory."""
    pool: str | None = None
    arch: str = "nvidia"


def _gpu(
    name: str,
    memory_mib: int,
    vastai: tuple[str, str],
    runpod: tuple[str, str, str, str | None],
    speed: tuple[int, float, float, float],
) -> Gpu:
    display, secure, community, pool = runpod
    cap, tflops, dlperf, bandwidth = speed
    return Gpu(
        name=name,
        memory_mib=memory_mib,
        vastai_name=vastai[0],
        vastai_usd=Decimal(vastai[1] or 0),
        runpod_display=display,
        runpod_secure_usd=Decimal(secure or 0),
        runpod_community_usd=Decimal(community or 0),
        compute_cap=cap,
        tflops=tflops,
        dlperf=dlperf,
        bandwidth=bandwidth,
        pool=pool,
    )


GPUS = (
    _gpu("NVIDIA GeForce RTX 3090", 24576, ("RTX 3090", "0.20"), ("RTX 3090", "0.46", "0.22", "AMPERE_24"), (860, 35.6, 45.0, 936.0)),
    _gpu("NVIDIA GeForce RTX 4090", 24564, ("RTX 4090", "0.38"), ("RTX 4090", "0.69", "0.34", "ADA_24"), (890, 82.6, 98.3, 1008.0)),
    _gpu("NVIDIA GeForce RTX 5090", 32607, ("RTX 5090", "0.52"), ("RTX 5090", "0.94", "0.69", "ADA_32_PRO"), (1200, 104.8, 160.0, 1792.0)),
    _gpu("NVIDIA RTX A6000", 49140, ("RTX A6000", "0.40"), ("RTX A6000", "0.49", "0.33", "AMPERE_48"), (860, 38.7, 60.0, 768.0)),
    _gpu("NVIDIA L40S", 46068, ("L40S", "0.62"), ("L40S", "0.86", "0.79", "ADA_48_PRO"), (890, 91.6, 110.0, 864.0)),
    _gpu("NVIDIA A10", 23028, ("A10", "0.18"), ("", "", "", None), (860, 31.2, 40.0, 600.0)),
    _gpu("NVIDIA A100-PCIE-40GB", 40960, ("A100 PCIE", "0.62"), ("", "", "", None), (800, 19.5, 85.0, 1555.0)),
    _gpu("NVIDIA A100 80GB PCIe", 81920, ("A100 PCIE", "0.85"), ("A100 PCIe", "1.39", "1.19", "AMPERE_80"), (800, 19.5, 95.0, 1935.0)),
    _gpu("NVIDIA A100-SXM4-80GB", 81920, ("A100 SXM4", "0.98"), ("A100 SXM", "1.49", "1.39", "AMPERE_80"), (800, 19.5, 105.0, 2039.0)),
    _gpu("NVIDIA H100 PCIe", 81559, ("H100 PCIE", "1.85"), ("H100 PCIe", "2.39", "1.99", "ADA_80_PRO"), (900, 51.2, 180.0, 2000.0)),
    _gpu("NVIDIA H100 80GB HBM3", 81559, ("H100 SXM", "2.05"), ("H100 SXM", "2.99", "2.69", "ADA_80_PRO"), (900, 66.9, 240.0, 3350.0)),
    _gpu("NVIDIA H100 NVL", 95830, ("H100 NVL", "2.10"), ("H100 NVL", "2.79", "2.59", "ADA_80_PRO"), (900, 60.0, 210.0, 3900.0)),
    _gpu("NVIDIA H200", 143771, ("H200", "2.60"), ("H200 SXM", "3.99", "3.59", "HOPPER_141"), (900, 66.9, 260.0, 4800.0)),
    _gpu("NVIDIA B200", 183359, ("B200", "4.20"), ("B200", "5.99", "", "BLACKWELL_180"), (1000, 80.0, 400.0, 8000.0)),
)
BY_NAME = {gpu.name: gpu for gpu in GPUS}


@dataclass(frozen=True)
class LambdaType:
    """One of Lambda's instance types, with the price of the whole instance."""

    name: str
    gpu: str
    count: int
    cents_per_hour: int
    gpu_text: str
    vcpus: int
    memory_gib: int
    storage_gib: int


LAMBDA_TYPES = (
    LambdaType("gpu_1x_a10", "NVIDIA A10", 1, 129, "A10 (24 GB PCIe)", 30, 200, 1400),
    LambdaType("gpu_1x_a6000", "NVIDIA RTX A6000", 1, 109, "RTX A6000 (48 GB)", 14, 100, 200),
    LambdaType("gpu_2x_a6000", "NVIDIA RTX A6000", 2, 218, "RTX A6000 (48 GB)", 28, 200, 1024),
    LambdaType("gpu_4x_a6000", "NVIDIA RTX A6000", 4, 436, "RTX A6000 (48 GB)", 56, 400, 1024),
    LambdaType("gpu_1x_a100_sxm4", "NVIDIA A100-SXM4-40GB", 1, 199, "A100 (40 GB SXM4)", 30, 200, 512),
    LambdaType("gpu_1x_a100", "NVIDIA A100-PCIE-40GB", 1, 199, "A100 (40 GB PCIe)", 30, 200, 512),
    LambdaType("gpu_8x_a100", "NVIDIA A100-SXM4-40GB", 8, 1592, "A100 (40 GB SXM4)", 124, 1800, 6144),
    LambdaType("gpu_8x_a100_80gb_sxm4", "NVIDIA A100-SXM4-80GB", 8, 2232, "A100 (80 GB SXM4)", 240, 1800, 20480),
    LambdaType("gpu_1x_h100_pcie", "NVIDIA H100 PCIe", 1, 329, "H100 (80 GB PCIe)", 26, 200, 1024),
    LambdaType("gpu_1x_h100_sxm5", "NVIDIA H100 80GB HBM3", 1, 429, "H100 (80 GB SXM5)", 26, 225, 2816),
    LambdaType("gpu_2x_h100_sxm5", "NVIDIA H100 80GB HBM3", 2, 838, "H100 (80 GB SXM5)", 52, 450, 5632),
    LambdaType("gpu_8x_h100_sxm5", "NVIDIA H100 80GB HBM3", 8, 3192, "H100 (80 GB SXM5)", 208, 1800, 22528),
    LambdaType("gpu_1x_gh200", "NVIDIA GH200 480GB", 1, 229, "GH200 (96 GB)", 64, 432, 4096),
    LambdaType("gpu_1x_b200_sxm6", "NVIDIA B200", 1, 699, "B200 (180 GB SXM6)", 26, 360, 2816),
    LambdaType("gpu_8x_b200_sxm6", "NVIDIA B200", 8, 5352, "B200 (180 GB SXM6)", 208, 2900, 22528),
)

LAMBDA_MEMORY_MIB = {"NVIDIA A100-SXM4-40GB": 40960, "NVIDIA GH200 480GB": 97871}
"""Of the kinds that only Lambda has."""

LAMBDA_REGIONS = {
    "us-east-1": "Virginia, USA",
    "us-west-1": "California, USA",
    "us-west-2": "Arizona, USA",
    "us-south-1": "Texas, USA",
    "us-midwest-1": "Illinois, USA",
    "europe-central-1": "Germany",
    "asia-northeast-1": "Osaka, Japan",
}

RUNPOD_DATA_CENTERS = {
    "US-KS-2": ("US Kansas 2", "NORTH_AMERICA", "US"),
    "US-TX-3": ("US Texas 3", "NORTH_AMERICA", "US"),
    "EU-RO-1": ("EU Romania 1", "EUROPE", "RO"),
    "EU-SE-1": ("EU Sweden 1", "EUROPE", "SE"),
    "CA-MTL-3": ("CA Montreal 3", "NORTH_AMERICA", "CA"),
}


def memory_mib(gpu_name: str) -> int:
    """Return a GPU's memory by its `nvidia-smi` name."""
    gpu = BY_NAME.get(gpu_name)
    return gpu.memory_mib if gpu else LAMBDA_MEMORY_MIB[gpu_name]
