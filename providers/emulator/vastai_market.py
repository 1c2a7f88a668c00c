"""Vast.ai's market: hosts ask prices for slices of their machines, which come, go and change price."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from providers.emulator.billing import HOURS_PER_MONTH
from providers.emulator.clock import HOUR, SECOND
from providers.emulator.hardware import BY_NAME, GPUS, Gpu

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from providers.emulator.clock import Moment
    from providers.emulator.wire import Json

PLACES = ("Oregon, US", "Texas, US", "Quebec, CA", "Sweden, SE", "Bavaria, DE", ", NL", "Tokyo, JP", None)
DEFAULT_STORAGE_GB = Decimal(8)
SINGLE_4090S = 3
"""How many single RTX 4090 are always there: one to rent, and some to go on with."""


@dataclass
class Ask:
    """One offer of a host."""

    id: int
    machine_id: int
    host_id: int
    gpu: Gpu
    num_gpus: int
    dph_base: Decimal
    min_bid: Decimal | None
    storage_cost: Decimal
    inet_down_cost: Decimal
    inet_up_cost: Decimal
    reliability: float
    place: str | None
    verification: str
    datacenter: bool
    direct_ports: int
    disk_gb: float
    inet_down: float
    inet_up: float
    cpu_cores: int
    cpu_ram_mb: int
    cuda: float
    driver: str
    expires: Moment
    gpus_of_machine: int
    anchor: bool = False
    """Stays until it is rented."""


class Market:
    """All offers that can be rented now."""

    def __init__(self, rng: random.Random, now: Moment) -> None:
        self._rng = rng
        self._start = now
        # Numbers go on growing over the life of a sandbox: an id of an earlier one is never given again.
        base = 20_000_000 + (now // SECOND) % 10_000_000
        self._ids = itertools.count(base)
        self._machines = itertools.count(40_000)
        self.asks: dict[int, Ask] = {}
        for gpu in (one for one in GPUS if one.vastai_name):
            for count in (1, 2, 4, 8):
                for _ in range(2 if count <= 2 else 1):
                    self._host(gpu, count)
        self._host(BY_NAME["NVIDIA GeForce RTX 4090"], 1, verification="unverified")
        self._host(BY_NAME["NVIDIA GeForce RTX 3090"], 1, verification="deverified")
        self.keep_anchors()

    def keep_anchors(self) -> None:
        """See to it that single RTX 4090s can be had."""
        present = sum(1 for ask in self.asks.values() if ask.anchor)
        for _ in range(SINGLE_4090S - present):
            self._host(BY_NAME["NVIDIA GeForce RTX 4090"], 1, verification="verified", anchor=True)

    def take(self, ask_id: int, *, whole_machine: bool = False) -> Ask | None:
        """Rent an offer: it is gone from the market. `whole_machine` takes the machine's other offers with it."""
        ask = self.asks.pop(ask_id, None)
        if ask is not None and whole_machine:
            for other in [one for one in self.asks.values() if one.machine_id == ask.machine_id]:
                del self.asks[other.id]
        self.keep_anchors()
        return ask

    def give_back(self, ask: Ask) -> Ask:
        """Offer the same slice again, under a new number."""
        again = Ask(**{**vars(ask), "id": next(self._ids), "anchor": False})
        self.asks[again.id] = again
        return again

    def move(self, share: float, now: Moment) -> None:
        """Let a share of the offers go, come, or change price; the anchors only change price, and little."""
        for ask in list(self.asks.values()):
            if ask.expires <= now and not ask.anchor:
                del self.asks[ask.id]
            elif self._rng.random() < share:
                self._move(ask, share)
        self.keep_anchors()

    def reprice(self, factor: Decimal) -> None:
        """Multiply all prices."""
        for ask in self.asks.values():
            ask.dph_base *= factor
            ask.min_bid = None if ask.min_bid is None else ask.min_bid * factor

    def _move(self, ask: Ask, share: float) -> None:
        fate = self._rng.random()
        if fate < 0.3 and not ask.anchor:
            del self.asks[ask.id]
            self._host(ask.gpu, ask.num_gpus)
            return
        swing = 0.02 if ask.anchor else 0.05 + share / 4
        factor = Decimal(str(round(1 + self._rng.uniform(-swing, swing), 4)))
        ask.dph_base = (ask.dph_base * factor).quantize(Decimal("0.0001"))
        if ask.min_bid is not None:
            ask.min_bid = min(ask.dph_base, (ask.min_bid * factor).quantize(Decimal("0.0001")))

    def _host(self, gpu: Gpu, count: int, *, verification: str | None = None, anchor: bool = False) -> None:
        rng = self._rng
        datacenter = anchor or rng.random() < 0.5
        price = gpu.vastai_usd * count * Decimal(str(round(rng.uniform(0.92, 1.25), 3)))
        bid = price * Decimal(str(round(rng.uniform(0.5, 0.75), 3)))
        share = count / 8
        ask = Ask(
            id=next(self._ids),
            machine_id=next(self._machines),
            host_id=rng.randrange(50_000, 60_000),
            gpu=gpu,
            num_gpus=count,
            dph_base=price.quantize(Decimal("0.0001")),
            min_bid=None if rng.random() < 0.05 and not anchor else bid.quantize(Decimal("0.0001")),
            storage_cost=Decimal(str(rng.choice((0.10, 0.15, 0.20, 0.30)))),
            inet_down_cost=Decimal(str(rng.choice((0.0, 0.002, 0.01, 0.02)))),
            inet_up_cost=Decimal(str(rng.choice((0.002, 0.01, 0.02, 0.03)))),
            reliability=0.998 if anchor else round(rng.uniform(0.90, 0.9995), 4),
            place="Oregon, US" if anchor else rng.choice(PLACES),
            verification=verification or ("unverified" if rng.random() < 0.15 else "verified"),
            datacenter=datacenter,
            direct_ports=rng.choice((0, 4, 100, 250)) if not datacenter else 250,
            disk_gb=round(rng.uniform(300, 2000), 1) if anchor else round(rng.uniform(80, 4000), 1),
            inet_down=round(rng.uniform(600, 3000), 1) if datacenter else round(rng.uniform(50, 900), 1),
            inet_up=round(rng.uniform(300, 2000), 1) if datacenter else round(rng.uniform(20, 500), 1),
            cpu_cores=rng.choice((64, 96, 128)),
            cpu_ram_mb=round(515_000 * max(share, 0.25)),
            cuda=12.8 if anchor else rng.choice((12.2, 12.4, 12.8, 13.0)),
            driver="570.86.10",
            expires=self._start + round(rng.uniform(20, 2000) * 24) * HOUR if not anchor else self._start + 365 * 24 * HOUR,
            gpus_of_machine=8,
            anchor=anchor,
        )
        self.asks[ask.id] = ask


