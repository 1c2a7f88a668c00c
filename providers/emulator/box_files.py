"""What lies on the disk of a box: its home, its keys, and the programs that a rented machine has and this one has not."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NVIDIA_SMI = """#!{python}
import sys
GPU = {gpu}
ROWS = {{
    "name": GPU["name"], "gpu_name": GPU["name"], "memory.total": GPU["memory_mib"], "memory.used": 0, "memory.free": GPU["memory_mib"],
    "driver_version": "{driver}", "temperature.gpu": 40, "utilization.gpu": 0, "utilization.memory": 0, "power.draw": 30.0,
    "power.limit": 450.0, "compute_mode": "Default", "pstate": "P8", "vbios_version": "95.02.18.00.01",
}}
UNITS = {{"memory.total": " MiB", "memory.used": " MiB", "memory.free": " MiB", "utilization.gpu": " %", "utilization.memory": " %",
         "power.draw": " W", "power.limit": " W"}}
def value(name, index, units):
    fixed = {{"index": index, "count": GPU["count"], "uuid": "GPU-00000000-0000-0000-0000-%012d" % index,
             "pci.bus_id": "00000000:%02X:00.0" % (index + 1)}}
    found = fixed.get(name, ROWS.get(name, "[N/A]"))
    return str(found) + (UNITS.get(name, "") if units else "")
def main(args):
    query = next((one.split("=", 1)[1] for one in args if one.startswith("--query-gpu=")), None)
    form = next((one.split("=", 1)[1] for one in args if one.startswith("--format=")), "").split(",")
    if query is not None:
        names = [one.strip() for one in query.split(",")]
        if "noheader" not in form:
            print(", ".join(names))
        for index in range(GPU["count"]):
            print(", ".join(value(one, index, "nounits" not in form) for one in names))
    elif "-L" in args or "--list-gpus" in args:
        for index in range(GPU["count"]):
            print("GPU %d: %s (UUID: %s)" % (index, GPU["name"], value("uuid", index, False)))
    else:
        print("| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda} |")
        for index in range(GPU["count"]):
            print("| %3d  %-40s | 0MiB / %dMiB |" % (index, GPU["name"], GPU["memory_mib"]))
main(sys.argv[1:])
"""

RUNPODCTL = """#!{python}
import json, os, sys, urllib.request
verbs = {{("remove", "pod"): "podTerminate", ("pod", "delete"): "podTerminate", ("pod", "remove"): "podTerminate",
         ("stop", "pod"): "podStop", ("pod", "stop"): "podStop"}}
verb = verbs.get(tuple(sys.argv[1:3]))
if verb is None or len(sys.argv) != 4:
    sys.exit("usage: runpodctl pod delete|stop ID")
fields = "" if verb == "podTerminate" else " {{ id desiredStatus }}"
query = "mutation {{ %s(input: {{podId: %s}})%s }}" % (verb, json.dumps(sys.argv[3]), fields)
key = os.environ.get("RUNPOD_API_KEY", "")
request = urllib.request.Request(
    os.environ["RUNPOD_GRAPHQL_URL"], json.dumps({{"query": query}}).encode(),
    {{"Content-Type": "application/json", "Authorization": "Bearer " + key, "User-Agent": "runpodctl"}},
)
answer = json.load(urllib.request.urlopen(request, timeout=30))
if answer.get("errors"):
    sys.exit(answer["errors"][0]["message"])
print("pod %s %s" % (sys.argv[3], "stopped" if verb == "podStop" else "removed"))
"""

START = (
    "#!/bin/sh\n# What the usual images run: the SSH server is there already, so there is nothing left but to wait.\nexec sleep infinity\n"
)
SUDO = '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n'
POWER_OFF = "#!/bin/sh\nkill -USR2 {pid}\n"


def lay_out(root: Path, birth: dict[str, Any]) -> None:
    """Make the folders and programs of a box."""
    for name in ("home/.ssh", "bin", "etc/ssh", "workspace", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    python = sys.executable
    shown = {"python": python, "driver": birth["driver"], "cuda": birth["cuda"], "gpu": json.dumps(birth["gpu"])}
    _program(root / "bin" / "nvidia-smi", NVIDIA_SMI.format(**shown))
    _program(root / "bin" / "start.sh", START)
    if birth["provider"] == "runpod":
        _program(root / "bin" / "runpodctl", RUNPODCTL.format(python=python))
    if birth["provider"] == "lambda":
        _program(root / "bin" / "sudo", SUDO)
        for name in ("shutdown", "poweroff", "halt"):
            _program(root / "bin" / name, POWER_OFF.format(pid=os.getpid()))
    keys = root / "home" / ".ssh" / "authorized_keys"
    if birth["first_boot"]:
        keys.write_text("".join(f"{key}\n" for key in birth["authorized_keys"]), encoding="utf-8")
        keys.chmod(0o600)


def _program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
