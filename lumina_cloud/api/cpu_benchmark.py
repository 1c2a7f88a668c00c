"""What this computer's processor sustains, measured at its first use and kept below `LUMINA_HOME`.

The trainer measures itself in a process of its own: the orchestrator needs no torch. Where that is not installed there is nothing to
measure, and the catalog's figures serve.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import resources, util
from typing import TYPE_CHECKING

from lumina_cloud.catalog import cpu_rates, gpus
from lumina_cloud.core import units
from lumina_cloud.core.edge import edge
from lumina_cloud.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from lumina_cloud.catalog.cpu_rates import CpuRates
    from lumina_cloud.catalog.gpus import Gpu
    from trainer.config import Precision

SECONDS_AT_MOST = 180
PRECISIONS = ("bf16", "fp32")


def local_cpu(home: Path, *, measure: str | None = None) -> Gpu:
    """Return this computer's processor with what is known of it. `measure` names a precision to measure first if it is not known."""
    cores = usable_cores()
    if measure in PRECISIONS and _kept(home, str(measure), cores) is None:
        _measure(home, str(measure), cores)
    rates = tuple(r for name in PRECISIONS if (r := _kept(home, name, cores)) is not None)
    import psutil

    memory_gib = units.gib(psutil.virtual_memory().available)
    return gpus.cpu(cores=cores, memory_gib=memory_gib, rates=rates, has_bf16=has_bf16(_cpuinfo("flags")))


WIDE = frozenset({"avx512bw", "avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""Flags of x86 processors on which oneDNN, torch's library of products, computes in bf16; with AVX2 alone it takes plain loops."""


def has_bf16(flags: str) -> bool:
    """Whether a processor with these flags of /proc/cpuinfo computes bf16 about as fast as fp32; where none are told, it may."""
    return not flags or bool(WIDE & set(flags.split()))


def precision_here(asked: Precision, *, fixed: bool) -> Precision:
    """Return the precision in which this processor would compute what asks for one; a `fixed` one stays."""
    return "fp32" if asked == "bf16" and not fixed and not has_bf16(_cpuinfo("flags")) else asked


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _file(home: Path, precision: str, cores: int) -> Path:
    """Return where a measurement is kept: another processor, number of threads, torch or trainer means another measurement."""
    told = [platform.processor() or platform.machine(), _cpuinfo("model name"), str(cores), os.environ.get("OMP_NUM_THREADS", "")]
    key = hashlib.sha256("\n".join([*told, precision, *_what_computes()]).encode()).hexdigest()[:16]
    return home / "cpu" / f"{precision}-{key}.json"


@cache
def _what_computes() -> tuple[str, ...]:
    """Return the versions of the libraries, and a hash of the trainer's code."""
    from importlib import metadata

    parts = []
    for package in ("torch", "deepspeed"):
        try:
            parts.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            parts.append("")
    code = hashlib.sha256()
    for path in sorted((p for p in resources.files("trainer").iterdir() if p.name.endswith(".py")), key=lambda p: p.name):
        code.update(path.read_bytes())
    return (*parts, code.hexdigest())


def _cpuinfo(key: str) -> str:
    """Return the first processor's line of a name, empty where the system keeps none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123 - no regular file
            return next((line.split(":", 1)[1].strip() for line in lines if line.partition(":")[0].strip() == key), "")
    except OSError:
        return ""


def _kept(home: Path, precision: str, cores: int) -> CpuRates | None:
    if not (home / "cpu").is_dir():
        # Nothing was measured here yet, so nothing needs to be told apart: every plan passes this.
        return None
    path = _file(home, precision, cores)
    try:
        return cpu_rates.from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, DataError):
        # Nothing there, or nothing that can be used: it is measured again when asked for.
        return None


def _measure(home: Path, precision: str, cores: int) -> None:
    """Measure in a process of its own and keep the result; where that fails, nothing is kept."""
    if util.find_spec("torch") is None or util.find_spec("deepspeed") is None:
        return
    command = [sys.executable, "-m", "trainer.calibrate", "--precision", precision]
    try:
        with edge("cpu.measure"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_AT_MOST, check=True, stdin=subprocess.DEVNULL)
        lines = done.stdout.strip().splitlines()
        document = json.loads(lines[-1]) if lines else None
        cpu_rates.from_document(document)
    except (OSError, subprocess.SubprocessError, ValueError, DataError):
        return
    path = _file(home, precision, cores)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.replace(path)