def offer_row(ask: Ask, now: Moment, storage_gb: Decimal, *, bid: bool) -> Json:
    """Return an offer as a search shows it; `bid` prices it at its minimum bid."""
    base = ask.min_bid if bid else ask.dph_base
    storage = storage_gb * ask.storage_cost / HOURS_PER_MONTH
    total = None if base is None else base + storage
    rate = float(total) if total else None
    flops = ask.gpu.tflops * ask.num_gpus
    dlperf = ask.gpu.dlperf * ask.num_gpus
    return {
        **hardware_row(ask),
        "id": ask.id,
        "ask_contract_id": ask.id,
        "bundle_id": 900_000_000 + ask.machine_id,
        "dph_base": base,
        "dph_total": total,
        "discounted_dph_total": total,
        "discounted_hourly": 0.0,
        "min_bid": ask.min_bid,
        "is_bid": bid,
        "storage_total_cost": storage,
        "dlperf_per_dphtotal": round(dlperf / rate, 3) if rate else None,
        "flops_per_dphtotal": round(flops / rate, 3) if rate else None,
        "score": round(dlperf * ask.reliability / rate, 3) if rate else 0.0,
        "rentable": True,
        "rented": False,
        "duration": (ask.expires - now) / SECOND,
        "start_date": now / SECOND,
        "end_date": ask.expires / SECOND,
        "rn": 1,
        "discount_rate": None,
        "credit_discount_max": 0.4,
        "time_remaining": "",
        "search": {
            "gpuCostPerHour": base,
            "diskHour": storage,
            "totalHour": total,
            "discountTotalHour": 0,
            "discountedTotalPerHour": total,
        },
    }


