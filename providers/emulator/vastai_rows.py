"""How Vast.ai shows contracts, charges and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from providers.emulator.billing import HOURS_PER_MONTH, TimeLine
from providers.emulator.clock import HOUR, SECOND, Moment
from providers.emulator.vastai_market import hardware_row

if TYPE_CHECKING:
    from decimal import Decimal

    from providers.emulator.vastai_cloud import Contract
    from providers.emulator.wire import Json


def instance_row(contract: Contract, now: Moment) -> Json:
    """Return a contract as a list and a get show it."""
    running = contract.actual_status == "running"
    machine, ask = contract.machine, contract.ask
    storage = contract.order.disk_gb * ask.storage_cost / HOURS_PER_MONTH
    compute = contract.usd_per_hour
    direct = "direc" in contract.order.runtype and ask.direct_ports > 0
    jupyter = "jupyter" in contract.order.runtype
    since = contract.running_since
    return {
        **hardware_row(ask),
        "id": int(contract.id),
        "label": contract.label or None,
        "actual_status": contract.actual_status,
        "cur_state": contract.cur_state,
        "next_state": contract.next_state,
        "intended_status": contract.intended_status,
        "status_msg": contract.status_msg,
        "image_uuid": contract.order.image,
        "image_args": list(contract.order.args or ()),
        "image_runtype": contract.order.runtype,
        "extra_env": [[name, value] for name, value in contract.order.env.items()],
        "onstart": contract.order.onstart,
        "ssh_host": machine.host,
        "ssh_port": machine.proxy_port - 1 if jupyter else machine.proxy_port,
        "ssh_idx": "5",
        # The real service sends this address with blanks around it.
        "public_ipaddr": f"{machine.host}\n",
        "local_ipaddrs": "10.0.2.100 172.17.0.1\n",
        "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(machine.port)}]} if running and direct else None,  # noqa: S104
        "direct_port_start": machine.port if direct else -1,
        "direct_port_end": machine.port if direct else -1,
        "machine_dir_ssh_port": machine.port,
        "dph_base": compute,
        "dph_total": compute + storage,
        "min_bid": ask.min_bid,
        "is_bid": contract.bid is not None,
        "start_date": contract.created / SECOND,
        "end_date": ask.expires / SECOND,
        "duration": (now - contract.created) / SECOND,
        "uptime_mins": (now - since) / 60_000 if running and since is not None else None,
        "gpu_util": 0.0 if running else None,
        "gpu_temp": 41.0 if running else None,
        "gpu_totalram": ask.gpu.memory_mib * ask.num_gpus,
        "cpu_util": 0.0,
        "mem_usage": None,
        "mem_limit": 64.0,
        "vmem_usage": None,
        "disk_space": float(contract.order.disk_gb),
        "disk_util": -1.0,
        "disk_usage": -1.0,
        "storage_total_cost": storage,
        "template_id": None,
        "template_hash_id": None,
        "template_name": None,
        "credit_balance": None,
        "credit_discount": None,
        "client_run_time": 1.1,
        "host_run_time": 2592000.0,
        "inet_down_billed": None,
        "inet_up_billed": None,
        "volume_info": [],
        "search": _prices(compute, storage),
        "instance": _prices(contract.meter.rate("gpu"), contract.meter.rate("disk")),
    }


def _prices(compute: Decimal, storage: Decimal) -> Json:
    total = compute + storage
    return {"gpuCostPerHour": compute, "diskHour": storage, "totalHour": total, "discountTotalHour": 0, "discountedTotalPerHour": total}


def charge(contract: Contract, now: Moment) -> Json:
    """Return what a contract has cost, in its items."""
    end = contract.ended or now
    items = [_time_item(line, now) for line in contract.meter.times]
    for line in contract.meter.traffic.values():
        if line.count:
            text = f"{line.count / 1e9:.6f} GB at ${line.usd_per_gb}/GB"
            items.append(_item(line.kind, contract.created, end, text, line.amount(now)))
    metadata: Json = {"label": contract.label} if contract.label else {}
    return {
        "start": contract.created / SECOND,
        "end": end / SECOND,
        "type": "instance",
        "source": f"instance-{contract.id}",
        "description": f"Instance {contract.id}: {contract.ask.num_gpus}x {contract.ask.gpu.vastai_name}",
        "amount": contract.meter.total(now),
        "metadata": metadata,
        "items": items,
    }


def _time_item(line: TimeLine, now: Moment) -> Json:
    hours = line.billed_seconds(now) * SECOND / HOUR
    end = now if line.end is None else line.end
    return _item(line.kind, line.start, end, f"{hours:.3f} hours at ${float(line.usd_per_hour):.6g}/hour", line.amount(now))


def _item(kind: str, start: Moment, end: Moment, description: str, amount: Decimal) -> Json:
    return {"type": kind, "start": start / SECOND, "end": end / SECOND, "description": description, "amount": amount}


def ssh_key_row(number: str, text: str, now: Moment) -> Json:
    """Return one of the account's public keys."""
    return {
        "id": int(number),
        "user_id": 1,
        "key": text,
        "public_key": text,
        "created_at": now / SECOND,
        "deleted_at": None,
    }