def hardware_row(ask: Ask) -> Json:
    """Return what an offer and an instance tell about their machine."""
    gpu = ask.gpu
    return {
        "machine_id": ask.machine_id,
        "host_id": ask.host_id,
        "hosting_type": 1 if ask.datacenter else 0,
        "datacenter": ask.datacenter,
        "num_gpus": ask.num_gpus,
        "gpu_name": gpu.vastai_name,
        "gpu_arch": gpu.arch,
        "gpu_ram": gpu.memory_mib,
        "gpu_total_ram": gpu.memory_mib * ask.num_gpus,
        "gpu_mem_bw": gpu.bandwidth,
        "gpu_frac": ask.num_gpus / ask.gpus_of_machine,
        "gpu_lanes": 16,
        "gpu_display_active": False,
        "gpu_max_power": 450.0,
        "gpu_max_temp": 85.0,
        "gpu_ids": list(range(ask.num_gpus)),
        "bw_nvlink": 0.0,
        "has_avx": 1,
        "compute_cap": gpu.compute_cap,
        "cuda_max_good": ask.cuda,
        "driver_version": ask.driver,
        "driver_vers": 570086010,
        "cpu_name": "AMD EPYC 7543",
        "cpu_arch": "amd64",
        "cpu_ghz": 2.8,
        "cpu_cores": ask.cpu_cores,
        "cpu_cores_effective": ask.cpu_cores * ask.num_gpus / ask.gpus_of_machine,
        "cpu_ram": ask.cpu_ram_mb,
        "mobo_name": "ROME2D32GM",
        "disk_space": ask.disk_gb,
        "disk_bw": 3120.4,
        "disk_name": "Samsung",
        "inet_up": ask.inet_up,
        "inet_down": ask.inet_down,
        "inet_up_cost": ask.inet_up_cost,
        "inet_down_cost": ask.inet_down_cost,
        "internet_up_cost_per_tb": ask.inet_up_cost * 1000,
        "internet_down_cost_per_tb": ask.inet_down_cost * 1000,
        "storage_cost": ask.storage_cost,
        "reliability": ask.reliability,
        "reliability2": ask.reliability,
        "expected_reliability": ask.reliability,
        "reliability_mult": 1.0,
        "dlperf": gpu.dlperf * ask.num_gpus,
        "total_flops": gpu.tflops * ask.num_gpus,
        "verification": ask.verification,
        "verified": ask.verification == "verified",
        "vericode": 1 if ask.verification == "verified" else 0,
        "external": None,
        "static_ip": ask.datacenter,
        "direct_port_count": ask.direct_ports,
        "public_ipaddr": "203.0.113.42",
        "geolocation": ask.place,
        "country_code": ask.place[-2:] if ask.place else None,
        "geolocode": None,
        "os_version": "22.04",
        "ubuntu_version": "22.04",
        "vms_enabled": False,
        "pcie_bw": 24.1,
        "pci_gen": 4.0,
        "resource_type": "gpu",
        "cluster_id": None,
        "nw_disk_min_bw": None,
        "nw_disk_avg_bw": None,
        "nw_disk_max_bw": None,
        "avail_vol_ask_id": None,
        "avail_vol_dph": None,
        "avail_vol_size": None,
        "webpage": None,
        "logo": "",
    }


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda have, want: have == want,
    "neq": lambda have, want: have != want,
    "gt": lambda have, want: have > want,
    "gte": lambda have, want: have >= want,
    "lt": lambda have, want: have < want,
    "lte": lambda have, want: have <= want,
    "in": lambda have, want: have in want,
    "notin": lambda have, want: have not in want,
    "nin": lambda have, want: have not in want,
}
FALSE_WHEN_NULL = {"external", "rented", "vms_enabled"}


def matches(row: Json, filters: dict[str, Any]) -> bool:
    """Tell whether a row passes filters of the form `{field: {operator: value}}`. Raises ValueError for an unknown operator."""
    return all(_passes(row, name, condition) for name, condition in filters.items())


def _passes(row: Json, name: str, condition: object) -> bool:
    if name not in row:
        return True
    have = row[name]
    if name == "geolocation" and have is not None:
        have = str(have)[-2:]
    elif isinstance(have, Decimal):
        have = float(have)
    elif have is None and name in FALSE_WHEN_NULL:
        have = False
    return all(
        _compare(have, operator, want) for operator, want in (condition if isinstance(condition, dict) else {"eq": condition}).items()
    )


def _compare(have: Any, operator: str, want: Any) -> bool:
    if operator not in COMPARE:
        raise ValueError(f"unknown operator {operator!r}")
    if have is None:
        return operator == "neq"
    try:
        return COMPARE[operator](have, [_like(have, one) for one in want] if isinstance(want, list) else _like(have, want))
    except TypeError:
        return False


def _like(have: Any, want: Any) -> Any:
    """Return a wanted value in the type of what is there: the official client sends numbers and booleans as texts."""
    if isinstance(want, str) and isinstance(have, bool | int | float):
        if want.lower() in ("true", "false"):
            return want.lower() == "true"
        try:
            return float(want)
        except ValueError:
            return want
    return want


def ordered(rows: list[Json], order: Iterable[Iterable[str]]) -> list[Json]:
    """Sort rows by `[[field, "asc"|"desc"], …]`; rows without a value come last."""
    for column, direction in reversed([tuple(one) for one in order]):
        with_value = [row for row in rows if row.get(column) is not None]
        without = [row for row in rows if row.get(column) is None]
        with_value.sort(key=lambda row: row[column], reverse=str(direction) == "desc")
        rows = with_value + without
    return rows
